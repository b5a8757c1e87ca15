//! Finished profiles as Python sees them.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::profile_rows::{self, Called, Compared, Divided, FunctionRow, Place, Waited};
use super::recording::fields;
use crate::error::Error;
use crate::fold::merge::Merge;
use crate::fold::profile::Profile as Finished;
use crate::fold::window::Limits;
use crate::model::facts;
use crate::model::label::{LabelValue, thread_of};
use crate::model::measure::Column;
use crate::model::memory_facts;
use crate::model::window_facts;
use crate::pprof::decode::{MAX_MESSAGE_BYTES, decode};
use crate::pprof::encode::encode;
use crate::report::divide::divide;
use crate::report::page_facts::page_facts;
use crate::report::{
    Grouping, calls, collapsed, diff, roots, speedscope, threads, top, tree, waits,
};
use crate::session::flight::{Pick, pick};
use crate::sink::file::{
    Names, read_file, write_file, write_file_making_directory, write_new_file, write_output,
};

/// As many as the reader accepts: a merged file can be read again.
const MAX_MERGED_NODES: usize = 8_000_000;

/// A finished, immutable profile.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Profile {
    profile: Arc<Finished>,
}

impl Profile {
    pub(crate) fn new(profile: Arc<Finished>) -> Self {
        Self { profile }
    }

    pub(super) fn finished(&self) -> Arc<Finished> {
        self.profile.clone()
    }

    fn column(&self, sample_type: &str) -> Result<usize, Error> {
        self.profile.column(sample_type).ok_or_else(|| {
            let known: Vec<&str> = self.profile.columns.iter().map(Column::name).collect();
            Error::value(format!(
                "this profile has no sample type {sample_type:?}; it has {}",
                known.join(", ")
            ))
        })
    }
}

fn grouping(by_line: bool) -> Grouping {
    if by_line {
        Grouping::Line
    } else {
        Grouping::Function
    }
}

#[pymethods]
impl Profile {
    /// Reads a pprof file's bytes; `name` is what errors call them.
    #[staticmethod]
    fn decode(py: Python<'_>, data: &[u8], name: &str) -> PyResult<Self> {
        let profile = py.detach(|| decode(data, name))?;
        Ok(Self::new(Arc::new(profile)))
    }

