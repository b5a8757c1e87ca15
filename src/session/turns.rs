//! Whose turn it is to begin or end what a process has only one of.
//!
//! Not a lock of Python's: where the handler of a signal raises as one is taken, `with` of CPython
//! 3.14 leaves it locked for ever. A turn ends with the object that stands for it.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::clock::cpu::thread_id;

/// Takes one thread at a time, and the same one as often as it likes.
#[derive(Debug, Default)]
pub struct Turns {
    /// The thread and how often it has come.
    holder: Mutex<Option<(u64, u32)>>,
    free: Condvar,
}

impl Turns {
    /// Waits for a turn; false if there was none in time.
    #[must_use]
    pub fn begin(&self, patience: Duration) -> bool {
        let own = thread_id();
        let deadline = Instant::now() + patience;
        let mut holder = self.holder.lock();
        loop {
            match &mut *holder {
                None => {
                    *holder = Some((own, 1));
                    return true;
                }
                Some((thread, times)) if *thread == own => {
                    *times += 1;
                    return true;
                }
                Some(_) => {}
            }
            if self.free.wait_until(&mut holder, deadline).timed_out() {
                return false;
            }
        }
    }

    /// Ends a turn, on whatever thread.
    pub fn end(&self) {
        let mut holder = self.holder.lock();
        match &mut *holder {
            Some((_, times)) if *times > 1 => *times -= 1,
            _ => *holder = None,
        }
        drop(holder);
        self.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_comes_as_often_as_it_likes() {
        let turns = Turns::default();
        assert!(turns.begin(Duration::ZERO));
        assert!(turns.begin(Duration::ZERO));
        let is_others = |turns: &Turns| {
            std::thread::scope(|scope| scope.spawn(|| turns.begin(Duration::ZERO)).join()).ok()
        };
        assert_eq!(is_others(&turns), Some(false));
        turns.end();
        assert_eq!(is_others(&turns), Some(false));
        turns.end();
        assert_eq!(is_others(&turns), Some(true));
    }
}
