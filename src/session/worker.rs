//! A native thread whose state outlives it.
//!
//! A fork ends the threads and starts them again afterwards, and a thread that the system refuses is
//! asked for again later: meanwhile the state waits. In a forked child the state is forgotten, for
//! its thread is not there.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::native_thread::{Kind, NativeThread, Refused};
use crate::error::Result;

/// What a worker does, and what it works with.
pub trait Work: Send + Sized + 'static {
    /// How its thread is reached.
    type Handle: Handle;

    /// The thread's name.
    const NAME: &'static str;
    /// What the thread is given.
    const KIND: Kind;

    /// Makes ready for a thread that is about to be started, and tells how to reach it.
    fn prepare(&mut self) -> Self::Handle;

    /// Works until the thread is told to end.
    fn run(&mut self);
}

/// How the thread of a worker is reached by others.
pub trait Handle: Send + 'static {
    /// Has the thread end soon, and wakes it for that.
    fn stop(&self);

    /// Takes that back: the thread did not end in time, and is to go on. Where it cannot be taken
    /// back, the thread ends later, and another one is started when there is an occasion.
    fn take_back(&self) {}

    /// Waits until the thread does its work.
    ///
    /// # Errors
    /// When it cannot do it.
    fn await_begin(&self) -> Result<()> {
        Ok(())
    }
}

/// A worker, with its thread or without.
pub enum Worker<W: Work> {
    /// There is none, or it has failed.
    None,
    /// Its thread runs.
    Running(Running<W>),
    /// Its state waits for the next thread.
    Parked(Box<W>),
    /// Somebody is starting or ending its thread, or does its work.
    Changing,
}

/// A worker's thread.
pub struct Running<W: Work> {
    thread: NativeThread<Box<W>>,
    /// How to reach it.
    pub handle: W::Handle,
}

impl<W: Work> Running<W> {
    /// Whether the thread has come to its end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.has_ended()
    }

    /// Wakes the thread from `park`.
    pub fn wake(&self) {
        self.thread.unpark();
    }

    /// Waits until the thread has what it needs to run, see [`NativeThread::await_begin`].
    pub fn await_thread(&mut self, patience: Duration) {
        self.thread.await_begin(patience);
    }
}

impl<W: Work> Worker<W> {
    /// A worker whose thread has been started.
    ///
    /// # Errors
    /// When the system refuses a thread; the state is given back.
    pub fn start(mut work: Box<W>) -> std::result::Result<Self, Refused<Box<W>>> {
        let handle = work.prepare();
        let thread = NativeThread::spawn(W::KIND, W::NAME, work, |mut work| {
            work.run();
            work
        })?;
        Ok(Self::Running(Running { thread, handle }))
    }

