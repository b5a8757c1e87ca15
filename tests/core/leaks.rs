//! Leaks are told from caches, pools and turnover: programs that are simulated allocation by allocation,
//! sampled by the law of the hooks.

use rprof::fold::profile::Profile;
use rprof::heap::law::Chances;
use rprof::heap::report::{HeapCopy, Since, Telling};
use rprof::heap::stacks::{Code, HeapFrame, Look, MAX_FRAMES};
use rprof::heap::texts::Texts;
use rprof::heap::{Heap, HeapLimits, Hit};
use rprof::model::measure::MeasureId;
use rprof::model::module_name::ImportRoots;
use rprof::report::growth::Verdict;
use rprof::report::leaks::{Leak, leaks};
use rustc_hash::FxHashMap;

const SECOND_NS: u64 = 1_000_000_000;

/// A thread in functions of these names, leaf first, each in a file of its own.
struct In<'a>(&'a [&'static str]);

/// As the simulated code objects have it: their number is their address.
const NAMES: [&str; 14] = [
    "main",
    "leak_rows",
    "leak_text",
    "warm_up",
    "fill_cache",
    "lru",
    "session",
    "pool",
    "batch",
    "temporary",
    "slower",
    "<listcomp>",
    "loads",
    "burst",
];

impl Look for In<'_> {
    fn walk(&self, frames: &mut Vec<HeapFrame>) -> bool {
        let number = |name: &&str| NAMES.iter().position(|known| known == name).unwrap();
        let frames_of = self.0.iter().map(|name| HeapFrame {
            code: (number(name) + 1) * 16,
            instruction: 7,
        });
        frames.extend(frames_of.take(MAX_FRAMES));
        true
    }

    fn learn(&self, code: usize, texts: &mut Texts) -> Option<Code> {
        let name = NAMES[code / 16 - 1];
        let file = match name {
            "loads" => "/usr/lib/python3.13/json/__init__.py",
            _ => "/app/service.py",
        };
        Some(Code {
            name: texts.put(name.as_bytes(), 1)?,
            file: texts.put(file.as_bytes(), 1)?,
            first_line: 3,
        })
    }

    fn line(&self, _: usize, instruction: usize) -> u32 {
        instruction as u32
    }
}

/// A program, second by second.
struct Program {
    heap: Heap,
    chances: Chances,
    left: i64,
    rate: f64,
    next_address: usize,
    now_ns: u64,
    /// What is to be freed, by the second in which.
    ends: FxHashMap<u64, Vec<usize>>,
}

impl Program {
    fn new(rate: f64, seed: u64) -> Self {
        let mut chances = Chances::new(seed);
        Self {
            heap: Heap::new(HeapLimits::default(), Some(rate), 0, 0),
            left: chances.bytes_to_next(rate),
            rate,
            chances,
            // The table's filter is shared by all tests of this process.
            next_address: (seed as usize + 1) << 36,
            now_ns: 0,
            ends: FxHashMap::default(),
        }
    }

    fn seconds(&self) -> u64 {
        self.now_ns / SECOND_NS
    }

    /// Allocates so many blocks that live for so many seconds, for ever without.
    fn allocate(&mut self, count: u64, bytes: u64, stack: &[&'static str], life: Option<u64>) {
        for _ in 0..count {
            self.next_address += 16;
            self.left -= bytes as i64;
            if self.left >= 0 {
                continue;
            }
            let hit = Hit {
                address: self.next_address,
                bytes,
                rate: self.rate,
                thread_id: 1,
                now_ns: self.now_ns,
            };
            self.heap.record(&hit, &In(stack), || 0);
            self.rate = self.heap.rate();
            self.left = self.chances.bytes_to_next(self.rate);
            if let Some(life) = life {
                let end = self.seconds() + life;
                self.ends.entry(end).or_default().push(hit.address);
            }
        }
    }

    /// Lets a second pass.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now_ns += SECOND_NS;
            for address in self.ends.remove(&self.seconds()).unwrap_or_default() {
                self.heap.take(address);
            }
        }
    }

    fn profile(&self) -> Profile {
        let copy = HeapCopy::of_own(&self.heap).unwrap();
        copy.profile(
            &Since::default(),
            &Telling {
                program: "service",
                roots: &ImportRoots::default(),
                own_directory: "",
                names: &FxHashMap::default(),
                now_ns: self.now_ns,
                requests_apart: false,
                comments: vec![copy.ages_comment(self.now_ns)],
            },
        )
    }
}

