//! The endpoint's beginning and end.
#![forbid(unsafe_code)]

use pyo3::prelude::*;

use super::direct;
use super::handed_in::process;
use super::recording::ensure_engine;
use crate::error::Error;
use crate::serve::address::Address;
use crate::serve::context::Context;
use crate::serve::server::{END_PATIENCE, Server};
use crate::session::Session;
use crate::session::fork::session;
use crate::session::native_thread::{Kind, NativeThread};
use crate::session::worker::Worker;

/// What an endpoint is to be, as Python says it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct EndpointOptions {
    address: String,
    token: Option<String>,
    program: String,
    page: (String, String, String),
    /// Of the profiles that are asked for: the rate unless another is named, and the limit.
    rate: f64,
    max_overhead: f64,
}

/// Begins to answer at `address`; returns where it listens.
#[pyfunction]
pub(crate) fn serve(py: Python<'_>, options: EndpointOptions) -> PyResult<String> {
    let address = Address::parse(&options.address)?;
    let told = process();
    // Profiles that are asked for begin without the GIL: what they need is made now.
    ensure_engine(py, told.clone())?;
    let dumper = direct::engine_for_dumps(py, &told).map_err(|reason| {
        format!("dumps need the direct engine, which cannot be used here: {reason}")
    });
    let must_be_local = options.token.is_none() && matches!(address, Address::Tcp(_));
    let context = Context::new(
        options.program,
        options.token,
        must_be_local,
        dumper,
        options.page,
        (options.rate, options.max_overhead),
    );
    let address = py.detach(|| {
        let slot = session().slot::<Server>();
        let mut worker = slot.lock();
        if let Some(taken) = Server::address(&worker) {
            return Err(Error::state(format!(
                "an endpoint is open at {taken} already; stop it first"
            )));
        }
        *worker = Server::new(address, context).start()?;
        Ok(Server::address(&worker).map(ToString::to_string))
    })?;
    Ok(address.unwrap_or_default())
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
        let slot = self.session.slot::<Server>();
        // Whoever has it is beginning or ending it.
        let Some(mut worker) = slot.try_lock() else {
            return;
        };
        let address = Server::address(&worker);
        if address.is_none_or(|address| address.to_string() != self.address) {
            return;
        }
        // Its end waits for what is being answered; the GIL may be held here. Without a thread for it
        // the port is closed a little later.
        worker.stop();
        let ending = std::mem::replace(&mut *worker, Worker::None);
        drop(NativeThread::spawn(
            Kind::Sharing,
            "rprof-end",
            ending,
            |mut worker| worker.end(END_PATIENCE),
        ));
    }
}

/// Closes the endpoint, if there is one.
#[pyfunction]
pub(crate) fn stop_serving(py: Python<'_>) {
    py.detach(|| session().slot::<Server>().end(END_PATIENCE));
}

/// Whether an address can be reached from elsewhere.
#[pyfunction]
pub(crate) fn is_local_address(address: &str) -> PyResult<bool> {
    Ok(Address::parse(address)?.is_local())
}