    /// One profile from all that `profiles` yields, of which one at a time need be in memory.
    #[staticmethod]
    fn merge(py: Python<'_>, profiles: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut merge = Merge::new(Limits {
            max_nodes: MAX_MERGED_NODES,
            ..Limits::default()
        });
        for item in profiles.try_iter()? {
            let profile = item?.cast::<Self>()?.get().profile.clone();
            py.detach(|| merge.add(&profile))?;
        }
        let merged = py.detach(|| merge.finish())?;
        Ok(Self::new(Arc::new(merged)))
    }

    /// As gzip pprof.
    fn encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| encode(&self.profile))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Writes gzip pprof to `path`, whole or not at all.
    fn write(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| {
            let bytes = encode(&self.profile)?;
            write_file(&path, &bytes)
        })?;
        Ok(())
    }

    /// The same, in a directory that is made if it is not there; calls no Python code.
    fn keep(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| {
            let bytes = encode(&self.profile)?;
            write_file_making_directory(&path, &bytes)
        })?;
        Ok(())
    }

    /// Reads what `keep` has written; calls no Python code.
    #[staticmethod]
    fn kept(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let profile = py.detach(|| {
            let bytes = read_file(&path, MAX_MESSAGE_BYTES)?;
            decode(&bytes, &path.to_string_lossy())
        })?;
        Ok(Self::new(Arc::new(profile)))
    }

    /// Writes gzip pprof to `path`, whole or not at all, with a number where that is taken; returns
    /// where.
    fn write_new(&self, py: Python<'_>, path: PathBuf) -> PyResult<OsString> {
        let path = py.detach(|| {
            let bytes = encode(&self.profile)?;
            write_new_file(&path, &bytes)
        })?;
        Ok(path.into())
    }

    /// Writes gzip pprof to what `output` says, and returns where and with which number. Where that
    /// names several files no other is replaced but `own`; `seq` is the first number that is tried,
    /// and then those behind `after`.
    fn write_output(
        &self,
        py: Python<'_>,
        output: PathBuf,
        program: &str,
        seq: u64,
        own: Option<PathBuf>,
        after: u64,
    ) -> PyResult<(OsString, u64)> {
        let (path, seq) = py.detach(|| {
            let bytes = encode(&self.profile)?;
            let fields = fields(program, seq, self.profile.meta.time_ns);
            let own = own.as_deref();
            write_output(&output, &fields, Names { own, after }, &bytes)
        })?;
        Ok((path.into(), seq))
    }

    /// (type, unit) of each value, in order.
    #[getter]
    fn sample_types(&self) -> Vec<(String, String)> {
        self.profile
            .columns
            .iter()
            .map(|column| (column.name().to_owned(), column.unit().to_owned()))
            .collect()
    }

    /// The sample type a reader opens on.
    #[getter]
    fn default_sample_type(&self) -> &str {
        &self.profile.default_sample_type
    }

    /// The sum of each sample type.
    #[getter]
    fn totals(&self) -> Vec<i64> {
        self.profile.totals()
    }

    /// The sum of each sample type without regard to signs: what shares are shares of.
    #[getter]
    fn magnitudes(&self) -> Vec<i64> {
        self.profile.magnitudes()
    }

    /// Whether a sample type has values below 0.
    fn is_difference(&self, sample_type: &str) -> PyResult<bool> {
        Ok(self.profile.is_difference(self.column(sample_type)?))
    }

    /// Of each sample type that was measured in part: its name, by how many of the merged profiles
    /// it was not, of how many, for how many ns, and of how many.
    #[getter]
    fn unmeasured(&self) -> Vec<(String, u64, u64, i64, i64)> {
        facts::unmeasured(&self.profile.meta.comments)
            .map(|gap| (gap.name, gap.profiles, gap.of_profiles, gap.ns, gap.of_ns))
            .collect()
    }

    /// The kernel ids of the main threads, one for each process.
    #[getter]
    fn main_threads(&self) -> Vec<i64> {
        facts::main_threads(&self.profile.meta.comments).collect()
    }

    /// Whether it was recorded while the interpreter's JIT was on.
    #[getter]
    fn has_jit(&self) -> bool {
        facts::has_jit(&self.profile.meta.comments)
    }

    /// (thread id, thread name, totals) of each thread, heaviest in the default type first.
    #[getter]
    fn threads(&self) -> Vec<(i64, String, Vec<i64>)> {
        threads::thread_totals(&self.profile)
    }

    /// (name, file, line, self, total) of each function or line, heaviest first.
    fn top(&self, py: Python<'_>, sample_type: &str, by_line: bool) -> PyResult<Vec<FunctionRow>> {
        let column = self.column(sample_type)?;
        let rows = py.detach(|| top::top(&self.profile, column, grouping(by_line)));
        Ok(rows.iter().map(profile_rows::function_row).collect())
    }

    /// The call tree as text.
    #[pyo3(signature = (sample_type, *, min_fraction, max_depth, fold_library, color))]
    fn tree(
        &self,
        py: Python<'_>,
        sample_type: &str,
        min_fraction: f64,
        max_depth: Option<usize>,
        fold_library: bool,
        color: bool,
    ) -> PyResult<String> {
        let column = self.column(sample_type)?;
        let default = tree::TreeOptions::default();
        let options = tree::TreeOptions {
            min_fraction,
            max_depth: max_depth.unwrap_or(default.max_depth),
            fold_library,
            color,
            ..default
        };
        Ok(py.detach(|| tree::tree(&self.profile, column, &options)))
    }

    /// (reason, lock, measure, waited, culprits, waiters) of each wait; the last two are lists of
    /// (function, file, line, value).
    fn waits(&self, py: Python<'_>) -> PyResult<Vec<Waited>> {
        let found = py.detach(|| waits::waits(&self.profile))?;
        Ok(found.iter().map(profile_rows::waited).collect())
    }

    /// The same as text.
    fn waits_text(&self, py: Python<'_>) -> PyResult<String> {
        Ok(py.detach(|| waits::waits(&self.profile).map(|found| waits::text(&found)))?)
    }

    /// The profile with the value of a label as the outermost frame of the stacks that have it.
    fn rooted(&self, py: Python<'_>, label: &str) -> Self {
        Self::new(Arc::new(py.detach(|| roots::rooted(&self.profile, label))))
    }

    /// One line for each stack: `thread;root;...;leaf value`, or without the thread.
    fn collapsed(&self, py: Python<'_>, sample_type: &str, by_thread: bool) -> PyResult<String> {
        let column = self.column(sample_type)?;
        Ok(py.detach(|| collapsed::collapsed(&self.profile, column, by_thread))?)
    }

    /// JSON for speedscope, one profile for each thread and sample type.
    fn speedscope(&self, py: Python<'_>) -> PyResult<String> {
        Ok(py.detach(|| speedscope::speedscope(&self.profile))?)
    }

    /// (name, file, line), (self, total) here and in `later`, of each function or line.
    fn diff(
        &self,
        py: Python<'_>,
        later: &Bound<'_, Self>,
        sample_type: &str,
        by_line: bool,
    ) -> PyResult<Vec<Compared>> {
        let later = later.get();
        let columns = (self.column(sample_type)?, later.column(sample_type)?);
        let rows = py.detach(|| {
            diff::diff(
                (&self.profile, columns.0),
                (&later.profile, columns.1),
                grouping(by_line),
            )
        });
        Ok(rows.iter().map(profile_rows::compared).collect())
    }

    /// Each function with (samples, self, total), and the same by caller.
    fn calls(
        &self,
        py: Python<'_>,
        sample_type: &str,
        samples_type: Option<&str>,
    ) -> PyResult<Vec<Called>> {
        let column = self.column(sample_type)?;
        let samples = samples_type.map(|name| self.column(name)).transpose()?;
        let rows = py.detach(|| calls::calls(&self.profile, column, samples))?;
        Ok(rows.iter().map(profile_rows::called).collect())
    }

    /// Writes `data` to `path`, whole or not at all.
    #[staticmethod]
    fn write_file(py: Python<'_>, path: PathBuf, data: &[u8]) -> PyResult<()> {
        py.detach(|| write_file(&path, data))?;
        Ok(())
    }

    /// Every stack with a value, outermost frame first: (function, file, line) of each, the value.
    fn stacks(&self, sample_type: &str) -> PyResult<Vec<(Vec<Place>, i64)>> {
        let column = self.column(sample_type)?;
        let profile = &self.profile;
        let rows = profile.rows().filter(|(_, values)| values[column] != 0);
        Ok(rows
            .map(|(sample, values)| {
                let mut frames: Vec<_> = profile
                    .tree
                    .path(sample.node)
                    .map(|node| {
                        let location = profile.tree.location(node);
                        let function = profile.symbols.function_of(location);
                        let line = profile.symbols.location(location).line;
                        (function.name.to_string(), function.file.to_string(), line)
                    })
                    .collect();
                frames.reverse();
                (frames, values[column])
            })
            .collect())
    }

    /// The same profile with only these (thread id, thread name) pairs.
    fn only_threads(&self, threads: Vec<(i64, String)>) -> Self {
        let filtered = self.profile.filtered(|labels| {
            let (id, name) = thread_of(labels);
            threads
                .iter()
                .any(|(kept_id, kept_name)| *kept_id == id && *kept_name == *name)
        });
        Self::new(Arc::new(filtered))
    }

    /// The labels of each label set in use, numbers as text.
    fn label_sets(&self) -> Vec<Vec<(String, String)>> {
        let text = |value: &LabelValue| match value {
            LabelValue::Text(text) => text.to_string(),
            LabelValue::Number(number, _) => number.to_string(),
        };
        let sets = self.profile.label_sets.iter().map(|labels| {
            labels
                .iter()
                .map(|label| (label.key.to_string(), text(&label.value)))
                .collect()
        });
        sets.collect()
    }

    /// The same profile with only the samples of some label sets; true at each that is meant.
    #[expect(clippy::needless_pass_by_value, reason = "converted from Python")]
    fn only_label_sets(&self, kept: Vec<bool>) -> Self {
        let mut at = 0;
        let filtered = self.profile.filtered(|_| {
            at += 1;
            kept.get(at - 1).copied().unwrap_or(false)
        });
        Self::new(Arc::new(filtered))
    }

    /// The names of all functions, by their positions.
    #[getter]
    fn functions(&self) -> Vec<&str> {
        let functions = &self.profile.symbols.functions;
        functions.iter().map(|function| &*function.name).collect()
    }

    /// The same profile with only the stacks that have a function of `focus` (`None`: any) and none
    /// of `ignore`; true at the position of each function that is meant.
    #[expect(clippy::needless_pass_by_value, reason = "converted from Python")]
    fn only_stacks(&self, focus: Option<Vec<bool>>, ignore: Vec<bool>) -> Self {
        Self::new(Arc::new(
            self.profile.only_stacks(focus.as_deref(), &ignore),
        ))
    }

    /// Only what these requests did, of a profile that keeps requests apart; all without a list.
    fn of_requests(&self, py: Python<'_>, requests: Vec<u64>) -> PyResult<Self> {
        let wanted = Pick {
            requests,
            ..Pick::default()
        };
        let picked = py.detach(|| pick(std::slice::from_ref(&self.profile), &wanted))?;
        Ok(Self::new(Arc::new(picked)))
    }

    /// Where it divides: the stack that at least this part has in common as (function, file, line),
    /// outermost first, its value, and (function, value) of each call below it.
    fn divide(&self, column: usize, part: f64) -> PyResult<Divided> {
        let found = divide(&self.profile, column, part)?;
        let common = found.common.into_iter().map(|frame| {
            (
                frame.function.to_string(),
                frame.file.to_string(),
                frame.line,
            )
        });
        let below = found.below.into_iter();
        Ok((
            common.collect(),
            found.value,
            below
                .map(|(name, value)| (name.to_string(), value))
                .collect(),
        ))
    }

    /// Name and value of each number that the comments tell of how it was recorded.
    #[getter]
    fn facts(&self) -> Vec<(String, f64)> {
        let comments = &self.profile.meta.comments;
        let numbers = window_facts::read(comments).into_iter();
        let parts = memory_facts::read(comments).into_iter();
        numbers
            .map(|(fact, number)| (fact.name().to_owned(), number))
            .chain(parts.map(|(name, bytes)| (format!("memory_{name}_bytes"), bytes as f64)))
            .collect()
    }

    /// The same and what else the comments tell, as JSON for the report page.
    #[getter]
    fn page_facts(&self) -> String {
        page_facts(&self.profile.meta.comments)
    }

    /// Start in ns since the Unix epoch.
    #[getter]
    fn time_ns(&self) -> i64 {
        self.profile.meta.time_ns
    }

    /// Length in ns.
    #[getter]
    fn duration_ns(&self) -> i64 {
        self.profile.meta.duration_ns
    }

    /// Asked time between two samples of one thread in ns.
    #[getter]
    fn period_ns(&self) -> i64 {
        self.profile.meta.period_ns
    }

    /// Engine, rates and counters in words.
    #[getter]
    fn comments(&self) -> Vec<String> {
        self.profile.meta.comments.clone()
    }

    /// What ran.
    #[getter]
    fn program(&self) -> &str {
        &self.profile.meta.program
    }
}
