//! What the application said it was doing where samples were allocated: each set of labels once, in
//! memory of fixed size.
#![forbid(unsafe_code)]

use super::index::Index;
use super::law::mix;
use crate::model::function::OTHER;
use crate::model::label::{ActiveLabels, MAX_ENCODED_BYTES};

/// No labels.
pub const NONE: u32 = 0;
/// Sets of labels; of more, the values are `<other>`, of which there may be a few.
const MAX_SETS: usize = 1_000;
const MAX_OTHERS: usize = 24;
/// Bytes of all of them.
const MAX_BYTES: usize = 256 << 10;

/// What the application says it is doing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'labels> {
    /// Its labels, see [`ActiveLabels::encode`].
    pub bytes: &'labels [u8],
    /// The request that is worked on; 0: none.
    pub request: u64,
    /// Who wants to have this request's samples, one bit each.
    pub captures: u64,
}

impl Said<'_> {
    /// The request, where it is to be kept apart from others.
    fn apart(&self) -> u64 {
        if self.captures == 0 { 0 } else { self.request }
    }
}

#[derive(Clone, Copy, Debug)]
struct Set {
    start: u32,
    length: u32,
    request: u64,
}

/// All sets of labels, by number.
#[derive(Debug)]
pub struct SaidSets {
    sets: Vec<Set>,
    bytes: Vec<u8>,
    by_content: Index,
    /// Where labels are put together.
    scratch: Vec<u8>,
    left_out: u64,
}

impl SaidSets {
    /// None, with room for none.
    pub(super) const fn none() -> Self {
        Self {
            sets: Vec::new(),
            bytes: Vec::new(),
            by_content: Index::none(),
            scratch: Vec::new(),
            left_out: 0,
        }
    }

    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        let mut sets = Self {
            sets: Vec::with_capacity(1 + MAX_SETS + MAX_OTHERS),
            bytes: Vec::with_capacity(MAX_BYTES),
            by_content: Index::new(MAX_SETS + MAX_OTHERS),
            scratch: Vec::with_capacity(MAX_ENCODED_BYTES),
            left_out: 0,
        };
        sets.sets.push(Set {
            start: 0,
            length: 0,
            request: 0,
        });
        sets
    }

    /// The number of what is said; where there is no room that of the same with `<other>` for values.
    pub fn number_of(&mut self, said: &Said<'_>) -> u32 {
        if said.bytes.is_empty() && said.apart() == 0 {
            return NONE;
        }
        let key = key_of(said.bytes, said.apart());
        if let Some(known) = self.by_content.get(key) {
            return known;
        }
        if self.sets.len() <= MAX_SETS
            && let Some(new) = self.add(key, said.bytes, said.apart())
        {
            return new;
        }
        self.other(said.bytes)
    }

    /// The number of the same labels with `<other>` for values: there are too many places.
    pub fn other_of(&mut self, number: u32) -> u32 {
        let Some(set) = self.sets.get(number as usize).filter(|_| number != NONE) else {
            return NONE;
        };
        let bytes = set.start as usize..(set.start + set.length) as usize;
        rename(&mut self.scratch, &self.bytes[bytes]);
        self.add_other()
    }

    fn other(&mut self, bytes: &[u8]) -> u32 {
        rename(&mut self.scratch, bytes);
        self.add_other()
    }

    fn add_other(&mut self) -> u32 {
        self.left_out += 1;
        let scratch = std::mem::take(&mut self.scratch);
        let key = key_of(&scratch, 0);
        let known = self.by_content.get(key);
        let number = known.or_else(|| self.add(key, &scratch, 0));
        self.scratch = scratch;
        number.unwrap_or(NONE)
    }

    fn add(&mut self, key: u64, bytes: &[u8], request: u64) -> Option<u32> {
        let number = self.sets.len();
        let has_room = number < self.sets.capacity()
            && self.bytes.len() + bytes.len() <= self.bytes.capacity();
        if !has_room || !self.by_content.put(key, number as u32) {
            return None;
        }
        self.sets.push(Set {
            start: self.bytes.len() as u32,
            length: bytes.len() as u32,
            request,
        });
        self.bytes.extend_from_slice(bytes);
        Some(number as u32)
    }

    /// How many samples have `<other>` for labels.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether a new table of the same size would be of use.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.sets.len() * 4 >= MAX_SETS * 3 || self.bytes.len() * 4 >= MAX_BYTES * 3
    }

    /// A table with those alone of which there are numbers in `used`, and the new number of each.
    pub(super) fn compacted(&self, used: impl Iterator<Item = u32>) -> (Self, Vec<u32>) {
        let mut compacted = Self {
            left_out: self.left_out,
            ..Self::new()
        };
        let mut numbers = vec![NONE; self.sets.len()];
        for old in used.filter(|old| *old != NONE) {
            if numbers[old as usize] == NONE {
                let (set, bytes) = (self.sets[old as usize], self.of(old));
                let new = compacted.add(key_of(bytes, set.request), bytes, set.request);
                numbers[old as usize] = new.unwrap_or(NONE);
            }
        }
        (compacted, numbers)
    }

    fn of(&self, number: u32) -> &[u8] {
        let set = self.sets[number as usize];
        &self.bytes[set.start as usize..(set.start + set.length) as usize]
    }

    /// All of them, by number.
    #[must_use]
    pub fn read(&self) -> Vec<ActiveLabels> {
        let numbers = 0..self.sets.len() as u32;
        let read = numbers.map(|number| {
            let request = self.sets[number as usize].request;
            ActiveLabels::decode(0, request, 0, self.of(number)).unwrap_or_default()
        });
        read.collect()
    }

    /// Bytes held, when all of it is used.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.capacity()
            + self.scratch.capacity()
            + self.sets.capacity() * size_of::<Set>()
            + self.by_content.bytes()
    }
}

