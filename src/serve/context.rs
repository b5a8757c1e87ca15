//! What the endpoint knows.
#![forbid(unsafe_code)]

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::gate::Gate;
use super::token::Token;
use super::workers::Workers;
use crate::capture::direct::DirectEngine;

/// Profiles at a time; all share the one sampler.
pub(super) const MAX_PROFILES: usize = 4;

/// What the routes know.
pub struct Context {
    /// The connections.
    pub gate: Arc<Gate>,
    /// What runs.
    pub program: String,
    /// What a request must show, if anything.
    pub token: Option<Token>,
    /// Whether the `Host` of a request must name this machine: a page elsewhere could point a name
    /// of its own at it (DNS rebinding).
    pub must_be_local: bool,
    /// Looks at all threads without the GIL; the reason if that cannot be.
    pub dumper: Result<Mutex<DirectEngine>, String>,
    /// What stands before the facts, between them and the profile, and behind it in the report page.
    pub(super) page: (String, String, String),
    /// Where work is done that waits for others.
    pub workers: Workers,
    /// Ticks per second of a profile, unless it is asked for with another rate.
    pub rate: f64,
    /// CPU time the sampler may use for a profile, as a fraction of one core.
    pub max_overhead: f64,
    pub(super) profiles: Semaphore,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Context")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context without any request yet.
    #[must_use]
    pub fn new(
        program: String,
        token: Option<String>,
        must_be_local: bool,
        dumper: Result<DirectEngine, String>,
        page: (String, String, String),
        (rate, max_overhead): (f64, f64),
    ) -> Self {
        Self {
            gate: Arc::new(Gate::default()),
            program,
            token: token.map(Token::new),
            must_be_local,
            dumper: dumper.map(Mutex::new),
            page,
            workers: Workers::default(),
            rate,
            max_overhead,
            profiles: Semaphore::new(MAX_PROFILES),
        }
    }
}
