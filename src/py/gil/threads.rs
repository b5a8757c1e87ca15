//! Where a thread state keeps the thread's two ids.
//!
//! No public function tells them for a thread other than one's own, so the place is found at run
//! time: in a thread state of a thread whose ids are known, they stand side by side (`thread_id`,
//! `native_thread_id` in `Include/cpython/pystate.h`, 3.11-3.15; only the first in 3.10).
#![allow(unsafe_code)]

use pyo3::Python;
use pyo3::ffi::{self, PyThreadState};

use crate::clock::cpu::thread_id;

/// Bytes of a thread state that are searched: the ids stand at 136-190 in 3.10-3.15, and the
/// smallest thread state (3.10) is larger than this.
const SEARCHED_BYTES: usize = 256;
const WORD: usize = size_of::<usize>();
/// `PID_MAX_LIMIT` of Linux' `include/linux/threads.h`.
const LARGEST_THREAD_ID: usize = 4 << 20;

/// The offsets of the ids in a thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdOffsets {
    ident: usize,
    native: Option<usize>,
}

impl IdOffsets {
    /// Finds the ids in the calling thread's state; `None` if they are not there exactly once.
    pub(crate) fn find(_py: Python<'_>, ident: usize, has_native: bool) -> Option<Self> {
        // SAFETY: the GIL is held, so the calling thread has a thread state, and each CPython
        // version's thread state is larger than what is read.
        let words: [usize; SEARCHED_BYTES / WORD] = unsafe {
            ffi::PyThreadState_Get()
                .cast::<[usize; SEARCHED_BYTES / WORD]>()
                .read()
        };
        let native = thread_id() as usize;
        let only_place = |is_native: &dyn Fn(usize) -> bool| {
            let mut places = (0..words.len() - 1)
                .filter(|&at| words[at] == ident && (!has_native || is_native(words[at + 1])));
            let place = places.next()?;
            places.next().is_none().then_some(place)
        };
        // After a fork that ran no Python hooks the state still has the id of the parent's thread.
        let at = only_place(&|word| word == native)
            .or_else(|| only_place(&|word| (1..=LARGEST_THREAD_ID).contains(&word)))?;
        Some(Self {
            ident: at * WORD,
            native: has_native.then_some((at + 1) * WORD),
        })
    }

    /// What the calling thread's state says its kernel id is, and what it is, where they differ.
    pub(crate) fn stale_id(self, _py: Python<'_>) -> Option<(u64, u64)> {
        // SAFETY: the GIL is held, so the calling thread has a thread state.
        let (_, said) = unsafe { self.read(ffi::PyThreadState_Get()) };
        let actual = thread_id();
        (said != 0 && said != actual).then_some((said, actual))
    }

    /// The interpreter's and the kernel's id of a thread; 0 where unknown.
    ///
    /// # Safety
    /// The GIL must be held and `state` be a live thread state of this process.
    pub(crate) unsafe fn read(self, state: *mut PyThreadState) -> (usize, u64) {
        let word = |offset: usize| {
            // SAFETY: the offset was found inside a thread state, and the caller vouches for this
            // one; both fields are aligned words that are written once.
            unsafe { state.cast::<u8>().add(offset).cast::<usize>().read() }
        };
        (
            word(self.ident),
            self.native.map_or(0, |at| word(at) as u64),
        )
    }
}
