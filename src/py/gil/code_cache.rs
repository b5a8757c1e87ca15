//! What is known of each code object, found again by its address.
//!
//! An address alone says nothing: CPython re-uses it for another code object at once. Each entry
//! therefore holds a weak reference, which the interpreter itself clears when the code object
//! dies. It neither keeps the code alive nor has a callback, and works alike on every version.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;

use pyo3::Python;
use pyo3::ffi::{self, PyFrameObject, PyObject};
use rustc_hash::FxHashMap;

use super::symbols::Symbols;
use super::text;
use crate::model::function::Function;
use crate::model::module_name::ImportRoots;
use crate::model::stack::{FunctionSerial, FunctionTable};

/// Code objects remembered before all are forgotten and learnt anew.
const MAX_ENTRIES: usize = 16_384;
/// Lines remembered.
const MAX_LINES: usize = 131_072;
/// Weak references released while the GIL is held once.
const RELEASED_PER_HOLD: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Entry {
    weak_reference: *mut PyObject,
    serial: FunctionSerial,
    is_own: bool,
}

/// A code object as the walk needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code {
    pub(crate) serial: FunctionSerial,
    /// Part of rprof itself.
    pub(crate) is_own: bool,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct CodeCache {
    symbols: Symbols,
    entries: FxHashMap<usize, Entry>,
    lines: FxHashMap<(FunctionSerial, i32), u32>,
    /// Weak references of forgotten entries, still to be released.
    released: Vec<*mut PyObject>,
    roots: ImportRoots,
    /// Directory of rprof's own Python files.
    own_directory: String,
    filename_key: *mut PyObject,
    /// `co_qualname` from 3.11 on, `co_name` before.
    name_key: *mut PyObject,
    first_line_key: *mut PyObject,
}

// SAFETY: the references are used and released only while the GIL is held.
unsafe impl Send for CodeCache {}

impl CodeCache {
    pub(crate) fn new(
        _py: Python<'_>,
        symbols: Symbols,
        roots: ImportRoots,
        own_directory: String,
        has_qualname: bool,
    ) -> Self {
        let name = if has_qualname {
            c"co_qualname"
        } else {
            c"co_name"
        };
        // SAFETY: the GIL is held; a null key makes look-ups fail, which is handled there.
        let key = |name: &std::ffi::CStr| unsafe { ffi::PyUnicode_InternFromString(name.as_ptr()) };
        Self {
            symbols,
            entries: FxHashMap::default(),
            lines: FxHashMap::default(),
            released: Vec::new(),
            roots,
            own_directory,
            filename_key: key(c"co_filename"),
            name_key: key(name),
            first_line_key: key(c"co_firstlineno"),
        }
    }

    /// The entry of a code object; a new one is added to `functions`.
    ///
    /// # Safety
    /// The GIL must be held and `code` be a live code object.
    pub(crate) unsafe fn code(
        &mut self,
        code: *mut PyObject,
        functions: &mut FunctionTable,
    ) -> Code {
        if let Some(&entry) = self.entries.get(&(code as usize)) {
            // SAFETY: the entry owns its weak reference and the GIL is held.
            if unsafe { self.referent(entry.weak_reference) } == code {
                return Code {
                    serial: entry.serial,
                    is_own: entry.is_own,
                };
            }
            self.released.push(entry.weak_reference);
            functions.remove(&entry.serial);
        }
        // SAFETY: as the caller vouches.
        unsafe { self.learn(code, functions) }
    }

    /// The line a frame is at; `lasti` is its instruction, or `None` where that is unknown.
    ///
    /// # Safety
    /// The GIL must be held and `frame` be a live frame of the code that `serial` names.
    pub(crate) unsafe fn line(&mut self, frame: *mut PyFrameObject, serial: FunctionSerial) -> u32 {
        let ask = || {
            // SAFETY: as the caller vouches. A frame without a line gives 0 or -1.
            u32::try_from(unsafe { ffi::PyFrame_GetLineNumber(frame) }).unwrap_or(0)
        };
        let Some(lasti) = self.symbols.frame_lasti else {
            return ask();
        };
        // SAFETY: as the caller vouches.
        let lasti = unsafe { lasti(frame) };
        if let Some(&line) = self.lines.get(&(serial, lasti)) {
            return line;
        }
        let line = ask();
        if self.lines.len() >= MAX_LINES {
            self.lines.clear();
        }
        self.lines.insert((serial, lasti), line);
        line
    }

