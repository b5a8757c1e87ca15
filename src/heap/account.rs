//! The account of the process's memory: what of it is known.
#![forbid(unsafe_code)]

use crate::clock::resident::Resident;
use crate::model::memory_facts;

/// What the C library's allocator has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CLibrary {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that are free in its heaps, in memory or not.
    pub free: u64,
}

/// Whose the memory of the process is, in bytes. What is in use in Python lies in arenas or in what the C
/// library has in use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// What is in memory; `None` where the system does not tell.
    pub resident: Option<Resident>,
    /// In use as samples tell, and one standard deviation of that; `None` if none are taken.
    pub python: Option<(f64, f64)>,
    /// Arenas of CPython's allocator for small objects; `None` if not known.
    pub arenas: Option<u64>,
    /// What the C library has; `None` if it does not tell.
    pub c_library: Option<CLibrary>,
}

impl Account {
    /// Free bytes of the C library that are in memory, at most.
    #[must_use]
    pub fn kept(&self) -> Option<u64> {
        let c_library = self.c_library?;
        let others = self.arenas.unwrap_or(0) + c_library.used;
        let rest = self.resident?.anonymous.saturating_sub(others);
        Some(c_library.free.min(rest))
    }

    /// Anonymous memory that none of these have; `None` if one does not tell.
    #[must_use]
    pub fn unexplained(&self) -> Option<u64> {
        let known = self.arenas? + self.c_library?.used + self.kept()?;
        Some(self.resident?.anonymous.saturating_sub(known))
    }

    /// Name and bytes of all that is known, the whole first.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, u64)> {
        let python = self.python.map(|(bytes, _)| bytes.round() as u64);
        let error = self.python.map(|(_, error)| error.round() as u64);
        let parts = [
            ("resident", self.resident.map(|resident| resident.all)),
            (
                "anonymous",
                self.resident.map(|resident| resident.anonymous),
            ),
            ("file", self.resident.map(|resident| resident.of_files)),
            ("shared", self.resident.map(|resident| resident.shared)),
            ("python", python),
            ("python_error", error),
            ("arenas", self.arenas),
            (
                "malloc_used",
                self.c_library.map(|c_library| c_library.used),
            ),
            ("malloc_kept", self.kept()),
            ("unexplained", self.unexplained()),
        ];
        let known = parts.into_iter();
        known
            .filter_map(|(name, bytes)| Some((name, bytes?)))
            .collect()
    }

    /// The same as a comment.
    #[must_use]
    pub fn comment(&self) -> String {
        memory_facts::comment(&self.parts())
    }
}

#[cfg(test)]
mod tests {
    use super::{Account, CLibrary};
    use crate::clock::resident::Resident;

    #[test]
    fn what_none_has_is_unexplained() {
        let account = Account {
            resident: Some(Resident {
                all: 160,
                anonymous: 100,
                of_files: 50,
                shared: 10,
            }),
            python: Some((40.4, 3.6)),
            arenas: Some(30),
            c_library: Some(CLibrary { used: 20, free: 15 }),
        };
        assert_eq!(
            (account.kept(), account.unexplained()),
            (Some(15), Some(35))
        );
        let parts = account.parts();
        assert_eq!(parts[0], ("resident", 160));
        assert!(parts.contains(&("python", 40)) && parts.contains(&("python_error", 4)));
        assert_eq!(account.parts().len(), 10);
    }

    #[test]
    fn free_memory_that_is_not_resident_is_not_kept() {
        let mut account = Account {
            resident: Some(Resident {
                anonymous: 100,
                ..Resident::default()
            }),
            arenas: Some(30),
            c_library: Some(CLibrary {
                used: 20,
                free: 500,
            }),
            ..Account::default()
        };
        assert_eq!((account.kept(), account.unexplained()), (Some(50), Some(0)));
        account.arenas = None;
        assert_eq!(account.unexplained(), None);
        account.c_library = None;
        assert_eq!(account.parts().len(), 4);
        assert_eq!(Account::default().parts(), []);
    }
}
