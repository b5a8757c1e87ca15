#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    LogReader, RING, RequestCpu, forget_parent, note_change, note_correction, note_switch,
    own_cpu_ns, set_wanted,
};
use crate::model::label::ActiveLabels;
use crate::model::snapshot::{CpuSpan, SpanEnd, ThreadKey, ThreadSample, ThreadState};
use crate::model::stack::Stack;

/// An ident that no other test has.
fn ident() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) << 20
}

fn labels(request: u64) -> Arc<ActiveLabels> {
    Arc::new(ActiveLabels {
        request,
        ..ActiveLabels::default()
    })
}

fn sample() -> ThreadSample {
    ThreadSample {
        task: None,
        key: ThreadKey(1),
        thread_id: 1,
        name: Arc::from("worker"),
        cpu_ns: Some(own_cpu_ns()),
        state: ThreadState::Unknown,
        on_cpu: true,
        gil: 0,
        labels: None,
        off: None,
        lock: None,
        cpu_wait_ns: None,
        ready: 0,
        since_ns: 0,
        stack: Stack::default(),
        stack_version: 1,
        first_seen_ns: 0,
        cpu_from_ns: 0,
        early_cpu_ns: 0,
        span: None,
    }
}

struct Rig {
    ident: usize,
    reader: LogReader,
    start_ns: u64,
}

impl Rig {
    /// A thread that has had labels, which a sampler follows.
    fn new() -> Self {
        set_wanted(true);
        let mut rig = Self {
            ident: ident(),
            reader: LogReader::default(),
            start_ns: own_cpu_ns(),
        };
        note_change(rig.ident, 1, None, None);
        rig.look(Some(1));
        rig
    }

    fn look(&mut self, version: Option<u64>) -> (SpanEnd, Vec<CpuSpan>) {
        let mut spans = Vec::new();
        let before_ns = Some(self.start_ns);
        let end = self
            .reader
            .read(self.ident, version, before_ns, &sample(), &mut spans);
        // Without holes and without time told twice.
        for two in spans.windows(2) {
            assert_eq!(two[0].to_ns, two[1].from_ns);
        }
        (end, spans)
    }
}

fn told(spans: &[CpuSpan]) -> Vec<(u64, SpanEnd)> {
    let of = |span: &CpuSpan| span.labels.as_ref().map_or(0, |labels| labels.request);
    spans.iter().map(|span| (of(span), span.end)).collect()
}

