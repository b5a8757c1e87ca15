//! Contexts and the hash trie of their variables.
//!
//! The heads are the same in 3.10-3.15 (`Include/internal/pycore_context.h`, `pycore_hamt.h`). Where
//! a thread state names its context is found out at run time, and all of this is tried out before
//! it is relied on.
#![forbid(unsafe_code)]

const WORD: usize = size_of::<usize>();
/// `PyObject.ob_type`.
pub const TYPE: usize = WORD;
/// `PyVarObject.ob_size`.
pub const SIZE: usize = 2 * WORD;
/// `PyTypeObject.tp_name`.
pub const TYPE_NAME: usize = 3 * WORD;
/// `PyContext.ctx_vars`, after the context that was entered before.
pub const CONTEXT_VARIABLES: usize = 3 * WORD;
/// `PyHamtObject.h_root`.
pub const ROOT: usize = 2 * WORD;
/// `PyHamtNode_Bitmap.b_bitmap` and `PyHamtNode_Collision.c_hash`, 32 bits.
pub const BITMAP: usize = 3 * WORD;
/// `b_array` and `c_array`.
pub const PAIRS: usize = 4 * WORD;
/// `PyHamtNode_Array.a_array`: no variable size.
pub const CHILDREN: usize = 2 * WORD;
/// `_Py_HAMT_MAX_TREE_DEPTH`.
pub const MAX_LEVELS: u32 = 8;
