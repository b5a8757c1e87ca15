//! Some of all tasks, drawn by chance out of the sets in which asyncio keeps them (3.10-3.13).
//!
//! A set is a table with free places. Places are looked at by chance, so that it does not matter how many
//! tasks there are; what stands there is believed only if it is a task, or refers to one weakly.
#![forbid(unsafe_code)]

use rustc_hash::FxHashSet;

use super::greenlet_table::below;
use super::task_lists::SetHead;
use super::tasks::TaskReader;
use crate::layout::tasks::{Kind, LOWEST, SET_ENTRY};
use crate::memory::{Range, ReadMemory, read, word};

/// Up to so many places all are looked at, beyond it is left to chance.
const MAX_WHOLE: usize = 2_048;
/// Places, or runs of them, that are looked at by one copy.
const AT_ONCE: usize = 64;
/// Such copies until it is plain that most places are free.
const MAX_COPIES: usize = 4;
/// In such a set places that follow each other are looked at, so many at a time.
const RUN: usize = 64;
/// See [`RUN`].
const MAX_RUNS: usize = 256;
/// Draws until a set that grows all the time is given up.
const MAX_DRAWS: usize = 3;
/// Beside a key stands its hash; where one was taken away there is no such hash.
const TAKEN_AWAY: usize = usize::MAX;

const WORD: usize = size_of::<usize>();

/// Some of all tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrawnTasks {
    /// Their addresses.
    pub tasks: Vec<usize>,
    /// Each of them stands for so many, divided by [`Self::of`].
    pub all: u64,
    /// See [`Self::all`]; 0 if none was drawn.
    pub of: u64,
}

/// A generator of numbers by chance.
pub type Random<'own> = dyn FnMut() -> u64 + 'own;

impl TaskReader<'_> {
    /// Draws `wanted` of the tasks in a set, or all if they are not more. Tasks that have ended are not
    /// told from others here.
    pub fn draw_of_set(
        &mut self,
        set: usize,
        wanted: usize,
        random: &mut Random<'_>,
    ) -> DrawnTasks {
        let mut drawn = DrawnTasks::default();
        if self.kind_now(set) != Kind::Set {
            return drawn;
        }
        for _ in 0..MAX_DRAWS {
            let memory = self.memory.memory.memory();
            let Some(head) = SetHead::read(memory, set) else {
                break;
            };
            let keys = draw_keys(memory, head, wanted, random);
            let after = SetHead::read(memory, set);
            let is_same =
                after.is_some_and(|after| (after.mask, after.table) == (head.mask, head.table));
            let Some((keys, all, of)) = keys.filter(|_| is_same) else {
                continue;
            };
            drawn.all = all as u64;
            drawn.of = of as u64;
            self.add_tasks_of(&keys, &mut drawn.tasks);
            break;
        }
        drawn
    }
}