    /// Forgets everything if the cache is full; stacks that name its serials must be read anew.
    /// Serials are never used again, so an old one can only be unknown, not wrong.
    pub(crate) fn forget_if_full(&mut self) -> bool {
        if self.entries.len() < MAX_ENTRIES {
            return false;
        }
        self.released
            .extend(self.entries.drain().map(|(_, entry)| entry.weak_reference));
        self.lines.clear();
        true
    }

    /// Releases some of the weak references that are no longer needed.
    ///
    /// # Safety
    /// The GIL must be held.
    pub(crate) unsafe fn release_some(&mut self) {
        let keep = self.released.len().saturating_sub(RELEASED_PER_HOLD);
        for reference in self.released.drain(keep..) {
            // SAFETY: the reference was owned by a forgotten entry; a weak reference without a
            // callback runs no code when it goes.
            unsafe { ffi::Py_DecRef(reference) };
        }
    }

    /// Gives up everything this cache owns; it must not be used afterwards.
    ///
    /// # Safety
    /// The GIL must be held.
    pub(crate) unsafe fn release_all(&mut self) {
        let entries = self.entries.drain().map(|(_, entry)| entry.weak_reference);
        let keys = [self.filename_key, self.name_key, self.first_line_key];
        for reference in entries.chain(self.released.drain(..)).chain(keys) {
            // SAFETY: all are owned references to weak references without callback, or to str.
            unsafe { ffi::Py_DecRef(reference) };
        }
    }

    /// An estimate of the memory held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        // A weak reference takes 80 bytes or so in the interpreter, a function's strings 150.
        self.entries.len() * (size_of::<Entry>() + 16 + 80 + 150)
            + self.lines.capacity() * 24
            + self.released.len() * 88
    }

    /// The object behind a weak reference, borrowed; null once it has died.
    ///
    /// # Safety
    /// The GIL must be held and `reference` be a live weak reference.
    unsafe fn referent(&self, reference: *mut PyObject) -> *mut PyObject {
        let Some(get) = self.symbols.weakref_get else {
            return match self.symbols.weakref_get_borrowed {
                // SAFETY: as the caller vouches. A dead reference gives None, which is no code.
                Some(get) => unsafe { get(reference) },
                None => ptr::null_mut(),
            };
        };
        let mut object = ptr::null_mut();
        // SAFETY: as the caller vouches. The new reference is not the last one: the frame that is
        // being walked holds the code object too, and if the code is dead there is none.
        unsafe {
            if get(reference, &raw mut object) == 1 {
                ffi::Py_DecRef(object);
            }
        }
        object
    }

    /// # Safety
    /// The GIL must be held and `code` be a live code object.
    unsafe fn learn(&mut self, code: *mut PyObject, functions: &mut FunctionTable) -> Code {
        // SAFETY: as the caller vouches. The attributes of a code object are C members or getters
        // of a type that cannot be subclassed, so reading them runs no Python code; what is
        // released here is also held by the code object, or is an int.
        let (function, file_is_own, weak_reference) = unsafe {
            let file = ffi::PyObject_GetAttr(code, self.filename_key);
            let name = ffi::PyObject_GetAttr(code, self.name_key);
            let line = ffi::PyObject_GetAttr(code, self.first_line_key);
            let first_line = if line.is_null() {
                0
            } else {
                u32::try_from(ffi::PyLong_AsLong(line)).unwrap_or(0)
            };
            let file_text = text::of(file).unwrap_or_default();
            let name_text = text::of(name).unwrap_or_default();
            let function = Function::new(
                &self.roots.qualify(&file_text, &name_text),
                &file_text,
                first_line,
            );
            let file_is_own = file_text.starts_with(self.own_directory.as_str());
            for object in [file, name, line] {
                if !object.is_null() {
                    ffi::Py_DecRef(object);
                }
            }
            let weak_reference = ffi::PyWeakref_NewRef(code, ptr::null_mut());
            ffi::PyErr_Clear();
            (function, file_is_own, weak_reference)
        };
        let serial = FunctionSerial::fresh();
        functions.insert(serial, Arc::new(function));
        if weak_reference.is_null() {
            // No memory: the function is named in this snapshot and learnt again in the next.
            self.entries.remove(&(code as usize));
        } else {
            let entry = Entry {
                weak_reference,
                serial,
                is_own: file_is_own,
            };
            self.entries.insert(code as usize, entry);
        }
        Code {
            serial,
            is_own: file_is_own,
        }
    }
}
