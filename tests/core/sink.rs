#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rprof::sink::directory::Directory;
use rprof::sink::file::{
    FileConfig, FileSink, Names, read_file, write_file, write_file_making_directory,
    write_new_file, write_output,
};
use rprof::sink::file_name::{Fields, HEAP_SUFFIX, SUFFIX};
use rprof::sink::growing_file::GrowingFile;
use rprof::sink::{Receipt, Sink};

fn config(output: impl AsRef<Path>) -> FileConfig {
    FileConfig {
        output: output.as_ref().to_owned(),
        program: "app".to_owned(),
        pid: std::process::id(),
        keep_files: 3,
        keep_bytes: 1 << 30,
        start_unix_ns: 0,
        suffix: SUFFIX,
        window_ns: 0,
    }
}

#[test]
fn heaps_beside_windows_are_kept_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let mut windows = FileSink::open(config(directory.path())).unwrap();
    let heap = FileConfig {
        suffix: HEAP_SUFFIX,
        ..config(directory.path())
    };
    let mut heaps = FileSink::open(heap).unwrap();
    for number in 0..5_u8 {
        windows.write(&[number]).unwrap();
        heaps.write(&[number]).unwrap();
    }
    let names = names(directory.path());
    let (heaps, windows): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| name.ends_with(HEAP_SUFFIX));
    assert_eq!((windows.len(), heaps.len()), (3, 3));
    for (window, heap) in windows.iter().zip(heaps) {
        assert_eq!(window.strip_suffix(SUFFIX), heap.strip_suffix(HEAP_SUFFIX));
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
fn recordings_of_one_second_do_not_overwrite_each_other() {
    let scratch = tempfile::tempdir().unwrap();
    let mut paths: Vec<_> = (0..2)
        .map(|_| FileSink::open(config(scratch.path())).unwrap())
        .flat_map(|mut sink| [sink.write(b"1").unwrap(), sink.write(b"2").unwrap()])
        .collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 4);
    assert_eq!(names(scratch.path()).len(), 3, "keep_files is 3");
}

fn is_there(receipt: &Receipt) -> bool {
    receipt.path().is_some_and(Path::exists)
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
    let kept: Vec<_> = sink.kept().iter().map(is_there).collect();
    assert_eq!(kept, [true; 3]);
}

#[test]
fn a_clock_that_is_set_back_does_not_make_new_files_old() {
    let scratch = tempfile::tempdir().unwrap();
    let mut sink = FileSink::open(config(scratch.path())).unwrap();
    let paths: Vec<_> = (1..=6_u64)
        .map(|turn| {
            let path = sink.write(b"new").unwrap();
            // Each seems to have been written an hour before the one before it.
            let when = std::time::SystemTime::now() - std::time::Duration::from_secs(3600 * turn);
            fs::File::open(&path).unwrap().set_modified(when).unwrap();
            path
        })
        .collect();
    let left: Vec<_> = paths.iter().map(|path| path.exists()).collect();
    assert_eq!(left, [false, false, false, true, true, true]);
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
fn bytes_are_bounded_over_all_processes_of_the_program() {
    let scratch = tempfile::tempdir().unwrap();
    // Process 1 is always there.
    let living = "app-1-20200101T000000Z-00000";
    for seq in 1..=5 {
        fs::write(
            scratch.path().join(format!("{living}{seq}.pb.gz")),
            [0; 100],
        )
        .unwrap();
    }
    let small = FileConfig {
        keep_bytes: 250,
        ..config(scratch.path())
    };
    let path = FileSink::open(small).unwrap().write(&[0; 100]).unwrap();
    let left = names(scratch.path());
    assert!(path.exists() && left.len() == 2, "{left:?}");
    assert!(left.contains(&format!("{living}5.pb.gz")), "{left:?}");
}

#[test]
fn what_goes_by_count_does_not_count_in_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let dead = "app-999999999-20200101T000000Z-00000";
    fs::write(scratch.path().join(format!("{dead}1.pb.gz")), [0; 10]).unwrap();
    let one = FileConfig {
        keep_files: 1,
        keep_bytes: 25,
        ..config(scratch.path())
    };
    let mut sink = FileSink::open(one).unwrap();
    for _ in 0..4 {
        sink.write(&[0; 10]).unwrap();
    }
    let left = names(scratch.path());
    assert!(
        left.len() == 2 && left[1].starts_with(dead) || left[0].starts_with(dead),
        "{left:?}"
    );
}

