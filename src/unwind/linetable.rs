//! Line tables: from an instruction to a line.
#![forbid(unsafe_code)]

use crate::layout::LineFormat;

/// The lines of one code object, by the instruction's offset in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineTable {
    /// Begin of each stretch and its line; 0 for no line. Ascending.
    stretches: Vec<(u32, u32)>,
}

impl LineTable {
    /// Decodes `co_linetable`; a table that is cut short gives the lines up to there.
    #[must_use]
    pub fn decode(format: LineFormat, first_line: u32, bytes: &[u8]) -> Self {
        let mut table = Self::default();
        visit(format, first_line, bytes, |start, line| {
            table.begin(start, line)
        });
        table.stretches.shrink_to_fit();
        table
    }

    /// The line of the instruction at `offset` bytes; 0 if it has none.
    #[must_use]
    pub fn line(&self, offset: u32) -> u32 {
        let after = self
            .stretches
            .partition_point(|(start, _)| *start <= offset);
        after.checked_sub(1).map_or(0, |at| self.stretches[at].1)
    }

    /// Begin of each stretch, in bytes, and its line; 0 for none.
    #[must_use]
    pub fn stretches(&self) -> &[(u32, u32)] {
        &self.stretches
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.stretches.capacity() * size_of::<(u32, u32)>()
    }

    fn begin(&mut self, start: u32, line: i64) {
        let line = u32::try_from(line).unwrap_or(0);
        match self.stretches.last_mut() {
            Some((last, old)) if *last == start => *old = line,
            Some((_, old)) if *old == line => {}
            _ => self.stretches.push((start, line)),
        }
    }
}

/// The line of the instruction at `offset` bytes, 0 if it has none; asks for no memory.
#[must_use]
pub fn line_in(format: LineFormat, first_line: u32, bytes: &[u8], offset: u32) -> u32 {
    let mut found = 0;
    visit(format, first_line, bytes, |start, line| {
        if start <= offset {
            found = line;
        }
    });
    u32::try_from(found).unwrap_or(0)
}

/// Tells the begin of each stretch, in bytes, and its line; 0 for none. Ascending.
fn visit(format: LineFormat, first_line: u32, bytes: &[u8], tell: impl FnMut(u32, i64)) {
    match format {
        LineFormat::Deltas => visit_deltas(first_line, bytes, tell),
        LineFormat::Locations => visit_locations(first_line, bytes, tell),
    }
}

/// `Objects/lnotab_notes.txt` of CPython 3.10: pairs of an unsigned step in bytes and a signed
/// step in lines, which holds for the bytes stepped over; -128 means no line.
fn visit_deltas(first_line: u32, bytes: &[u8], mut tell: impl FnMut(u32, i64)) {
    let mut line = i64::from(first_line);
    let mut start = 0_u32;
    for pair in bytes.chunks_exact(2) {
        let delta = pair[1].cast_signed();
        if delta != i8::MIN {
            line += i64::from(delta);
        }
        if pair[0] > 0 {
            tell(start, if delta == i8::MIN { 0 } else { line });
            start = start.saturating_add(u32::from(pair[0]));
        }
    }
}

/// `Objects/locations.md` of CPython 3.11-3.15: each entry's first byte has its top bit set,
/// four bits of kind and three of length; columns are skipped.
fn visit_locations(first_line: u32, bytes: &[u8], mut tell: impl FnMut(u32, i64)) {
    const WITHOUT_COLUMNS: u8 = 13;
    const LONG: u8 = 14;
    const NONE: u8 = 15;
    let mut line = i64::from(first_line);
    let mut start = 0_u32;
    let mut rest = bytes.iter().copied();
    while let Some(first) = rest.next() {
        let units = u32::from(first & 7) + 1;
        let kind = first >> 3 & 15;
        match kind {
            0..=9 => drop(rest.next()),
            10..=12 => {
                line = line.saturating_add(i64::from(kind - 10));
                rest.nth(1);
            }
            WITHOUT_COLUMNS => line = line.saturating_add(signed(&mut rest)),
            LONG => {
                line = line.saturating_add(signed(&mut rest));
                for _ in 0..3 {
                    unsigned(&mut rest);
                }
            }
            _ => {}
        }
        tell(start, if kind == NONE { 0 } else { line });
        start = start.saturating_add(2 * units);
    }
}

/// Six bits a byte, lowest first; the seventh says that more follow.
fn unsigned(bytes: &mut impl Iterator<Item = u8>) -> u64 {
    let mut value = 0_u64;
    let mut shift = 0;
    for byte in bytes {
        if shift < 60 {
            value |= u64::from(byte & 63) << shift;
        }
        shift += 6;
        if byte & 64 == 0 {
            break;
        }
    }
    value
}

/// The lowest bit is the sign.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> i64 {
    let value = unsigned(bytes);
    let magnitude = (value >> 1).cast_signed();
    if value & 1 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LineTable, line_in};
    use crate::layout::LineFormat;

    #[test]
    fn deltas_of_3_10() {
        // x = 1 / y = 2 at first line 5, then a stretch without a line.
        let table = LineTable::decode(LineFormat::Deltas, 5, &[4, 0, 6, 1, 2, 0x80, 2, 3]);
        for offset in 0..20 {
            let line = line_in(LineFormat::Deltas, 5, &[4, 0, 6, 1, 2, 0x80, 2, 3], offset);
            assert_eq!(line, table.line(offset));
        }
        let lines: Vec<u32> = [0, 2, 4, 8, 10, 12, 100].map(|at| table.line(at)).into();
        assert_eq!(lines, [5, 5, 6, 6, 0, 9, 9]);
    }

    #[test]
    fn locations_of_3_11() {
        // A short form of 2 units, one line on, no location, and a long form 100 lines back.
        let bytes = [
            0x80 | 1,
            7,
            0x80 | 11 << 3,
            1,
            2,
            0x80 | 15 << 3,
            0x80 | 14 << 3,
            0x49,
            3,
            1,
            1,
            1,
        ];
        let table = LineTable::decode(LineFormat::Locations, 200, &bytes);
        let lines: Vec<u32> = [0, 2, 4, 6, 8].map(|at| table.line(at)).into();
        assert_eq!(lines, [200, 200, 201, 0, 101]);
    }

    #[test]
    fn steps_without_measure_do_no_harm() {
        let step = |bytes: [u8; 10]| [&[0x80 | 13 << 3][..], &bytes].concat().repeat(40);
        for lowest in [0x7e, 0x7f] {
            let mut bytes = [0x7f; 10];
            (bytes[0], bytes[9]) = (lowest, 0x3f);
            let table = LineTable::decode(LineFormat::Locations, 1, &step(bytes));
            assert_eq!(table.line(0), 0, "step {lowest:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..300), first: u32) {
            for format in [LineFormat::Deltas, LineFormat::Locations] {
                let table = LineTable::decode(format, first, &bytes);
                prop_assert_eq!(table.line(u32::MAX), table.line(u32::MAX - 1));
                prop_assert!(table.bytes() <= 16 * bytes.len() + 64);
            }
        }
    }
}
