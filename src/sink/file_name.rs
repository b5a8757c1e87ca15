//! File names: patterns with fields, the names of windows, the names of temporaries.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// The ending of every profile.
pub const SUFFIX: &str = ".pb.gz";
/// The ending of a heap profile that stands beside a window.
pub const HEAP_SUFFIX: &str = ".heap.pb.gz";
/// The name of a window's file in a directory, but for its ending.
pub const WINDOW_PATTERN: &str = "{program}-{pid}-{time}-{seq}";
/// Temporaries begin with this and end with [`TEMPORARY_SUFFIX`].
pub const TEMPORARY_PREFIX: &str = ".rprof-";
/// See [`TEMPORARY_PREFIX`].
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// Longest program name in a file name, in characters.
const MAX_PROGRAM: usize = 64;

/// What the fields of a pattern stand for.
#[derive(Clone, Debug)]
pub struct Fields<'text> {
    /// Name of the program.
    pub program: &'text str,
    /// Process id.
    pub pid: u32,
    /// Start, in ns since the Unix epoch.
    pub start_unix_ns: i64,
    /// Number of the window or call, from 1.
    pub seq: u64,
}

/// Fills the fields `{program}`, `{pid}`, `{time}` and `{seq}` of a pattern in.
///
/// # Errors
/// When the pattern has another field or an unmatched brace.
pub fn expand(pattern: &str, fields: &Fields<'_>) -> Result<String> {
    let mut name = String::with_capacity(pattern.len() + 32);
    let mut rest = pattern;
    while let Some(open) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(open);
        name.push_str(before);
        let field = from.strip_prefix('{').and_then(|from| from.split_once('}'));
        let Some((field, after)) = field else {
            return Err(Error::value(format!(
                "output={pattern:?} has a brace without its partner; the fields are {{program}}, \
                 {{pid}}, {{time}} and {{seq}}"
            )));
        };
        match field {
            "program" => name.push_str(&safe_program(fields.program)),
            "pid" => name.push_str(&fields.pid.to_string()),
            "time" => name.push_str(&utc(fields.start_unix_ns)),
            "seq" => name.push_str(&format!("{:06}", fields.seq)),
            unknown => {
                return Err(Error::value(format!(
                    "output={pattern:?} has the unknown field {{{unknown}}}; the fields are \
                     {{program}}, {{pid}}, {{time}} and {{seq}}"
                )));
            }
        }
        rest = after;
    }
    name.push_str(rest);
    Ok(name)
}

/// A program's name as it may stand in a file name.
#[must_use]
pub fn safe_program(program: &str) -> String {
    let safe: String = program
        .chars()
        .take(MAX_PROGRAM)
        .map(|character| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => character,
            _ => '_',
        })
        .collect();
    // One that begins with a dash would be an option to whatever it is given to.
    match safe.trim_start_matches(['.', '-']) {
        "" => "python".to_owned(),
        name => name.to_owned(),
    }
}

/// Whether a pattern says that its files are several: they are then never put in each other's place.
#[must_use]
pub fn names_several(pattern: &str) -> bool {
    ["{pid}", "{time}", "{seq}"]
        .iter()
        .any(|field| pattern.contains(field))
}

/// `name` with a number before its ending, for where it is taken; itself for number 1.
#[must_use]
pub fn numbered(name: &str, number: u64) -> String {
    if number == 1 {
        return name.to_owned();
    }
    match name.strip_suffix(SUFFIX) {
        Some(stem) => format!("{stem}-{number}{SUFFIX}"),
        None => format!("{name}-{number}"),
    }
}

/// What the names of one recording's windows have in common; `None` for any other name.
#[must_use]
pub fn recording_of_window<'name>(
    name: &'name str,
    program: &str,
    suffix: &str,
) -> Option<&'name str> {
    pid_of_window(name, program, suffix)?;
    name.rsplit_once('-').map(|(recording, _)| recording)
}

/// The process id in the name of a window of `program` with this ending; `None` for any other name.
#[must_use]
pub fn pid_of_window(name: &str, program: &str, suffix: &str) -> Option<u32> {
    let rest = name
        .strip_prefix(&safe_program(program))?
        .strip_prefix('-')?;
    let mut parts = rest.strip_suffix(suffix)?.split('-');
    let pid = parts.next()?;
    let time = parts.next()?;
    let seq = parts.next()?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_window = parts.next().is_none()
        && is_number(pid)
        && is_number(seq)
        && time.len() == 16
        && time.ends_with('Z');
    is_window.then(|| pid.parse().ok()).flatten()
}

/// `20261121T012345Z`; the date by the algorithm of Howard Hinnant,
/// <https://howardhinnant.github.io/date_algorithms.html>, `civil_from_days`.
fn utc(unix_ns: i64) -> String {
    let seconds = unix_ns.div_euclid(1_000_000_000);
    let days = seconds.div_euclid(86_400) + 719_468;
    let second = seconds.rem_euclid(86_400);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::{
        Fields, HEAP_SUFFIX, SUFFIX, WINDOW_PATTERN, expand, pid_of_window, safe_program, utc,
    };

    const FIELDS: Fields<'_> = Fields {
        program: "my app",
        pid: 42,
        start_unix_ns: 1_795_224_225_000_000_000,
        seq: 7,
    };

    #[test]
    fn patterns() -> crate::error::Result<()> {
        let name = expand(WINDOW_PATTERN, &FIELDS)? + SUFFIX;
        assert_eq!(name, "my_app-42-20261121T012345Z-000007.pb.gz");
        assert_eq!(pid_of_window(&name, "my app", SUFFIX), Some(42));
        assert_eq!(pid_of_window(&name, "my app", HEAP_SUFFIX), None);
        let heap = expand(WINDOW_PATTERN, &FIELDS)? + HEAP_SUFFIX;
        assert_eq!(heap, "my_app-42-20261121T012345Z-000007.heap.pb.gz");
        assert_eq!(pid_of_window(&heap, "my app", HEAP_SUFFIX), Some(42));
        assert_eq!(pid_of_window(&heap, "my app", SUFFIX), None);
        assert_eq!(pid_of_window(&name, "my", SUFFIX), None);
        assert_eq!(
            pid_of_window("my_app-x-20261121T012345Z-000007.pb.gz", "my app", SUFFIX),
            None
        );
        assert_eq!(expand("plain.pb.gz", &FIELDS)?, "plain.pb.gz");
        for wrong in ["{host}.pb.gz", "{pid.pb.gz", "a}.pb.gz"] {
            let message = expand(wrong, &FIELDS).err().map(|error| error.to_string());
            assert!(message.is_some_and(|text| text.contains(wrong) && text.contains("{program}")));
        }
        Ok(())
    }

    #[test]
    fn dates() {
        assert_eq!(utc(0), "19700101T000000Z");
        assert_eq!(utc(951_782_400_000_000_000), "20000229T000000Z");
        assert_eq!(utc(4_107_542_399_000_000_000), "21000228T235959Z");
    }

    #[test]
    fn programs() {
        assert_eq!(safe_program("../../etc/passwd"), "_.._etc_passwd");
        assert_eq!(safe_program("..."), "python");
        assert_eq!(safe_program("-x.py"), "x.py");
        assert_eq!(safe_program(&"x".repeat(500)).len(), 64);
    }
}
