//! A heap profile beside each window: a file of its own, for tools open a profile on one kind of value.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::file_name::{HEAP_SUFFIX, SUFFIX};
use super::{Delivery, Receipt, Sink};
use crate::clock::cpu::{monotonic_ns, unix_time_ns};
use crate::error::Result;
use crate::fold::profile::Profile;
use crate::heap::account::Account;
use crate::heap::report::{self, HeapCopy, Since, Telling};
use crate::model::measure::MeasureId;
use crate::model::module_name::ImportRoots;
use crate::model::thread_names;

/// What a heap profile needs to be written.
#[derive(Clone)]
pub struct HeapTelling {
    /// What ran.
    pub program: String,
    /// Names modules.
    pub roots: ImportRoots,
    /// Where our own files are.
    pub own_directory: String,
    /// Whether requests that somebody captures are kept apart.
    pub requests_apart: bool,
    /// Whether what is known of blocks in use is true; else it is left out.
    pub is_true: fn() -> bool,
    /// Has the program collect garbage, and waits for it; why it has not.
    pub collect: fn() -> std::result::Result<(), String>,
    /// What every profile says of the process.
    pub comments: fn() -> Vec<String>,
    /// Who has the memory of the process; not to be asked within an allocation.
    pub account: fn() -> Account,
}

impl HeapTelling {
    /// What was allocated since `since`, and what is in use; and the begin of what follows. `None` if
    /// nothing is being sampled.
    #[must_use]
    pub fn profile(&self, since: &Since) -> Option<(Profile, Since)> {
        let is_true = (self.is_true)();
        let mut next = report::begin(monotonic_ns(), unix_time_ns());
        let Some(copy) = HeapCopy::take() else {
            report::end(&next);
            return None;
        };
        copy.begin_at(&mut next);
        let mut comments = copy.comments();
        comments.push((self.account)().comment());
        if is_true {
            comments.push(if since.is_difference() {
                "inuse_objects, inuse_space: how much more than at the begin".to_owned()
            } else {
                copy.ages_comment(next.now_ns)
            });
        } else {
            comments.push(
                "no inuse_objects, no inuse_space: another allocator hook may hide what is freed"
                    .to_owned(),
            );
        }
        let profile = self.write(&copy, since, next.now_ns, comments);
        let profile = if is_true { profile } else { allocated(profile) };
        Some((profile, next))
    }

    /// What one request allocated that began at `began_ns` of the monotonic clock, and whether that is
    /// all; `None` if nothing of it was sampled.
    #[must_use]
    pub fn of_request(&self, number: u64, began_ns: u64) -> Option<(Profile, bool)> {
        let (copy, is_whole) = HeapCopy::of_request(number, began_ns)?;
        let now_ns = monotonic_ns();
        let age_ns = i64::try_from(now_ns.saturating_sub(began_ns)).unwrap_or(i64::MAX);
        let since = Since::at(began_ns, unix_time_ns().saturating_sub(age_ns));
        let mut comments = copy.comments();
        if !is_whole {
            comments.push("memory: a part of it found no room".to_owned());
        }
        Some((
            allocated(self.write(&copy, &since, now_ns, comments)),
            is_whole,
        ))
    }

    fn write(&self, copy: &HeapCopy, since: &Since, now_ns: u64, about: Vec<String>) -> Profile {
        let mut comments = (self.comments)();
        comments.extend(about);
        let telling = Telling {
            program: &self.program,
            roots: &self.roots,
            own_directory: &self.own_directory,
            names: &thread_names::all(),
            now_ns,
            requests_apart: self.requests_apart,
            comments,
        };
        copy.profile(since, &telling)
    }
}

/// Without what is in use.
fn allocated(profile: Profile) -> Profile {
    let without = profile
        .without(MeasureId::InuseObjects)
        .without(MeasureId::InuseSpace);
    Profile {
        default_sample_type: Arc::from(MeasureId::AllocSpace.row().name),
        ..without
    }
}

/// What those need that are asked for by somebody else than a recording.
static CURRENT: Mutex<Option<HeapTelling>> = Mutex::new(None);

/// Has heaps be told so from now on.
pub fn tell(telling: HeapTelling) {
    let earlier = CURRENT.lock().replace(telling);
    drop(earlier);
}

/// How heaps are told, once any were.
#[must_use]
pub fn current() -> Option<HeapTelling> {
    CURRENT.lock().clone()
}

/// Delivers windows to one sink, and what the heap is then to another.
pub struct HeapBeside {
    windows: Box<dyn Sink>,
    heaps: Box<dyn Sink>,
    telling: HeapTelling,
    since: Since,
}

impl HeapBeside {
    /// Heaps from now on.
    #[must_use]
    pub fn new(windows: Box<dyn Sink>, heaps: Box<dyn Sink>, telling: HeapTelling) -> Self {
        Self {
            windows,
            heaps,
            telling,
            since: report::begin(monotonic_ns(), unix_time_ns()),
        }
    }
}

impl Sink for HeapBeside {
    fn deliver(&mut self, profile: &Profile) -> Result<Delivery> {
        let delivery = self.windows.deliver(profile)?;
        if let Some((heap, next)) = self.telling.profile(&self.since) {
            // What could not be written is in the next one.
            let is_delivered = self.heaps.deliver(&heap).is_ok();
            if is_delivered && !self.heaps.replaces() {
                report::end(&std::mem::replace(&mut self.since, next));
            } else {
                report::end(&next);
            }
        }
        Ok(delivery)
    }

    fn replaces(&self) -> bool {
        self.windows.replaces()
    }

    fn kept(&self) -> Vec<Receipt> {
        let mut kept = self.windows.kept();
        kept.extend(self.heaps.kept());
        kept
    }
}

impl Drop for HeapBeside {
    fn drop(&mut self) {
        report::end(&self.since);
    }
}

/// Where heaps go beside windows that go to `output`.
#[must_use]
pub fn heap_output(output: &Path) -> PathBuf {
    match output.to_str().and_then(|text| text.strip_suffix(SUFFIX)) {
        Some(stem) => PathBuf::from(format!("{stem}{HEAP_SUFFIX}")),
        None => output.to_owned(),
    }
}
