//! The table of greenlets, against lists.

use rustc_hash::FxHashMap;

use super::{GreenletTable, LEAST_PLACES, MAX_GREENLETS, SHARDS};

fn random() -> impl FnMut() -> u64 {
    let mut state = 7_u64;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }
}

fn address(number: usize) -> usize {
    0x7f00_0000_0000 + number * 48
}

fn places(table: &GreenletTable) -> usize {
    table.shards.iter().map(|shard| shard.places().len()).sum()
}

#[test]
fn what_goes_is_gone_and_the_rest_is_found() {
    let table = GreenletTable::new();
    let mut random = random();
    let mut alive = Vec::new();
    for round in 0..200_000 {
        if alive.len() < 3 || random() % 100 < if round < 100_000 { 60 } else { 40 } {
            table.insert(address(round));
            table.insert(address(round));
            alive.push(round);
        } else {
            let at = random() as usize % alive.len();
            let gone = alive.swap_remove(at);
            table.remove(address(gone));
            assert!(!table.contains(address(gone)));
        }
    }
    assert_eq!(table.len(), alive.len());
    assert!(alive.iter().all(|number| table.contains(address(*number))));
    let mut found = Vec::new();
    table.list(usize::MAX, &mut found);
    found.sort_unstable();
    let mut expected: Vec<usize> = alive.iter().map(|number| address(*number)).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    for gone in expected {
        table.remove(gone);
    }
    assert_eq!((table.len(), places(&table)), (0, SHARDS * LEAST_PLACES));
}

#[test]
fn what_finds_no_room_is_counted() {
    let table = GreenletTable::new();
    for number in 0..MAX_GREENLETS + MAX_GREENLETS / 8 {
        table.insert(address(number));
    }
    assert!(table.untold() >= MAX_GREENLETS / 8);
    assert_eq!(table.len(), MAX_GREENLETS + MAX_GREENLETS / 8);
    for number in 0..MAX_GREENLETS + MAX_GREENLETS / 8 {
        table.remove(address(number));
    }
    assert_eq!((table.len(), table.untold()), (0, 0));
}

#[test]
fn every_greenlet_is_drawn_as_often_as_any_other() {
    // Looked through, and left to chance.
    for (all, wanted, rounds) in [(20, 3, 4_000), (10_000, 10, 20_000)] {
        let table = GreenletTable::new();
        let mut random = random();
        for number in 0..all {
            table.insert(address(number));
        }
        let mut times = FxHashMap::default();
        let mut drawn = Vec::new();
        for _ in 0..rounds {
            let stands_for = table.draw(wanted, &mut random, &mut drawn);
            assert_eq!(stands_for, (all as u64, wanted as u64));
            for address in &drawn {
                *times.entry(*address).or_insert(0_usize) += 1;
            }
        }
        let expected = (rounds * wanted) as f64 / all as f64;
        // Of groups of ten, for each by itself is drawn a few times only.
        for group in (0..all).collect::<Vec<_>>().chunks(all / 10) {
            let sum: usize = group.iter().map(|number| times[&address(*number)]).sum();
            let ratio = sum as f64 / (expected * group.len() as f64);
            assert!((0.9..1.1).contains(&ratio), "{all}: {ratio}");
        }
    }
}

#[test]
fn few_are_drawn_all() {
    let table = GreenletTable::new();
    let mut drawn = Vec::new();
    assert_eq!(table.draw(10, &mut random(), &mut drawn), (0, 0));
    for number in 0..4 {
        table.insert(address(number));
    }
    assert_eq!(table.draw(10, &mut random(), &mut drawn), (4, 4));
    drawn.sort_unstable();
    assert_eq!(drawn, [0, 1, 2, 3].map(address));
}

#[test]
fn a_fork_leaves_one_thread() {
    let table = GreenletTable::new();
    table.note_thread(address(1), 11);
    table.note_thread(address(2), 12);
    assert_eq!(table.thread_id(address(1)), Some(11));
    assert_eq!(table.thread_id(address(3)), None);
    assert_eq!(table.thread_id(0), None);
    table.after_fork(address(2), 20);
    assert_eq!(table.thread_id(address(2)), Some(20));
    assert_eq!(table.thread_id(address(1)), None);
    table.forget_thread(address(2));
    assert_eq!(table.thread_id(address(2)), None);
}
