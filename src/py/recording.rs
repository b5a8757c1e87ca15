//! Starting and ending recordings, and what the session tells about itself.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::direct;
use super::exact_locks::LockUse;
use super::gil::engine::{EngineOptions, GilEngine};
use super::handed_in::{process, process_without_thread};
use super::heap::OwnHeap;
use super::hooks::sys_value;
use super::last_window::Held;
use super::memory;
use super::owner::Recording;
use super::profile::Profile;
use crate::account::RequestFilter;
use crate::capture::Engine;
use crate::clock::cpu::{monotonic_ns, unix_time_ns};
use crate::error::Error;
use crate::fold::window::Limits;
use crate::heap::report;
use crate::model::facts::JIT;
use crate::model::label::thread_title;
use crate::model::task::Tasks;
use crate::report::dump::{doing, rest, texts};
use crate::report::held_up::line;
use crate::session::Finished;
use crate::session::config::{RecordingConfig, ThreadFilter};
use crate::session::facts;
use crate::session::flight::{Pick, Ring};
use crate::session::fork::session;
use crate::sink::file::{self, FileConfig, FileSink};
use crate::sink::file_name::{Fields, HEAP_SUFFIX, SUFFIX};
use crate::sink::growing_file::GrowingFile;
use crate::sink::heap_beside::{HeapBeside, HeapTelling, heap_output};
use crate::sink::{Receipt, Sink};

/// Which threads, as Python says it.
#[derive(FromPyObject)]
pub(crate) enum Threads {
    One(u64),
    Names(Vec<String>),
    /// `main`, or nothing that is known.
    Word(String),
}

/// A finished window: the profile, the file it is in, and why it is in none.
///
/// Paths go to Python as `str`: a `pathlib.Path` would have to be imported, perhaps at exit.
pub(super) type Outcome = (Profile, Option<OsString>, Option<PyErr>);

pub(super) fn outcome(finished: Finished) -> Outcome {
    let profile = Profile::new(finished.profile);
    match finished.written {
        None => (profile, None, None),
        Some(Ok(receipt)) => (profile, receipt.path().map(OsString::from), None),
        Some(Err(error)) => (profile, None, Some(error.into())),
    }
}

/// What a recording is to be, as Python says it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct RecordingOptions {
    period_ns: u64,
    max_overhead: f64,
    max_nodes: usize,
    max_depth: usize,
    threads: Option<Threads>,
    program: String,
    keep_files: usize,
    keep_bytes: u64,
    engine: String,
    /// How locks are told; `None`: not at all.
    locks: Option<String>,
    #[pyo3(default)]
    window_ns: Option<u64>,
    #[pyo3(default)]
    output: Option<PathBuf>,
    /// Whether the one file is written again with each window, whole.
    #[pyo3(default)]
    grows: bool,
    /// Whether that takes the place of what is there.
    #[pyo3(default)]
    replaces: bool,
    #[pyo3(default)]
    captures: u64,
    #[pyo3(default)]
    requests_apart: bool,
    #[pyo3(default)]
    ring_ns: Option<u64>,
    #[pyo3(default)]
    ring_bytes: usize,
    /// Bytes between two samples of the heap; 0 has that chosen. Without it there are none.
    #[pyo3(default)]
    memory: Option<f64>,
}

impl RecordingOptions {
    fn sink(&self, heap: Option<HeapTelling>) -> crate::error::Result<Option<Box<dyn Sink>>> {
        let Some(output) = self.output.clone() else {
            return Ok(None);
        };
        let Some(heap) = heap else {
            return Ok(Some(self.one_sink(output, SUFFIX)?));
        };
        let heaps = self.one_sink(heap_output(&output), HEAP_SUFFIX)?;
        let windows = self.one_sink(output, SUFFIX)?;
        Ok(Some(Box::new(HeapBeside::new(windows, heaps, heap))))
    }

    fn one_sink(
        &self,
        output: PathBuf,
        suffix: &'static str,
    ) -> crate::error::Result<Box<dyn Sink>> {
        if self.grows {
            return Ok(Box::new(GrowingFile::new(output, self.replaces)));
        }
        Ok(Box::new(FileSink::open(FileConfig {
            output,
            program: self.program.clone(),
            pid: std::process::id(),
            keep_files: self.keep_files,
            keep_bytes: self.keep_bytes,
            start_unix_ns: unix_time_ns(),
            suffix,
            window_ns: self.window_ns.unwrap_or(0),
        })?))
    }