#[test]
fn the_umask_does_not_matter() {
    use rustix::fs::Mode;

    let scratch = tempfile::tempdir().unwrap();
    for (number, mask) in [0, 0o077].into_iter().enumerate() {
        let before = rustix::process::umask(Mode::from_raw_mode(mask));
        let path = FileSink::open(config(scratch.path().join(number.to_string())))
            .and_then(|mut sink| sink.write(b"x"));
        rustix::process::umask(before);
        let path = path.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a directory away.
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(12_345), None).unwrap();
    let message = FileSink::open(config(scratch.path()))
        .err()
        .map(|error| error.to_string());
    assert!(message.is_some_and(|text| text.contains("12345")));
}

#[test]
fn a_directory_that_takes_no_files_is_named_at_once() {
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere.
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("locked");
    fs::create_dir(&output).unwrap();
    fs::set_permissions(&output, fs::Permissions::from_mode(0o500)).unwrap();
    let message = FileSink::open(config(&output))
        .err()
        .map(|error| error.to_string());
    assert!(message.is_some_and(|text| text.contains("locked")));
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
fn a_file_brings_its_directory_and_can_be_read_back() {
    let scratch = tempfile::tempdir().unwrap();
    let name = scratch.path().join("a/b/one.pb.gz");
    write_file(&name, b"profile").unwrap_err();
    for bytes in [b"profile".as_slice(), b""] {
        write_file_making_directory(&name, bytes).unwrap();
        assert_eq!(read_file(&name, 7).unwrap(), bytes);
    }
    assert_eq!(names(name.parent().unwrap()), ["one.pb.gz"]);
    write_file_making_directory(&name, b"profiles").unwrap();
    let told = read_file(&name, 7).unwrap_err().to_string();
    assert!(told.contains("one.pb.gz") && told.contains("more than 7 bytes"));
    let told = read_file(&name.join("two"), 7).unwrap_err().to_string();
    assert!(told.starts_with("cannot read ") && told.contains("two: "));
    // Below what is no directory.
    write_file_making_directory(&name.join("two"), b"profile").unwrap_err();
}

#[test]
fn left_overs_of_the_dead_are_removed_but_not_of_the_living() {
    let scratch = tempfile::tempdir().unwrap();
    let dead = scratch.path().join(".rprof-1-0-0.tmp");
    let live = scratch.path().join(".rprof-2-0-0.tmp");
    fs::write(&dead, b"half").unwrap();
    let writing = fs::File::create(&live).unwrap();
    rustix::fs::fcntl_lock(&writing, rustix::fs::FlockOperation::LockExclusive).unwrap();
    FileSink::open(config(scratch.path())).unwrap();
    assert!(!dead.exists() && live.exists());
}

#[test]
fn a_file_in_the_making_is_no_left_over() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::create(scratch.path()).unwrap();
    let over = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    directory.remove_leftovers();
                }
            });
        }
        let written: Vec<_> = (0..1_000)
            .map(|_| directory.write("a.pb.gz", b"x"))
            .collect();
        over.store(true, Ordering::Relaxed);
        written
    });
    for outcome in written {
        outcome.unwrap();
    }
    assert_eq!(names(scratch.path()), ["a.pb.gz"]);
}

const FIELDS: Fields<'_> = Fields {
    program: "app",
    pid: 2,
    start_unix_ns: 0,
    seq: 1,
};

