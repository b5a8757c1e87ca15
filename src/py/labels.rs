//! `rprof.labels`: what the application says it is doing, kept where samplers find it.
//!
//! A label object is the value of one context variable. Entering sets it, leaving sets what there
//! was before; threads, tasks and executors carry it along as they do with any context variable.
//! Samplers read it out of memory, see [`crate::unwind::labels`].
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

use super::{hooks, resume};
use crate::clock::cpu::monotonic_ns;
use crate::error::Error;
use crate::memory::{ReadMemory, own, read_word};
use crate::model::label::{
    ActiveLabels, Label, LabelSet, LabelValue, THREAD_CLASS, THREAD_ID, THREAD_NAME,
};
use crate::session::fork::session;
use crate::unwind::label_log::{RequestCpu, note_change, note_correction, note_switch};
use crate::unwind::labels::{
    ContextSeen, LabelPlace, LabelReader, PLACE, Shown, note_set, trie_hash,
};

/// Labels of one object, with those it was entered under.
const MAX_LABELS: usize = 32;
/// Entries within each other; the labels of those beyond are not set.
const MAX_DEPTH: u32 = 200;
/// Characters of a key.
const MAX_KEY: usize = 100;
/// Characters of a value; the rest is cut off.
const MAX_VALUE: usize = 200;
/// Bytes of a thread state that are searched for its context.
const THREAD_STATE_BYTES: usize = 4_096;

fn next_serial() -> usize {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) as usize
}

/// The functions of `Include/cpython/context.h`, which are not in the limited API.
struct Contexts {
    variable: *mut PyObject,
    get: unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut *mut PyObject) -> c_int,
    set: unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject,
    magic: usize,
}

// SAFETY: the functions are used with the GIL held, and the variable is never released.
unsafe impl Send for Contexts {}
// SAFETY: as above.
unsafe impl Sync for Contexts {}

static CONTEXTS: OnceLock<Contexts> = OnceLock::new();

/// Labels by key, sorted.
pub(super) type Items = Vec<(Arc<str>, Arc<str>)>;

/// Labels, and what samplers read of them.
#[derive(Debug)]
pub(super) struct Content {
    items: Items,
    bytes: Box<[u8]>,
    set: Arc<LabelSet>,
}

impl Content {
    /// Of sorted labels.
    pub(super) fn new(items: Items) -> Arc<Self> {
        let bytes = ActiveLabels::encode(&items).into_boxed_slice();
        let label = |(key, value): &(Arc<str>, Arc<str>)| Label {
            key: key.clone(),
            value: LabelValue::Text(value.clone()),
        };
        let set = Arc::new(items.iter().map(label).collect());
        Arc::new(Self { items, bytes, set })
    }
}

/// A request under way, as its labels know it.
#[derive(Debug)]
pub(super) struct Running {
    /// Its number, never used again in this process; 0 if it is not watched.
    pub(super) number: u64,
    /// Its labels, and the captures that take it, one bit each.
    pub(super) shown: Mutex<(Arc<Content>, u64)>,
    /// The CPU time spent on it.
    pub(super) cpu: Arc<RequestCpu>,
}

/// What is put in force.
pub(super) enum Entered {
    /// An object of the application's.
    Labels(Py<Labels>),
    /// A request.
    Request(Arc<Running>),
}

