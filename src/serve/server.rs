//! The server's thread: accepts, limits, and hands requests to the routes.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::future::Future as _;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::address::{Address, SocketFile};
use super::context::Context;
use super::gate::{Gate, Guest};
use super::routes;
use crate::error::{Error, Result};
use crate::model::hashing;
use crate::session::fork::session;
use crate::session::native_thread::Kind;
use crate::session::posts::{Occupant, Post};
use crate::session::worker::{Handle, Work, Worker};

/// How long the head of a request may take.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take to be read, beside the time a profile takes.
const READ_PATIENCE: Duration = Duration::from_secs(60);
/// The head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long the end of the thread is waited for.
pub const END_PATIENCE: Duration = Duration::from_secs(3);
/// How long its beginning is waited for.
const BEGIN_PATIENCE: Duration = Duration::from_secs(5);

/// The endpoint; its thread listens and answers.
pub struct Server {
    context: Arc<Context>,
    wanted: Address,
    /// Where it listens, with its port; there again after a fork.
    bound: Arc<OnceLock<Address>>,
    /// Disconnected to end the thread.
    quitting: Receiver<()>,
    tell: Sender<Result<()>>,
}

impl Server {
    /// An endpoint that is going to listen there.
    #[must_use]
    pub fn new(wanted: Address, context: Context) -> Self {
        Self {
            context: Arc::new(context),
            wanted,
            bound: Arc::default(),
            quitting: never(),
            tell: bounded(1).0,
        }
    }

    /// Has an endpoint begin to listen; it is known then where.
    ///
    /// # Errors
    /// When the address is not to be had, or the system has no room for a thread.
    pub fn start(self) -> Result<Worker<Self>> {
        let mut worker = Worker::start(Box::new(self)).map_err(|refused| refused.error)?;
        let begun = match &worker {
            Worker::Running(running) => running.handle.await_begin(),
            _ => Ok(()),
        };
        if begun.is_err() {
            worker.end(END_PATIENCE);
        }
        begun.map(|()| worker)
    }

    /// Where an endpoint listens, or will again.
    #[must_use]
    pub fn address(worker: &Worker<Self>) -> Option<&Address> {
        match worker {
            Worker::Running(running) => running.handle.bound.get(),
            Worker::Parked(server) => server.bound.get(),
            Worker::None | Worker::Changing => None,
        }
    }
}

impl Server {
    fn serve(&self) -> Result<()> {
        // Else the library would read a descriptor, see `model::hashing`.
        if hashing::random().is_none() {
            return Err(Error::state(
                "cannot start the endpoint: this process may not ask for random numbers (getrandom)",
            ));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Error::os("cannot start the endpoint", &error))?;
        let entered = runtime.enter();
        let (listener, bound, _file) = listen(self.bound.get().unwrap_or(&self.wanted))?;
        self.bound.get_or_init(|| bound);
        // One message fits in, and perhaps nobody waits for it.
        drop(self.tell.try_send(Ok(())));
        drop(entered);
        runtime.block_on(accept(&listener, &self.context, self.quitting.clone()));
        drop(listener);
        // Ends connections.
        runtime.shutdown_timeout(Duration::ZERO);
        self.context.workers.end(END_PATIENCE);
        Ok(())
    }
}

impl Work for Server {
    type Handle = ServerHandle;

    const NAME: &'static str = "rprof-serve";
    const KIND: Kind = Kind::Own;

    fn prepare(&mut self) -> ServerHandle {
        let (quit, quitting) = bounded(0);
        let (tell, told) = bounded(1);
        self.quitting = quitting;
        self.tell = tell;
        ServerHandle {
            bound: self.bound.clone(),
            quit: Mutex::new(Some(quit)),
            told,
        }
    }

    fn run(&mut self) {
        if let Err(error) = self.serve() {
            session().health().set_error(error.to_string());
            drop(self.tell.try_send(Err(error)));
        }
    }
}

impl Occupant for Server {
    const POST: Post = Post::Server;
    /// Answers may be under way.
    const WITHOUT_GIL: Duration = Duration::from_secs(5);
}

/// How the endpoint's thread is reached.
pub struct ServerHandle {
    bound: Arc<OnceLock<Address>>,
    quit: Mutex<Option<Sender<()>>>,
    told: Receiver<Result<()>>,
}

impl Handle for ServerHandle {
    fn stop(&self) {
        drop(self.quit.lock().take());
    }

    fn await_begin(&self) -> Result<()> {
        let told = self.told.recv_timeout(BEGIN_PATIENCE);
        told.unwrap_or_else(|_| Err(Error::state("the endpoint's thread does not begin")))
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
