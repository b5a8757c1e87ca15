//! The server's thread: accepts, limits, and hands requests to the routes.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::future::Future as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::address::{Address, SocketFile};
use super::gate::{Gate, Guest};
use super::routes::{self, Context};
use crate::error::{Error, Result};
use crate::session::fork::session;
use crate::session::native_thread::{Kind, NativeThread};

/// How long the head of a request may take.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take to be read, beside the time a profile takes.
const READ_PATIENCE: Duration = Duration::from_secs(60);
/// The head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long the end of the thread is waited for.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// How long its beginning is waited for.
const BEGIN_PATIENCE: Duration = Duration::from_secs(5);

/// A running endpoint, or one that is parked for a fork.
#[derive(Debug)]
pub struct Server {
    context: Arc<Context>,
    address: Address,
    running: Option<NativeThread<()>>,
    /// Dropped to end the thread.
    quit: Option<Sender<()>>,
}

impl Server {
    /// Listens and answers from a thread of its own.
    ///
    /// # Errors
    /// When the address is not to be had, or the system has no room for a thread.
    pub fn start(address: Address, context: Context) -> Result<Self> {
        let mut server = Self {
            context: Arc::new(context),
            address,
            running: None,
            quit: None,
        };
        server.unpark()?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Ends the thread and closes the port; false if it did not end in time.
    pub fn park(&mut self, patience: Duration) -> bool {
        self.quit = None;
        let Some(thread) = self.running.take() else {
            return true;
        };
        match thread.join(patience) {
            Ok(_) => true,
            Err(thread) => {
                self.running = Some(thread);
                false
            }
        }
    }

    /// Has the thread end, without waiting for it.
    pub fn tell_to_stop(&mut self) {
        self.quit = None;
    }

    /// Ends the thread and closes the port.
    pub fn stop(&mut self) {
        self.park(END_PATIENCE);
    }

    /// Listens again at the same address, after [`Self::park`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn unpark(&mut self) -> Result<()> {
        if let Some(told) = self.begin()? {
            // The sender goes with the thread.
            self.address = told
                .recv_timeout(BEGIN_PATIENCE)
                .unwrap_or_else(|_| Err(Error::state("the endpoint's thread does not begin")))
                .inspect_err(|_| {
                    self.park(END_PATIENCE);
                })?;
        }
        Ok(())
    }

    /// The same, but nobody waits: if it cannot listen, that is among the newest errors.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub fn try_again(&mut self) -> Result<()> {
        self.begin().map(drop)
    }

    /// Starts the thread, if there is none; it then tells where it listens.
    fn begin(&mut self) -> Result<Option<Receiver<Result<Address>>>> {
        if self
            .running
            .as_ref()
            .is_some_and(|thread| !thread.has_ended())
        {
            return Ok(None);
        }
        let (quit, quitting) = bounded(0);
        let (tell, told) = bounded(1);
        let given = (self.address.clone(), self.context.clone());
        let thread = NativeThread::spawn(Kind::Own, "rprof-serve", given, move |given| {
            run(&given.0, &given.1, quitting, &tell);
        })
        .map_err(|refused| refused.error)?;
        self.running = Some(thread);
        self.quit = Some(quit);
        Ok(Some(told))
    }
}

/// Opened on the thread that uses it, which has a table of descriptors of its own.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens; the address then has its port, and a socket's file goes with what is returned last.
fn listen(address: &Address) -> Result<(Listener, Address, Option<SocketFile>)> {
    let failed = |error: &std::io::Error| Error::os(format!("cannot listen on {address}"), error);
    match address {
        Address::Tcp(wanted) => {
            // With SO_REUSEADDR: the port must be had again right after a fork.
            let listener = std::net::TcpListener::bind(wanted).map_err(|error| failed(&error))?;
            let bound = listener.local_addr().map_err(|error| failed(&error))?;
            listener
                .set_nonblocking(true)
                .map_err(|error| failed(&error))?;
            let listener = TcpListener::from_std(listener).map_err(|error| failed(&error))?;
            Ok((Listener::Tcp(listener), Address::Tcp(bound), None))
        }
        Address::Unix(path) => {
            let (file, listener) = SocketFile::bind(path)?;
            listener
                .set_nonblocking(true)
                .map_err(|error| failed(&error))?;
            let listener = UnixListener::from_std(listener).map_err(|error| failed(&error))?;
            Ok((Listener::Unix(listener), address.clone(), Some(file)))
        }
    }
}