impl Entered {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Labels(one), Self::Labels(other)) => one.is(other),
            (Self::Request(one), Self::Request(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The labels; of a request its number and captures as well.
    fn content(&self) -> (Arc<Content>, Option<(u64, u64)>) {
        match self {
            Self::Labels(labels) => (labels.get().content(), None),
            Self::Request(running) => {
                let (content, captures) = running.shown.lock().clone();
                (content, Some((running.number, captures)))
            }
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Labels(labels) => Self::Labels(labels.clone_ref(py)),
            Self::Request(running) => Self::Request(running.clone()),
        }
    }
}

/// Labels on the samples of whatever runs inside, in threads, tasks and executors alike.
///
/// A context manager and a decorator, to be entered as often and as nested as one likes; the inner
/// value of a key counts. Samples carry them in profiles, dumps show them.
///
/// >>> with rprof.labels(route="/checkout", tenant="acme"):
/// ...     handle()
///
/// `asyncio` tasks and `asyncio.to_thread` have the labels of where they are begun. A thread, or a
/// call of an executor, has them if its function is run by `contextvars.copy_context().run`.
///
/// Args:
///     labels: At most 32, with text or numbers for values; text beyond 200 characters is cut. Of
///         more than 1,000 combinations in one window the values become `<other>`.
///
/// Raises:
///     RprofTypeError: No label, or a value that is neither text nor number.
///     RprofValueError: A reserved or overlong name, or too many.
#[pyclass(name = "labels", module = "rprof", frozen)]
pub(crate) struct Labels {
    shown: Shown,
    /// What `shown` points into, and the same for whoever holds it.
    content: Mutex<(Arc<Content>, Arc<ActiveLabels>)>,
    /// Where CPU time counts that is spent under these labels.
    cpu: Option<Arc<RequestCpu>>,
    /// What was there when this was entered.
    outer: Option<Py<Labels>>,
    /// How many objects are below this one.
    depth: u32,
    /// How often what was entered was entered again, right here.
    again: AtomicU32,
    /// What was entered, if this was made for it.
    entered: Option<Entered>,
}

impl Drop for Labels {
    fn drop(&mut self) {
        // Whoever reads this memory from now on finds no labels.
        self.shown.hide();
    }
}

impl Labels {
    fn make(
        contexts: &Contexts,
        content: Arc<Content>,
        request: Option<(u64, u64)>,
        outer: Option<Py<Labels>>,
        entered: Option<Entered>,
    ) -> Self {
        let shown = Shown::default();
        let active = show(&shown, &content, request.unwrap_or_default());
        shown.magic.store(contexts.magic, Ordering::Relaxed);
        let cpu = match (&entered, &outer) {
            (Some(Entered::Request(running)), _) => Some(running.cpu.clone()),
            (_, Some(outer)) => outer.get().cpu.clone(),
            _ => None,
        };
        Self {
            shown,
            depth: outer.as_ref().map_or(0, |outer| outer.get().depth + 1),
            content: Mutex::new((content, active)),
            cpu,
            again: AtomicU32::new(0),
            outer,
            entered,
        }
    }

    fn show(&self, content: Arc<Content>, request: (u64, u64)) {
        let mut kept = self.content.lock();
        let active = show(&self.shown, &content, request);
        *kept = (content, active);
    }

    fn content(&self) -> Arc<Content> {
        self.content.lock().0.clone()
    }

    fn active(&self) -> Arc<ActiveLabels> {
        self.content.lock().1.clone()
    }

    /// Whether entering this once more needs no further object: it was what was entered last, or
    /// there are too many already, of which somebody has forgotten to leave some.
    fn takes(&self, entered: &Entered) -> bool {
        if self.entered.as_ref().is_some_and(|own| own.is(entered)) {
            self.again.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.depth >= MAX_DEPTH
    }

    /// The union of `outer` and what is entered, whose values count.
    fn below(contexts: &Contexts, outer: Bound<'_, Labels>, entered: Entered) -> Self {
        let mut union = outer.get().content().items.clone();
        let (content, request) = entered.content();
        for (key, value) in &content.items {
            if let Some((_, known)) = union.iter_mut().find(|(known, _)| known == key) {
                known.clone_from(value);
            } else if union.len() < MAX_LABELS {
                union.push((key.clone(), value.clone()));
            }
        }
        union.sort_unstable();
        let shown = &outer.get().shown;
        let request = request.unwrap_or((
            shown.request.load(Ordering::Relaxed) as u64,
            shown.captures.load(Ordering::Relaxed) as u64,
        ));
        let content = Content::new(union);
        Self::make(
            contexts,
            content,
            Some(request),
            Some(outer.unbind()),
            Some(entered),
        )
    }
}

/// Shows `content` to whoever reads this memory; returns the same for whoever holds it.
fn show(shown: &Shown, content: &Content, (request, captures): (u64, u64)) -> Arc<ActiveLabels> {
    let serial = next_serial();
    shown.show(serial, &content.bytes, request, captures);
    Arc::new(ActiveLabels {
        serial: serial as u64,
        request,
        captures,
        set: content.set.clone(),
    })
}

#[pymethods]
impl Labels {
    #[new]
    #[pyo3(signature = (**labels))]
    fn new(py: Python<'_>, labels: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let items = items(labels)?;
        if items.is_empty() {
            return Err(Error::argument(
                "labels() needs at least one label, for example route='/checkout'",
            )
            .into());
        }
        Ok(Self::make(
            contexts(py)?,
            Content::new(items),
            None,
            None,
            None,
        ))
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        enter(slf.py(), Entered::Labels(slf.clone().unbind()))?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __exit__(
        slf: &Bound<'_, Self>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        leave(slf.py(), &Entered::Labels(slf.clone().unbind()))?;
        Ok(false)
    }

    /// A generator has yielded: what follows is its caller's.
    fn pause(slf: &Bound<'_, Self>) -> PyResult<()> {
        leave(slf.py(), &Entered::Labels(slf.clone().unbind())).map(drop)
    }

    /// The generator goes on.
    fn resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        enter(slf.py(), Entered::Labels(slf.clone().unbind()))
    }

    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let module = slf.py().import("rprof._labels")?;
        module.call_method1("decorate", (slf, function))
    }

    /// For `pickle`: what is decorated with labels is sent to other processes.
    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyDict>,))> {
        let make = py.import("rprof._labels")?.getattr("unpickled")?;
        Ok((make, (dictionary(py, &self.content().items)?,)))
    }

    fn __repr__(&self) -> String {
        let content = self.content();
        let items: Vec<String> = content
            .items
            .iter()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect();
        format!("rprof.labels({})", items.join(", "))
    }
}

