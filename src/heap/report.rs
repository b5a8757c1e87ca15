//! From the tables to a profile: what was allocated in a window, and what is in use at its end.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::live::{BORN_NS, Live};
use super::sites::Site;
use super::stacks::{Code, Place, StackTree};
use super::{Heap, HeapFigures, lock};
use crate::fold::profile::{Profile, ProfileMeta};
use crate::fold::window::{Limits, Window};
use crate::model::age::{self, AGE, AGE_UNIT};
use crate::model::function::{Function, INCOMPLETE, NO_PYTHON_FRAME, OVERFLOW};
use crate::model::label::{
    ActiveLabels, Label, LabelSet, LabelValue, REQUEST_NUMBER, thread_labels,
};
use crate::model::location::{LocationId, Mapping, Origin};
use crate::model::measure::{Column, MeasureId, MeasureSet};
use crate::model::module_name::ImportRoots;
use crate::model::window_facts::heap_comment;

/// What the values of a sample are, in this order, as Go has them.
pub const MEASURES: MeasureSet = MeasureSet::of(&[
    MeasureId::AllocObjects,
    MeasureId::AllocSpace,
    MeasureId::InuseObjects,
    MeasureId::InuseSpace,
]);
/// What readers open on.
pub const DEFAULT: MeasureId = MeasureId::InuseSpace;
/// Rows that are copied at a time, while nobody else has the tables.
const ROWS: usize = 2_048;
/// Copies that are begun anew because somebody gave the places of stacks to others meanwhile.
const MAX_COPIES: usize = 8;
/// In ns.
const MS: u64 = 1_000_000;

/// The begin of a window.
#[derive(Clone, Debug, Default)]
pub struct Since {
    epoch: u32,
    /// Of each site, by number, what had been allocated there.
    flows: FxHashMap<u64, (f64, f64)>,
    /// Likewise what was in use, where the difference to that is wanted.
    in_use: Option<FxHashMap<u64, (f64, f64)>>,
    /// When it began, in ns since the Unix epoch.
    pub unix_ns: i64,
    /// The same by the monotonic clock.
    pub now_ns: u64,
}

impl Since {
    /// The time since samples are taken.
    #[must_use]
    pub fn beginning(figures: &HeapFigures, now_ns: u64, unix_ns: i64) -> Self {
        let age_ns = now_ns.saturating_sub(figures.started_ns);
        let unix_ns = unix_ns.saturating_sub(i64::try_from(age_ns).unwrap_or(0));
        Self::at(figures.started_ns, unix_ns)
    }

    /// Whether what is in use at its end is to be told as a difference.
    #[must_use]
    pub fn is_difference(&self) -> bool {
        self.in_use.is_some()
    }

    /// From then on, in which all there is was allocated.
    #[must_use]
    pub fn at(now_ns: u64, unix_ns: i64) -> Self {
        Self {
            now_ns,
            unix_ns,
            ..Self::default()
        }
    }
}

/// Begins a window; [`end`] ends it.
#[must_use]
pub fn begin(now_ns: u64, unix_ns: i64) -> Since {
    let mut heap = lock();
    let Some(sites) = heap.as_mut().and_then(|heap| heap.sites.as_mut()) else {
        return Since::default();
    };
    let epoch = sites.begin();
    let flows = sites.all().iter();
    let flows = flows.map(|site| (site.number, (site.objects, site.bytes)));
    Since {
        epoch,
        flows: flows.collect(),
        in_use: None,
        unix_ns,
        now_ns,
    }
}

/// As [`begin`], of a window that tells what is in use at its end as the difference to now.
#[must_use]
pub fn begin_difference(now_ns: u64, unix_ns: i64) -> Since {
    let mut since = begin(now_ns, unix_ns);
    if let Some(sites) = lock().as_mut().and_then(|heap| heap.sites.as_mut()) {
        sites.keep_live(since.epoch);
    }
    if let Some(copy) = HeapCopy::take() {
        copy.begin_at(&mut since);
        let sums = copy.in_use_by_site().into_iter().zip(&copy.sites);
        since.in_use = Some(sums.map(|(sum, site)| (site.number, sum)).collect());
    }
    since
}

/// Ends a window.
pub fn end(since: &Since) {
    if let Some(sites) = lock().as_mut().and_then(|heap| heap.sites.as_mut()) {
        sites.end(since.epoch);
    }
}