/// Every kind of memory there is, for a minute or longer.
fn service(rate: f64, seed: u64, seconds: u64) -> Profile {
    let mut program = Program::new(rate, seed);
    program.allocate(4_000, 500, &["warm_up", "main"], None);
    for tick in 0..seconds {
        // 11 and 7 KB a second are kept for ever, of which one is made by a comprehension.
        program.allocate(110, 100, &["<listcomp>", "leak_rows", "main"], None);
        program.allocate(14, 500, &["loads", "leak_text", "main"], None);
        // Filled by and by, and then full.
        if tick < seconds * 2 / 5 {
            program.allocate(300, 200, &["fill_cache", "main"], None);
        }
        // The oldest go.
        program.allocate(400, 300, &["lru", "main"], Some(seconds / 6));
        program.allocate(200, 300, &["session", "main"], Some(seconds / 4));
        program.allocate(100, 1_000, &["batch", "main"], Some(1 + 11 - tick % 11));
        program.allocate(2_000, 100, &["temporary", "main"], Some(1));
        if tick < 3 {
            program.allocate(20, 20_000, &["pool", "main"], None);
        }
        program.pass(1);
    }
    program.profile()
}

fn by_name<'a>(found: &'a [Leak], name: &str) -> &'a Leak {
    let mut rows = found.iter();
    rows.find(|row| &*row.place.function.name == name).unwrap()
}

#[test]
fn leaks_are_first_and_nothing_else_grows() {
    const SEEDS: u64 = 10;
    for seed in 0..SEEDS {
        let found = leaks(&[&service(8_192.0, seed, 60)]).unwrap();
        let names: Vec<&str> = found.iter().map(|row| &*row.place.function.name).collect();
        assert_eq!(&names[..2], ["leak_rows", "leak_text"], "seed {seed}");
        for (row, per_second) in found.iter().zip([11_000.0, 7_000.0]) {
            assert_eq!(row.growth.verdict, Verdict::Grows, "seed {seed}");
            // By five standard deviations of what was born in the middle.
            let error = 5.0 * (8_192.0_f64 / (per_second * 36.0)).sqrt();
            let found = row.growth.bytes_per_second / per_second;
            assert!((found - 1.0).abs() < error, "seed {seed}: {found}, {error}");
        }
        for row in &found[2..] {
            let verdict = row.growth.verdict;
            let grows = matches!(verdict, Verdict::Grows | Verdict::Slows);
            assert!(!grows && row.growth.score <= 0.0, "seed {seed}: {row:?}");
        }
        for (name, expected) in [("warm_up", Verdict::Filled), ("pool", Verdict::Filled)] {
            assert_eq!(
                by_name(&found, name).growth.verdict,
                expected,
                "seed {seed}"
            );
        }
        let is_flat = |verdict| matches!(verdict, Verdict::Flat(_));
        assert!(
            is_flat(by_name(&found, "fill_cache").growth.verdict),
            "seed {seed}"
        );
        for name in ["lru", "session"] {
            let verdict = by_name(&found, name).growth.verdict;
            assert!(
                matches!(verdict, Verdict::TurnsOver(_)),
                "seed {seed}: {verdict:?}"
            );
        }
    }
}

#[test]
fn a_place_is_a_line_of_the_programs_own_with_its_stacks() {
    let found = leaks(&[&service(8_192.0, 3, 60)]).unwrap();
    let row = &found[0];
    assert_eq!(
        (&*row.place.function.name, row.place.line),
        ("leak_rows", 7)
    );
    let names = |stack: &(i64, Vec<rprof::report::leaks::Line>)| -> Vec<String> {
        let lines = stack.1.iter();
        lines.map(|line| line.function.name.to_string()).collect()
    };
    assert_eq!(names(&row.stacks[0]), ["<listcomp>", "leak_rows", "main"]);
    assert_eq!(row.stacks[0].0, row.bytes);
    let words = row.growth.words();
    assert!(
        words.ends_with("KiB/min since the start, 60 s ago"),
        "{words}"
    );
}

