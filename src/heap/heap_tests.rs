use std::sync::Arc;

use rustc_hash::FxHashMap;

use proptest::prelude::*;

use super::law::{Chances, chance};
use super::report::{HeapCopy, Since, Telling};
use super::said::Said;
use super::stacks::{Code, HeapFrame, Look, MAX_FRAMES, StackLimits};
use super::texts::Texts;
use super::{Heap, HeapLimits, Hit};
use crate::fold::profile::Profile;
use crate::model::label::{ActiveLabels, Label, LabelValue};
use crate::model::module_name::ImportRoots;

/// A thread that is where it is told to be: a code object's name is its address, an instruction a line.
#[derive(Default)]
struct Standing {
    frames: Vec<HeapFrame>,
    is_cut: bool,
    /// Labels, request, captures.
    said: (Vec<u8>, u64, u64),
}

impl Standing {
    /// In functions with these numbers, leaf first.
    fn at(codes: &[usize]) -> Self {
        let frames = codes.iter().map(|code| HeapFrame {
            code: code * 16,
            instruction: 7,
        });
        Self {
            frames: frames.collect(),
            ..Self::default()
        }
    }
}

impl Look for Standing {
    fn walk(&self, frames: &mut Vec<HeapFrame>) -> bool {
        frames.extend(self.frames.iter().take(MAX_FRAMES));
        !self.is_cut
    }

    fn learn(&self, code: usize, texts: &mut Texts) -> Option<Code> {
        Some(Code {
            name: texts.put(format!("f{}", code / 16).as_bytes(), 1)?,
            file: texts.put(b"/app/f.py", 1)?,
            first_line: 3,
        })
    }

    fn line(&self, _: usize, instruction: usize) -> u32 {
        instruction as u32
    }

    fn said<T>(&self, take: impl FnOnce(&Said<'_>) -> T) -> Option<T> {
        let (bytes, request, captures) = &self.said;
        Some(take(&Said {
            bytes,
            request: *request,
            captures: *captures,
        }))
    }
}

const SMALL: HeapLimits = HeapLimits {
    live: 1_000,
    sites: 200,
    stacks: StackLimits {
        nodes: 400,
        lines: 400,
        codes: 200,
        text_bytes: 8_000,
    },
};

/// An allocator whose every block is known, and a heap that is told as a hook would.
struct Simulation {
    heap: Heap,
    chances: Chances,
    left: i64,
    rate: f64,
    next_address: usize,
    /// Bytes and function of what is in use.
    in_use: FxHashMap<usize, (u64, usize)>,
    allocated: f64,
}

impl Simulation {
    fn new(limits: HeapLimits, rate: f64, seed: u64) -> Self {
        let mut chances = Chances::new(seed);
        Self {
            heap: Heap::new(limits, Some(rate), 0, 0),
            left: chances.bytes_to_next(rate),
            rate,
            chances,
            // The filter is shared by all tests.
            next_address: 0x10_0000_0000 + ((seed as usize) << 32),
            in_use: FxHashMap::default(),
            allocated: 0.0,
        }
    }

    fn allocate(&mut self, bytes: u64, code: usize) -> usize {
        self.next_address += 16;
        let address = self.next_address;
        self.left -= bytes as i64;
        if self.left < 0 {
            let hit = Hit {
                address,
                bytes,
                rate: self.rate,
                thread_id: 1,
                now_ns: 0,
            };
            self.heap.record(&hit, &Standing::at(&[code, 1]), || 0);
            self.rate = self.heap.rate();
            self.left = self.chances.bytes_to_next(self.rate);
        }
        self.in_use.insert(address, (bytes, code));
        self.allocated += bytes as f64;
        address
    }

    fn free(&mut self, address: usize) {
        self.in_use.remove(&address);
        self.heap.take(address);
    }

    /// Estimate of the bytes in use.
    fn estimate(&self) -> f64 {
        let rows = (0..self.heap.live.used()).filter_map(|row| self.heap.live.row(row));
        rows.map(|live| live.weight() * live.bytes as f64).sum()
    }

