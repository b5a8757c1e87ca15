//! Hash tables whose keys others choose: names and labels of a file, or of a client.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_types)]

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// A map that nobody can slow down by keys that collide.
pub type KeyedMap<K, V> = HashMap<K, V, Keyed>;

/// A set that nobody can slow down by members that collide.
pub type KeyedSet<K> = HashSet<K, Keyed>;

/// Hashes by a key that nobody can foresee, the same in all of the process.
///
/// The standard library's `RandomState` cannot be had: where `getrandom` is refused it opens
/// `/dev/urandom` and remembers the descriptor for all threads (`sys/random/linux.rs`). A thread that
/// has descriptors of its own then reads what it has under that number itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keyed;

/// The key; 0 before it is needed.
static KEY: AtomicU64 = AtomicU64::new(0);

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut key = KEY.load(Relaxed);
        if key == 0 {
            // Of several threads at once the first decides.
            let new = random().unwrap_or_else(address_and_time) | 1;
            key = KEY
                .compare_exchange(0, new, Relaxed, Relaxed)
                .map_or_else(|other| other, |_| new);
        }
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(key);
        hasher
    }
}

/// A random number of the kernel's; `None` where that is refused.
#[cfg(unix)]
#[must_use]
pub fn random() -> Option<u64> {
    use rustix::rand::{GetRandomFlags, getrandom};
    let mut bytes = [0_u8; 8];
    let length = getrandom(&mut bytes, GetRandomFlags::NONBLOCK).ok()?;
    (length == bytes.len()).then(|| u64::from_ne_bytes(bytes))
}

/// There is none on this system.
#[cfg(not(unix))]
#[must_use]
pub fn random() -> Option<u64> {
    None
}

/// What is hard to foresee all the same: where the kernel has put us, and when this is.
fn address_and_time() -> u64 {
    let mut hasher = DefaultHasher::new();
    let here = 0_u8;
    hasher.write_usize((&raw const here).addr());
    hasher.write_usize((&raw const KEY).addr());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    hasher.write_u128(now.map_or(0, |now| now.as_nanos()));
    hasher.write_u32(std::process::id());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};

    use super::{Keyed, KeyedMap, address_and_time, random};

    #[test]
    fn a_key_is_found_again_and_hashes_unlike_in_another_process() {
        let mut map = KeyedMap::default();
        map.insert("name", 1);
        let other: KeyedMap<&str, i32> = map.clone();
        assert_eq!((map.get("name"), other.get("name")), (Some(&1), Some(&1)));
        let mut foreseen = DefaultHasher::new();
        "name".hash(&mut foreseen);
        assert_ne!(Keyed.hash_one("name"), foreseen.finish());
        assert_eq!(Keyed.hash_one("name"), Keyed.hash_one("name"));
    }

    #[test]
    fn random_numbers_differ() {
        assert!(random().is_none() || random() != random());
        assert_ne!(address_and_time(), address_and_time());
    }
}