/// The labels in force where it is called.
#[pyfunction]
pub(crate) fn current_labels(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    match current(py, contexts(py)?)? {
        Some(current) => dictionary(py, &current.get().content().items),
        None => Ok(PyDict::new(py)),
    }
}

fn dictionary<'py>(py: Python<'py>, items: &Items) -> PyResult<Bound<'py, PyDict>> {
    let labels = PyDict::new(py);
    for (key, value) in items {
        labels.set_item(&**key, &**value)?;
    }
    Ok(labels)
}

/// Puts labels in force.
pub(super) fn enter(py: Python<'_>, entered: Entered) -> PyResult<()> {
    resume::on_demand(py);
    hooks::try_again();
    let contexts = contexts(py)?;
    let labels = match current(py, contexts)? {
        Some(outer) if outer.get().takes(&entered) => return Ok(()),
        Some(outer) => Labels::below(contexts, outer, entered),
        None => match entered {
            Entered::Labels(labels) => return set(py, contexts, Some(labels.bind(py))),
            Entered::Request(_) => {
                let (content, request) = entered.content();
                Labels::make(contexts, content, request, None, Some(entered))
            }
        },
    };
    set(py, contexts, Some(&Bound::new(py, labels)?))
}

/// Takes `entered` from what is in force; whether it was part of that: a generator may be ended in a
/// context that is not the one it was begun in. What was entered after it stays.
pub(super) fn leave(py: Python<'_>, entered: &Entered) -> PyResult<bool> {
    let contexts = contexts(py)?;
    let mut inner = Vec::new();
    let mut next = current(py, contexts)?;
    while let Some(labels) = next {
        let known = labels.get();
        let is_own = match (&known.entered, entered) {
            (Some(own), _) => own.is(entered),
            (None, Entered::Labels(entered)) => labels.is(entered),
            (None, Entered::Request(_)) => false,
        };
        if !is_own {
            inner.push(match &known.entered {
                Some(own) => own.clone_ref(py),
                None => Entered::Labels(labels.clone().unbind()),
            });
            next = known.outer.as_ref().map(|outer| outer.bind(py).clone());
            continue;
        }
        let left = known
            .again
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |again| {
                again.checked_sub(1)
            });
        if left.is_ok() {
            return Ok(true);
        }
        match &known.outer {
            Some(outer) => set(py, contexts, Some(outer.bind(py)))?,
            None => set(py, contexts, None)?,
        }
        for own in inner.into_iter().rev() {
            enter(py, own)?;
        }
        return Ok(true);
    }
    Ok(false)
}

