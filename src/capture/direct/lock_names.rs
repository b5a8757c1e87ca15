//! What a wait is for, by the functions of the standard library that it goes through, and what that is
//! called.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustc_hash::FxHashMap;

use crate::model::function::{OTHER, bounded};
use crate::model::lock::LockName;
use crate::model::stack::FunctionSerial;

/// Names of locks in a process; more are `<other>`.
const MAX_NAMES: usize = 4_096;
/// Lines of which is remembered what they wait for, before all are forgotten.
const MAX_PLACES: usize = 4_096;
/// Bytes of a name.
const MAX_NAME_BYTES: usize = 200;

/// What a thread waits for, as far as the functions tell that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A lock, perhaps: the address tells.
    Lock,
    /// To be told something.
    News,
    /// The result of the future that the function at this depth belongs to.
    Future(usize),
    /// The end of the thread that the innermost function belongs to.
    Thread,
}

/// A wait as the functions tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) purpose: Purpose,
    /// What its name begins with, if the functions tell.
    pub(super) kind: &'static str,
    /// How many of the innermost functions belong to it: the next one waits.
    pub(super) depth: usize,
}

/// Functions of the standard library, by module and name, without their classes (which CPython 3.10
/// does not tell).
fn library(function: &str) -> Option<(&'static str, &str)> {
    const MODULES: [&str; 5] = [
        "threading",
        "queue",
        "concurrent.futures._base",
        "multiprocessing.synchronize",
        "multiprocessing.pool",
    ];
    let mut modules = MODULES.iter();
    let module = modules.find(|module| {
        let rest = function.strip_prefix(**module);
        rest.is_some_and(|rest| rest.starts_with('.'))
    })?;
    Some((module, function.rsplit('.').next()?))
}

/// What a thread waits for whose functions are these, innermost first.
pub(super) fn tell<'name>(mut function: impl FnMut(usize) -> Option<&'name str>) -> Told {
    let mut told = Told {
        purpose: Purpose::Lock,
        kind: "",
        depth: 0,
    };
    match function(0).and_then(library) {
        Some(("threading", "wait")) => {
            told.purpose = Purpose::News;
            told.kind = "Condition";
        }
        Some(("threading", "_wait_for_tstate_lock" | "join" | "_shutdown")) => {
            told.purpose = Purpose::Thread;
            told.kind = "Thread";
        }
        // A lock inside of a condition, or of what is made of semaphores.
        Some(("threading" | "multiprocessing.synchronize", "__enter__" | "acquire")) => {}
        _ => return told,
    }
    told.depth = 1;
    while let Some((module, name)) = function(told.depth).and_then(library) {
        match (told.purpose, module, name) {
            (Purpose::Lock, "multiprocessing.synchronize", "__enter__" | "acquire") => {}
            (Purpose::Thread, "threading", "join" | "_shutdown") => {}
            (Purpose::News, "threading", "wait_for") => {}
            (Purpose::News, "threading", "_wait" | "_enter") => told.kind = "Barrier",
            (Purpose::News, "threading", "wait") if told.kind != "Barrier" => told.kind = "Event",
            (Purpose::News, "threading", "wait") => {}
            (Purpose::News, "threading", "acquire") => told.kind = "Semaphore",
            (Purpose::News, "queue", "get" | "put" | "join") => told.kind = "Queue",
            (Purpose::News, "multiprocessing.pool", "get" | "wait") => told.kind = "AsyncResult",
            (Purpose::News, "concurrent.futures._base", "result" | "exception") => {
                told.purpose = Purpose::Future(told.depth);
                told.kind = "Future";
            }
            (Purpose::News, "concurrent.futures._base", "wait" | "as_completed") => {
                told.kind = "Future";
            }
            _ => break,
        }
        told.depth += 1;
    }
    told
}

