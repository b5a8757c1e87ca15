//! The names of code objects, as the interpreter has them, in one piece of memory of fixed size.
#![forbid(unsafe_code)]

/// A name in [`Texts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text {
    start: u32,
    length: u32,
    /// Bytes of a character.
    width: u8,
}

/// The memory.
#[derive(Clone, Debug)]
pub struct Texts {
    bytes: Vec<u8>,
    capacity: usize,
    is_full: bool,
}

impl Texts {
    /// No room at all.
    pub(super) const fn none() -> Self {
        Self {
            bytes: Vec::new(),
            capacity: 0,
            is_full: true,
        }
    }

    /// Room for so many bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(capacity),
            capacity,
            is_full: false,
        }
    }

    /// Puts characters of `width` bytes in; `None` if there is no room.
    pub fn put(&mut self, characters: &[u8], width: u8) -> Option<Text> {
        if self.bytes.len() + characters.len() > self.capacity {
            self.is_full = true;
            return None;
        }
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(characters);
        Some(Text {
            start,
            length: characters.len() as u32,
            width,
        })
    }

    /// Whether something found no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn is_nearly_full(&self) -> bool {
        self.is_full || self.bytes.len() * 4 >= self.capacity * 3
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// What there is, with no room for more.
    pub(super) fn copy(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            capacity: 0,
            is_full: true,
        }
    }

    fn of(&self, text: Text) -> &[u8] {
        let start = text.start as usize;
        self.bytes
            .get(start..start + text.length as usize)
            .unwrap_or_default()
    }

    /// Puts in what another one has.
    pub(super) fn adopt(&mut self, other: &Self, theirs: Text) -> Option<Text> {
        self.put(other.of(theirs), theirs.width)
    }

    /// The name: Latin-1, UCS-2 or UCS-4 by width; a lone surrogate becomes U+FFFD.
    #[must_use]
    pub fn read(&self, text: Text) -> String {
        let width = usize::from(text.width.clamp(1, 4));
        let characters = self.of(text).chunks_exact(width).map(|unit| {
            let mut value = [0; 4];
            value[..width].copy_from_slice(unit);
            char::from_u32(u32::from_le_bytes(value)).unwrap_or(char::REPLACEMENT_CHARACTER)
        });
        characters.collect()
    }
}
