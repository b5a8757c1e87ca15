//! A function: name, file, first line.

use std::sync::Arc;

/// Longest function name kept, in bytes; longer ones are cut with an ellipsis.
pub const MAX_NAME_BYTES: usize = 1024;
/// Longest file name kept, in bytes (Linux `PATH_MAX`).
pub const MAX_FILE_BYTES: usize = 4096;

/// A function as a profile names it. Two functions with equal fields are the same function.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Function {
    /// `module.qualname`, or a pseudo-frame in angle brackets.
    pub name: Arc<str>,
    /// Source file as the code object names it; empty for a pseudo-frame.
    pub file: Arc<str>,
    /// Line of the `def`, 1-based; 0 when there is none.
    pub first_line: u32,
    /// What the linker calls it, if the profile tells; never of Python code.
    pub system_name: Option<Arc<str>>,
}

impl Function {
    /// A function with over-long names cut, so that generated code cannot grow a profile.
    #[must_use]
    pub fn new(name: &str, file: &str, first_line: u32) -> Self {
        Self {
            name: Arc::from(bounded(name, MAX_NAME_BYTES).as_ref()),
            file: Arc::from(bounded(file, MAX_FILE_BYTES).as_ref()),
            first_line,
            system_name: None,
        }
    }

    /// A pseudo-frame such as `<overflow>`; `name` carries its angle brackets.
    #[must_use]
    pub fn pseudo(name: &str) -> Self {
        Self::new(name, "", 0)
    }

    /// Bytes this function holds outside the struct itself.
    #[must_use]
    pub fn string_bytes(&self) -> usize {
        let system_name = self.system_name.as_deref().map_or(0, str::len);
        self.name.len() + self.file.len() + system_name
    }
}

/// `text`, or its longest prefix that leaves room for an ellipsis within `limit` bytes.
#[must_use]
pub fn bounded(text: &str, limit: usize) -> std::borrow::Cow<'_, str> {
    if text.len() <= limit {
        return text.into();
    }
    let mut end = limit - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end]).into()
}

/// A stack, or the root part of one, that could not be read.
pub const INCOMPLETE: &str = "<incomplete>";
/// New stacks after a recording's node limit was reached.
pub const OVERFLOW: &str = "<overflow>";
/// The garbage collector at work.
pub const GC: &str = "<gc>";
/// The loop of gevent while none of its greenlets can go on.
pub const GEVENT_IDLE: &str = "<gevent idle>";
/// Threads beyond a recording's limit of distinct label sets.
pub const OTHER: &str = "<other>";
/// A thread that executes no Python code: before its first function, after its last, or in one of C. A
/// greenlet that waits in functions of C alone.
pub const NO_PYTHON_FRAME: &str = "<no Python frame>";
/// Whoever held what a thread waited for, where that could not be told or is not recorded.
pub const UNKNOWN_HOLDER: &str = "<unknown holder>";
/// A thread of another process, which held what a thread waited for.
pub const OTHER_PROCESS: &str = "<other process>";
/// CPU time of labels under which no look has found a thread computing.
pub const NOT_SAMPLED: &str = "<not sampled>";
/// Above it a task that the one below awaits by `asyncio.gather`, of which no frame tells.
pub const GATHER: &str = "<gather>";
/// Above it a task that the one below awaits by `asyncio.shield`, of which no frame tells.
pub const SHIELD: &str = "<shield>";
