//! What there is where the system refuses threads.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering::Relaxed;

use super::tests::{
    CPU, Disk, MS, SAMPLES, WALL, config, counter, engine, fork_at_the_limit, receipt, ticks, until,
};
use super::{Session, Worker};
use crate::clock::cpu::monotonic_ns;
use crate::model::window_facts::{Fact, read};
use crate::session::native_thread::tests::refuse;

#[test]
fn a_start_that_gets_no_thread_leaves_nothing() {
    let session = Session::new();
    refuse(true);
    let (disk, _) = Disk::good();
    let refused = session.start(config(None), Some(disk), engine());
    assert!(refused.is_err_and(|error| error.to_string().contains("cannot start the thread")));
    refuse(false);
    assert_eq!(counter(&session, "refused_threads"), 1);
    assert!(!session.refusals().are_any());
    assert!(session.state.lock().recordings.is_empty());
    assert!(session.needs_engine(None).unwrap());
    // Nor is it in the way of the next one.
    let id = session.start(config(None), None, engine()).unwrap();
    ticks(&session, 3);
    assert!(session.stop(id).unwrap().profile.totals()[SAMPLES] > 0);
    assert_eq!(counter(&session, "unattended"), 0);
}

#[test]
fn without_threads_whoever_asks_gets_what_there_is() {
    let session = Session::new();
    let (disk, files) = Disk::good();
    let id = session.start(config(None), Some(disk), engine()).unwrap();
    ticks(&session, 5);
    fork_at_the_limit(&session);
    let flushed = session.rotate(id).unwrap();
    assert!(flushed.profile.totals()[SAMPLES] > 0);
    assert_eq!(flushed.written, Some(Ok(receipt())));
    session.pause(id);
    session.resume(id);
    // Another recording is refused, and this one goes on.
    assert!(session.start(config(None), None, None).is_err());
    let finished = session.stop(id).unwrap();
    refuse(false);
    assert_eq!(finished.profile.totals()[SAMPLES], 0);
    let facts = read(&finished.profile.meta.comments);
    let is_gap = |(fact, _): &(Fact, f64)| *fact == Fact::UnattendedSeconds;
    assert!(facts.iter().any(is_gap), "{facts:?}");
    assert_eq!(finished.written, Some(Ok(receipt())));
    assert_eq!(files.load(Relaxed), 2);
    assert_eq!(counter(&session, "unattended"), 1);
    // Of both workers, once at the fork at least.
    assert!(counter(&session, "refused_threads") >= 2);
    assert_eq!(counter(&session, "starved_threads"), 0);
    let said = session.health().last_error().unwrap();
    assert!(
        said.contains("rprof-sampler") && said.contains("tried again"),
        "{said}"
    );
}

#[test]
fn the_time_in_which_nobody_looked_is_nobody_s() {
    let session = Session::new();
    let begin_ns = monotonic_ns();
    let id = session.start(config(None), None, engine()).unwrap();
    for _ in 0..3 {
        ticks(&session, 5);
        fork_at_the_limit(&session);
        assert!(session.refusals().are_any());
        refuse(false);
        until("its thread comes again", || {
            if let Some(due) = session.refusals().due() {
                session.try_again();
                session.refusals().end(due);
            }
            matches!(session.state.lock().sampler, Worker::Running(_))
        });
        assert!(!session.refusals().are_any());
    }
    ticks(&session, 5);
    let profile = session.stop(id).unwrap().profile;
    let elapsed_ns = monotonic_ns() - begin_ns;
    let unattended_ns = counter(&session, "unattended_ns");
    assert_eq!(counter(&session, "unattended"), 3);
    // It was not tried again before that.
    assert!(unattended_ns >= 300 * MS, "{unattended_ns}");
    for kind in [WALL, CPU] {
        let told_ns = profile.totals()[kind];
        let seen_ns = i64::try_from(elapsed_ns - unattended_ns).unwrap();
        assert!(
            0 < told_ns && told_ns <= seen_ns,
            "{kind}: {told_ns} of {seen_ns}"
        );
    }
}