#[test]
fn a_name_is_given_away_once_to_whoever_asks_at_the_same_time() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("report-{seq}.pb.gz");
    let numbers = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..25)
                        .map(|_| {
                            write_output(&output, &FIELDS, Names::default(), b"x")
                                .unwrap()
                                .1
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut numbers: Vec<u64> = writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    });
    assert_eq!(names(scratch.path()).len(), 200);
    let mut different = numbers.clone();
    different.dedup();
    assert_eq!(different, numbers);
}

#[test]
fn only_what_is_its_own_is_replaced() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("app-{pid}.pb.gz");
    let write = |own: Option<&Path>, bytes: &[u8]| {
        let names = Names { own, after: 0 };
        write_output(&output, &FIELDS, names, bytes).unwrap().0
    };
    let first = write(None, b"1");
    let second = write(None, b"2");
    assert_eq!(write(Some(&second), b"3"), second);
    assert!(first.ends_with("app-2.pb.gz") && second.ends_with("app-2-2.pb.gz"));
    assert_eq!(fs::read(&first).unwrap(), b"1");
    assert_eq!(fs::read(&second).unwrap(), b"3");
    assert!(
        write_new_file(&first, b"4")
            .unwrap()
            .ends_with("app-2-3.pb.gz")
    );
    for (replaces, left) in [(false, b"1"), (true, b"9")] {
        let mut growing = GrowingFile::new(first.clone(), replaces);
        let path = growing.write(b"8").unwrap();
        assert_eq!(growing.write(b"9").unwrap(), path);
        assert_eq!(fs::read(path).unwrap(), b"9");
        assert_eq!(fs::read(&first).unwrap(), left);
    }
}

#[test]
fn who_writes_with_the_same_process_id_keeps_its_own_files() {
    let scratch = tempfile::tempdir().unwrap();
    // Of another container, whose processes cannot be seen from here.
    let ids = [std::process::id(), 999_999_999];
    let now = std::time::SystemTime::now();
    let file_of = |id: u32, start: &str, seq: u32, age: u64| {
        let name = format!("app-{id}-{start}-{seq:06}.pb.gz");
        let path = scratch.path().join(name);
        fs::write(&path, b"theirs").unwrap();
        let written = now - std::time::Duration::from_secs(age);
        fs::File::open(&path)
            .unwrap()
            .set_modified(written)
            .unwrap();
        path
    };
    let living: Vec<_> = ids
        .iter()
        .flat_map(|id| {
            (0..6).map(|seq| file_of(*id, "20260101T000000Z", seq, 600 - 100 * u64::from(seq)))
        })
        .collect();
    let dead: Vec<_> = ids
        .iter()
        .flat_map(|id| {
            (0..4).map(|seq| file_of(*id, "20250101T000000Z", seq, 9_000 - u64::from(seq)))
        })
        .collect();
    let minute = FileConfig {
        window_ns: 60_000_000_000,
        ..config(scratch.path())
    };
    let mut sink = FileSink::open(minute).unwrap();
    for _ in 0..6 {
        sink.write(b"ours").unwrap();
    }
    assert!(living.iter().all(|path| path.exists()));
    assert_eq!(dead.iter().filter(|path| path.exists()).count(), 3);
    assert_eq!(sink.kept().len(), 3);
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_may_have_a_name_that_is_not_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch
        .path()
        .join(std::ffi::OsStr::from_bytes(b"pr\xfcf {x}"));
    FileSink::open(config(&directory))
        .unwrap()
        .write(b"1")
        .unwrap();
    let output = directory.join("{program}-{seq}.pb.gz");
    let (path, seq) = write_output(&output, &FIELDS, Names::default(), b"2").unwrap();
    assert_eq!((path, seq), (directory.join("app-000001.pb.gz"), 1));
    assert_eq!(names(&directory).len(), 2);
}
