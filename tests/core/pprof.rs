use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use rprof::fold::profile::Profile;
use rprof::model::measure::Column;
use rprof::pprof::decode::decode;
use rprof::pprof::encode::{encode, encode_message};

use crate::invariants::hold_for;
use crate::support::{any_rows, meaning, profile, row};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn the_names_of_before_are_read_as_those_of_now() {
    let mut old = profile(&[row("main", 1, [1, 10, 5])]);
    old.columns[2] = Column::new("gil-wait", "nanoseconds");
    old.default_sample_type = Arc::from("gil-wait");
    let names = |profile: &Profile| -> Vec<String> {
        let read = decode(&encode(profile).unwrap(), "x").unwrap();
        let kinds = read.columns.iter().map(|column| column.name().to_owned());
        kinds
            .chain([read.default_sample_type.to_string()])
            .collect()
    };
    // Another profiler's own affair.
    assert_eq!(names(&old), ["samples", "wall", "gil-wait", "gil-wait"]);
    old.meta.comments.push("rprof 0.1.0".to_owned());
    assert_eq!(names(&old), ["samples", "wall", "gil_wait", "gil_wait"]);
    let read = decode(&encode(&old).unwrap(), "x").unwrap();
    assert_eq!(read.column("gil-wait"), read.column("gil_wait"));
    assert_eq!(read.column("gil_wait"), Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again(rows in any_rows()) {
        let written = profile(&rows);
        let read = decode(&encode(&written).unwrap(), "x").unwrap();
        prop_assert_eq!(meaning(&read), meaning(&written));
        prop_assert_eq!(read.meta, written.meta.clone());
        prop_assert_eq!(read.columns, written.columns.clone());
        prop_assert_eq!(read.default_sample_type, written.default_sample_type);
    }

    #[test]
    fn equal_profiles_give_equal_bytes(rows in any_rows()) {
        let written = encode(&profile(&rows)).unwrap();
        prop_assert_eq!(&written, &encode(&profile(&rows)).unwrap());
        // In whatever order it was seen.
        let turned: Vec<_> = rows.into_iter().rev().collect();
        prop_assert_eq!(written, encode(&profile(&turned)).unwrap());
    }

    #[test]
    fn reading_and_writing_settles(rows in any_rows()) {
        let once = decode(&encode_message(&profile(&rows)), "x").unwrap();
        let twice = decode(&encode_message(&once), "x").unwrap();
        prop_assert_eq!(encode_message(&once), encode_message(&twice));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        hold_for(&bytes);
        hold_for(&gzip(&bytes));
    }

    #[test]
    fn profiles_keep_what_they_say(rows in any_rows()) {
        prop_assert!(hold_for(&encode_message(&profile(&rows))));
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
        hold_for(&bytes);
    }

    #[test]
    fn foreign_messages_do_no_harm(message in any_message()) {
        use prost::Message;

        hold_for(&message.encode_to_vec());
    }
}

/// A message whose references are mostly right: what random bytes hardly ever are.
fn any_message() -> impl Strategy<Value = rprof::pprof::proto::Profile> {
    use rprof::pprof::proto;

    let text = -1..6_i64;
    let id = 0..5_u64;
    let line =
        (id.clone(), -2..5_i64, -1..2_i64).prop_map(|(function_id, line, column)| proto::Line {
            function_id,
            line,
            column,
        });
    let address = prop_oneof![0..3_u64, any::<u64>()];
    let location = (
        (address.clone(), 0..4_u64, any::<bool>()),
        prop::collection::vec(line, 0..3),
    );
    let mapping = (address.clone(), address, text.clone(), text.clone()).prop_map(
        |(memory_start, memory_limit, filename, build_id)| proto::Mapping {
            memory_start,
            memory_limit,
            filename,
            build_id,
            ..proto::Mapping::default()
        },
    );
    let label = (text.clone(), text.clone(), any::<i64>(), text.clone()).prop_map(
        |(key, str, num, num_unit)| proto::Label {
            key,
            str,
            num,
            num_unit,
        },
    );
    let value = prop_oneof![-5..5_i64, any::<i64>()];
    let sample = (
        prop::collection::vec(id, 0..6),
        prop::collection::vec(value, 2),
        prop::collection::vec(label, 0..3),
    )
        .prop_map(|(location_id, value, label)| proto::Sample {
            location_id,
            value,
            label,
        });
    (
        prop::collection::vec(sample, 0..8),
        (
            prop::collection::vec(location, 4..5),
            prop::collection::vec(mapping, 0..3),
        ),
        prop::collection::vec((text.clone(), text.clone(), text.clone(), -2..9_i64), 4..5),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 4..6),
        (text.clone(), text, any::<i64>(), any::<i64>()),
    )
        .prop_map(
            |(sample, (locations, mappings), functions, strings, numbers)| {
                let (default_sample_type, comment, time_nanos, duration_nanos) = numbers;
                let string_table = std::iter::once(Vec::new()).chain(strings).collect();
                proto::Profile {
                    sample_type: (1..3)
                        .map(|text| proto::ValueType {
                            r#type: text,
                            unit: 3 - text,
                        })
                        .collect(),
                    sample,
                    location: (0..)
                        .zip(locations)
                        .map(
                            |(id, ((address, mapping_id, is_folded), line))| proto::Location {
                                id,
                                mapping_id,
                                address,
                                line,
                                is_folded,
                            },
                        )
                        .collect(),
                    mapping: (1..)
                        .zip(mappings)
                        .map(|(id, mapping)| proto::Mapping { id, ..mapping })
                        .collect(),
                    function: (0..)
                        .zip(functions)
                        .map(
                            |(id, (name, system_name, filename, start_line))| proto::Function {
                                id,
                                name,
                                system_name,
                                filename,
                                start_line,
                            },
                        )
                        .collect(),
                    string_table,
                    time_nanos,
                    duration_nanos,
                    comment: vec![comment],
                    default_sample_type,
                    ..proto::Profile::default()
                }
            },
        )
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

/// `begin`, then so many times `block`: gzip files one after the other are one file.
fn bomb(begin: &[u8], block: &[u8], times: usize) -> Vec<u8> {
    [gzip(begin), gzip(block).repeat(times)].concat()
}

/// An entry of the schema's `Profile` of any content.
fn entry(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    [&bytes, content].concat()
}

#[test]
fn gzip_bombs_are_refused() {
    use prost::Message;

    let begin = foreign().encode_to_vec();
    for (block, words) in [
        (vec![0; 1 << 20], "does not contain a pprof message"),
        // One and the same sample again and again.
        (entry(0x12, &[0; 1 << 20]), "unpacks to more than"),
        (entry(0x32, &[]).repeat(1 << 19), "more entries"),
        (entry(0x6a, &[0; 1 << 20]), "more entries"),
        // A location of half a million empty lines.
        (entry(0x22, &[0x22, 0].repeat(1 << 19)), "more entries"),
        (vec![0x32, 255, 255, 255, 1], "only a part"),
    ] {
        let message = complaint(&bomb(&begin, &block, 300));
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn other_formats_are_named() {
    let speedscope = br#"{"$schema":"https://www.speedscope.app/file-format-schema.json"}"#;
    let mut tar = vec![b'a'; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, words) in [
        (b"\x28\xb5\x2f\xfd\x04\x00".to_vec(), "zstd -d"),
        (b"\x04\x22\x4d\x18\x64\x40".to_vec(), "lz4 -d"),
        (b"\xfd7zXZ\0\0\x04".to_vec(), "xz -d"),
        (b"BZh91AY&SY".to_vec(), "bzip2 -d"),
        (b"PK\x03\x04\x14\0".to_vec(), "ZIP"),
        (gzip(&gzip(b"anything")), "twice"),
        (tar.clone(), "tar archive"),
        (gzip(&tar), "tar archive"),
        (speedscope.to_vec(), "speedscope"),
        (gzip(speedscope), "speedscope"),
        (b"{\"a\": 1}".to_vec(), "JSON"),
        (b"<!DOCTYPE html>\n<html></html>".to_vec(), "browser"),
        (b"main;f 3\nmain;g 4\n".to_vec(), "collapsed"),
        (b"import os\n".repeat(500), "it is text"),
        ("é".repeat(5000).into_bytes(), "it is text"),
        (b"\x7fELF\x02\x01\x01".to_vec(), "program"),
        (b"\xfb\xa9\x03z\x04a.py".to_vec(), "cProfile"),
        (b"\x0a\xff\xff\xff\xff\x0f".to_vec(), "only a part"),
    ] {
        let message = complaint(&bytes);
        assert!(message.contains(words), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn a_profile_cut_anywhere_is_refused_or_smaller() {
    let whole = profile(&[row("a;b", 1, [1, 2, 3]), row("a;c", 2, [4, 5, 6])]);
    let packed = encode(&whole).unwrap();
    for length in 0..packed.len() {
        assert!(complaint(&packed[..length]).starts_with("some/file cannot be read"));
    }
    let plain = encode_message(&whole);
    for length in 0..plain.len() {
        if let Ok(part) = decode(&plain[..length], "x") {
            assert!(part.samples.len() <= whole.samples.len());
        }
    }
}

#[test]
fn large_tables_that_compress_well_are_read() {
    let rows: Vec<_> = (0..60_000)
        .map(|number| {
            row(
                &format!("main;package.module.function_{number}"),
                1,
                [1, 2, 3],
            )
        })
        .collect();
    let limits = rprof::fold::window::Limits {
        max_nodes: 1_000_000,
        max_depth: 512,
    };
    let written = crate::support::build(&rows, limits).finish(Default::default());
    let read = decode(&encode(&written).unwrap(), "x").unwrap();
    assert_eq!(read.totals(), written.totals());
    assert_eq!(read.tree.len(), written.tree.len());
}

#[test]
fn fields_of_the_wrong_kind_are_refused() {
    use prost::Message;

    let good = foreign().encode_to_vec();
    for (field, words) in [
        // Numbers where messages belong, a message where a number belongs, a group.
        (&[0x10, 1][..], "only a part"),
        (&[0x30, 1], "only a part"),
        (&[0x4a, 1, 1], "only a part"),
        (&[0x13], "only a part"),
        // A key of number 0, an endless varint, and one of more than 64 bits.
        (&[0x02, 0], "only a part"),
        (&[0x48, 0x80], "only a part"),
        (
            &[0x48, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
            "pprof message",
        ),
        // A text of 8 MiB that is not there.
        (&[0x32, 0x80, 0x80, 0x80, 4], "only a part"),
    ] {
        let message = complaint(&[&good, field].concat());
        assert!(message.contains(words), "{field:?}: {message}");
    }
    // Unknown fields are skipped, whatever their wire type.
    let unknown = [
        0xa0, 6, 1, 0xa1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0xa5, 6, 0, 0, 0, 0,
    ];
    assert!(decode(&[&good[..], &unknown].concat(), "x").is_ok());
}

#[test]
fn the_default_sample_type_is_one_of_the_profile() {
    use prost::Message;

    let mut odd = foreign();
    odd.default_sample_type = 3;
    let read = decode(&odd.encode_to_vec(), "x").unwrap();
    assert_eq!(&*read.default_sample_type, "cpu");
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
                        ..proto::Line::default()
                    },
                    proto::Line {
                        function_id: 2,
                        line: 9,
                        ..proto::Line::default()
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
    assert_eq!(
        collapsed(&read, 0, true).unwrap(),
        "0xbeef;caller;inlined 5\n"
    );
    assert_eq!(&*read.default_sample_type, "cpu");
}

/// A profile of native code that has everything that one can have: two mappings, a location of
/// inlined functions, an outer one of them by itself, addresses without a function, columns.
fn native() -> rprof::pprof::proto::Profile {
    use rprof::pprof::proto;

    let strings = [
        "",
        "inuse_space",
        "bytes",
        "main",
        "inner",
        "outer",
        "_Zinner",
        "a.c",
        "/bin/app",
        "/lib/libfoo.so",
        "deadbeef",
        "space",
        "drop",
        "keep",
        "https://example.org",
        "size",
        "kilobytes",
        "events",
        "widgets",
    ];
    let at = |text: &str| {
        let at = strings.iter().position(|known| *known == text);
        i64::try_from(at.unwrap()).unwrap()
    };
    let value_type = |kind: &str, unit: &str| proto::ValueType {
        r#type: at(kind),
        unit: at(unit),
    };
    let function = |id: u64, name: &str, system_name: &str| proto::Function {
        id,
        name: at(name),
        system_name: at(system_name),
        filename: at("a.c"),
        start_line: 10,
    };
    let line = |function_id: u64, line: i64, column: i64| proto::Line {
        function_id,
        line,
        column,
    };
    let location =
        |id: u64, mapping_id: u64, address: u64, line: Vec<proto::Line>| proto::Location {
            id,
            mapping_id,
            address,
            line,
            is_folded: id == 4,
        };
    let sample = |location_id: &[u64], value: [i64; 2]| proto::Sample {
        location_id: location_id.to_vec(),
        value: value.to_vec(),
        label: vec![proto::Label {
            key: at("size"),
            num: 4,
            num_unit: at("kilobytes"),
            ..proto::Label::default()
        }],
    };
    proto::Profile {
        sample_type: vec![
            value_type("inuse_space", "bytes"),
            value_type("events", "widgets"),
        ],
        sample: vec![
            sample(&[1, 2], [5, 1]),
            sample(&[3, 2], [6, 0]),
            sample(&[4, 1, 2], [7, 0]),
            sample(&[5, 2], [8, 2]),
            sample(&[6], [0, 3]),
        ],
        mapping: vec![
            proto::Mapping {
                id: 3,
                memory_start: 0x40_0000,
                memory_limit: 0x50_0000,
                filename: at("/bin/app"),
                has_functions: true,
                has_inline_frames: true,
                ..proto::Mapping::default()
            },
            proto::Mapping {
                id: 1,
                memory_start: 0x7fff_0000_0000,
                memory_limit: 0x7fff_0001_0000,
                file_offset: 0x1000,
                filename: at("/lib/libfoo.so"),
                build_id: at("deadbeef"),
                ..proto::Mapping::default()
            },
        ],
        location: vec![
            location(1, 3, 0x40_1000, vec![line(2, 12, 3), line(3, 30, 7)]),
            location(2, 3, 0x40_2000, vec![line(1, 99, 0)]),
            // The same function at the same line, by itself.
            location(3, 3, 0x40_1000, vec![line(3, 30, 7)]),
            location(4, 1, 0x7fff_0000_0234, Vec::new()),
            location(5, 1, 0x7fff_0000_0234, Vec::new()),
            location(6, 0, 0xffff_ffff_8100_0000, Vec::new()),
        ],
        function: vec![
            function(1, "main", "main"),
            function(2, "inner", "_Zinner"),
            function(3, "outer", ""),
        ],
        string_table: strings.map(|text| text.as_bytes().to_vec()).to_vec(),
        drop_frames: at("drop"),
        keep_frames: at("keep"),
        time_nanos: 1_700_000_000_000_000_000,
        period_type: Some(value_type("space", "bytes")),
        period: 524_288,
        comment: vec![at("keep")],
        default_sample_type: at("inuse_space"),
        doc_url: at("https://example.org"),
        ..proto::Profile::default()
    }
}

/// What a message says, without its ids and the order of its tables.
fn said(message: &rprof::pprof::proto::Profile) -> Vec<String> {
    let text = |at: i64| {
        let at = usize::try_from(at).unwrap();
        String::from_utf8(message.string_table[at].clone()).unwrap()
    };
    let kind = |kind: &rprof::pprof::proto::ValueType| (text(kind.r#type), text(kind.unit));
    let mapping = |id: u64| {
        let found = message.mapping.iter().find(|mapping| mapping.id == id);
        found.map(|mapping| {
            let known = [mapping.has_functions, mapping.has_inline_frames];
            let range = (
                mapping.memory_start,
                mapping.memory_limit,
                mapping.file_offset,
            );
            (range, text(mapping.filename), text(mapping.build_id), known)
        })
    };
    let line = |line: &rprof::pprof::proto::Line| {
        let mut functions = message.function.iter();
        let function = functions
            .find(|known| known.id == line.function_id)
            .unwrap();
        let names = [function.name, function.system_name, function.filename].map(text);
        (names, function.start_line, line.line, line.column)
    };
    let location = |id: &u64| {
        let mut locations = message.location.iter();
        let location = locations.find(|known| known.id == *id).unwrap();
        let lines: Vec<_> = location.line.iter().map(line).collect();
        let place = (mapping(location.mapping_id), location.address);
        (place, lines, location.is_folded)
    };
    let samples = message.sample.iter().map(|sample| {
        let stack: Vec<_> = sample.location_id.iter().map(location).collect();
        let labels = sample.label.iter();
        let labels: Vec<_> = labels
            .map(|label| {
                (
                    text(label.key),
                    text(label.str),
                    label.num,
                    text(label.num_unit),
                )
            })
            .collect();
        format!("{stack:?} {:?} {labels:?}", sample.value)
    });
    let mut said: Vec<String> = samples.collect();
    said.sort();
    let mappings: Vec<_> = message
        .mapping
        .iter()
        .map(|known| mapping(known.id))
        .collect();
    said.push(format!("{mappings:?}"));
    said.push(format!(
        "{:?}",
        message.sample_type.iter().map(kind).collect::<Vec<_>>()
    ));
    said.push(format!(
        "{:?} {}",
        message.period_type.iter().map(kind).collect::<Vec<_>>(),
        message.period
    ));
    let texts = [
        message.drop_frames,
        message.keep_frames,
        message.doc_url,
        message.default_sample_type,
    ];
    said.push(format!(
        "{:?} {:?}",
        texts.map(text),
        message
            .comment
            .iter()
            .map(|at| text(*at))
            .collect::<Vec<_>>()
    ));
    said.push(format!("{} {}", message.time_nanos, message.duration_nanos));
    said
}

#[test]
fn a_profile_of_native_code_loses_nothing() {
    use prost::Message;
    use rprof::fold::merge::merge;
    use rprof::fold::window::Limits;
    use rprof::pprof::proto;
    use rprof::report::collapsed::collapsed;

    let written = native();
    let read = decode(&written.encode_to_vec(), "x").unwrap();
    assert_eq!(
        collapsed(&read, 0, true).unwrap(),
        "main;libfoo.so+0x1234 8\nmain;outer 6\nmain;outer;inner 5\nmain;outer;inner;libfoo.so+0x1234 7\n"
    );
    assert_eq!(
        collapsed(&read, 1, true).unwrap().lines().next(),
        Some("0xffffffff81000000 3")
    );
    let merged = merge(&[&read], Limits::default()).unwrap();
    for profile in [&read, &merged] {
        let again = proto::Profile::decode(&*encode_message(profile)).unwrap();
        assert_eq!(said(&again), said(&written));
    }
    assert!(hold_for(&written.encode_to_vec()));
}

#[test]
fn mappings_of_several_profiles_stay_apart() {
    use prost::Message;
    use rprof::fold::merge::merge;
    use rprof::fold::window::Limits;
    use rprof::pprof::proto;

    let native = decode(&native().encode_to_vec(), "x").unwrap();
    let ours = profile(&[row("a;b", 1, [1, 2, 3])]);
    let files = |profiles: &[&rprof::fold::profile::Profile]| {
        let merged = merge(profiles, Limits::default()).unwrap();
        let message = proto::Profile::decode(&*encode_message(&merged)).unwrap();
        let text = |at: i64| {
            let at = usize::try_from(at).unwrap();
            String::from_utf8(message.string_table[at].clone()).unwrap()
        };
        let files: Vec<String> = message
            .mapping
            .iter()
            .map(|known| text(known.filename))
            .collect();
        // Which mapping each function's location is in.
        let mut found = Vec::new();
        for location in &message.location {
            for line in &location.line {
                let mut functions = message.function.iter();
                let function = functions
                    .find(|known| known.id == line.function_id)
                    .unwrap();
                found.push(format!("{} {}", text(function.name), location.mapping_id));
            }
        }
        found.sort();
        found.dedup();
        (files.join(" "), found.join(" "))
    };
    let (program, library) = ("/bin/app", "/lib/libfoo.so");
    assert_eq!(
        files(&[&ours, &native]),
        (
            format!("app {program} {library}"),
            "a 1 b 1 inner 2 main 2 outer 2".to_owned()
        )
    );
    assert_eq!(
        files(&[&native, &ours]),
        (
            format!("{program} {library} app"),
            "a 3 b 3 inner 1 main 1 outer 1".to_owned()
        )
    );
    // Of Python code alone there is one program, whatever others are called.
    let mut other = profile(&[row("a;b", 1, [1, 2, 3])]);
    other.symbols.mappings[0].file = Arc::from("another");
    assert_eq!(
        files(&[&ours, &other]),
        ("app".to_owned(), "a 1 b 1".to_owned())
    );
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
        ..proto::Line::default()
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

/// Two bytes on disk are many times that in memory.
#[test]
fn tiny_entries_are_counted_before_they_are_made() {
    use prost::Message;

    for (entry, count, words) in [
        (vec![0x12, 0], 1, "0 values"),
        (vec![0x2a, 0], 200_000, "more entries"),
        // A sample of a million empty labels.
        (
            [
                vec![0x12, 0x83, 0x89, 0x7a, 0x12, 1, 1],
                [0x1a, 0].repeat(1_000_000),
            ]
            .concat(),
            1,
            "more labels",
        ),
        (vec![0x0a, 0], 300, "more sample types"),
    ] {
        let bytes = [foreign().encode_to_vec(), entry.repeat(count)].concat();
        let message = complaint(&bytes);
        assert!(message.contains(words), "{message}");
    }
}

/// A few kilobytes that stand for a million nodes: one deep stack from ever another outermost frame.
#[test]
fn nodes_are_bounded_by_the_size_of_the_file() {
    use prost::Message;
    use rprof::pprof::proto;

    let mut deep = foreign();
    deep.location = (1..=200)
        .map(|id| proto::Location {
            id,
            address: id,
            ..proto::Location::default()
        })
        .collect();
    let begin = deep.encode_to_vec();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&begin).unwrap();
    for id in 1..=200 {
        let mut location_id = vec![1; 50_000];
        location_id.push(id);
        let one = proto::Profile {
            sample: vec![proto::Sample {
                location_id,
                value: vec![1],
                label: Vec::new(),
            }],
            ..proto::Profile::default()
        };
        encoder.write_all(&one.encode_to_vec()).unwrap();
    }
    let message = complaint(&encoder.finish().unwrap());
    assert!(message.contains("more different stacks"), "{message}");
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

/// A thread that was filtered out must not leave its name behind.
#[test]
fn labels_of_no_sample_are_not_written() {
    let both = profile(&[row("a", 1, [1, 1, 1]), row("a", 2, [1, 1, 1])]);
    let one = both.filtered(|labels| rprof::model::label::thread_of(labels).0 == 1);
    let bytes = encode_message(&one);
    assert!(bytes.windows(3).any(|text| text == b"\x02t1"));
    assert!(!bytes.windows(3).any(|text| text == b"\x02t2"));
    hold_for(&encode_message(&profile(&[
        row("a", 1, [0, 0, 0]),
        row("a", 2, [1, 1, 1]),
    ])));
}

/// What the fuzzer found worth keeping: each reaches code that the others do not.
#[test]
fn the_corpus_does_no_harm() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pprof");
    let mut accepted = 0;
    let mut refused = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if hold_for(&bytes) {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    assert!(accepted >= 10 && refused >= 10, "{accepted} {refused}");
}
