//! The bytes of a message, unpacked as they are read: a bomb is never in memory as a whole.
#![forbid(unsafe_code)]

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;

/// The largest message that is read, in bytes.
pub const MAX_MESSAGE_BYTES: u64 = 256 << 20;
/// How much more a file may unpack to than its own size, once past [`FREE_BYTES`].
pub(super) const MAX_RATIO: u64 = 1_000;
/// What any file may unpack to.
const FREE_BYTES: u64 = 1 << 20;

/// Bytes of a file as they are, or out of gzip.
pub(super) enum Source<'bytes> {
    Plain(&'bytes [u8]),
    Gzip {
        inflater: Box<MultiGzDecoder<&'bytes [u8]>>,
        /// Bytes that may still come out.
        left: u64,
    },
}

impl<'bytes> Source<'bytes> {
    /// By content: gzip says so in its first two bytes, which begin no pprof message.
    pub(super) fn new(bytes: &'bytes [u8]) -> Self {
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let left = FREE_BYTES
                .saturating_add((bytes.len() as u64).saturating_mul(MAX_RATIO))
                .min(MAX_MESSAGE_BYTES);
            Self::Gzip {
                inflater: Box::new(MultiGzDecoder::new(bytes)),
                left,
            }
        } else {
            Self::Plain(bytes)
        }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(bytes) => bytes.read(buffer),
            Self::Gzip { inflater, left } => {
                let count = inflater.read(buffer)?;
                *left = left
                    .checked_sub(count as u64)
                    .ok_or(io::ErrorKind::FileTooLarge)?;
                Ok(count)
            }
        }
    }
}
