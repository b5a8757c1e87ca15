//! Strings out of memory.
#![forbid(unsafe_code)]

use crate::layout::TextLayout;
use crate::memory::{Range, ReadMemory, word};

/// A string's characters, still to be read.
struct Characters {
    width: usize,
    range: Range,
}

fn characters(
    header: &[u8],
    address: usize,
    layout: &TextLayout,
    limit: usize,
) -> Option<Characters> {
    let length = word(header, layout.length);
    let state = u32::try_from(word(header, layout.state) & 0xffff_ffff).ok()?;
    let kind = state >> layout.kind_bit & 7;
    let is_compact = state >> (layout.kind_bit + 3) & 1 == 1;
    let is_ascii = state >> (layout.kind_bit + 4) & 1 == 1;
    let width = match kind {
        1 | 2 | 4 => kind as usize,
        _ => return None,
    };
    // Strings of other forms are made by C code of old; names of functions and files are not.
    if !is_compact || length > isize::MAX as usize / 4 {
        return None;
    }
    let data = if is_ascii {
        layout.ascii_data
    } else {
        layout.compact_data
    };
    Some(Characters {
        width,
        range: Range::new(address + data, length.min(limit) * width),
    })
}

/// Reads the strings at `addresses`, of each at most `limit` characters; `None` if one of them
/// cannot be read or is no string.
pub fn read_strings<const COUNT: usize>(
    memory: &mut (dyn ReadMemory + '_),
    layout: &TextLayout,
    addresses: [(usize, usize); COUNT],
) -> Option<[String; COUNT]> {
    let size = layout.ascii_data;
    let headers = addresses.map(|(address, _)| Range::new(address, size));
    if memory.read_batch(&headers) != COUNT {
        return None;
    }
    let mut found = Vec::with_capacity(COUNT);
    for (index, (address, limit)) in addresses.iter().enumerate() {
        let header = &memory.bytes()[index * size..(index + 1) * size];
        found.push(characters(header, *address, layout, *limit)?);
    }
    let ranges: Vec<Range> = found.iter().map(|text| text.range).collect();
    if memory.read_batch(&ranges) != COUNT {
        return None;
    }
    let mut from = 0;
    let mut texts = [const { String::new() }; COUNT];
    for (text, characters) in texts.iter_mut().zip(&found) {
        let to = from + characters.range.length;
        *text = decode(&memory.bytes()[from..to], characters.width);
        from = to;
    }
    Some(texts)
}

/// Latin-1, UCS-2 or UCS-4 by width; a lone surrogate becomes U+FFFD.
fn decode(bytes: &[u8], width: usize) -> String {
    bytes
        .chunks_exact(width)
        .map(|unit| {
            let mut value = [0; 4];
            value[..width].copy_from_slice(unit);
            char::from_u32(u32::from_le_bytes(value)).unwrap_or(char::REPLACEMENT_CHARACTER)
        })
        .collect()
}
