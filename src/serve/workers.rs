//! Threads of the endpoint beside its own: work that waits for others.
//!
//! They share the table of descriptors of the endpoint's thread, for whoever wakes its runtime writes
//! to one of them; outside, that number is a file of the application.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::session::fork::session;
use crate::session::native_thread::{Kind, NativeThread};

/// Work at a time.
const WORKERS: usize = 4;
/// Where no thread can be had that waits for the endpoint's end, it is looked for this often.
const LOOK: Duration = Duration::from_millis(50);
/// Whoever waits for the endpoint's end looks this often whether the process is still the same.
const PATIENCE: Duration = Duration::from_secs(60);

/// The threads that have been started and perhaps not ended.
#[derive(Debug)]
pub struct Workers {
    free: Arc<Semaphore>,
    threads: Mutex<Vec<NativeThread<()>>>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(WORKERS)),
            threads: Mutex::default(),
        }
    }
}

impl Workers {
    /// Does work on a thread of its own. Where none can be had it is done here, and others are
    /// answered afterwards. `None` if it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permit = self.free.clone().acquire_owned().await.ok()?;
        let (tell, told) = oneshot::channel();
        let started = self.start(work, move |work| {
            // The client may have gone; what it has begun then ends.
            drop(tell.send(work()));
            drop(permit);
        });
        match started {
            Ok(()) => told.await.ok(),
            Err(work) => Some(work()),
        }
    }

    /// Waits until nobody has the sender any more.
    pub async fn until_disconnected(&self, quitting: Receiver<()>) {
        let (tell, told) = oneshot::channel::<()>();
        let started = self.start(quitting, move |quitting| {
            // Nothing is ever sent: the sender's drop is the message.
            while quitting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {}
            drop(tell);
        });
        match started {
            // Dropped in any case.
            Ok(()) => drop(told.await),
            Err(quitting) => {
                while quitting.try_recv() != Err(TryRecvError::Disconnected) {
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    fn start<S: Send + 'static>(
        &self,
        state: S,
        body: impl FnOnce(S) + Send + 'static,
    ) -> Result<(), S> {
        let mut threads = self.threads.lock();
        let all = std::mem::take(&mut *threads);
        threads.extend(all.into_iter().filter(|thread| !thread.has_ended()));
        match NativeThread::spawn(Kind::Sharing, "rprof-serve", state, body) {
            Ok(thread) => {
                threads.push(thread);
                Ok(())
            }
            Err(refused) => {
                session().refuse(&refused.error);
                Err(refused.state)
            }
        }
    }

    /// Waits for work that has been begun.
    pub fn end(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // One that does not end in time has lost whom it works for, and ends when it can.
            drop(thread.join(deadline.saturating_duration_since(Instant::now())));
        }
    }
}