impl Default for SaidSets {
    fn default() -> Self {
        Self::new()
    }
}

fn key_of(bytes: &[u8], request: u64) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let start = mix(request ^ (bytes.len() as u64) << 48);
    let hash = words.iter().fold(start, |hash, word| {
        mix(hash ^ u64::from_le_bytes(*word)).wrapping_add(hash)
    });
    let rest = rest
        .iter()
        .fold(0, |rest, byte| rest << 8 | u64::from(*byte));
    mix(hash ^ rest) | 1
}

/// Puts the labels of `bytes` together with `<other>` for each value.
fn rename(scratch: &mut Vec<u8>, bytes: &[u8]) {
    scratch.clear();
    let mut rest = bytes;
    let mut is_key = true;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length));
        let Some((text, after)) = after.split_at_checked(length) else {
            break;
        };
        let text = if is_key { text } else { OTHER.as_bytes() };
        // No memory is asked for.
        if scratch.capacity() - scratch.len() < 2 + text.len() {
            break;
        }
        scratch.extend_from_slice(&(text.len() as u16).to_le_bytes());
        scratch.extend_from_slice(text);
        (rest, is_key) = (after, !is_key);
    }
    if !is_key {
        // A key without a value would be damage.
        scratch.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{MAX_BYTES, MAX_OTHERS, MAX_SETS, NONE, Said, SaidSets};
    use crate::model::label::{ActiveLabels, LabelValue};

    fn encoded(labels: &[(&str, &str)]) -> Vec<u8> {
        let labels: Vec<(Arc<str>, Arc<str>)> = labels
            .iter()
            .map(|(key, value)| (Arc::from(*key), Arc::from(*value)))
            .collect();
        ActiveLabels::encode(&labels)
    }

    fn said(bytes: &[u8]) -> Said<'_> {
        Said {
            bytes,
            ..Said::default()
        }
    }

    fn texts(sets: &SaidSets, number: u32) -> Vec<String> {
        let read = sets.read();
        let labels = read[number as usize].set.iter();
        let texts = labels.map(|label| match &label.value {
            LabelValue::Text(text) => format!("{}={text}", label.key),
            LabelValue::Number(..) => String::new(),
        });
        texts.collect()
    }

    #[test]
    fn each_set_has_a_number_and_captured_requests_have_their_own() {
        let mut sets = SaidSets::new();
        let (one, two) = (encoded(&[("route", "/a")]), encoded(&[("route", "/b")]));
        let first = sets.number_of(&said(&one));
        let second = sets.number_of(&said(&two));
        assert_eq!(sets.number_of(&said(&[])), NONE);
        assert!(first != second && first != NONE && second != NONE);
        assert_eq!(sets.number_of(&said(&one)), first);
        let of_request = |request, captures| Said {
            bytes: &one,
            request,
            captures,
        };
        assert_eq!(sets.number_of(&of_request(7, 0)), first);
        let captured = sets.number_of(&of_request(7, 1));
        assert!(captured != first);
        assert_eq!(sets.number_of(&of_request(7, 2)), captured);
        assert_eq!(sets.read()[captured as usize].request, 7);
        assert_eq!(texts(&sets, second), ["route=/b"]);
        let (fewer, numbers) = sets.compacted([second, captured, second].into_iter());
        assert_eq!(texts(&fewer, numbers[second as usize]), ["route=/b"]);
        assert_eq!(fewer.read().len(), 3);
    }

    #[test]
    fn of_too_many_the_values_are_other_ones() {
        let mut sets = SaidSets::new();
        let held = sets.bytes();
        let mut numbers = Vec::new();
        for number in 0..2 * MAX_SETS {
            let labels = encoded(&[("route", "/a"), ("user", &number.to_string())]);
            numbers.push(sets.number_of(&said(&labels)));
        }
        let others = &numbers[MAX_SETS..];
        assert!(others.iter().all(|number| *number == others[0]));
        assert_eq!(texts(&sets, others[0]), ["route=<other>", "user=<other>"]);
        assert_eq!(texts(&sets, numbers[5]), ["route=/a", "user=5"]);
        assert_eq!(sets.left_out(), MAX_SETS as u64);
        assert_eq!(sets.other_of(numbers[5]), others[0]);
        assert_eq!(sets.other_of(NONE), NONE);
        // Of keys that are always others as well there are a few only.
        for number in 0..2 * MAX_OTHERS {
            let labels = encoded(&[(&format!("key{number}"), &"x".repeat(200))]);
            sets.number_of(&said(&labels));
        }
        assert!(sets.read().len() <= 1 + MAX_SETS + MAX_OTHERS);
        assert_eq!(sets.bytes(), held);
    }

    #[test]
    fn long_labels_have_no_more_memory_than_there_is() {
        let mut sets = SaidSets::new();
        let held = sets.bytes();
        for number in 0..MAX_BYTES / 1_000 {
            let value = "x".repeat(1_990) + &number.to_string();
            sets.number_of(&said(&encoded(&[("key", &value)])));
        }
        assert!(sets.is_nearly_full() && sets.left_out() > 0);
        assert_eq!(sets.bytes(), held);
    }
}
