//! Which engine the recordings use: there is one in a process.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::recording::GIL_WAITS_ARE_HIDDEN;
use super::sampler::Sampler;
use super::worker::Worker;
use super::{Session, State};
use crate::capture::Engine;
use crate::error::{Error, Result};
use crate::model::measure::MeasureSet;

/// What is known of the engine without asking the sampler, which owns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineNote {
    /// Its name; empty before the first recording.
    pub name: &'static str,
    /// Why this one.
    pub reason: String,
    pub(super) measures: MeasureSet,
}

impl Session {
    /// The engine in use.
    #[must_use]
    pub fn engine(&self) -> EngineNote {
        let mut engine = self.state.lock().engine.clone();
        if self.health.gil_waits_hidden.load(Ordering::Relaxed) != 0 {
            engine.reason = format!("{}; no gil_wait: {GIL_WAITS_ARE_HIDDEN}", engine.reason);
        }
        engine
    }

    /// Whether the next start needs a new engine: there is none, or it is not `wanted` and no
    /// recording uses it.
    ///
    /// # Errors
    /// When a recording uses another engine than the one `wanted`.
    pub fn needs_engine(&self, wanted: Option<&str>) -> Result<bool> {
        let state = self.settled()?;
        if matches!(state.sampler, Worker::None) {
            return Ok(true);
        }
        match wanted {
            Some(wanted) if wanted != state.engine.name => {
                if state.recordings.is_empty() {
                    return Ok(true);
                }
                Err(Error::state(format!(
                    "engine={wanted:?} is not possible now: a recording with the {} engine is \
                     running, and a process has one engine; stop it first or leave engine out",
                    state.engine.name
                )))
            }
            _ => Ok(false),
        }
    }

    /// Takes an engine for the recordings to come, if there is none.
    ///
    /// # Errors
    /// When a fork or the like is under way for too long.
    pub fn install(&self, engine: Box<dyn Engine>, reason: String) -> Result<()> {
        let mut state = self.settled()?;
        if matches!(state.sampler, Worker::None) {
            self.put_engine(&mut state, engine, reason);
        }
        Ok(())
    }

    /// Replaces the engine, unless it is in use: then somebody else was faster, and an engine that
    /// is not used looks at nothing.
    pub(super) fn put_engine(&self, state: &mut State, engine: Box<dyn Engine>, reason: String) {
        let is_replaceable = match state.sampler {
            Worker::None => true,
            Worker::Parked(_) => state.recordings.is_empty(),
            _ => false,
        };
        if is_replaceable {
            state.engine = EngineNote {
                name: engine.name(),
                reason,
                measures: engine.measures(),
            };
            state.sampler = Worker::Parked(Box::new(Sampler::new(
                engine,
                self.sources.clone(),
                self.control_receiver.clone(),
                self.sampler_bell.clone(),
                self.last_call.clone(),
                self.jobs.clone(),
                self.health.clone(),
            )));
        }
    }

    /// The next start is to bring an engine.
    pub(super) fn forget_engine(&self) {
        let mut state = self.state.lock();
        if state.recordings.is_empty() && matches!(state.sampler, Worker::Parked(_)) {
            let sampler = std::mem::replace(&mut state.sampler, Worker::None);
            drop(state);
            drop(sampler);
        }
    }
}
