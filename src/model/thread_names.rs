//! What threads are called, by the kernel's ids: for whoever tells of threads that may have ended.
#![forbid(unsafe_code)]

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Threads whose names are remembered.
const MAX_NAMES: usize = 10_000;

static NAMES: Mutex<Option<FxHashMap<u64, Arc<str>>>> = Mutex::new(None);

/// Remembers what a thread is called. Nobody is waited for: a name comes again.
pub fn note(thread_id: u64, name: &Arc<str>) {
    let Some(mut names) = NAMES.try_lock() else {
        return;
    };
    let names = names.get_or_insert_default();
    if names.len() >= MAX_NAMES && !names.contains_key(&thread_id) {
        names.clear();
    }
    if !name.is_empty() && names.try_reserve(1).is_ok() {
        names.insert(thread_id, name.clone());
    }
}

/// What a thread is, or was, called; `None` if nobody remembers, or somebody else is just looking.
#[must_use]
pub fn of(thread_id: u64) -> Option<Arc<str>> {
    let names = NAMES.try_lock()?;
    names.as_ref()?.get(&thread_id).cloned()
}

/// All that are remembered.
#[must_use]
pub fn all() -> FxHashMap<u64, Arc<str>> {
    let names = NAMES.try_lock();
    names.and_then(|names| names.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{MAX_NAMES, all, note, of};

    #[test]
    fn names_are_remembered_and_bounded() {
        for id in 0..2 * MAX_NAMES as u64 {
            note(id, &Arc::from(format!("thread-{id}")));
            note(id, &Arc::from(""));
        }
        let names = all();
        assert!(names.len() <= MAX_NAMES);
        let newest = 2 * MAX_NAMES as u64 - 1;
        assert_eq!(
            names.get(&newest).map(|name| name.to_string()),
            Some(format!("thread-{newest}"))
        );
        // Other tests may be looking.
        let told = std::iter::repeat_with(|| of(newest)).take(10_000).flatten();
        assert_eq!(told.take(1).last(), names.get(&newest).cloned());
        assert_eq!(of(u64::MAX), None);
    }
}