/// All names, and where they are used.
#[derive(Debug, Default)]
pub(super) struct LockNames {
    names: FxHashMap<Arc<str>, LockName>,
    places: FxHashMap<(FunctionSerial, usize, &'static str), LockName>,
}

impl LockNames {
    /// The name of what is waited for at an instruction of a function, if it is known.
    pub(super) fn at(
        &self,
        function: FunctionSerial,
        instruction: usize,
        kind: &'static str,
    ) -> Option<&LockName> {
        self.places.get(&(function, instruction, kind))
    }

    /// Remembers what is waited for at an instruction of a function.
    pub(super) fn remember(
        &mut self,
        (function, instruction): (FunctionSerial, usize),
        kind: &'static str,
        name: &LockName,
    ) {
        if self.places.len() >= MAX_PLACES {
            self.places.clear();
        }
        if self.places.try_reserve(1).is_ok() {
            self.places
                .insert((function, instruction, kind), name.clone());
        }
    }

    /// The name of this text.
    pub(super) fn name(&mut self, text: &str) -> LockName {
        let text = if self.names.len() < MAX_NAMES {
            bounded(text, MAX_NAME_BYTES)
        } else {
            OTHER.into()
        };
        if let Some(known) = self.names.get(&*text) {
            return known.clone();
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = LockName {
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            text: Arc::from(&*text),
        };
        if self.names.try_reserve(1).is_ok() {
            self.names.insert(name.text.clone(), name.clone());
        }
        name
    }

    /// An estimate of the memory held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let texts: usize = self.names.keys().map(|text| text.len()).sum();
        texts
            + self.names.capacity() * size_of::<(Arc<str>, LockName)>()
            + self.places.capacity() * size_of::<((FunctionSerial, usize, &str), LockName)>()
    }
}

#[cfg(test)]
mod tests {
    use super::{LockNames, MAX_NAMES, Purpose, Told, tell};

    fn told(functions: &[&'static str]) -> Told {
        tell(|depth| functions.get(depth).copied())
    }

    #[test]
    fn functions_of_the_library_tell_what_is_waited_for() {
        use Purpose::{Future, Lock, News, Thread};
        // Innermost first.
        let table = [
            ("pool.Pool.use", Lock, "", 0),
            (
                "threading.Condition.__enter__, queue.Queue.get",
                Lock,
                "",
                1,
            ),
            ("threading.Condition.wait, app.run", News, "Condition", 1),
            (
                "threading.Condition.wait, threading.Event.wait, app.run",
                News,
                "Event",
                2,
            ),
            // As CPython 3.10 tells them.
            ("threading.wait, threading.wait, app.run", News, "Event", 2),
            (
                "threading.wait, threading.wait_for, threading._wait, threading.wait",
                News,
                "Barrier",
                4,
            ),
            (
                "threading.wait, threading.acquire, app.run",
                News,
                "Semaphore",
                2,
            ),
            ("threading.wait, queue.get, app.run", News, "Queue", 2),
            (
                "threading.wait, concurrent.futures._base.result, app.run",
                Future(1),
                "Future",
                2,
            ),
            (
                "threading._wait_for_tstate_lock, threading.join, app.run",
                Thread,
                "Thread",
                2,
            ),
            ("threading.Thread.join, app.run", Thread, "Thread", 1),
            ("threadings.wait, app.run", Lock, "", 0),
        ];
        for (functions, purpose, kind, depth) in table {
            let expected = Told {
                purpose,
                kind,
                depth,
            };
            let functions: Vec<&str> = functions.split(", ").collect();
            assert_eq!(told(&functions), expected, "{functions:?}");
        }
    }

    #[test]
    fn names_are_bounded() {
        let mut names = LockNames::default();
        let first = names.name("Lock first");
        for number in 0..MAX_NAMES {
            names.name(&format!("Lock {number}"));
        }
        assert_eq!(&*names.name("Lock last").text, "<other>");
        assert_eq!(names.name("Lock last"), names.name("Lock first of all"));
        assert_eq!(&*first.text, "Lock first");
    }
}
