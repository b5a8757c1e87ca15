//! The one public error: what went wrong, said with the input and the remedy.
#![forbid(unsafe_code)]

use std::fmt;

/// The family an [`Error`] belongs to; the door maps each to a Python class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// An argument or a file's content is not acceptable.
    Value,
    /// An argument is of the wrong type.
    Type,
    /// The call does not fit the session's present state.
    State,
    /// The operating system refused.
    Os,
    /// There is no memory for it.
    Memory,
}

/// An error with a message fit to be shown to the user as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An unacceptable input; `message` names it and the remedy.
    #[cold]
    pub fn value(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Value,
            message: message.into(),
        }
    }

    /// An argument of the wrong type; `message` says which is right.
    #[cold]
    pub fn argument(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Type,
            message: message.into(),
        }
    }

    /// A call at the wrong time; `message` says what to do instead.
    #[cold]
    pub fn state(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::State,
            message: message.into(),
        }
    }

    /// A refusal of the operating system; `context` names the object.
    #[cold]
    pub fn os(context: impl fmt::Display, source: &dyn fmt::Display) -> Self {
        Self {
            kind: ErrorKind::Os,
            message: format!("{context}: {source}"),
        }
    }

    /// No memory; `task` names what it was wanted for.
    #[cold]
    pub fn memory(task: &str) -> Self {
        Self {
            kind: ErrorKind::Memory,
            message: format!("there is no memory left to {task}"),
        }
    }

    /// The family of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The result of everything that can fail in this crate.
pub type Result<T> = std::result::Result<T, Error>;