fn run(
    address: &Address,
    context: &Arc<Context>,
    quitting: Receiver<()>,
    tell: &Sender<Result<Address>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            fail(tell, Error::os("cannot start the endpoint", &error));
            return;
        }
    };
    let entered = runtime.enter();
    let (listener, _file) = match listen(address) {
        Ok((listener, bound, file)) => {
            // One message fits in, and perhaps nobody waits for it.
            drop(tell.try_send(Ok(bound)));
            (listener, file)
        }
        Err(error) => {
            fail(tell, error);
            return;
        }
    };
    drop(entered);
    runtime.block_on(accept(&listener, context, quitting));
    drop(listener);
    // Ends connections.
    runtime.shutdown_timeout(Duration::ZERO);
    context.workers.end(END_PATIENCE);
}

fn fail(tell: &Sender<Result<Address>>, error: Error) {
    session().health().set_error(error.to_string());
    drop(tell.try_send(Err(error)));
}

async fn accept(listener: &Listener, context: &Arc<Context>, quitting: Receiver<()>) {
    let gate = context.gate.clone();
    let quit = context.workers.until_disconnected(quitting);
    tokio::pin!(quit);
    loop {
        let accepted = async {
            match listener {
                Listener::Tcp(listener) => match listener.accept().await {
                    Ok((stream, _)) => admit(stream, &gate, context),
                    Err(_) => rest().await,
                },
                Listener::Unix(listener) => match listener.accept().await {
                    Ok((stream, _)) => admit(stream, &gate, context),
                    Err(_) => rest().await,
                },
            }
        };
        tokio::pin!(accepted);
        let over = std::future::poll_fn(|task| {
            if quit.as_mut().poll(task).is_ready() {
                return std::task::Poll::Ready(true);
            }
            accepted.as_mut().poll(task).map(|()| false)
        });
        if over.await {
            return;
        }
        // Whoever has come in is listened to before the next one, or a burst of connections would
        // put out clients whose requests were never looked at.
        tokio::task::yield_now().await;
    }
}

/// Out of descriptors, or the client has gone already: not so fast.
async fn rest() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn admit<S>(stream: S, gate: &Arc<Gate>, context: &Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // A client that is not let in sees its connection closed.
    let Some(guest) = gate.enter() else { return };
    let leaving = Leaving(gate.clone(), guest.clone());
    let context = context.clone();
    let serving = guest.clone();
    let task = tokio::spawn(async move {
        let _leaving = leaving;
        converse(stream, &context, &serving).await;
    });
    Gate::seated(&guest, task.abort_handle());
}

/// Gives a connection's place back, however it ends.
struct Leaving(Arc<Gate>, Arc<Guest>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leave(&self.1);
    }
}

async fn converse<S>(stream: S, context: &Arc<Context>, guest: &Arc<Guest>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let (context, guest) = (context.clone(), guest.clone());
        async move {
            guest.is_served.store(true, Relaxed);
            let response = routes::answer(&context, &request).await;
            // From here on it is the client's pace.
            guest.is_served.store(false, Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        // One request each: nothing is held open for a next one.
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let patience = HEADER_PATIENCE + Duration::from_secs(routes::MAX_SECONDS) + READ_PATIENCE;
    // Whatever a client does wrong ends with its connection.
    drop(tokio::time::timeout(patience, connection).await);
}
