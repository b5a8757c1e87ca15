//! Why bytes are no profile, in words that end the sentence `FILE cannot be read as a profile: …`.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use super::source::{MAX_MESSAGE_BYTES, MAX_RATIO};

/// The fault and, where there is one, the remedy.
#[derive(Debug)]
pub(super) enum Problem {
    Empty,
    /// Another format, recognised; the words say which and what to do.
    Foreign(&'static str),
    Gzip(io::Error),
    TooLarge,
    Protobuf(prost::DecodeError),
    CutShort,
    NoSampleTypes,
    FirstText,
    Text(i64),
    Id(&'static str, u64),
    Duplicate(&'static str, u64),
    TooMuch(&'static str),
    Values {
        found: usize,
        expected: usize,
    },
    TooDeep(usize),
}

/// What a user can do about a file that is something else.
const GIVE_PPROF: &str = "give a file written by rprof or another profiler's pprof output";

impl Problem {
    /// What went wrong while reading the bytes of the message.
    pub(super) fn of_reading(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::FileTooLarge {
            Self::TooLarge
        } else {
            Self::Gzip(error)
        }
    }

    /// Whether the bytes may be another format altogether rather than a faulty profile.
    pub(super) fn is_of_structure(&self) -> bool {
        matches!(
            self,
            Self::Protobuf(_) | Self::CutShort | Self::NoSampleTypes
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(out, "it is empty; was the program still writing it?"),
            Self::Foreign(words) => write!(out, "{words}"),
            Self::Gzip(error) => write!(
                out,
                "its gzip data is damaged or cut short ({error}); copy it again from where it was \
                 written"
            ),
            Self::TooLarge => write!(
                out,
                "it unpacks to more than {} MiB or {MAX_RATIO} times its size, which no profile \
                 does",
                MAX_MESSAGE_BYTES >> 20
            ),
            Self::Protobuf(error) => write!(
                out,
                "it does not contain a pprof message ({error}); {GIVE_PPROF}"
            ),
            Self::CutShort => write!(
                out,
                "it does not contain a pprof message, or only a part of one; {GIVE_PPROF}"
            ),
            Self::NoSampleTypes => write!(
                out,
                "it has no sample types, so it is no profile; {GIVE_PPROF}"
            ),
            Self::FirstText => write!(
                out,
                "its first text is not empty, as the format asks; {GIVE_PPROF}"
            ),
            Self::Text(index) => write!(out, "it refers to text {index}, which it does not have"),
            Self::Id(what, id) => write!(out, "it refers to {what} {id}, which it does not have"),
            Self::Duplicate(what, id) => write!(out, "it has two of {what} {id}"),
            Self::TooMuch(what) => write!(
                out,
                "it has more {what} than a profile of its size can need; record a shorter time"
            ),
            Self::Values { found, expected } => write!(
                out,
                "a sample has {found} values where there are {expected} sample types"
            ),
            Self::TooDeep(limit) => write!(out, "a sample has more than {limit} frames"),
        }
    }
}
