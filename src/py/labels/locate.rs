//! Where this interpreter keeps contexts, found out by trying.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::contexts::{Contexts, symbol};
use super::items::{Content, Items};
use super::notes::set;
use super::object::Labels;
use crate::memory::{ReadMemory, own, read_word};
use crate::py::direct;
use crate::unwind::labels::{ContextSeen, LabelPlace, LabelReader, trie_hash};

/// Bytes of a thread state that are searched for its context.
const THREAD_STATE_BYTES: usize = 4_096;

type NewContext = unsafe extern "C" fn() -> *mut PyObject;
type Switch = unsafe extern "C" fn(*mut PyObject) -> c_int;

/// Finds out where this interpreter keeps contexts, and shows that labels are found there.
pub(super) fn locate(py: Python<'_>, contexts: &'static Contexts) -> Result<LabelPlace, String> {
    let mut memory = own::open(direct::circumstances())?;
    // SAFETY: the GIL is held, as `py` proves.
    let thread = unsafe { ffi::PyThreadState_Get() } as usize;
    let (new_context, enter, exit) = (
        symbol(c"PyContext_New")?,
        symbol(c"PyContext_Enter")?,
        symbol(c"PyContext_Exit")?,
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
    let probe = Labels::make(
        contexts.magic,
        Content::new(expected),
        Some((7, 9)),
        None,
        None,
    );
    let probe = object(probe)?;
    let shown = (&raw const probe.get().shown) as usize - probe.as_ptr() as usize;
    // SAFETY: the GIL is held; hashing a context variable runs no code of the application.
    let hash = unsafe { ffi::PyObject_Hash(contexts.variable) };
    let mut places: Vec<usize> = (0..THREAD_STATE_BYTES / size_of::<usize>())
        .map(|at| at * size_of::<usize>())
        .collect();
    let mut result = Err("its thread states have an unknown layout".to_owned());
    // All of them are kept: one that had the address of the one before would be found wherever that
    // has left a trace, for what follows a thread state may be any memory.
    let mut entered = Vec::new();
    for _ in 0..3 {
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
        places.retain(|at| read_word(memory.as_mut(), thread + at) != Some(address));
        entered.push(context);
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