    fn config(self) -> crate::error::Result<RecordingConfig> {
        Ok(RecordingConfig {
            period_ns: self.period_ns,
            max_overhead: self.max_overhead,
            limits: Limits {
                max_nodes: self.max_nodes,
                max_depth: self.max_depth,
            },
            threads: match self.threads {
                None => ThreadFilter::All,
                Some(Threads::One(id)) => ThreadFilter::One(id),
                Some(Threads::Names(names)) => ThreadFilter::Names(names),
                Some(Threads::Word(word)) if word == "main" => ThreadFilter::Main,
                Some(Threads::Word(word)) => {
                    return Err(Error::value(format!("threads={word:?} is unknown")));
                }
            },
            window_ns: self.window_ns,
            locks: self.locks.is_some(),
            program: self.program,
            requests: RequestFilter {
                captures: self.captures,
                keep_apart: self.requests_apart,
            },
            ring: None,
        })
    }
}

/// Begins a recording and returns its owner. Values are expected to have been checked.
#[pyfunction]
pub(crate) fn start_recording(py: Python<'_>, options: RecordingOptions) -> PyResult<Recording> {
    let begin = |rate, apart| OwnHeap::begin(py, rate, &options.program, process(), apart);
    let heap = match options.memory {
        Some(rate) => Some(begin(rate, false)?),
        // Requests are told of what is sampled anyway; if that has become impossible, of nothing.
        None if options.captures != 0 && py.detach(|| report::figures().is_on) => {
            begin(0.0, true).ok()
        }
        None => None,
    };
    // The output first: an engine whose recording cannot begin would have to be taken apart.
    let telling = heap.as_ref().map(OwnHeap::telling);
    let sink = py.detach(|| options.sink(telling))?;
    let wanted = Some(options.engine.as_str()).filter(|wanted| *wanted != AUTO);
    let made = if py.detach(|| session().needs_engine(wanted))? {
        Some(make_engine(py, wanted, process())?)
    } else {
        None
    };
    let exact = (options.locks.as_deref() == Some(EXACT)).then(|| LockUse::begin(py));
    let (id, session) = py.detach(|| {
        let session = session();
        let ring = options.ring_ns.map(|ns| Ring::new(ns, options.ring_bytes));
        let config = options.config()?;
        let id = match ring {
            Some(ring) => session.start_flight(config, ring, made),
            None => session.start(config, sink, made),
        }?;
        Ok::<_, Error>((id, session))
    })?;
    Ok(Recording::new(session, id, heap, exact))
}

/// Sees to it that recordings can begin without the GIL.
pub(crate) fn ensure_engine(py: Python<'_>, options: EngineOptions) -> PyResult<()> {
    if py.detach(|| session().needs_engine(None))? {
        let (engine, reason) = make_engine(py, None, options)?;
        py.detach(|| session().install(engine, reason))?;
    }
    Ok(())
}

/// The wish to have locks note who has them.
const EXACT: &str = "exact";
/// The wish to have the best engine that works.
const AUTO: &str = "auto";

/// The engine that is wanted, or the best there is, and why it is this one.
fn make_engine(
    py: Python<'_>,
    wanted: Option<&str>,
    options: EngineOptions,
) -> PyResult<(Box<dyn Engine>, String)> {
    let has_jit = has_jit(py)?;
    facts::note_jit(has_jit);
    let (engine, mut reason) = choose_engine(py, wanted, options)?;
    if has_jit {
        reason.push_str("; ");
        reason.push_str(JIT);
    }
    Ok((engine, reason))
}

/// Whether the interpreter compiles what is hot: `sys._jit.is_enabled()`, of CPython 3.14 and later.
fn has_jit(py: Python<'_>) -> PyResult<bool> {
    match sys_value(py, c"_jit") {
        Some(jit) => jit.call_method0("is_enabled")?.extract(),
        None => Ok(false),
    }
}

fn choose_engine(
    py: Python<'_>,
    wanted: Option<&str>,
    options: EngineOptions,
) -> PyResult<(Box<dyn Engine>, String)> {
    if wanted == Some("gil") {
        let engine: Box<dyn Engine> = Box::new(GilEngine::new(py, options)?.following_logs());
        return Ok((engine, "asked for".to_owned()));
    }
    match direct::engine(py, &options) {
        Ok((engine, transport)) => Ok((
            engine,
            format!("passed its self-test; reads memory by {transport}"),
        )),
        Err(reason) if wanted.is_some() => Err(Error::state(format!(
            "engine='direct' is not possible here: {reason}; use engine='auto' or 'gil'"
        ))
        .into()),
        Err(reason) => {
            let engine: Box<dyn Engine> = Box::new(GilEngine::new(py, options)?.following_logs());
            Ok((
                engine,
                format!("the direct engine cannot be used: {reason}"),
            ))
        }
    }
}

