//! What the sampler is told, and asked.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Acquire;

use super::{Flow, Sampler};
use crate::account::Tick;
use crate::clock::cpu::own_cpu_ns;
use crate::clock::ticker::Ticker;
use crate::session::control::{Control, RecordingId, Standing};
use crate::session::health::Health;
use crate::session::recording::WindowCounters;

impl Sampler {
    /// Serves all messages, then looks whether it is to quit.
    #[inline(never)]
    pub(super) fn answer_call(&mut self) -> Flow {
        self.answer_last_call();
        while let Ok(message) = self.control.try_recv() {
            // A tick that is due comes before any message: it is what notices that the process
            // stood still, or this thread, and a message must not have that time credited.
            if self.serve_due() == Flow::End {
                return Flow::End;
            }
            self.handle(message);
        }
        if !self.quit.load(Acquire) {
            return Flow::Continue;
        }
        self.settle();
        self.publish();
        self.engine.park();
        self.left_ns = self.engine.now_ns();
        Flow::End
    }

    pub(super) fn handle(&mut self, message: Control) {
        match message {
            Control::Start(recording, _started) => {
                let id = recording.id();
                if self.unattended_since_ns.is_some() {
                    // That is the others'.
                    self.settle();
                }
                // What was told before is not its.
                self.drain_sources();
                let wall_ns = self.wall_ns(self.engine.now_ns());
                self.draw_last_tasks(wall_ns);
                let mut recording = recording;
                recording.measure(self.engine.measures());
                self.recordings.push(*recording);
                self.choose_what_to_look_at();
                self.baseline(id);
                self.schedule();
            }
            Control::Stop(id, reply) => {
                if let Some(index) = self.position(id) {
                    self.settle();
                    let profile = self.take_window(index);
                    self.recordings.swap_remove(index);
                    self.schedule();
                    // The caller may have given up waiting; its profile is then of no use.
                    drop(reply.send(profile));
                }
            }
            Control::Rotate(id, reply) => {
                if let Some(index) = self.position(id) {
                    self.settle();
                    drop(reply.send(self.take_window(index)));
                    self.schedule();
                }
            }
            Control::Pause(id, _paused) => {
                if let Some(index) = self.position(id) {
                    self.settle();
                    self.drain_sources();
                    let wall_ns = self.wall_ns(self.engine.now_ns());
                    self.draw_last_tasks(wall_ns);
                    self.recordings[index].pause();
                    self.schedule();
                }
            }
            Control::Resume(id) => {
                if let Some(index) = self.position(id) {
                    let wall_ns = self.wall_ns(self.engine.now_ns());
                    self.drain_sources();
                    self.draw_last_tasks(wall_ns);
                    self.recordings[index].resume(wall_ns);
                    self.baseline(id);
                    self.schedule();
                }
            }
            Control::Standing(reply) => {
                let threads = self.engine.snapshot().threads.iter();
                let standing = threads.map(|thread| Standing {
                    thread_id: thread.thread_id,
                    cpu_ns: thread.cpu_ns,
                    since_ns: thread.since_ns,
                });
                // Whoever asked may have given up.
                drop(reply.send(standing.collect()));
            }
        }
    }

    /// Shows a recording where all threads are now, so that its first tick has something to
    /// measure from.
    pub(super) fn baseline(&mut self, id: RecordingId) {
        if self.ticker.as_ref().is_some_and(Ticker::is_put_off) {
            self.settle();
        }
        self.engine.end_backoff();
        let began_ns = own_cpu_ns();
        if let Ok(stats) = self.look() {
            self.count_look(stats);
            // Of the process, and not of the windows of others.
            self.health.count(&WindowCounters {
                incomplete: u64::from(stats.incomplete),
                ..WindowCounters::default()
            });
            let wall_ns = self.wall_ns(self.engine.snapshot().at_ns);
            if let Some(index) = self.position(id) {
                let snapshot = self.engine.snapshot();
                let tick = Tick {
                    at_ns: snapshot.at_ns,
                    wall_ns,
                    count: 1,
                    ..Tick::default()
                };
                self.recordings[index].observe(snapshot, &tick);
            }
        }
        // It gets to know all functions and threads, and says nothing of what ticks cost: blocks that
        // follow each other would be left with hardly any.
        let cost_ns = own_cpu_ns().saturating_sub(began_ns);
        self.cpu_mark_ns += cost_ns;
        Health::add(&self.health.sampler_cpu_ns, cost_ns);
        self.publish();
    }

    /// Hands every open window over to the writer if somebody waits for that.
    pub(super) fn answer_last_call(&mut self) {
        let asked = self.last_call.asked();
        if asked != self.heard {
            self.heard = asked;
            self.write_out();
        }
    }
}
