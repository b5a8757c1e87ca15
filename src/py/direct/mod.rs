//! Building the `direct` engine: where the interpreter is, and whether the engine can be trusted.
//!
//! The engine itself knows nothing of Python's C API. It is made here, under the GIL, and tested
//! against the `gil` engine before it is used.

mod code_events;
mod lock_test;
mod names;
mod self_test;
mod tasks;
mod trio;

use pyo3::prelude::*;

pub(super) use self::code_events::{find_codes, find_id_from_ident, find_layout};
use self::names::NameReader;
pub(in crate::py) use self::tasks::current_task;
pub(crate) use self::tasks::{learn_tasks, no_tasks};
pub(crate) use self::trio::{learn_trio, no_trio};
use super::gil::engine::EngineOptions;
use crate::capture::Engine;
use crate::capture::direct::{DirectEngine, Interpreter, NameSource, ThreadName};
use crate::clock::{descriptors, filter, kernel};
use crate::layout::LineFormat;
use crate::memory::{ReadMemory, own};
use crate::model::module_name::ImportRoots;
use crate::model::snapshot::Snapshot;
use crate::model::task::Tasks;
use crate::unwind::code::CodeCache;
use crate::unwind::linetable::LineTable;

/// What an engine is made of.
struct Kit {
    interpreter: Interpreter,
    code_type: usize,
    options: EngineOptions,
    names: Vec<ThreadName>,
    transport: &'static str,
}

impl Kit {
    /// Finds everything and shows that an engine of it tells the truth.
    fn tested(py: Python<'_>, options: &EngineOptions) -> Result<Self, String> {
        kernel::find_time();
        let mut memory = own::open(circumstances())?;
        let (mut interpreter, code_type) = code_events::find_interpreter(py, memory.as_mut())?;
        interpreter.knows_locks = lock_test::run(py, memory.as_mut(), &interpreter.layout);
        let kit = Self {
            interpreter,
            code_type,
            options: options.clone(),
            names: names::all(py),
            transport: memory.name(),
        };
        self_test::run(py, &interpreter, memory.as_mut(), kit.engine(), options)?;
        Ok(kit)
    }

    /// An engine that knows the names of now.
    fn engine(&self) -> DirectEngine {
        self.engine_with(Box::new(names::Fixed::new(self.names.clone())))
    }

    fn engine_with(&self, names: Box<dyn NameSource>) -> DirectEngine {
        let cache = CodeCache::new(
            self.code_type,
            ImportRoots::new(self.options.import_roots.iter().cloned()),
            self.options.own_directory.clone(),
        );
        DirectEngine::new(self.interpreter, Box::new(open_memory), names, cache)
    }
}

/// A direct engine that has passed its self-test, and what it reads memory by.
///
/// # Errors
/// Why there is none, in words.
pub(crate) fn engine(
    py: Python<'_>,
    options: &EngineOptions,
) -> Result<(Box<dyn Engine>, &'static str), String> {
    let kit = Kit::tested(py, options)?;
    let names = NameReader::new(py, options.keep_thread_state, kit.names.clone())
        .map_err(|error| error.to_string())?;
    let engine = kit.engine_with(Box::new(names));
    let engine = engine.of_sampler(u32::from(py.version_info().minor));
    Ok((Box::new(engine), kit.transport))
}

/// One snapshot by the calling thread, which is part of it, and the tasks of asyncio.
///
/// # Errors
/// Why there is none, in words.
pub(crate) fn look_once(
    py: Python<'_>,
    options: &EngineOptions,
) -> Result<(Snapshot, Tasks), String> {
    let mut engine = Kit::tested(py, options)?.engine().with_locks();
    let mut snapshot = engine
        .look_once()
        .map_err(|_| "it took no snapshot".to_owned())?;
    let tasks = engine.look_at_tasks(&mut snapshot, None);
    Ok((snapshot, tasks))
}

/// An engine for looks without the GIL, by any thread, with the names that are known now.
///
/// # Errors
/// Why there is none, in words.
pub(crate) fn engine_for_dumps(
    py: Python<'_>,
    options: &EngineOptions,
) -> Result<DirectEngine, String> {
    let kit = Kit::tested(py, options)?;
    let engine = kit.engine_with(Box::new(names::Known::new(kit.names.clone())));
    Ok(engine.with_locks())
}

/// The lines of a code object by instruction offset (bytes), as the engine decodes them; 0 is none.
#[pyfunction]
pub(crate) fn decode_lines(py: Python<'_>, table: &[u8], first_line: u32) -> Vec<(u32, u32)> {
    let format = if py.version_info() >= (3, 11) {
        LineFormat::Locations
    } else {
        LineFormat::Deltas
    };
    LineTable::decode(format, first_line, table)
        .stretches()
        .to_vec()
}

fn open_memory() -> Option<Box<dyn ReadMemory>> {
    own::open(circumstances()).ok()
}

/// Those of the calling thread.
pub(super) fn circumstances() -> own::Circumstances {
    own::Circumstances {
        may_be_filtered: filter::may_be_there(),
        shares_descriptors: !descriptors::are_own(),
    }
}
