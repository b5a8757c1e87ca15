//! How finished windows leave the sampler.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::TrySendError;

use super::Sampler;
use crate::clock::cpu::unix_time_ns;
use crate::fold::profile::Profile;
use crate::session::health::Health;
use crate::session::writer::Job;

impl Sampler {
    /// Without a look at the stacks, for which an engine may have to wait: for the GIL, which whoever
    /// asks for this may hold.
    #[cold]
    pub(super) fn write_out(&mut self) {
        const PATIENCE: Duration = Duration::from_millis(200);
        self.settle();
        let wall_ns = self.wall_ns(self.engine.now_ns());
        for index in 0..self.recordings.len() {
            if self.recordings[index].has_output() {
                self.rotate(index, wall_ns);
            }
        }
        self.schedule();
        // The writer does what was handed over before.
        let call = Job::Answer(self.last_call.clone(), self.heard);
        if self.windows.send_timeout(call, PATIENCE).is_err() {
            // Whoever asks again is to be heard again.
            self.heard = self.heard.wrapping_sub(1);
        }
    }

    /// Hands every open window over and ends the writer: nobody will ask for them any more, and a
    /// native thread that went on would keep the process from ending.
    #[cold]
    pub(super) fn end_with_interpreter(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.settle();
        for index in 0..self.recordings.len() {
            let job = Job::Write {
                recording: self.recordings[index].id(),
                profile: Arc::from(self.take_window(index)),
                reply: None,
            };
            // A writer that is stuck cannot be helped any more.
            drop(self.windows.send_timeout(job, PATIENCE));
        }
        self.recordings.clear();
        self.engine.end();
        drop(self.windows.send_timeout(Job::End, PATIENCE));
        // Nobody is there to be waited for.
        self.last_call.set_recordings(0);
    }

    pub(super) fn take_window(&mut self, index: usize) -> Box<Profile> {
        let wall_ns = self.wall_ns(self.engine.now_ns());
        self.drain_sources();
        self.draw_last_tasks(wall_ns);
        self.ask_levels(index);
        let (profile, overflowed) =
            self.recordings[index].take_window(wall_ns, unix_time_ns(), self.engine.name());
        self.recordings[index].measure(self.engine.measures());
        Health::add(&self.health.overflow, overflowed);
        Box::new(profile)
    }

    /// Hands over the open window of a recording.
    #[inline(never)]
    pub(super) fn rotate(&mut self, index: usize, wall_ns: u64) {
        if let Some(ring) = self.recordings[index].config().ring.clone() {
            let window = Arc::from(self.take_window(index));
            ring.push(window, self.engine.now_ns());
            return;
        }
        if self.windows.is_full() {
            // The writer is behind: the window simply goes on growing, within its limits.
            Health::add(&self.health.merged_windows, 1);
            self.recordings[index].postpone_rotation(wall_ns);
            return;
        }
        let job = Job::Write {
            recording: self.recordings[index].id(),
            profile: Arc::from(self.take_window(index)),
            reply: None,
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.windows.try_send(job)
        {
            Health::add(&self.health.write_errors, 1);
            Health::add(&self.health.lost_windows, 1);
            self.health
                .set_error("a window was lost: the writer had ended");
        }
    }
}