/// Has a request that is in force show what it has become, wherever its context was taken to.
pub(super) fn show_again(
    py: Python<'_>,
    running: &Arc<Running>,
    content: Arc<Content>,
    captures: u64,
) -> PyResult<()> {
    *running.shown.lock() = (content.clone(), captures);
    if let Some(labels) = current(py, contexts(py)?)? {
        let known = labels.get();
        let is_own =
            |own: &Entered| matches!(own, Entered::Request(own) if Arc::ptr_eq(own, running));
        if known.outer.is_none() && known.entered.as_ref().is_some_and(is_own) {
            // Before and after: a sampler compares what it finds before and after a stack.
            note_own_set();
            known.show(content, (running.number, captures));
            note_own_set();
            note_labels(Some(known), note_correction);
            return Ok(());
        }
    }
    let entered = Entered::Request(running.clone());
    if leave(py, &entered)? {
        enter(py, entered)?;
    }
    Ok(())
}

/// Checked labels, by key.
pub(super) fn items(labels: Option<&Bound<'_, PyDict>>) -> PyResult<Items> {
    let mut items = Items::new();
    for (key, value) in labels.into_iter().flat_map(|labels| labels.iter()) {
        let key: String = key.extract()?;
        if [THREAD_ID, THREAD_NAME, THREAD_CLASS].contains(&&*key)
            || key.is_empty()
            || key.chars().count() > MAX_KEY
        {
            return Err(Error::value(format!(
                "{key:?} cannot be a label's name; choose another of at most {MAX_KEY} characters"
            ))
            .into());
        }
        let is_plain = value.is_instance_of::<PyString>()
            || value.is_instance_of::<PyInt>()
            || value.is_instance_of::<PyFloat>()
            || value.is_instance_of::<PyBool>();
        if !is_plain {
            return Err(Error::argument(format!(
                "label {key} must be text or a number, not {}",
                value.get_type().name()?
            ))
            .into());
        }
        items.push((Arc::from(key), self::value(&value.str()?.to_string_lossy())));
    }
    if items.len() > MAX_LABELS {
        return Err(Error::value(format!("more than {MAX_LABELS} labels")).into());
    }
    items.sort_unstable();
    Ok(items)
}

/// A label's value, not too long.
pub(super) fn value(text: &str) -> Arc<str> {
    let end = if text.len() <= MAX_VALUE {
        text.len()
    } else {
        let cut = text.char_indices().nth(MAX_VALUE);
        cut.map_or(text.len(), |(at, _)| at)
    };
    Arc::from(&text[..end])
}

fn current<'py>(py: Python<'py>, contexts: &Contexts) -> PyResult<Option<Bound<'py, Labels>>> {
    let mut value = std::ptr::null_mut();
    // SAFETY: the GIL is held; the variable lives for ever, and without a default a missing value
    // leaves null. The value is a new reference.
    let result = unsafe { (contexts.get)(contexts.variable, std::ptr::null_mut(), &raw mut value) };
    if result != 0 {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: a new reference or null, as above.
    let value = unsafe { Bound::from_owned_ptr_or_opt(py, value) };
    Ok(value.and_then(|value| value.cast_into::<Labels>().ok()))
}

/// Tells samplers that this thread's labels change.
fn note_own_set() {
    note_set(own_ident());
}

fn set(py: Python<'_>, contexts: &Contexts, labels: Option<&Bound<'_, Labels>>) -> PyResult<()> {
    note_own_set();
    let none = py.None();
    let value = labels.map_or(none.as_ptr(), |labels| labels.as_ptr());
    // SAFETY: the GIL is held; the variable lives for ever and takes a reference of its own.
    let token = unsafe { (contexts.set)(contexts.variable, value) };
    // SAFETY: the token is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, token) }?;
    note_labels(labels.map(Bound::get), note_change);
    Ok(())
}

fn own_ident() -> usize {
    // SAFETY: pthread_self takes no argument and always succeeds.
    unsafe { libc::pthread_self() as usize }
}

/// How often the calling thread, which holds the GIL, has switched contexts; `None` where that is
/// not known.
fn context_version() -> Option<u64> {
    let place = PLACE.get()?;
    // SAFETY: the GIL is held, so there is a thread state. Its context is at this place, as
    // `locate` has shown, and the count stands right behind it (`struct _ts`,
    // `Include/cpython/pystate.h`, 3.10-3.15).
    Some(unsafe {
        let state = ffi::PyThreadState_Get().cast::<u8>();
        state
            .add(place.context + size_of::<usize>())
            .cast::<u64>()
            .read()
    })
}

