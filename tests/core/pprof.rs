use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use rprof::pprof::decode::decode;
use rprof::pprof::encode::{encode, encode_message};

use crate::support::{any_rows, meaning, profile, row};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again(rows in any_rows()) {
        let written = profile(&rows);
        let read = decode(&encode(&written).unwrap(), "x").unwrap();
        prop_assert_eq!(meaning(&read), meaning(&written));
        prop_assert_eq!(read.meta, written.meta.clone());
        prop_assert_eq!(read.sample_types, written.sample_types.clone());
        prop_assert_eq!(read.default_sample_type, written.default_sample_type);
    }

    #[test]
    fn equal_profiles_give_equal_bytes(rows in any_rows()) {
        prop_assert_eq!(encode(&profile(&rows)).unwrap(), encode(&profile(&rows)).unwrap());
    }

    #[test]
    fn reading_and_writing_settles(rows in any_rows()) {
        let once = decode(&encode_message(&profile(&rows)), "x").unwrap();
        let twice = decode(&encode_message(&once), "x").unwrap();
        prop_assert_eq!(encode_message(&once), encode_message(&twice));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        drop(decode(&bytes, "x"));
        drop(decode(&gzip(&bytes), "x"));
    }

    #[test]
    fn damaged_profiles_do_no_harm(
        rows in any_rows(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = encode_message(&profile(&rows));
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        drop(decode(&bytes, "x"));
    }
}

fn complaint(bytes: &[u8]) -> String {
    decode(bytes, "some/file").unwrap_err().to_string()
}

#[test]
fn what_is_no_profile_is_said_in_a_sentence() {
    let good = encode(&profile(&[row("a;b", 1, [1, 2, 3])])).unwrap();
    for (bytes, word) in [
        (Vec::new(), "empty"),
        (gzip(b""), "empty"),
        (vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0], "zstd"),
        (good[..good.len() - 20].to_vec(), "cut short"),
        (b"hello, this is a text file".to_vec(), "pprof"),
        (gzip(b"\x00\x01\x02"), "pprof"),
    ] {
        let message = complaint(&bytes);
        assert!(message.contains("some/file"), "{message}");
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_gzip_bomb_is_refused() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0_u8; 1 << 20];
    for _ in 0..300 {
        encoder.write_all(&zeros).unwrap();
    }
    let message = complaint(&encoder.finish().unwrap());
    assert!(message.contains("unpacks to more than"), "{message}");
}

#[test]
fn references_to_nothing_are_refused() {
    use prost::Message;
    use rprof::pprof::proto;

    let bytes = encode_message(&profile(&[row("a;b", 1, [1, 2, 3])]));
    let good = proto::Profile::decode(bytes.as_slice()).unwrap();
    type Damage = fn(&mut proto::Profile);
    let damages: [(Damage, &str); 8] = [
        (|wrong| wrong.sample[0].location_id[0] = 99, "location 99"),
        (
            |wrong| wrong.location[0].line[0].function_id = 98,
            "function 98",
        ),
        (|wrong| wrong.function[0].name = 97, "text 97"),
        (|wrong| wrong.function[0].name = -1, "text -1"),
        (|wrong| wrong.sample[0].value.truncate(1), "1 values"),
        (|wrong| wrong.sample_type.clear(), "sample types"),
        (
            |wrong| wrong.location[1].id = wrong.location[0].id,
            "two of location",
        ),
        (
            |wrong| wrong.function[1].id = wrong.function[0].id,
            "two of function",
        ),
    ];
    for (damage, word) in damages {
        let mut wrong = good.clone();
        damage(&mut wrong);
        let message = complaint(&wrong.encode_to_vec());
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn foreign_locations_are_read() {
    use prost::Message;
    use rprof::pprof::proto;
    use rprof::report::collapsed::collapsed;

    let strings = ["", "cpu", "ns", "inlined", "caller", "native"];
    let foreign = proto::Profile {
        sample_type: vec![proto::ValueType { r#type: 1, unit: 2 }],
        sample: vec![proto::Sample {
            location_id: vec![7, 8],
            value: vec![5],
            label: Vec::new(),
        }],
        location: vec![
            proto::Location {
                id: 7,
                line: vec![
                    proto::Line {
                        function_id: 1,
                        line: 3,
                    },
                    proto::Line {
                        function_id: 2,
                        line: 9,
                    },
                ],
                ..proto::Location::default()
            },
            proto::Location {
                id: 8,
                address: 0xbeef,
                ..proto::Location::default()
            },
        ],
        function: vec![
            proto::Function {
                id: 1,
                name: 3,
                ..proto::Function::default()
            },
            proto::Function {
                id: 2,
                name: 4,
                ..proto::Function::default()
            },
        ],
        string_table: strings
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect(),
        ..proto::Profile::default()
    };
    let read = decode(&foreign.encode_to_vec(), "x").unwrap();
    assert_eq!(collapsed(&read, 0), "0xbeef;caller;inlined 5\n");
    assert_eq!(&*read.default_sample_type, "cpu");
}

/// A profile with one function and whatever a test adds.
fn foreign() -> rprof::pprof::proto::Profile {
    use rprof::pprof::proto;

    proto::Profile {
        sample_type: vec![proto::ValueType { r#type: 1, unit: 2 }],
        function: vec![proto::Function {
            id: 1,
            name: 3,
            ..proto::Function::default()
        }],
        string_table: ["", "cpu", "ns", "f"]
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect(),
        ..proto::Profile::default()
    }
}

/// 300 KB that would stand for fifty million frames, each a node of its own.
#[test]
fn inlined_frames_do_not_multiply_without_bound() {
    use prost::Message;
    use rprof::pprof::proto;

    let mut wide = foreign();
    let line = proto::Line {
        function_id: 1,
        line: 1,
    };
    wide.location = (1..=1_001)
        .map(|id| proto::Location {
            id,
            line: vec![line; if id == 1 { 50_000 } else { 1 }],
            ..proto::Location::default()
        })
        .collect();
    wide.sample = (2..=1_001)
        .map(|id| proto::Sample {
            location_id: vec![1, id],
            value: vec![1],
            label: Vec::new(),
        })
        .collect();
    let message = complaint(&wide.encode_to_vec());
    assert!(message.contains("inlined frames"), "{message}");
}

/// Two bytes on disk are a struct of 72 in memory.
#[test]
fn tiny_entries_are_counted_before_they_are_made() {
    use prost::Message;

    for (entry, count) in [
        (vec![0x12, 0], 9_000_000),
        // A sample of a million empty labels.
        (
            [vec![0x12, 0x80, 0x89, 0x7a], [0x1a, 0].repeat(1_000_000)].concat(),
            40,
        ),
    ] {
        let bytes = [foreign().encode_to_vec(), entry.repeat(count)].concat();
        let message = complaint(&bytes);
        assert!(message.contains("more entries"), "{message}");
    }
}

/// Ids whose products with the constant of the crate's fast hasher differ in few bits: in a table
/// with that hasher each would walk past all others.
#[test]
fn ids_cannot_be_chosen_to_collide() {
    use prost::Message;
    use rprof::pprof::proto;

    let mut inverse = 1_u64;
    for _ in 0..6 {
        let error = 0xf135_7aea_2e62_a9c5_u64.wrapping_mul(inverse);
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(error));
    }
    let mut chosen = foreign();
    chosen.location = (1..=200_000_u64)
        .map(|number| proto::Location {
            id: number.wrapping_mul(inverse),
            ..proto::Location::default()
        })
        .collect();
    assert!(decode(&chosen.encode_to_vec(), "x").is_ok());
}
