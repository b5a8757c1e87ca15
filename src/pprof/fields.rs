//! The fields of a message, one at a time from a stream.
//!
//! The wire format: each field is a varint key (number and wire type) and a content, which is a
//! varint, 4 or 8 bytes, or a length and so many bytes
//! (<https://protobuf.dev/programming-guides/encoding/>).
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::problem::Problem;
use super::source::Source;

/// The largest content of one field: a sample of the most frames, or one text.
const MAX_FIELD_BYTES: u64 = 4 << 20;

/// The content of a field.
pub(super) enum Content<'fields> {
    Number(u64),
    Bytes(&'fields [u8]),
    /// Of a fixed size, which no field of the schema has.
    Skipped,
}

/// Reads one field after the other; only the present one is in memory.
pub(super) struct Fields<'bytes> {
    source: BufReader<Source<'bytes>>,
    content: Vec<u8>,
    bytes_read: u64,
}

impl<'bytes> Fields<'bytes> {
    pub(super) fn new(source: Source<'bytes>) -> Self {
        Self {
            source: BufReader::new(source),
            content: Vec::new(),
            bytes_read: 0,
        }
    }

    /// Bytes of the message read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The next field's number and content; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Content<'_>)>, Problem> {
        if self.peek()?.is_none() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).unwrap_or(0);
        if number == 0 {
            return Err(Problem::CutShort);
        }
        let wire_type = WireType::try_from(key & 7).map_err(Problem::Protobuf)?;
        let content = match wire_type {
            WireType::Varint => Content::Number(self.varint()?),
            WireType::LengthDelimited => {
                let length = self.varint()?;
                if length > MAX_FIELD_BYTES {
                    return Err(Problem::CutShort);
                }
                self.fill(length)?;
                Content::Bytes(&self.content)
            }
            WireType::SixtyFourBit => {
                self.fill(8)?;
                Content::Skipped
            }
            WireType::ThirtyTwoBit => {
                self.fill(4)?;
                Content::Skipped
            }
            // Groups, which went out of use before pprof came.
            WireType::StartGroup | WireType::EndGroup => return Err(Problem::CutShort),
        };
        Ok(Some((number, content)))
    }

    fn peek(&mut self) -> Result<Option<u8>, Problem> {
        let buffer = self.source.fill_buf().map_err(Problem::of_reading)?;
        Ok(buffer.first().copied())
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut encoded = [0; 10];
        for length in 1..=encoded.len() {
            let byte = self.peek()?.ok_or(Problem::CutShort)?;
            self.source.consume(1);
            self.bytes_read += 1;
            encoded[length - 1] = byte;
            if byte < 0x80 {
                return decode_varint(&mut &encoded[..length]).map_err(Problem::Protobuf);
            }
        }
        decode_varint(&mut encoded.as_slice()).map_err(Problem::Protobuf)
    }

    /// Takes the next bytes as they come: a length that lies allocates nothing.
    fn fill(&mut self, length: u64) -> Result<(), Problem> {
        self.content.clear();
        let mut left = length;
        while left > 0 {
            let buffer = self.source.fill_buf().map_err(Problem::of_reading)?;
            if buffer.is_empty() {
                return Err(Problem::CutShort);
            }
            let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            self.content.extend_from_slice(&buffer[..count]);
            self.source.consume(count);
            left -= count as u64;
        }
        self.bytes_read += length;
        Ok(())
    }
}

/// Calls `visit` with the number of each field of a message in memory and, where it has a length,
/// its content.
pub(super) fn for_each_field(
    mut rest: &[u8],
    mut visit: impl FnMut(u32, Option<&[u8]>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    while !rest.is_empty() {
        let (number, wire_type) = decode_key(&mut rest).map_err(Problem::Protobuf)?;
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut rest).map_err(Problem::Protobuf)?;
            let content = usize::try_from(length)
                .ok()
                .and_then(|length| rest.split_at_checked(length));
            let Some((content, after)) = content else {
                return Err(Problem::CutShort);
            };
            rest = after;
            visit(number, Some(content))?;
        } else {
            skip_field(wire_type, number, &mut rest, DecodeContext::default())
                .map_err(Problem::Protobuf)?;
            visit(number, None)?;
        }
    }
    Ok(())
}

/// How many packed numbers these bytes can be: each ends where the continuation bit is not set.
pub(super) fn packed_numbers(packed: &[u8]) -> usize {
    packed.iter().filter(|byte| **byte < 0x80).count()
}