    /// What is there, for whoever is going to change it and puts it back.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Changing)
    }

    /// Whether there is no worker.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Starts the thread of a worker that is parked.
    ///
    /// # Errors
    /// When the system refuses a thread; the worker stays parked.
    pub fn begin(&mut self) -> Result<()> {
        let work = match std::mem::replace(self, Self::None) {
            Self::Parked(work) => work,
            other => {
                *self = other;
                return Ok(());
            }
        };
        match Self::start(work) {
            Ok(running) => {
                *self = running;
                Ok(())
            }
            Err(refused) => {
                *self = Self::Parked(refused.state);
                Err(refused.error)
            }
        }
    }

    /// Ends the thread and keeps the state; false if the thread did not end in time, and goes on.
    #[must_use]
    pub fn park(&mut self, patience: Duration) -> bool {
        let has_ended = self.end(patience);
        if let (false, Self::Running(running)) = (has_ended, &self) {
            running.handle.take_back();
        }
        has_ended
    }

    /// The same, but a thread that did not end in time does so when it can.
    pub fn end(&mut self, patience: Duration) -> bool {
        self.stop();
        self.join(patience)
    }

    /// Has the thread end, without waiting for it.
    pub fn stop(&self) {
        if let Self::Running(running) = self {
            running.handle.stop();
            running.wake();
        }
    }

    /// Starts the thread again where it has ended, whoever had it end; whether it did.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn go_on(&mut self) -> Result<bool> {
        self.join(Duration::ZERO);
        let is_parked = matches!(self, Self::Parked(_));
        self.begin().map(|()| is_parked)
    }

    fn join(&mut self, patience: Duration) -> bool {
        let Running { thread, handle } = match std::mem::replace(self, Self::None) {
            Self::Running(running) => running,
            other => {
                *self = other;
                return true;
            }
        };
        *self = match thread.join(patience) {
            Ok(Some(work)) => Self::Parked(work),
            // After a panic there is nothing left to go on with.
            Ok(None) => Self::None,
            Err(thread) => {
                *self = Self::Running(Running { thread, handle });
                return false;
            }
        };
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
    use parking_lot::Mutex;

    use super::*;
    use crate::session::native_thread::tests::refuse;

    pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

    /// Works until its sender is dropped, or until it is let go where it is held.
    pub(crate) struct Clerk {
        pub(crate) runs: u32,
        held: Option<Receiver<()>>,
        quitting: Option<Receiver<()>>,
    }

    impl Clerk {
        pub(crate) fn idle() -> Box<Self> {
            Box::new(Self {
                runs: 0,
                held: None,
                quitting: None,
            })
        }

        /// One that does not end before the sender is dropped.
        fn held() -> (Box<Self>, Sender<()>) {
            let (hold, held) = bounded(0);
            let mut clerk = Self::idle();
            clerk.held = Some(held);
            (clerk, hold)
        }

        pub(crate) fn work(&mut self) {
            self.runs += 1;
            for until in [&self.quitting, &self.held].into_iter().flatten() {
                let ended = until.recv_timeout(PATIENCE);
                assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
            }
        }

        pub(crate) fn ready(&mut self) -> Line {
            let (sender, quitting) = bounded(0);
            self.quitting = Some(quitting);
            Line(Arc::new(Mutex::new(Some(sender))))
        }
    }

    pub(crate) struct Line(Arc<Mutex<Option<Sender<()>>>>);

    impl Handle for Line {
        fn stop(&self) {
            drop(self.0.lock().take());
        }
    }

    impl Work for Clerk {
        type Handle = Line;

        const NAME: &'static str = "rprof-test";
        const KIND: Kind = Kind::Own;

        fn prepare(&mut self) -> Line {
            self.ready()
        }

        fn run(&mut self) {
            self.work();
        }
    }

    fn runs(worker: &Worker<Clerk>) -> Option<u32> {
        match worker {
            Worker::Parked(clerk) => Some(clerk.runs),
            _ => None,
        }
    }

    fn started(clerk: Box<Clerk>) -> Worker<Clerk> {
        Worker::start(clerk)
            .map_err(|refused| refused.error)
            .unwrap()
    }

    #[test]
    fn the_state_outlives_the_thread() {
        let mut worker = started(Clerk::idle());
        assert!(worker.park(PATIENCE));
        assert_eq!(runs(&worker), Some(1));
        // There is nothing to end any more.
        assert!(worker.park(Duration::ZERO));
        worker.begin().unwrap();
        assert!(matches!(worker, Worker::Running(_)));
        // One that runs is left alone.
        assert!(!worker.go_on().unwrap());
        assert!(worker.end(PATIENCE));
        assert_eq!(runs(&worker), Some(2));
        assert!(worker.go_on().unwrap());
        assert!(worker.end(PATIENCE));
        assert_eq!(runs(&worker), Some(3));
    }

    #[test]
    fn a_thread_that_does_not_end_in_time_is_started_again_when_it_has() {
        let (clerk, hold) = Clerk::held();
        let mut worker = started(clerk);
        assert!(!worker.park(Duration::from_millis(1)));
        assert!(matches!(worker, Worker::Running(_)));
        assert!(!worker.go_on().unwrap());
        drop(hold);
        let Worker::Running(running) = &worker else {
            unreachable!("it was not to be ended");
        };
        while !running.has_ended() {
            std::thread::yield_now();
        }
        assert!(worker.go_on().unwrap());
        assert!(worker.end(PATIENCE));
        assert_eq!(runs(&worker), Some(2));
    }

    #[test]
    fn a_refused_thread_costs_no_state() {
        refuse(true);
        let refused = Worker::start(Clerk::idle());
        let Err(Refused { state, .. }) = refused else {
            unreachable!("there was no thread");
        };
        let mut worker = Worker::Parked(state);
        assert!(worker.begin().is_err());
        assert_eq!(runs(&worker), Some(0));
        refuse(false);
        worker.begin().unwrap();
        assert!(worker.end(PATIENCE));
        assert_eq!(runs(&worker), Some(1));
    }

    #[test]
    fn a_panic_leaves_nothing_to_go_on_with() {
        struct Broken;

        impl Work for Broken {
            type Handle = Line;

            const NAME: &'static str = "rprof-test";
            const KIND: Kind = Kind::Own;

            fn prepare(&mut self) -> Line {
                Line(Arc::default())
            }

            fn run(&mut self) {
                std::panic::resume_unwind(Box::new(()));
            }
        }

        let mut worker = Worker::Parked(Box::new(Broken));
        worker.begin().unwrap();
        assert!(worker.park(PATIENCE));
        assert!(worker.is_none());
        assert!(!worker.go_on().unwrap());
    }
}
