//! Recorded runs give the profiles that they have always given, byte for byte.
//!
//! `tests/fixtures/runs/README.md` says what they are, and when they may be written anew.

mod player;
mod script;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use player::Player;
use rprof::fold::profile::Profile;
use rprof::model::measure::{MeasureId, MeasureSet};
use rprof::pprof::decode::decode;
use rprof::pprof::encode::encode_message;
use rprof::report::collapsed::collapsed;
use script::Moment;

/// Set to have the profiles written that the runs give now.
const WRITE: &str = "RPROF_WRITE_RUNS";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runs")
}

fn unpacked(path: &Path) -> Vec<u8> {
    let file = std::fs::File::open(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

/// What there was to measure when the runs were recorded.
const THEN: MeasureSet = MeasureSet::TIMES
    .with(MeasureId::Gil)
    .with(MeasureId::GilWait);

/// All windows of a run, of a recording that measures `with_gil` where the run's engine knew the GIL.
fn replay(text: &str, with_gil: MeasureSet) -> Vec<Profile> {
    let mut lines = text.lines();
    let setup = script::setup(lines.next().unwrap());
    let measures = if setup.knows_gil {
        with_gil
    } else {
        MeasureSet::TIMES
    };
    let mut player = Player::new(&setup, measures);
    let mut moment = Moment::default();
    let mut windows = Vec::new();
    for line in lines {
        let told = moment.read(line);
        if let Some(mut profile) = told.and_then(|told| player.tell(told, &moment)) {
            // Facts of the process and the build, not of the run.
            profile.meta.comments.retain(|comment| {
                let of_process = ["rprof ", "main thread: "];
                !of_process.iter().any(|fact| comment.starts_with(fact))
            });
            windows.push(profile);
        }
    }
    windows
}

/// Each window's length, in four bytes, before it.
fn pack(windows: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for window in windows {
        bytes.extend_from_slice(&u32::try_from(window.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(window);
    }
    bytes
}

fn unpack(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut windows = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (window, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        windows.push(window.to_vec());
        bytes = rest;
    }
    windows
}

/// What a window says, as lines.
fn said(message: &[u8]) -> BTreeSet<String> {
    let mut packed = GzBuilder::new().write(Vec::new(), Compression::fast());
    packed.write_all(message).unwrap();
    let profile = decode(&packed.finish().unwrap(), "a run").unwrap();
    let mut lines = BTreeSet::new();
    for (column, kind) in profile.columns.iter().enumerate() {
        let text = collapsed(&profile, column, true).unwrap();
        lines.extend(text.lines().map(|line| format!("{}: {line}", kind.name())));
    }
    lines.extend(profile.meta.comments.iter().cloned());
    lines
}

/// The first few lines that one window has and the other has not.
fn difference(now: &[u8], kept: &[u8]) -> String {
    const SHOWN: usize = 12;
    let (now, kept) = (said(now), said(kept));
    let mut text = String::new();
    for (mark, lines) in [('-', kept.difference(&now)), ('+', now.difference(&kept))] {
        for line in lines.take(SHOWN) {
            writeln!(text, "{mark} {line}").unwrap();
        }
    }
    text
}

/// The files of all runs.
fn runs() -> Vec<PathBuf> {
    let mut runs: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".run.gz"))
        .collect();
    runs.sort();
    assert!(runs.len() >= 12, "where are the runs? {runs:?}");
    runs
}

#[test]
fn recorded_runs_give_the_same_profiles() {
    let mut wrong = String::new();
    for run in runs() {
        let text = String::from_utf8(unpacked(&run)).unwrap();
        let windows: Vec<_> = replay(&text, THEN).iter().map(encode_message).collect();
        let kept = PathBuf::from(run.to_str().unwrap().replace(".run.gz", ".pprof.gz"));
        if std::env::var_os(WRITE).is_some() {
            let mut packed = GzBuilder::new().write(Vec::new(), Compression::best());
            packed.write_all(&pack(&windows)).unwrap();
            std::fs::write(&kept, packed.finish().unwrap()).unwrap();
        }
        let kept = unpack(&unpacked(&kept));
        let name = run.file_name().unwrap().to_string_lossy();
        if windows.len() != kept.len() {
            writeln!(
                wrong,
                "{name}: {} windows, not {}",
                windows.len(),
                kept.len()
            )
            .unwrap();
        }
        for (at, (now, kept)) in windows.iter().zip(&kept).enumerate() {
            if now != kept {
                let difference = difference(now, kept);
                writeln!(wrong, "{name}, window {at}:\n{difference}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn whoever_waits_for_the_gil_is_blamed_on_somebody() {
    let mut whole = 0;
    for run in runs() {
        let text = String::from_utf8(unpacked(&run)).unwrap();
        for (number, profile) in replay(&text, MeasureSet::WITH_GIL).iter().enumerate() {
            let sum = |name| {
                let column = profile.column(name)?;
                Some(
                    profile
                        .rows()
                        .map(|(_, values)| values[column])
                        .sum::<i64>(),
                )
            };
            let (waited, blamed) = (sum("gil_wait"), sum("gil_blame"));
            assert_eq!(waited, blamed, "{}, window {number}", run.display());
            whole += waited.unwrap_or(0);
        }
    }
    assert!(whole > 0, "nobody has waited for the GIL in any run");
}