    fn truth(&self) -> f64 {
        self.in_use.values().map(|(bytes, _)| *bytes as f64).sum()
    }

    fn profile(&self) -> Profile {
        let copy = HeapCopy::of_own(&self.heap);
        let telling = Telling {
            program: "app",
            roots: &ImportRoots::default(),
            own_directory: "",
            names: &FxHashMap::default(),
            now_ns: 0,
            requests_apart: false,
            comments: Vec::new(),
        };
        copy.map_or_else(Profile::default, |copy| {
            copy.profile(&Since::default(), &telling)
        })
    }
}

/// The functions that a profile names, sorted.
fn names(profile: &Profile) -> Vec<String> {
    let names = profile.symbols.functions.iter();
    let mut names: Vec<String> = names.map(|function| function.name.to_string()).collect();
    names.sort_unstable();
    names
}

/// How far a sum of so many blocks of so many bytes may be from the truth: five standard deviations.
fn bound(count: f64, bytes: u64, rate: f64) -> f64 {
    5.0 * (count * (1.0 / chance(bytes, rate) - 1.0)).sqrt() * bytes as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn sums_are_right_within_their_error(
        seed in 1_u64..1_000,
        bytes in prop_oneof![Just(16_u64), Just(48), Just(400), Just(9_000), Just(100_000)],
        rate in prop_oneof![Just(4_096.0), Just(65_536.0)],
    ) {
        const COUNT: usize = 20_000;
        let limits = HeapLimits { live: 100_000, ..SMALL };
        let mut simulation = Simulation::new(limits, rate, seed);
        let mut kept = Vec::new();
        for number in 0..COUNT {
            let address = simulation.allocate(bytes, 2 + number % 3);
            if number % 4 == 0 {
                kept.push(address);
            } else {
                simulation.free(address);
            }
        }
        let truth = simulation.truth();
        let error = (simulation.estimate() - truth).abs();
        prop_assert!(error <= bound(COUNT as f64 / 4.0, bytes, rate), "{error} of {truth}");
        // All that was allocated, from the profile.
        let totals = simulation.profile().totals();
        let error = (totals[1] as f64 - simulation.allocated).abs();
        let rounding = 10.0;
        prop_assert!(error <= bound(COUNT as f64, bytes, rate) + rounding, "{error}");
        for address in kept {
            simulation.free(address);
        }
        prop_assert!(simulation.heap.live.is_empty());
        prop_assert_eq!(simulation.profile().totals()[3], 0);
    }
}

#[test]
fn a_full_table_is_thinned_without_a_bias() {
    for (bytes, count) in [(48_u64, 300_000_usize), (400, 60_000), (9_000, 8_000)] {
        let (mut sum, mut truth, mut doublings) = (0.0, 0.0, 0);
        const TRIALS: u64 = 12;
        for seed in 1..=TRIALS {
            let mut simulation = Simulation::new(SMALL, 1_024.0, seed + 2_000);
            for number in 0..count {
                simulation.allocate(bytes, 2 + number % 5);
            }
            assert!(simulation.heap.live.len() <= SMALL.live);
            doublings += i32::from(simulation.heap.rate() >= 4_096.0);
            sum += simulation.estimate();
            truth += simulation.truth();
        }
        assert!(doublings > 0, "{bytes}: the table was never full");
        // A thousand samples or half of that in each trial: 5 standard deviations of all together.
        let error = (sum / truth - 1.0).abs();
        assert!(
            error < 5.0 / (TRIALS as f64 * 400.0).sqrt(),
            "{bytes}: {error}"
        );
    }
}

#[test]
fn what_takes_the_place_of_a_block_that_was_freed_unseen_replaces_it() {
    let mut heap = Heap::new(SMALL, Some(1.0), 0, 0);
    for code in [2, 3] {
        let hit = Hit {
            address: 0xf_0000_0000,
            bytes: 4_096,
            rate: 1.0,
            thread_id: 1,
            now_ns: 0,
        };
        heap.record(&hit, &Standing::at(&[code]), || 0);
        assert_eq!(heap.live.len(), 1);
    }
    let live: u32 = heap
        .sites
        .iter()
        .flat_map(|sites| sites.all())
        .map(|site| site.live)
        .sum();
    assert_eq!(live, 1);
    // Nor does what was not freed after all count twice.
    let taken = heap.take(0xf_0000_0000);
    assert!(heap.live.is_empty());
    if let Some(taken) = taken {
        heap.put_back(taken);
    }
    assert_eq!(heap.live.len(), 1);
    heap.end();
    assert!(heap.live.is_empty() && !heap.is_on());
}

#[test]
fn stacks_that_nobody_needs_make_room_for_others() {
    let mut simulation = Simulation::new(SMALL, 1.0, 3_000);
    let kept = simulation.allocate(5_000, 2);
    for code in 3..150 {
        let address = simulation.allocate(5_000, code);
        simulation.free(address);
    }
    let before = simulation.profile();
    // One of them has something in use as well.
    assert_eq!(before.samples.len(), 148 + 1);
    simulation.heap.compact();
    let after = simulation.profile();
    // The one that lives, with all that was ever allocated there.
    assert_eq!(after.samples.len(), 1 + 1);
    assert_eq!(after.totals(), [1, 5_000, 1, 5_000]);
    assert_eq!(names(&after), ["f1", "f2"]);
    // It is known when it comes again, and new ones are.
    simulation.allocate(5_000, 2);
    simulation.allocate(5_000, 500);
    let more = simulation.profile();
    assert_eq!(names(&more), ["f1", "f2", "f500"]);
    assert_eq!(more.totals(), [3, 15_000, 3, 15_000]);
    simulation.free(kept);
    assert_eq!(simulation.profile().totals()[3], 10_000);
}

#[test]
fn a_window_that_has_not_ended_keeps_what_was_allocated_in_it() {
    let mut simulation = Simulation::new(SMALL, 1.0, 3_001);
    let begin = |heap: &mut Heap| heap.sites.as_mut().map(super::sites::Sites::begin);
    let old = simulation.allocate(5_000, 2);
    simulation.free(old);
    let epoch = begin(&mut simulation.heap);
    for code in 3..160 {
        let address = simulation.allocate(5_000, code);
        simulation.free(address);
    }
    simulation.heap.compact();
    assert_eq!(simulation.profile().samples.len(), 157);
    if let Some((sites, epoch)) = simulation.heap.sites.as_mut().zip(epoch) {
        sites.end(epoch);
    }
    simulation.heap.compact();
    assert!(simulation.profile().samples.is_empty());
}

#[test]
fn tables_are_bounded_and_say_so() {
    let limits = HeapLimits {
        live: 10_000,
        ..SMALL
    };
    let mut simulation = Simulation::new(limits, 1.0, 3_002);
    for code in 2..2_000 {
        simulation.allocate(2_000, code);
    }
    let profile = simulation.profile();
    // What was allocated there, and what is in use.
    assert!(profile.samples.len() <= 2 * SMALL.sites);
    assert_eq!(names(&profile)[0], "<overflow>");
    assert!(simulation.heap.figures().overflowed > 0);
    // Nothing is lost of the sums.
    assert_eq!(profile.totals()[1], 1_998 * 2_000);
}

#[test]
fn stacks_are_worth_more_than_labels() {
    let mut heap = Heap::new(SMALL, Some(1.0), 0, 0);
    let mut next = 0xc_0000_0000;
    let mut record = |heap: &mut Heap, code: usize, user: usize| {
        let labels = [(Arc::from("user"), Arc::from(user.to_string()))];
        let look = Standing {
            said: (ActiveLabels::encode(&labels), 0, 0),
            ..Standing::at(&[code])
        };
        next += 16;
        let hit = Hit {
            address: next,
            bytes: 4_096,
            rate: 1.0,
            thread_id: 1,
            now_ns: 0,
        };
        heap.record(&hit, &look, || 0);
    };
    for user in 0..SMALL.sites {
        record(&mut heap, 2, user);
    }
    for code in 3..50 {
        record(&mut heap, code, 1_000);
    }
    heap.compact();
    let simulation = Simulation {
        heap,
        ..Simulation::new(SMALL, 1.0, 3_005)
    };
    let profile = simulation.profile();
    assert!(!names(&profile).contains(&"<overflow>".to_owned()));
    assert_eq!(names(&profile).len(), 48);
    let users = |value: &str| {
        let is_it = |label: &Label| label.value == LabelValue::Text(Arc::from(value));
        profile.label_sets.iter().any(|set| set.iter().any(is_it))
    };
    assert!(users("3") && users("<other>") && !users("1000"));
    assert!(simulation.heap.figures().left_out > 0);
}

#[test]
fn what_a_request_allocated_is_known_after_places_were_given_to_others() {
    let mut heap = Heap::new(SMALL, Some(1.0), 0, 0);
    let labels = [(Arc::from("route"), Arc::from("/a"))];
    for code in 0..160 {
        let look = Standing {
            said: (ActiveLabels::encode(&labels), 1 + (code as u64 & 1), 0),
            ..Standing::at(&[code + 2])
        };
        let hit = Hit {
            address: 0xb_0000_0000 + code * 16,
            bytes: 4_096,
            rate: 1.0,
            thread_id: 1,
            now_ns: 0,
        };
        heap.record(&hit, &look, || 0);
        heap.take(hit.address);
    }
    heap.compact();
    let own = heap.requests.of(1, 1);
    let sum: f64 = own.sites.iter().map(|site| site.bytes).sum();
    assert!(own.is_whole && (sum - 80.0 * 4_096.0).abs() < 1e-3);
    let tree = heap.stacks.copy();
    for site in own.sites {
        assert_eq!(tree.path(site.node).count(), 1);
        let said = &heap.said.read()[site.labels as usize];
        assert_eq!(said.set.len(), 1);
    }
}

#[test]
fn what_is_not_known_of_a_stack_is_said() {
    let mut heap = Heap::new(SMALL, Some(1.0), 0, 0);
    let cut = Standing {
        is_cut: true,
        ..Standing::at(&[2])
    };
    for (number, look) in [Standing::default(), cut].iter().enumerate() {
        let hit = Hit {
            address: 0xe_0000_0000 + number * 16,
            bytes: 4_096,
            rate: 1.0,
            thread_id: 1,
            now_ns: 0,
        };
        heap.record(&hit, look, || 0);
    }
    let simulation = Simulation {
        heap,
        ..Simulation::new(SMALL, 1.0, 3_003)
    };
    let profile = simulation.profile();
    assert_eq!(names(&profile), ["<incomplete>", "<no Python frame>", "f2"]);
}

#[test]
fn a_code_object_at_the_address_of_a_dead_one_is_another() {
    let mut heap = Heap::new(SMALL, Some(1.0), 0, 0);
    struct Renamed(&'static str);
    impl Look for Renamed {
        fn walk(&self, frames: &mut Vec<HeapFrame>) -> bool {
            frames.push(HeapFrame {
                code: 0xabc_def0,
                instruction: 1,
            });
            true
        }
        fn learn(&self, _: usize, texts: &mut Texts) -> Option<Code> {
            let name = texts.put(self.0.as_bytes(), 1)?;
            Some(Code {
                name,
                ..Code::default()
            })
        }
        fn line(&self, _: usize, _: usize) -> u32 {
            1
        }
    }
    let mut record = |number: usize, name| {
        let hit = Hit {
            address: 0xd_0000_0000 + number * 16,
            bytes: 4_096,
            rate: 1.0,
            thread_id: 1,
            now_ns: 0,
        };
        heap.record(&hit, &Renamed(name), || 0);
    };
    record(0, "first");
    record(1, "first, for it is known");
    super::stacks::end_death(super::stacks::note_death(0xabc_def0));
    record(2, "second");
    let simulation = Simulation {
        heap,
        ..Simulation::new(SMALL, 1.0, 3_004)
    };
    let profile = simulation.profile();
    assert_eq!(names(&profile), ["first", "second"]);
    assert_eq!(profile.totals()[2], 3);
}