/// What was counted; nothing where there are no tables.
#[must_use]
pub fn figures() -> HeapFigures {
    lock().map_or_else(HeapFigures::default, |heap| heap.figures())
}

/// Bytes in use, and one standard deviation of that; `None` if nothing is being sampled.
#[must_use]
pub fn in_use() -> Option<(f64, f64)> {
    let (mut bytes, mut variance, mut from) = (0.0, 0.0, 0);
    loop {
        let heap = lock()?;
        heap.sites.as_ref()?;
        let to = heap.live.used().min(from + ROWS);
        for live in (from..to).filter_map(|row| heap.live.row(row)) {
            let (weight, size) = (live.weight(), live.bytes as f64);
            bytes += weight * size;
            // Of a block that is sampled by a chance of one in `weight`.
            variance += weight * (weight - 1.0) * size * size;
        }
        from = to;
        if from >= heap.live.used() {
            return Some((bytes, variance.sqrt()));
        }
    }
}

/// Forgets the live samples: frees were missed, and nobody knows which.
pub fn forget_live(now_ns: u64) {
    if let Some(mut heap) = lock() {
        heap.forget_live(now_ns);
    }
}

/// Forgets the windows that were begun: a forked child has none of them.
pub fn forget_windows() {
    if let Some(sites) = lock().as_mut().and_then(|heap| heap.sites.as_mut()) {
        sites.end_all();
    }
}

/// What the tables had at one moment.
#[derive(Debug)]
pub struct HeapCopy {
    live: Vec<Live>,
    sites: Vec<Site>,
    tree: StackTree,
    /// Labels, by number.
    said: Vec<ActiveLabels>,
    /// What was counted.
    pub figures: HeapFigures,
}

impl HeapCopy {
    /// Copies the tables, a part at a time; `None` if nothing is being sampled.
    #[must_use]
    pub fn take() -> Option<Self> {
        lock()?.compact();
        (0..MAX_COPIES).find_map(|_| Self::try_take()).flatten()
    }

    /// `None` in vain, `Some(None)` if there is nothing.
    fn try_take() -> Option<Option<Self>> {
        let mut live = Vec::new();
        let Some(begun) = lock().map(|heap| heap.compactions) else {
            return Some(None);
        };
        let mut from = 0;
        loop {
            let Some(heap) = lock() else {
                return Some(None);
            };
            if heap.compactions != begun {
                return None;
            }
            let to = heap.live.used().min(from + ROWS);
            live.extend((from..to).filter_map(|row| heap.live.row(row)));
            from = to;
            if from >= heap.live.used() {
                return Some(Self::of(&heap, live));
            }
        }
    }

    /// Copies tables that nobody else has.
    #[must_use]
    pub fn of_own(heap: &Heap) -> Option<Self> {
        let rows = (0..heap.live.used()).filter_map(|row| heap.live.row(row));
        Self::of(heap, rows.collect())
    }

    fn of(heap: &Heap, live: Vec<Live>) -> Option<Self> {
        let sites = heap.sites.as_ref()?;
        Some(Self {
            live,
            sites: sites.all().to_vec(),
            tree: heap.stacks.copy(),
            said: heap.said.read(),
            figures: heap.figures(),
        })
    }

    /// Copies what one request allocated that began at `began_ns`, and whether that is all; `None` if
    /// nothing of it was sampled.
    #[must_use]
    pub fn of_request(request: u64, began_ns: u64) -> Option<(Self, bool)> {
        let heap = lock()?;
        let own = heap.requests.of(request, began_ns);
        let copy = Self {
            sites: own.sites,
            ..Self::of(&heap, Vec::new())?
        };
        (!copy.sites.is_empty()).then_some((copy, own.is_whole))
    }

    /// Has a window that was begun shortly before begin with this copy.
    pub fn begin_at(&self, since: &mut Since) {
        let flows = self.sites.iter();
        since.flows = flows
            .map(|site| (site.number, (site.objects, site.bytes)))
            .collect();
    }

