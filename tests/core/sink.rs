#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rprof::sink::Sink;
use rprof::sink::file::{FileConfig, FileSink, write_file};

fn config(output: impl AsRef<Path>) -> FileConfig {
    FileConfig {
        output: output.as_ref().to_owned(),
        program: "app".to_owned(),
        pid: std::process::id(),
        keep_files: 3,
        keep_bytes: 1 << 30,
        start_unix_ns: 0,
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn files_and_directories_are_private() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("a/b");
    let path = FileSink::open(config(&output))
        .unwrap()
        .write(b"x")
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"x");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(&output).unwrap().permissions().mode() & 0o077,
        0
    );
    assert_eq!(names(&output).len(), 1);
}

#[test]
fn the_oldest_files_go() {
    let scratch = tempfile::tempdir().unwrap();
    let dead = "app-999999999-20200101T000000Z-00000";
    for seq in 1..=6 {
        fs::write(scratch.path().join(format!("{dead}{seq}.pb.gz")), b"old").unwrap();
    }
    fs::write(scratch.path().join("notes.txt"), b"mine").unwrap();
    fs::write(
        scratch
            .path()
            .join("other-999999999-20200101T000000Z-000001.pb.gz"),
        b"",
    )
    .unwrap();
    let mut sink = FileSink::open(config(scratch.path())).unwrap();
    for _ in 0..5 {
        sink.write(b"new").unwrap();
    }
    let left = names(scratch.path());
    assert_eq!(left.iter().filter(|name| name.starts_with(dead)).count(), 3);
    assert!(left.contains(&"notes.txt".to_owned()));
    assert!(left.iter().any(|name| name.starts_with("other-")));
    let kept: Vec<_> = sink.kept().iter().map(|path| path.exists()).collect();
    assert_eq!(kept, [true; 3]);
}

#[test]
fn bytes_are_bounded_but_the_newest_stays() {
    let scratch = tempfile::tempdir().unwrap();
    let small = FileConfig {
        keep_bytes: 25,
        keep_files: 100,
        ..config(scratch.path())
    };
    let mut sink = FileSink::open(small).unwrap();
    for _ in 0..5 {
        sink.write(&[0; 10]).unwrap();
    }
    assert_eq!(names(scratch.path()).len(), 2);
    sink.write(&[0; 100]).unwrap();
    assert_eq!(names(scratch.path()).len(), 1);
}

#[test]
fn a_file_output_is_rewritten_and_patterns_count() {
    let scratch = tempfile::tempdir().unwrap();
    let mut single = FileSink::open(config(scratch.path().join("one.pb.gz"))).unwrap();
    single.write(b"1").unwrap();
    single.write(b"2").unwrap();
    assert_eq!(fs::read(scratch.path().join("one.pb.gz")).unwrap(), b"2");
    let mut several = FileSink::open(config(scratch.path().join("p-{seq}.pb.gz"))).unwrap();
    for _ in 0..5 {
        several.write(b"x").unwrap();
    }
    let expected = [
        "one.pb.gz",
        "p-000003.pb.gz",
        "p-000004.pb.gz",
        "p-000005.pb.gz",
    ];
    assert_eq!(names(scratch.path()), expected);
}

#[test]
fn a_deleted_directory_comes_back() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("gone");
    let mut sink = FileSink::open(config(&output)).unwrap();
    sink.write(b"1").unwrap();
    fs::remove_dir_all(&output).unwrap();
    let path = sink.write(b"2").unwrap();
    assert_eq!(fs::read(path).unwrap(), b"2");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("file"), b"").unwrap();
    let message = FileSink::open(config(scratch.path().join("file/below")))
        .err()
        .map(|error| error.to_string());
    assert!(message.is_some_and(|text| text.contains("file/below")));
    let unknown = FileSink::open(config(scratch.path().join("{host}.pb.gz")));
    assert!(unknown.is_err_and(|error| error.to_string().contains("{host}")));
}

#[test]
fn a_planted_link_is_replaced_not_followed() {
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("precious");
    fs::write(&target, b"precious").unwrap();
    let name = scratch.path().join("one.pb.gz");
    symlink(&target, &name).unwrap();
    write_file(&name, b"profile").unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert!(fs::symlink_metadata(&name).unwrap().is_file());
}

#[test]
fn left_overs_of_the_dead_are_removed_but_not_of_the_living() {
    let scratch = tempfile::tempdir().unwrap();
    let dead = scratch.path().join(".rprof-1-0-0.tmp");
    let live = scratch.path().join(".rprof-2-0-0.tmp");
    fs::write(&dead, b"half").unwrap();
    let writing = fs::File::create(&live).unwrap();
    rustix::fs::flock(&writing, rustix::fs::FlockOperation::LockExclusive).unwrap();
    FileSink::open(config(scratch.path())).unwrap();
    assert!(!dead.exists() && live.exists());
}