/// [`note_change`] or [`note_correction`].
type Note = fn(usize, u64, Option<&Arc<ActiveLabels>>, Option<&Arc<RequestCpu>>);

/// Notes what the calling thread works under from now on, and when.
fn note_labels(labels: Option<&Labels>, note: Note) {
    let request = labels.and_then(|labels| labels.cpu.as_ref());
    match (context_version(), request) {
        (Some(version), _) => {
            let active = labels.map(Labels::active);
            note(own_ident(), version, active.as_ref(), request);
        }
        (None, Some(request)) => request.add(None),
        (None, None) => {}
    }
}

type Watch = unsafe extern "C" fn(Watcher) -> c_int;
type Watcher = unsafe extern "C" fn(c_int, *mut PyObject) -> c_int;

/// Called by CPython 3.14 and later in the thread that has just switched to another context, with
/// the GIL held (`context_switched`, `Python/context.c`).
unsafe extern "C" fn context_switched(_event: c_int, _context: *mut PyObject) -> c_int {
    let noted = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the GIL is held, see above.
        let py = unsafe { Python::assume_attached() };
        let (Some(contexts), Some(version)) = (CONTEXTS.get(), context_version()) else {
            return;
        };
        let labels = current(py, contexts).ok().flatten();
        let labels = labels.as_ref().map(Bound::get);
        let active = labels.map(Labels::active);
        let request = labels.and_then(|labels| labels.cpu.as_ref());
        note_switch(own_ident(), version, active.as_ref(), request);
    }));
    // A panic was told by the hook; the interpreter has nothing to report.
    drop(noted);
    0
}

/// Has the interpreter tell of each switch of contexts, if it can (3.14 and later).
fn watch_switches() {
    let Ok(watch) = find(c"PyContext_AddWatcher") else {
        return;
    };
    // SAFETY: CPython's function of this name, whose signature has been the same since 3.14. The
    // GIL is held; a failure leaves an exception, which is cleared.
    unsafe {
        let watch = std::mem::transmute::<*mut c_void, Watch>(watch);
        if watch(context_switched) < 0 {
            ffi::PyErr_Clear();
        }
    }
}

fn find(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: RTLD_DEFAULT searches the loaded objects; `name` is a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("it does not export {}", name.to_string_lossy()));
    }
    Ok(address)
}

type NewVariable = unsafe extern "C" fn(*const c_char, *mut PyObject) -> *mut PyObject;
type NewContext = unsafe extern "C" fn() -> *mut PyObject;
type Switch = unsafe extern "C" fn(*mut PyObject) -> c_int;

/// The variable and the functions, found once; with them, where samplers find labels.
fn contexts(py: Python<'_>) -> PyResult<&'static Contexts> {
    if let Some(known) = CONTEXTS.get() {
        return Ok(known);
    }
    let unsupported = |reason: String| {
        PyErr::from(Error::state(format!(
            "labels are not possible here: {reason}"
        )))
    };
    let found = |name| find(name).map_err(unsupported);
    // SAFETY: these are CPython's functions of these names, whose signatures have been the same
    // since 3.7.1.
    let (new_variable, get, set) = unsafe {
        (
            std::mem::transmute::<*mut c_void, NewVariable>(found(c"PyContextVar_New")?),
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut *mut PyObject) -> c_int,
            >(found(c"PyContextVar_Get")?),
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject,
            >(found(c"PyContextVar_Set")?),
        )
    };
    // SAFETY: the GIL is held; the name is a C string, and there is no default.
    let variable = unsafe { new_variable(c"rprof.labels".as_ptr(), std::ptr::null_mut()) };
    // SAFETY: a new reference, or null with an exception set.
    let variable = unsafe { Bound::from_owned_ptr_or_err(py, variable) }?;
    let contexts = CONTEXTS.get_or_init(|| Contexts {
        variable: variable.into_ptr(),
        get,
        set,
        // Not foreseeable, never 0, and no address: all of these are even.
        magic: (monotonic_ns() as usize).rotate_left(32) ^ (&raw const PLACE as usize) | 1,
    });
    match locate(py, contexts) {
        // Another thread may have been faster, with the same result.
        Ok(place) => {
            if PLACE.set(place).is_ok() {
                watch_switches();
            }
        }
        // The application goes on as if they were seen.
        Err(reason) => session()
            .health()
            .set_error(format!("labels are not seen by profiles: {reason}")),
    }
    Ok(contexts)
}

