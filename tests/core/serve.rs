use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rprof::serve::address::{Address, SocketFile};
use rprof::serve::gate::{Gate, MAX_CONNECTIONS};
use rprof::serve::query::Query;

#[test]
fn addresses_are_read_and_shown() {
    for (text, shown, local) in [
        ("127.0.0.1:6060", "127.0.0.1:6060", true),
        ("localhost:0", "127.0.0.1:0", true),
        ("[::1]:80", "[::1]:80", true),
        ("0.0.0.0:6060", "0.0.0.0:6060", false),
        ("unix:/run/rprof.sock", "unix:/run/rprof.sock", true),
    ] {
        let address = Address::parse(text).unwrap();
        assert_eq!(address.to_string(), shown);
        assert_eq!(address.is_local(), local, "{text}");
    }
    for text in [
        "",
        "6060",
        "unix:rel",
        "example.org:80",
        "127.0.0.1:70000",
        "unix:",
    ] {
        assert!(
            Address::parse(text)
                .unwrap_err()
                .to_string()
                .contains("address=")
        );
    }
}

#[test]
fn a_socket_is_private_and_replaces_only_dead_ones() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("s");
    let (socket, listener) = SocketFile::bind(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        SocketFile::bind(&path)
            .unwrap_err()
            .to_string()
            .contains("another server")
    );
    drop(listener);
    let (socket_again, _listener) = SocketFile::bind(&path).unwrap();
    std::mem::forget(socket);
    drop(socket_again);
    assert!(!path.exists());
    fs::write(&path, "mine").unwrap();
    assert!(
        SocketFile::bind(&path)
            .unwrap_err()
            .to_string()
            .contains("no socket")
    );
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn the_oldest_that_waits_makes_room_and_the_served_stay() {
    let gate = Gate::default();
    let mut guests: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| gate.enter().unwrap())
        .collect();
    guests[0].is_served.store(true, Relaxed);
    guests.push(gate.enter().unwrap());
    // The gate has those that have their places.
    let has_place: Vec<bool> = guests
        .iter()
        .map(|guest| Arc::strong_count(guest) > 1)
        .collect();
    assert_eq!(has_place[..3], [true, false, true]);
    for guest in &guests {
        guest.is_served.store(true, Relaxed);
    }
    assert!(gate.enter().is_none());
    assert_eq!(gate.turned_away.load(Relaxed), 2);
    gate.leave(&guests[2]);
    assert!(gate.enter().is_some());
}

#[test]
fn numbers_are_held_to_their_range() {
    let query = Query::parse("seconds=5&rate=nan&x=%41+b&seconds=9");
    assert_eq!(query.number("seconds", 30.0, 0.01, 300.0), Ok(5.0));
    assert_eq!(query.number("other", 30.0, 0.01, 300.0), Ok(30.0));
    assert!(query.number("rate", 1.0, 0.0, 10.0).is_err());
    assert_eq!(query.text("x"), Some("A b"));
    for text in ["-1", "1e9", "inf", "", "five", "0"] {
        let query = Query::parse(&format!("seconds={text}"));
        let error = query.number("seconds", 1.0, 0.01, 300.0).unwrap_err();
        assert!(error.contains("0.01 to 300"), "{error}");
    }
}