#[test]
fn few_samples_say_little_but_the_truth() {
    // The leaks have ten samples and six.
    const SEEDS: u64 = 30;
    let mut first = 0;
    for seed in 100..100 + SEEDS {
        let found = leaks(&[&service(65_536.0, seed, 60)]).unwrap();
        first += u64::from(found[0].place.function.name.starts_with("leak_"));
        for row in &found {
            let is_leak = row.place.function.name.starts_with("leak_");
            let grows = matches!(row.growth.verdict, Verdict::Grows | Verdict::Slows);
            assert!(is_leak || !grows, "seed {seed}: {row:?}");
        }
    }
    assert!(first * 10 >= SEEDS * 8, "{first} of {SEEDS}");
}

#[test]
fn what_began_lately_is_seen_within_the_shorter_horizons() {
    let mut program = Program::new(8_192.0, 50);
    program.allocate(4_000, 500, &["warm_up", "main"], None);
    for tick in 0..6 * 3_600 {
        program.allocate(10, 100, &["leak_rows", "main"], None);
        if tick > 4 * 3_600 {
            program.allocate(10, 400, &["burst", "main"], None);
        }
        program.pass(1);
    }
    let found = leaks(&[&program.profile()]).unwrap();
    let told = |name| {
        let growth = by_name(&found, name).growth;
        (growth.verdict, growth.is_since_start, growth.horizon_ms)
    };
    assert_eq!(told("leak_rows"), (Verdict::Grows, true, 6 * 3_600_000));
    assert_eq!(told("burst"), (Verdict::Grows, false, 3_600_000));
}

#[test]
fn what_slows_down_says_so() {
    let mut program = Program::new(2_048.0, 60);
    for tick in 1..600_u64 {
        // Words that were never seen: fewer and fewer, as the logarithm has it.
        program.allocate(60_000 / tick, 60, &["slower", "main"], None);
        program.pass(1);
    }
    let found = leaks(&[&program.profile()]).unwrap();
    assert_eq!(by_name(&found, "slower").growth.verdict, Verdict::Slows);
}

#[test]
fn processes_add_up() {
    let profiles = [service(8_192.0, 5, 60), service(8_192.0, 6, 60)];
    let alone = leaks(&[&profiles[0]]).unwrap();
    let both = leaks(&[&profiles[0], &profiles[1]]).unwrap();
    let rate = |found: &[Leak]| by_name(found, "leak_rows").growth.bytes_per_second;
    assert_eq!(&*both[0].place.function.name, "leak_rows");
    assert!((rate(&both) / rate(&alone) - 2.0).abs() < 0.5);
}

#[test]
fn what_does_not_tell_of_ages_is_refused() {
    let mut profile = service(65_536.0, 7, 60);
    profile.meta.comments.clear();
    let error = leaks(&[&profile]).unwrap_err().to_string();
    assert!(error.contains("does not tell how old"), "{error}");
    let whole = service(65_536.0, 7, 60).without(MeasureId::InuseSpace);
    assert!(leaks(&[&whole]).is_err());
    assert!(leaks(&[]).unwrap().is_empty());
}

#[test]
fn ages_come_back_from_a_file() {
    let profile = service(8_192.0, 8, 60);
    let bytes = rprof::pprof::encode::encode(&profile).unwrap();
    let back = rprof::pprof::decode::decode(&bytes, "it").unwrap();
    let words = |found: &[Leak]| -> Vec<(String, i64, String)> {
        let rows = found.iter();
        rows.map(|row| {
            let name = row.place.function.name.to_string();
            (name, row.bytes, row.growth.words())
        })
        .collect()
    };
    assert_eq!(
        words(&leaks(&[&profile]).unwrap()),
        words(&leaks(&[&back]).unwrap())
    );
}
