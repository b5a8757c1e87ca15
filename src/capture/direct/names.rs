//! Thread names: only the interpreter knows them, so they come later than everything else.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::DirectRoster;
use crate::clock::cpu::is_main_thread;
use crate::model::label::MAIN_THREAD_NAME;

/// How soon names are asked for when some are missing. Doubled each time that does not help.
const NAME_INTERVAL_NS: u64 = 2_000_000;
/// How often names are asked for, in case of a new one, while threads compute. Seldom: whoever
/// waits for the GIL while a C program forks behind Python's back leaves a GIL that cannot be used
/// in the child.
const RENAME_INTERVAL_NS: u64 = 2_000_000_000;

/// A thread as the application knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadName {
    /// `threading.get_ident()`.
    pub ident: usize,
    /// `threading.Thread.name`.
    pub name: Arc<str>,
}

/// Tells threads' names. Only the interpreter knows them, and it has to be waited for.
pub trait NameSource: Send {
    /// Asks for the names of all threads, without waiting.
    fn request(&mut self);

    /// The answer, once; `None` while there is none.
    fn collect(&mut self) -> Option<Vec<ThreadName>>;

    /// Address of the thread state by which it waits for the interpreter, which is not to be
    /// sampled; 0 if there is none.
    fn thread_state(&self) -> usize;

    /// Called on the sampler's thread before it ends.
    fn park(&mut self);

    /// Ends whatever waits for the interpreter, without waiting for that end.
    fn end(&mut self);
}

/// When names are asked for, and what becomes of the answers.
pub(super) struct ThreadNames {
    pub(super) source: Box<dyn NameSource>,
    asking: Asking,
}

/// What has been asked for.
#[derive(Clone, Copy, Debug)]
struct Asking {
    /// 0 before the first look.
    asked_at_ns: u64,
    /// The look that asked last: the answer says nothing of threads found later, which may have the
    /// ident of one that has ended.
    asked_in: u64,
    /// How many answers may be yet to come, at the most: some that were asked for never come.
    unanswered: u32,
    /// Whether a thread has no name yet, by [`crate::model::snapshot::Snapshot::threads_version`].
    unnamed: (u64, bool),
    interval_ns: u64,
}

impl Asking {
    /// The source comes with the names of the first look.
    const FIRST: Self = Self {
        asked_at_ns: 0,
        asked_in: 1,
        unanswered: 1,
        unnamed: (0, false),
        interval_ns: NAME_INTERVAL_NS,
    };
}

impl ThreadNames {
    pub(super) fn new(source: Box<dyn NameSource>) -> Self {
        Self {
            source,
            asking: Asking::FIRST,
        }
    }

    /// Begins as with a new source and a new roster.
    pub(super) fn start_over(&mut self) {
        self.asking = Asking::FIRST;
    }

    /// A thread was found: its name is wanted soon.
    pub(super) fn hurry(&mut self) {
        self.asking.interval_ns = NAME_INTERVAL_NS;
    }

    /// Takes names that have arrived and asks for missing ones.
    pub(super) fn update(&mut self, roster: &mut DirectRoster, has_walked: bool) {
        if self.asking.unanswered > 0
            && let Some(names) = self.source.collect()
        {
            self.asking.unanswered -= 1;
            self.assign(names, roster);
        }
        let asking = &mut self.asking;
        let snapshot = roster.snapshot();
        if asking.asked_at_ns == 0 {
            asking.asked_at_ns = snapshot.at_ns;
        }
        let waited_ns = snapshot.at_ns.saturating_sub(asking.asked_at_ns);
        if asking.unnamed.0 != snapshot.threads_version {
            let is_unnamed = snapshot.threads.iter().any(|thread| thread.name.is_empty());
            asking.unnamed = (snapshot.threads_version, is_unnamed);
        }
        if has_walked && waited_ns >= RENAME_INTERVAL_NS
            || waited_ns >= asking.interval_ns && asking.unnamed.1
        {
            asking.interval_ns = (2 * asking.interval_ns).min(RENAME_INTERVAL_NS);
            asking.asked_at_ns = snapshot.at_ns;
            asking.asked_in = roster.look();
            asking.unanswered += 1;
            self.source.request();
        }
    }

    fn assign(&self, names: Vec<ThreadName>, roster: &mut DirectRoster) {
        let names: FxHashMap<usize, Arc<str>> = names
            .into_iter()
            .map(|thread| (thread.ident, thread.name))
            .collect();
        for at in 0..roster.len() {
            let (track, sample) = roster.pair_mut(at);
            match names.get(&track.id) {
                _ if track.named_in > self.asking.asked_in => {}
                Some(name) => roster.set_name(at, name.clone()),
                // gevent files it under the id of a greenlet.
                None if sample.name.is_empty() && is_main_thread(sample.thread_id) => {
                    roster.set_name(at, Arc::from(MAIN_THREAD_NAME));
                }
                None => {}
            }
        }
    }
}
