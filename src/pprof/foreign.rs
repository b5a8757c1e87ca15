//! What a file that is no profile is instead, by its first bytes, and what to do with it.
#![forbid(unsafe_code)]

/// First bytes, and the words for what begins with them.
const MAGIC: [(&[u8], &str); 20] = [
    (
        b"\x28\xb5\x2f\xfd",
        "it is compressed with zstd; unpack it with `zstd -d` first",
    ),
    (
        b"\x04\x22\x4d\x18",
        "it is compressed with lz4; unpack it with `lz4 -d` first",
    ),
    (
        b"\x02\x21\x4c\x18",
        "it is compressed with lz4; unpack it with `lz4 -d` first",
    ),
    (
        b"\xfd7zXZ\0",
        "it is compressed with xz; unpack it with `xz -d` first",
    ),
    (
        b"BZh",
        "it is compressed with bzip2; unpack it with `bzip2 -d` first",
    ),
    (
        b"\xff\x06\0\0sNaPpY",
        "it is compressed with snappy; unpack it first",
    ),
    (b"\x78\x01", ZLIB),
    (b"\x78\x9c", ZLIB),
    (b"\x78\xda", ZLIB),
    (
        b"\x1f\x8b",
        "it is compressed with gzip twice; unpack it once with `gzip -d` first",
    ),
    (
        b"PK\x03\x04",
        "it is a ZIP archive; unpack it with `unzip` and give a file inside",
    ),
    (
        b"PERFILE2",
        "it is a recording of Linux perf; convert it to pprof first",
    ),
    (
        b"memray",
        "it is a recording of memray, which `memray` reads",
    ),
    (b"SQLite format 3\0", "it is an SQLite database"),
    (b"\x7fELF", "it is a program, not a profile of one"),
    (
        b"version https://git-lfs",
        "it is a Git LFS pointer; fetch the file itself with `git lfs pull`",
    ),
    // A marshalled dict with tuples for keys, with and without the reference flags.
    (b"{(", PSTATS),
    (b"{)", PSTATS),
    (b"{\xa9", PSTATS),
    (b"\xfb", PSTATS),
];

const ZLIB: &str = "it is compressed with zlib, which no profiler writes; unpack it first";
const PSTATS: &str = "it is the output of cProfile, which `python -m pstats` reads";

/// How much of a file is looked at.
pub(super) const HEAD_BYTES: usize = 4096;

/// Words for the format that `head`, the beginning of a file, belongs to; `None` if unknown.
pub(super) fn foreign(head: &[u8]) -> Option<&'static str> {
    let by_magic = MAGIC.iter().find(|(magic, _)| head.starts_with(magic));
    if let Some((_, words)) = by_magic {
        return Some(words);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("it is a tar archive; unpack it with `tar -x` and give a file inside");
    }
    text(head)
}

/// The same for text, which has no first bytes of its own.
fn text(head: &[u8]) -> Option<&'static str> {
    let utf8 = match str::from_utf8(head) {
        Ok(text) => text,
        // The head may end within a character.
        Err(error) if error.valid_up_to() + 4 > head.len() && head.len() == HEAD_BYTES => {
            str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let is_text = |character: char| !character.is_control() || "\n\r\t\x1b".contains(character);
    if !utf8.chars().all(is_text) {
        return None;
    }
    let begin: String = utf8.trim_start_matches('\u{feff}').trim_start().into();
    let lower = begin
        .chars()
        .take(32)
        .collect::<String>()
        .to_ascii_lowercase();
    if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        return Some("it is an HTML page; open it in a browser");
    }
    if begin.starts_with(['{', '[']) {
        return Some(if utf8.contains("speedscope.app") {
            "it is a speedscope file; open it with speedscope, or give the pprof file it was made \
             from"
        } else {
            "it is JSON; give the pprof file it was made from"
        });
    }
    let mut lines = begin.lines().take(4).peekable();
    let is_stack = |line: &str| {
        line.rsplit_once(' ')
            .is_some_and(|(_, value)| value.parse::<i64>().is_ok())
    };
    if begin.contains(';') && lines.peek().is_some() && lines.all(is_stack) {
        return Some("it is text, collapsed stacks; give the pprof file it was made from");
    }
    Some("it is text; give a file written by rprof or another profiler's pprof output")
}