/// Each on a thread of its own, for a thread has one log, and one at a time: a fork concerns all.
fn on_a_thread(test: impl FnOnce() + Send + 'static) {
    static ONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _one = ONE.lock();
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn what_a_request_did_before_its_labels_were_known_counts_for_them() {
    on_a_thread(|| {
        let mut rig = Rig::new();
        let request = Arc::new(RequestCpu::default());
        let of = |rig: &Rig, version, number| {
            note_correction(rig.ident, version, Some(&labels(number)), Some(&request));
        };
        note_change(rig.ident, 1, Some(&labels(7)), Some(&request));
        of(&rig, 1, 8);
        note_change(rig.ident, 1, None, None);
        let (_, spans) = rig.look(Some(1));
        assert!(told(&spans).contains(&(8, SpanEnd::Exact)));
        assert!(!told(&spans).iter().any(|(labels, _)| *labels == 7));
        let whole = request.get();
        assert_eq!(
            whole,
            Some(
                spans
                    .iter()
                    .filter(|span| span.labels.is_some())
                    .map(|span| span.to_ns - span.from_ns)
                    .sum()
            )
        );
        // A look has come between, or another context: that was under other labels.
        for version in [1, 2] {
            note_change(rig.ident, 1, Some(&labels(7)), Some(&request));
            if version == 1 {
                rig.look(Some(1));
            }
            of(&rig, version, 8);
            note_change(rig.ident, version, None, None);
            let (_, spans) = rig.look(Some(version));
            let labels: Vec<u64> = told(&spans).iter().map(|(labels, _)| *labels).collect();
            assert!(labels.contains(&7) && labels.contains(&8), "{labels:?}");
        }
    });
}

#[test]
fn what_was_spent_between_two_looks_is_told_apart() {
    on_a_thread(|| {
        let mut rig = Rig::new();
        for request in [7, 8] {
            note_change(rig.ident, 1, Some(&labels(request)), None);
            note_change(rig.ident, 1, None, None);
        }
        let (end, spans) = rig.look(Some(1));
        assert_eq!(end, SpanEnd::Open);
        use SpanEnd::{Exact, Open};
        let expected = [(0, Exact), (7, Exact), (0, Exact), (8, Exact), (0, Open)];
        assert_eq!(told(&spans), expected);
        note_change(rig.ident, 1, Some(&labels(9)), None);
        assert_eq!(told(&rig.look(Some(1)).1), [(0, Exact), (9, Open)]);
    });
}

#[test]
fn a_switch_that_nobody_told_of_makes_a_stretch_mixed() {
    on_a_thread(|| {
        let mut rig = Rig::new();
        note_change(rig.ident, 1, Some(&labels(7)), None);
        let (end, _) = rig.look(Some(2));
        assert_eq!(end, SpanEnd::Mixed);
        note_change(rig.ident, 3, None, None);
        let (end, spans) = rig.look(Some(3));
        assert_eq!(end, SpanEnd::Open);
        assert_eq!(told(&spans), [(7, SpanEnd::Mixed), (0, SpanEnd::Open)]);
    });
}

#[test]
fn switches_that_are_told_of_are_as_good_as_changes() {
    on_a_thread(|| {
        let mut rig = Rig::new();
        let (one, other) = (labels(7), labels(8));
        let cpu = Arc::new(RequestCpu::default());
        note_change(rig.ident, 1, Some(&one), Some(&cpu));
        note_switch(rig.ident, 2, None, None);
        note_switch(rig.ident, 3, Some(&other), None);
        note_switch(rig.ident, 4, None, None);
        note_switch(rig.ident, 5, Some(&one), Some(&cpu));
        note_change(rig.ident, 5, None, None);
        note_switch(rig.ident, 6, None, None);
        let (end, spans) = rig.look(Some(6));
        assert_eq!(end, SpanEnd::Open);
        let told = told(&spans);
        assert!(
            told[1..].iter().all(|(_, end)| *end != SpanEnd::Mixed),
            "{told:?}"
        );
        let of_one = spans.iter().filter(|span| span.labels == Some(one.clone()));
        let spent_ns: u64 = of_one.map(|span| span.to_ns - span.from_ns).sum();
        assert_eq!(cpu.get(), Some(spent_ns));
        assert!(spent_ns > 0);
    });
}

#[test]
fn a_ring_that_is_full_loses_what_it_cannot_tell_and_says_so() {
    on_a_thread(|| {
        let mut rig = Rig::new();
        let cpu = Arc::new(RequestCpu::default());
        for _ in 0..RING {
            note_change(rig.ident, 1, Some(&labels(7)), Some(&cpu));
            note_change(rig.ident, 1, None, None);
        }
        let (end, spans) = rig.look(Some(1));
        assert_eq!(end, SpanEnd::Mixed);
        assert!(spans.len() <= RING + 1);
        note_change(rig.ident, 1, Some(&labels(8)), None);
        assert_eq!(told(&rig.look(Some(1)).1)[0].1, SpanEnd::Mixed);
        // The request's own sum needs no ring.
        assert!(cpu.get().is_some_and(|ns| ns > 0));
    });
}

#[test]
fn a_thread_that_ends_has_told_all() {
    on_a_thread(|| {
        let mut rig = Rig::new();
        let ident = ident();
        rig.ident = ident;
        rig.reader = LogReader::default();
        let begin = move || note_change(ident, 1, Some(&labels(7)), None);
        let ready = Arc::new(std::sync::Barrier::new(2));
        let worker = std::thread::spawn({
            let ready = ready.clone();
            move || {
                begin();
                ready.wait();
                ready.wait();
            }
        });
        ready.wait();
        rig.look(Some(1));
        ready.wait();
        worker.join().unwrap();
        assert_eq!(told(&rig.look(None).1)[0], (7, SpanEnd::Mixed));
        // Whoever comes later finds nothing.
        rig.reader = LogReader::default();
        rig.look(None);
        assert!(!rig.reader.has_log());
    });
}

#[test]
fn a_forked_child_begins_a_log_of_its_own() {
    on_a_thread(|| {
        let mut rig = Rig::new();
        forget_parent();
        note_change(rig.ident, 1, Some(&labels(9)), None);
        let is_of_parent = |(request, _): &(u64, SpanEnd)| *request == 0;
        assert!(told(&rig.look(Some(1)).1).iter().all(is_of_parent));
        rig.reader = LogReader::default();
        assert_eq!(told(&rig.look(Some(1)).1).last(), Some(&(9, SpanEnd::Open)));
    });
}
