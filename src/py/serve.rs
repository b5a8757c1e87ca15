//! The endpoint's beginning and end.
#![forbid(unsafe_code)]

use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::direct;
use super::gil::engine::EngineOptions;
use super::recording::ensure_engine;
use crate::error::Error;
use crate::serve::address::Address;
use crate::serve::routes::Context;
use crate::serve::server::Server;
use crate::session::fork::session;
use crate::session::manager::Session;
use crate::session::native_thread::{Kind, NativeThread};

/// How long a fork waits for answers that are under way.
const PATIENCE: Duration = Duration::from_secs(5);

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

/// Begins to answer at `address`; returns where it listens.
#[pyfunction]
#[pyo3(signature = (*, address, token, program, page, import_roots, own_directory,
    keep_thread_state))]
#[expect(
    clippy::too_many_arguments,
    reason = "the door passes plain values, by keyword"
)]
pub(crate) fn serve(
    py: Python<'_>,
    address: &str,
    token: Option<String>,
    program: String,
    page: (String, String),
    import_roots: Vec<String>,
    own_directory: String,
    keep_thread_state: bool,
) -> PyResult<String> {
    let address = Address::parse(address)?;
    let options = EngineOptions {
        import_roots,
        own_directory,
        keep_thread_state,
    };
    // Profiles that are asked for begin without the GIL: what they need is made now.
    ensure_engine(py, options.clone())?;
    let dumper = direct::engine_for_dumps(py, &options).map_err(|reason| {
        format!("dumps need the direct engine, which cannot be used here: {reason}")
    });
    let must_be_local = token.is_none() && matches!(address, Address::Tcp(_));
    let context = Context::new(program, token, must_be_local, dumper, page);
    let address = py.detach(|| {
        let mut server = SERVER.lock();
        if let Some(running) = &*server {
            return Err(Error::state(format!(
                "an endpoint is open at {} already; stop it first",
                running.address()
            )));
        }
        let started = Server::start(address, context)?;
        let address = started.address().to_string();
        *server = Some(started);
        Ok(address)
    })?;
    Ok(address)
}

/// An endpoint that is to be closed with this object at the latest, as the end of a block.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Serving {
    address: String,
    session: &'static Session,
}

#[pymethods]
impl Serving {
    #[new]
    fn new(address: String) -> Self {
        Self {
            address,
            session: session(),
        }
    }

    /// Has it closed, if it is open, without waiting for that.
    fn abandon(&self) {
        self.close_soon();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.close_soon();
    }
}

impl Serving {
    fn close_soon(&self) {
        if !std::ptr::eq(session(), self.session) {
            return;
        }
        let is_this = |server: &Server| server.address().to_string() == self.address;
        // Whoever has it locked is beginning or ending it.
        let Some(mut server) = SERVER.try_lock() else {
            return;
        };
        let Some(mut server) = server.take_if(|server| is_this(server)) else {
            return;
        };
        // Its end waits for what is being answered; the GIL may be held here. Without a thread for it
        // the port is closed a little later.
        server.tell_to_stop();
        drop(NativeThread::spawn(
            Kind::Sharing,
            "rprof-end",
            server,
            |mut server| server.stop(),
        ));
    }
}

/// Closes the endpoint, if there is one.
#[pyfunction]
pub(crate) fn stop_serving(py: Python<'_>) {
    py.detach(|| {
        let server = SERVER.lock().take();
        if let Some(mut server) = server {
            server.stop();
        }
    });
}

/// Whether an address can be reached from elsewhere.
#[pyfunction]
pub(crate) fn is_local_address(address: &str) -> PyResult<bool> {
    Ok(Address::parse(address)?.is_local())
}

/// Ends the thread ahead of a fork; false if it did not end within `patience`.
pub(crate) fn park_within(patience: Duration) -> bool {
    // Whoever holds the lock is starting or stopping it, and waits for the GIL at most afterwards.
    match SERVER.try_lock_for(patience) {
        Some(mut server) => server.as_mut().is_none_or(|server| server.park(patience)),
        None => false,
    }
}

/// The same, without the GIL and with patience.
pub(crate) fn park_for_fork() {
    park_within(PATIENCE);
}

/// Answers again in the parent.
pub(crate) fn after_fork_in_parent() {
    // Whoever has it is starting or stopping it.
    if let Some(mut server) = SERVER.try_lock_for(PATIENCE)
        && let Some(server) = server.as_mut()
    {
        note(server.unpark());
    }
}

/// The same if its thread could not be had; waits for nobody. False if somebody is in the way.
pub(crate) fn try_again() -> bool {
    let Some(mut server) = SERVER.try_lock() else {
        return false;
    };
    if let Some(server) = server.as_mut() {
        note(server.try_again());
    }
    true
}

fn note(begun: crate::error::Result<()>) {
    if let Err(error) = begun {
        session().refuse(&error);
    }
}

/// Forgets the parent's endpoint in a forked child: its thread and its port are not here.
pub(crate) fn forget_parent() {
    // What is forgotten is not dropped: a socket's file is the parent's.
    if let Some(mut server) = SERVER.try_lock() {
        std::mem::forget(server.take());
    }
}