/// Keys of a set, and for how many each stands, as a fraction; `None` if there is no such table any more.
fn draw_keys(
    memory: &mut (dyn ReadMemory + '_),
    head: SetHead,
    wanted: usize,
    random: &mut Random<'_>,
) -> Option<(Vec<usize>, usize, usize)> {
    let places = head.mask + 1;
    let mut keys = Vec::new();
    if places <= MAX_WHOLE {
        let bytes = read(memory, head.table, places * SET_ENTRY)?;
        add_keys(bytes, &mut keys);
        let all = keys.len();
        choose(&mut keys, wanted, random);
        let of = keys.len();
        return Some((keys, all, of));
    }
    let mut seen = FxHashSet::default();
    for _ in 0..MAX_COPIES {
        let mut ranges = Vec::with_capacity(AT_ONCE);
        while ranges.len() < AT_ONCE {
            let place = below(random(), places);
            if seen.insert(place) {
                ranges.push(Range::new(
                    head.table.wrapping_add(place * SET_ENTRY),
                    SET_ENTRY,
                ));
            }
        }
        copy_keys(memory, &ranges, &mut keys)?;
        if keys.len() >= wanted {
            keys.truncate(wanted);
            return Some((keys, head.used, wanted));
        }
    }
    draw_of_few(memory, head, wanted, random)
}

/// The same of a set that has many places and few keys: each key stands for as many as there are places
/// for one that was looked at.
fn draw_of_few(
    memory: &mut (dyn ReadMemory + '_),
    head: SetHead,
    wanted: usize,
    random: &mut Random<'_>,
) -> Option<(Vec<usize>, usize, usize)> {
    let runs = (head.mask + 1) / RUN;
    // Tasks that were made one after the other stand near each other: the runs are spread evenly.
    let apart = (runs / MAX_RUNS).max(1);
    let mut chosen: Vec<usize> = (0..runs).step_by(apart).collect();
    for run in &mut chosen {
        *run += below(random(), apart);
    }
    let length = RUN * SET_ENTRY;
    let range = |run: &usize| Range::new(head.table.wrapping_add(run * length), length);
    let mut keys = Vec::new();
    for some in chosen.chunks(AT_ONCE) {
        let ranges: Vec<Range> = some.iter().map(range).collect();
        copy_keys(memory, &ranges, &mut keys)?;
    }
    let all = apart * keys.len();
    choose(&mut keys, wanted, random);
    let of = keys.len();
    Some((keys, all, of))
}

/// Adds the keys in these parts of a table.
fn copy_keys(
    memory: &mut (dyn ReadMemory + '_),
    ranges: &[Range],
    keys: &mut Vec<usize>,
) -> Option<()> {
    let whole = memory.read_batch(ranges);
    let length = ranges.iter().map(|range| range.length).sum();
    (whole == ranges.len()).then(|| add_keys(&memory.bytes()[..length], keys))
}

fn add_keys(entries: &[u8], keys: &mut Vec<usize>) {
    let entries = entries.chunks_exact(SET_ENTRY);
    let keyed = entries.filter(|entry| word(entry, WORD) != TAKEN_AWAY);
    let found = keyed.map(|entry| word(entry, 0));
    keys.extend(found.filter(|key| *key >= LOWEST));
}

/// Leaves `wanted` by chance, in an order by chance.
pub fn choose(keys: &mut Vec<usize>, wanted: usize, random: &mut Random<'_>) {
    let all = keys.len();
    for at in 0..wanted.min(all) {
        let other = at + below(random(), all - at);
        keys.swap(at, other);
    }
    keys.truncate(wanted);
}

#[cfg(test)]
mod tests {
    use super::{SET_ENTRY, SetHead, TAKEN_AWAY, draw_keys};
    use crate::memory::image::Image;

    const TABLE: usize = 0x10_0000;
    const WANTED: usize = 30;

    /// A table of so many places in which every n-th has a key, and those behind it once had one.
    fn table(places: usize, every: usize) -> (Image, SetHead) {
        let mut image = Image::default();
        let entries = (0..places).flat_map(|place| match place % every {
            0 => [0x5000 + place * 16, place],
            1 => [0x4000, TAKEN_AWAY],
            _ => [0, 0],
        });
        let bytes: Vec<u8> = entries.flat_map(usize::to_ne_bytes).collect();
        assert_eq!(bytes.len(), places * SET_ENTRY);
        image.insert(TABLE, bytes);
        let head = SetHead {
            used: places / every,
            mask: places - 1,
            table: TABLE,
        };
        (image, head)
    }

    fn chance() -> impl FnMut() -> u64 {
        let mut state = 1_u64;
        move || {
            state = state
                .wrapping_mul(0x5851_F42D_4C95_7F2D)
                .wrapping_add(0x1405_7B7E_F767_814F);
            state ^ state << 32
        }
    }

    /// However full the table is, each key is drawn as often as any other, and they stand for all.
    #[test]
    fn all_keys_are_drawn_alike() {
        let mut random = chance();
        for (places, every) in [
            (1_024, 4),
            (2_048, 512),
            (65_536, 4),
            (65_536, 2_048),
            (1 << 18, 8_192),
        ] {
            let (mut image, head) = table(places, every);
            let (mut sum, mut first_half) = (0.0, 0.0);
            const DRAWS: usize = 400;
            for _ in 0..DRAWS {
                let Some((keys, all, of)) = draw_keys(&mut image, head, WANTED, &mut random) else {
                    unreachable!("the table can be read")
                };
                assert!(keys.len() <= WANTED && keys.iter().all(|key| *key >= 0x5000));
                let each = if of == 0 { 0.0 } else { all as f64 / of as f64 };
                sum += each * keys.len() as f64;
                let middle = 0x5000 + places / 2 * 16;
                first_half += each * keys.iter().filter(|key| **key < middle).count() as f64;
            }
            let used = (head.used * DRAWS) as f64;
            assert!(
                (sum / used - 1.0).abs() < 0.1,
                "{places} {every}: {}",
                sum / used
            );
            assert!((first_half / used - 0.5).abs() < 0.1, "{places} {every}");
        }
    }

    #[test]
    fn a_table_that_was_given_back_tells_nothing() {
        let (_, head) = table(65_536, 4);
        let mut image = Image::default();
        assert_eq!(draw_keys(&mut image, head, WANTED, &mut chance()), None);
    }
}