    /// How it was sampled, in words.
    #[must_use]
    pub fn comments(&self) -> Vec<String> {
        let figures = &self.figures;
        let mut comments = vec![format!(
            "memory: a sample in {:.0} bytes; {} samples of blocks in use, of {} at most",
            figures.rate, figures.live, figures.live_limit
        )];
        let mut tell = |count: u64, what: &str| {
            if count > 0 {
                comments.push(format!("memory: {count} {what}"));
            }
        };
        tell(figures.lost, "samples lost, for the tables were locked");
        tell(figures.overflowed, "samples in <overflow>");
        tell(figures.left_out, "samples with <other> for labels");
        tell(
            figures.forgotten,
            "times all blocks in use were forgotten, for frees were missed",
        );
        comments
    }

    /// What is in use by site and step of age, as blocks and bytes, in this order.
    fn in_use(&self, now_ns: u64) -> Vec<(u32, u64, f64, f64)> {
        let steps = age::steps(self.known_ms(now_ns));
        let mut rows: Vec<(u32, u64, f64, f64)> = Vec::with_capacity(self.live.len());
        for live in &self.live {
            let born_ns = u64::from(live.born) * BORN_NS + self.figures.started_ns;
            let age_ms = now_ns.saturating_sub(born_ns) / MS;
            let weight = live.weight();
            let bytes = weight * live.bytes as f64;
            rows.push((live.site, age::step_of(&steps, age_ms), weight, bytes));
        }
        rows.sort_unstable_by_key(|row| (row.0, row.1));
        rows.dedup_by(|next, sum| {
            let are_one = (next.0, next.1) == (sum.0, sum.1);
            if are_one {
                sum.2 += next.2;
                sum.3 += next.3;
            }
            are_one
        });
        rows
    }

    /// Blocks and bytes in use of each site.
    fn in_use_by_site(&self) -> Vec<(f64, f64)> {
        let mut sums = vec![(0.0, 0.0); self.sites.len()];
        for live in &self.live {
            let (objects, bytes) = &mut sums[live.site as usize];
            let weight = live.weight();
            *objects += weight;
            *bytes += weight * live.bytes as f64;
        }
        sums
    }

    /// Since how many ms blocks in use are known.
    fn known_ms(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.figures.known_since_ns) / MS
    }

    /// What readers need to tell what grows, as a comment.
    #[must_use]
    pub fn ages_comment(&self, now_ns: u64) -> String {
        let rates = self.live.iter().map(|live| live.rate).sum::<f64>();
        let rate = match self.live.len() {
            0 => self.figures.rate,
            count => rates / count as f64,
        };
        heap_comment(self.known_ms(now_ns) as f64 / 1e3, rate)
    }

    /// The profile of the window since `since`, of all there was without it.
    #[must_use]
    pub fn profile(&self, since: &Since, telling: &Telling<'_>) -> Profile {
        let columns = Column::all_of(MEASURES);
        // The tables have bounds of their own.
        let default = Arc::from(DEFAULT.row().name);
        let mut window = Window::unbounded(Limits::default(), columns, default);
        window.mapping(&Mapping::of_program(telling.program));
        let mut writer = Writer {
            copy: self,
            telling,
            functions: FxHashMap::default(),
            labels: FxHashMap::default(),
        };
        for site in &self.sites {
            let (objects, bytes) = since.flows.get(&site.number).copied().unwrap_or_default();
            let values = [site.objects - objects, site.bytes - bytes, 0.0, 0.0];
            writer.add(&mut window, site, None, values);
        }
        if let Some(before) = &since.in_use {
            for (site, (objects, bytes)) in self.sites.iter().zip(self.in_use_by_site()) {
                let before = before.get(&site.number).copied().unwrap_or_default();
                let values = [0.0, 0.0, objects - before.0, bytes - before.1];
                writer.add(&mut window, site, None, values);
            }
        } else {
            for (site, age, objects, bytes) in self.in_use(telling.now_ns) {
                let site = &self.sites[site as usize];
                writer.add(&mut window, site, Some(age), [0.0, 0.0, objects, bytes]);
            }
        }
        let duration_ns = telling.now_ns.saturating_sub(since.now_ns);
        window.finish(ProfileMeta {
            time_ns: since.unix_ns,
            duration_ns: i64::try_from(duration_ns).unwrap_or(i64::MAX),
            period_ns: self.figures.rate as i64,
            // As Go's.
            period_type: Some(Column::new("space", "bytes")),
            program: telling.program.to_owned(),
            comments: telling.comments.clone(),
            ..ProfileMeta::default()
        })
    }
}

