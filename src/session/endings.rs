//! Ends of recordings that nobody waits for.
//!
//! A recording has an owner. Where that goes before it has ended the recording (an exception came
//! between two instructions of Python), the recording ends all the same, on a thread of its own: whoever
//! lets go of an owner may hold the GIL, and must not wait.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::control::RecordingId;
use super::health::Health;
use super::native_thread::{Kind, NativeThread};
use super::{Finished, Session};
use crate::error::Result;

/// What is being ended by nobody in particular.
#[derive(Debug, Default)]
pub struct Endings {
    threads: Mutex<Vec<NativeThread<()>>>,
    /// For these there was no thread; whoever begins or ends a recording next ends them.
    left: Mutex<Vec<RecordingId>>,
}

impl Session {
    /// Ends a recording that has lost its owner. Never waits; may be called while the GIL is held.
    pub fn abandon(&'static self, id: RecordingId) {
        if self.has_surely_ended(id) {
            return;
        }
        // What happens from here on is not what it was to record.
        self.pause_soon(id);
        let mut threads = self.endings().threads.lock();
        threads.retain(|thread| !thread.has_ended());
        match NativeThread::spawn(Kind::Sharing, "rprof-end", id, |id| self.end_abandoned(id)) {
            Ok(thread) => threads.push(thread),
            Err(refused) => self.endings().left.lock().push(refused.state),
        }
    }

    /// Ends what has been abandoned where there was no thread for it.
    pub(super) fn end_left(&self) {
        let left = std::mem::take(&mut *self.endings().left.lock());
        for id in left {
            self.end_abandoned(id);
        }
    }

    fn end_abandoned(&self, id: RecordingId) {
        let outcome = self.stop_unless_ended(id);
        if let Some(said) = said(outcome) {
            Health::add(&self.health().abandoned, 1);
            self.health().set_error(said);
        }
    }

    /// Whether nothing is being ended by a thread of its own.
    #[must_use]
    pub fn has_no_endings(&self) -> bool {
        let threads = self.endings().threads.lock();
        threads.iter().all(NativeThread::has_ended)
    }

    /// Waits for the ends that are under way, for so long at most.
    pub fn await_endings(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let threads = std::mem::take(&mut *self.endings().threads.lock());
        for thread in threads {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(thread) = thread.join(left) {
                self.endings().threads.lock().push(thread);
            }
        }
    }
}

/// What there is to say about an end; nothing if it was not this one.
fn said(outcome: Result<Option<Finished>>) -> Option<String> {
    let what = match outcome {
        Ok(None) => return None,
        Ok(Some(Finished {
            written: Some(Ok(receipt)),
            ..
        })) => format!("what it had recorded is in {receipt}"),
        Ok(Some(_)) => "what it had recorded is lost".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(format!(
        "a recording was ended because nobody was left who could end it (did an exception come while \
         it began or ended?): {what}"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::capture::scripted::Scripted;
    use crate::session::config::RecordingConfig;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn session() -> &'static Session {
        Box::leak(Box::new(Session::new()))
    }

    fn begin(session: &Session) -> RecordingId {
        let config = RecordingConfig::of_all("script", 10_000_000);
        let is_first = session.needs_engine(None).unwrap();
        let engine = is_first.then(|| (Box::new(Scripted::new([])) as _, String::new()));
        session.start(config, None, engine).unwrap()
    }

    fn abandoned(session: &Session) -> u64 {
        let counters = session.health().counters();
        counters
            .iter()
            .find(|(name, _)| *name == "abandoned")
            .unwrap()
            .1
    }

    #[test]
    fn what_is_abandoned_ends_once_and_is_told() {
        let session = session();
        let (one, other) = (begin(session), begin(session));
        session.abandon(one);
        session.abandon(one);
        session.await_endings(PATIENCE);
        assert!(session.has_no_endings());
        assert_eq!(abandoned(session), 1);
        assert!(session.health().last_error().is_some());
        assert!(session.stop_unless_ended(one).unwrap().is_none());
        assert!(session.stop_unless_ended(other).unwrap().is_some());
        session.abandon(other);
        session.await_endings(PATIENCE);
        assert_eq!(abandoned(session), 1);
    }

    #[test]
    fn where_there_is_no_thread_the_next_to_begin_ends_it() {
        let session = session();
        let one = begin(session);
        session.endings().left.lock().push(one);
        let other = begin(session);
        assert_eq!(abandoned(session), 1);
        assert!(session.stop(one).is_err());
        assert!(session.end_all().is_empty());
        assert!(session.stop(other).is_err());
    }
}
