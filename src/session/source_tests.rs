//! Events on their way through a session.
#![allow(clippy::unwrap_used)]

use super::Session;
use super::tests::{config, engine, ticks};
use crate::capture::scripted::ScriptedSource;
use crate::model::event::EventSample;
use crate::model::measure::{Amounts, Column, MeasureId, MeasureSet};
use crate::pprof::decode::decode;
use crate::report::collapsed::collapsed;
use crate::sink::file::{FileConfig, FileSink};

#[test]
fn what_a_source_tells_is_in_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let session = Session::new();
    let (mut source, sender) = ScriptedSource::new(MeasureSet::of(&[MeasureId::Exceptions]), 16);
    let stack = source.stack(&["parse", "main"]);
    session.sources().add(Box::new(source));
    let sink = FileSink::open(FileConfig {
        output: scratch.path().join("events.pb.gz"),
        program: "test".to_owned(),
        pid: std::process::id(),
        keep_files: 1,
        keep_bytes: 1 << 20,
        start_unix_ns: 0,
        window_ns: 0,
        suffix: crate::sink::file_name::SUFFIX,
    });
    let id = session.start(config(None), Some(Box::new(sink.unwrap())), engine());
    for at_ns in 0..10 {
        sender.send(EventSample {
            thread_id: 1,
            at_ns,
            stack: stack.clone(),
            labels: None,
            task: None,
            part: None,
            is_followed: false,
            lock: None,
            values: Amounts::of(MeasureId::Exceptions, 1),
        });
    }
    ticks(&session, 2);
    let written = session.stop(id.unwrap()).unwrap().written;
    let file = written.unwrap().unwrap().path().unwrap().to_owned();
    let profile = decode(&std::fs::read(file).unwrap(), "events").unwrap();
    // Behind samples, wall and cpu.
    assert_eq!(profile.columns[3], Column::Known(MeasureId::Exceptions));
    let told = collapsed(&profile, 3, true).unwrap();
    assert_eq!(told, "main;main;parse 10\n");
    assert!(profile.totals()[0] > 0, "the ticks are in it, too");
}