/// The engine in use and why; empty before the first recording.
#[pyfunction]
pub(crate) fn engine(py: Python<'_>) -> (&'static str, String) {
    let engine = py.detach(|| session().engine());
    (engine.name, engine.reason)
}

/// Whether there is a recording that writes, in this process.
#[pyfunction]
pub(crate) fn is_writing() -> bool {
    session().last_call().is_of_use()
}

/// Ends all recordings, at the end of the process; returns what went wrong.
#[pyfunction]
pub(crate) fn end_recordings(py: Python<'_>) -> Vec<PyErr> {
    let problems = py.detach(|| {
        let _held = Held::begin();
        session().end_all()
    });
    memory::end_with_interpreter(py);
    problems.into_iter().map(PyErr::from).collect()
}

/// What was recorded in the last so many ns, of all requests.
#[pyfunction]
pub(crate) fn recent(py: Python<'_>, age_ns: u64) -> PyResult<Profile> {
    let since_ns = monotonic_ns().saturating_sub(age_ns);
    recent_of(py, since_ns, Vec::new())
}

/// What was recorded of these requests (of all if there are none) since `since_ns` of the monotonic
/// clock.
#[pyfunction]
pub(crate) fn recent_of(py: Python<'_>, since_ns: u64, requests: Vec<u64>) -> PyResult<Profile> {
    let wanted = Pick { since_ns, requests };
    let profile = py.detach(|| session().recent(&wanted))?;
    Ok(Profile::new(Arc::new(profile)))
}

/// All counters by name.
#[pyfunction]
pub(crate) fn counters(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let counters = PyDict::new(py);
    for (name, value) in session().health().counters() {
        counters.set_item(name, value)?;
    }
    Ok(counters)
}

/// The newest error in words.
#[pyfunction]
pub(crate) fn last_error() -> Option<String> {
    session().health().last_error()
}

/// Files of this process that are in place, oldest first.
#[pyfunction]
pub(crate) fn kept_files() -> Vec<OsString> {
    let kept = session().kept();
    let paths = kept.iter().filter_map(Receipt::path);
    paths.map(OsString::from).collect()
}

/// Time since the sampler was first started, in ns; 0 if it never was.
#[pyfunction]
pub(crate) fn age_ns() -> u64 {
    session().age_ns()
}

/// Whether `output` makes a file for each window rather than one at the end.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "as Python hands it over")]
pub(crate) fn output_rotates(output: PathBuf) -> bool {
    file::rotates(&output.to_string_lossy())
}

/// `output` with its fields filled in.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "as Python hands it over")]
pub(crate) fn expand_output(
    output: PathBuf,
    program: &str,
    seq: u64,
    start_unix_ns: i64,
) -> PyResult<OsString> {
    let fields = fields(program, seq, start_unix_ns);
    Ok(file::expand_output(&output, &fields)?.into())
}

pub(super) fn fields(program: &str, seq: u64, start_unix_ns: i64) -> Fields<'_> {
    Fields {
        program,
        pid: std::process::id(),
        start_unix_ns,
        seq,
    }
}

/// A thread of a dump: kernel id, name, what it does (empty if unknown), its labels, and (function,
/// file, line) of each frame, leaf first, and which lock it waits for, a line or nothing.
type DumpedThread = (
    u64,
    String,
    &'static str,
    Vec<(String, String)>,
    Vec<(String, String, u32)>,
    String,
);

/// Every thread with its stack; as text the tasks of asyncio, and who waits for each other.
#[pyfunction]
pub(crate) fn dump_threads(py: Python<'_>) -> PyResult<(Vec<DumpedThread>, String)> {
    let options = process_without_thread();
    let (snapshot, tasks) = match direct::look_once(py, &options) {
        Ok(seen) => seen,
        Err(_) => {
            let snapshot = GilEngine::new(py, options)?.snapshot_once(py);
            (snapshot, Tasks::default())
        }
    };
    let threads = snapshot.threads.iter().map(|thread| {
        let frames = thread.stack.frames.iter().filter_map(|frame| {
            let function = snapshot.function(frame.function)?;
            Some((
                function.name.to_string(),
                function.file.to_string(),
                frame.line,
            ))
        });
        let state = doing(thread.state);
        let name = thread_title(thread.thread_id, &thread.name).into_owned();
        let labels = thread.labels.iter().flat_map(|labels| texts(labels));
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        (
            thread.thread_id,
            name,
            state,
            labels.collect(),
            frames.collect(),
            line(&snapshot, thread),
        )
    });
    Ok((threads.collect(), rest(&snapshot, &tasks)))
}

/// The kernel's id of the main thread, whatever it is called; `None` where it is unknown.
#[pyfunction]
pub(crate) fn main_thread_id() -> Option<u64> {
    crate::clock::cpu::main_thread_id()
}