/// What a profile needs that the tables do not know.
pub struct Telling<'a> {
    /// What ran.
    pub program: &'a str,
    /// Names modules.
    pub roots: &'a ImportRoots,
    /// Frames of files in it are left out at the leaf side.
    pub own_directory: &'a str,
    /// The names of threads, as far as they are known.
    pub names: &'a FxHashMap<u64, Arc<str>>,
    /// The end of the window, monotonic time in ns.
    pub now_ns: u64,
    /// Whether requests that somebody captures are kept apart.
    pub requests_apart: bool,
    /// What the profile says of itself.
    pub comments: Vec<String>,
}

impl std::fmt::Debug for Telling<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Telling")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

/// Adds sites to a window.
struct Writer<'a> {
    copy: &'a HeapCopy,
    telling: &'a Telling<'a>,
    /// By its place in the texts.
    functions: FxHashMap<Code, Named>,
    /// By thread, what was said, and age.
    labels: FxHashMap<(u32, u32, Option<u64>), LabelSet>,
}

impl Writer<'_> {
    /// Adds what a site has; in use is that of an age.
    fn add(&mut self, window: &mut Window, site: &Site, age: Option<u64>, values: [f64; 4]) {
        let values = values.map(|value| value.round() as i64);
        if values.iter().all(|value| *value == 0) {
            return;
        }
        let mut path: Vec<LocationId> = Vec::new();
        let mut is_leaf = true;
        for place in self.copy.tree.path(site.node) {
            let pseudo = |name| (Function::pseudo(name), 0);
            let (function, line) = match place {
                Place::Overflow => pseudo(OVERFLOW),
                Place::Incomplete => pseudo(INCOMPLETE),
                Place::Line(code, line) => {
                    let named = self.function(code);
                    if named.is_hidden || named.is_own && is_leaf {
                        continue;
                    }
                    (named.function.clone(), line)
                }
            };
            is_leaf = false;
            path.push(window.location(&function, line, Origin::default()));
        }
        if path.is_empty() {
            let function = Function::pseudo(NO_PYTHON_FRAME);
            path.push(window.location(&function, 0, Origin::default()));
        }
        let (copy, telling) = (self.copy, self.telling);
        let key = (site.thread_id, site.labels, age);
        let labels = self.labels.entry(key).or_insert_with(|| {
            let id = u64::from(site.thread_id);
            let name = telling.names.get(&id).map_or("", |name| name);
            let said = copy.said.get(site.labels as usize);
            let mut labels = labels_of(id, name, said, telling.requests_apart);
            labels.extend(age.map(|age| Label {
                key: Arc::from(AGE),
                value: LabelValue::Number(
                    i64::try_from(age).unwrap_or(i64::MAX),
                    Arc::from(AGE_UNIT),
                ),
            }));
            labels
        });
        window.add_locations(path.into_iter().rev(), labels, &values);
    }

    fn function(&mut self, code: Code) -> &Named {
        let (tree, telling) = (&self.copy.tree, self.telling);
        self.functions.entry(code).or_insert_with(|| {
            let (name, file) = (tree.text(code.name), tree.text(code.file));
            let own = telling.own_directory;
            Named {
                is_own: !own.is_empty() && file.starts_with(own),
                // As in the code objects of other stacks, see `unwind::code`.
                is_hidden: code.first_line == 0 && name == "__init__" && file == "__init__",
                function: Function::new(
                    &telling.roots.qualify(&file, &name),
                    &file,
                    code.first_line,
                ),
            }
        })
    }
}

/// The labels of a thread and of what was said there, as in the windows of other measures.
fn labels_of(id: u64, name: &str, said: Option<&ActiveLabels>, apart: bool) -> LabelSet {
    let mut labels = thread_labels(id, name);
    let Some(said) = said else {
        return labels;
    };
    if apart && said.request != 0 {
        let number = i64::try_from(said.request).unwrap_or(i64::MAX);
        labels.push(Label {
            key: Arc::from(REQUEST_NUMBER),
            value: LabelValue::Number(number, Arc::from("")),
        });
    }
    labels.extend(said.set.iter().cloned());
    labels
}

/// A function as the profile has it.
struct Named {
    /// Ours: left out at the leaf side.
    is_own: bool,
    /// The interpreter's: left out anywhere.
    is_hidden: bool,
    function: Function,
}