/// Finds out where this interpreter keeps contexts, and shows that labels are found there.
fn locate(py: Python<'_>, contexts: &'static Contexts) -> Result<LabelPlace, String> {
    let mut memory = own::open(super::direct::circumstances())?;
    // SAFETY: the GIL is held, as `py` proves.
    let thread = unsafe { ffi::PyThreadState_Get() } as usize;
    let (new_context, enter, exit) = (
        find(c"PyContext_New")?,
        find(c"PyContext_Enter")?,
        find(c"PyContext_Exit")?,
    );
    // SAFETY: these are CPython's functions of these names.
    let (new_context, enter, exit) = unsafe {
        (
            std::mem::transmute::<*mut c_void, NewContext>(new_context),
            std::mem::transmute::<*mut c_void, Switch>(enter),
            std::mem::transmute::<*mut c_void, Switch>(exit),
        )
    };
    let object = |labels: Labels| Bound::new(py, labels).map_err(|error| error.to_string());
    let expected: Items = vec![(Arc::from("a"), Arc::from("b"))];
    let probe = Labels::make(contexts, Content::new(expected), Some((7, 9)), None, None);
    let probe = object(probe)?;
    let shown = (&raw const probe.get().shown) as usize - probe.as_ptr() as usize;
    // SAFETY: the GIL is held; hashing a context variable runs no code of the application.
    let hash = unsafe { ffi::PyObject_Hash(contexts.variable) };
    let mut places: Vec<usize> = (0..THREAD_STATE_BYTES / size_of::<usize>())
        .map(|at| at * size_of::<usize>())
        .collect();
    let mut result = Err("its thread states have an unknown layout".to_owned());
    for _ in 0..2 {
        // SAFETY: the GIL is held; a new reference or null.
        let Some(context) = (unsafe { Bound::from_owned_ptr_or_opt(py, new_context()) }) else {
            return Err("no context can be made".to_owned());
        };
        // SAFETY: the GIL is held; the context is new, so nobody is in it.
        if unsafe { enter(context.as_ptr()) } != 0 {
            return Err("no context can be entered".to_owned());
        }
        let address = context.as_ptr() as usize;
        places.retain(|at| read_word(memory.as_mut(), thread + at) == Some(address));
        if let [place] = places[..] {
            let place = LabelPlace {
                context: place,
                variable: contexts.variable as usize,
                hash: trie_hash(hash as i64),
                shown,
                magic: contexts.magic,
            };
            result = set(py, contexts, Some(&probe))
                .map_err(|error| error.to_string())
                .and_then(|()| try_out(py, contexts, &place, thread, memory.as_mut()))
                .map(|()| place);
        }
        // SAFETY: the GIL is held, and this thread is in the context.
        unsafe { exit(context.as_ptr()) };
    }
    result
}

/// Shows that the labels of the calling thread are found, among few and among many variables.
fn try_out(
    py: Python<'_>,
    contexts: &Contexts,
    place: &LabelPlace,
    thread: usize,
    memory: &mut (dyn ReadMemory + '_),
) -> Result<(), String> {
    // Beyond 16 a node of the trie has another form.
    const VARIABLES: usize = 40;
    // The module contextvars may be in a file, which may not be there any more.
    // SAFETY: the variable is never released, and the GIL is held.
    let kind = unsafe { Bound::from_borrowed_ptr(py, contexts.variable) }.get_type();
    let mut reader = LabelReader::default();
    for more in [0, 1, VARIABLES] {
        for _ in 0..more {
            let other = kind.call1(("other",)).map_err(|error| error.to_string())?;
            // SAFETY: the GIL is held, and the variable is one.
            let token = unsafe { (contexts.set)(other.as_ptr(), other.as_ptr()) };
            // SAFETY: a new reference or null.
            drop(unsafe { Bound::from_owned_ptr_or_opt(py, token) });
        }
        let seen = LabelReader::context(memory, place, thread, 0, ContextSeen::default());
        let labels = seen.and_then(|seen| reader.labels(memory, place, seen));
        if labels.is_none_or(|labels| (labels.request, labels.captures) != (7, 9)) {
            return Err("its contexts have an unknown layout".to_owned());
        }
    }
    Ok(())
}
