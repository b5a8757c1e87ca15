//! When the sampler records nothing: there is no memory, or no thread to run on. And how the recordings
//! are brought up to the present without a look.
#![forbid(unsafe_code)]

use super::Sampler;
use crate::account::{Tick, TicksLeftOut};
use crate::memory::reserve;
use crate::model::snapshot::Snapshot;
use crate::session::health::Health;
use crate::session::recording::WindowCounters;

impl Sampler {
    /// No thread can be had to go on with: what happens until there is one belongs to nobody.
    #[cold]
    pub fn leave(&mut self) {
        if self.unattended_since_ns.is_some() {
            return;
        }
        for recording in &mut self.recordings {
            recording.starve();
        }
        self.gil.pause();
        self.ticker = None;
        self.unattended_since_ns = Some(if self.recordings.is_empty() {
            self.engine.now_ns()
        } else {
            self.left_ns
        });
        Health::add(&self.health.unattended, 1);
    }

    /// There is a thread again.
    pub(super) fn attend(&mut self) {
        if self.unattended_since_ns.is_some() {
            self.settle();
            self.unattended_since_ns = None;
            self.engine.end_backoff();
        }
    }

    /// Answers what is asked while no thread can be had, on the thread of whoever asks: with what was
    /// recorded before. Nobody is looked at.
    #[cold]
    pub fn answer_unattended(&mut self) {
        self.leave();
        self.answer_last_call();
        while let Ok(message) = self.control.try_recv() {
            self.handle(message);
        }
    }

    /// There was no memory for what this tick needed, but for what had been set aside: nothing more is
    /// asked for until there is. If much of that is in use, what was recorded is given up for it.
    #[cold]
    pub(super) fn starve(&mut self, now_ns: u64) {
        Health::add(&self.health.starved, 1);
        self.settle();
        for recording in &mut self.recordings {
            recording.starve();
        }
        self.starved_since_ns = Some(now_ns);
        if !reserve::is_low() {
            self.health
                .set_error("there was no memory left; nothing was recorded for a while");
            return;
        }
        for index in 0..self.recordings.len() {
            drop(self.take_window(index));
            Health::add(&self.health.lost_windows, 1);
        }
        self.engine.forget();
        self.health
            .set_error("there was no memory left; what was recorded in the open windows is lost");
    }

    /// Goes on if there is memory again.
    #[cold]
    pub(super) fn end_starving(&mut self, now_ns: u64) {
        if reserve::take_shortage() || !reserve::is_there() {
            return;
        }
        if let Some(since_ns) = self.starved_since_ns.take() {
            self.count_starved(now_ns.saturating_sub(since_ns));
            self.idle.begin(now_ns);
            self.engine.end_backoff();
        }
    }

    fn count_starved(&mut self, starved_ns: u64) {
        self.count(WindowCounters {
            starved_ns,
            ..WindowCounters::default()
        });
    }

    /// Brings all recordings up to the present without a new look at the stacks.
    pub(super) fn settle(&mut self) {
        if let Some(since_ns) = &mut self.unattended_since_ns {
            let now_ns = self.engine.now_ns();
            let unattended_ns = now_ns.saturating_sub(std::mem::replace(since_ns, now_ns));
            // Nobody was there to starve.
            if let Some(starved_since_ns) = &mut self.starved_since_ns {
                *starved_since_ns = now_ns;
            }
            self.count(WindowCounters {
                unattended_ns,
                ..WindowCounters::default()
            });
            return;
        }
        if let Some(since_ns) = &mut self.starved_since_ns {
            let now_ns = self.engine.now_ns();
            let starved_ns = now_ns.saturating_sub(std::mem::replace(since_ns, now_ns));
            self.count_starved(starved_ns);
            return;
        }
        let clocks = |snapshot: &Snapshot| -> u64 {
            let threads = snapshot.threads.iter();
            threads.filter_map(|thread| thread.cpu_ns).sum()
        };
        let before = clocks(self.engine.snapshot());
        self.engine.read_clocks();
        self.note_spans();
        let at_ns = self.engine.snapshot().at_ns;
        self.pay(at_ns);
        let wall_ns = self.wall_ns(at_ns);
        let mut left_out = TicksLeftOut {
            ticks: 0,
            is_idle: clocks(self.engine.snapshot()) == before,
        };
        let mut tick_ns = 0;
        if let Some(ticker) = &mut self.ticker {
            tick_ns = ticker.period_ns();
            left_out.ticks = ticker.take_left_out(at_ns);
            // Something is about to happen.
            ticker.hurry(at_ns);
        }
        self.count_left_out(left_out);
        for recording in &mut self.recordings {
            let due = recording.due_ticks(wall_ns, tick_ns);
            let tick = Tick {
                at_ns,
                wall_ns,
                left_out: left_out.at_most(due),
                ..Tick::default()
            };
            recording.settle(self.engine.snapshot(), &tick);
        }
    }
}
