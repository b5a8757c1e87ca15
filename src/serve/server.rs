//! The server's thread: accepts, limits, and hands requests to the routes.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvError, Sender, bounded};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::address::{Address, SocketFile};
use super::gate::{Gate, Guest};
use super::routes::{self, Context};
use crate::error::{Error, Result};
use crate::session::native_thread::NativeThread;

/// How long the head of a request may take.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take to be read, beside the time a profile takes.
const READ_PATIENCE: Duration = Duration::from_secs(60);
/// The head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long the end of the thread is waited for.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// Work that blocks: starting and ending recordings, dumps.
const WORKERS: usize = 4;
const WORKER_STACK_BYTES: usize = 512 << 10;
const WORKER_IDLE: Duration = Duration::from_secs(1);

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
        if self.running.is_some() {
            return Ok(());
        }
        let (quit, quitting) = bounded(0);
        let (tell, told) = bounded(1);
        let (address, context) = (self.address.clone(), self.context.clone());
        let thread = NativeThread::spawn("rprof-serve", move || {
            run(&address, &context, quitting, &tell);
        })?;
        // The sender goes with the thread, so this ends.
        self.address = told
            .recv()
            .unwrap_or_else(|_| Err(Error::state("the endpoint's thread has ended")))?;
        self.running = Some(thread);
        self.quit = Some(quit);
        Ok(())
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
        .max_blocking_threads(WORKERS + 1)
        .thread_name("rprof-serve")
        .thread_stack_size(WORKER_STACK_BYTES)
        .thread_keep_alive(WORKER_IDLE)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            // One message fits in.
            drop(tell.send(Err(Error::os("cannot start the endpoint", &error))));
            return;
        }
    };
    let entered = runtime.enter();
    let (listener, _file) = match listen(address) {
        Ok((listener, bound, file)) => {
            drop(tell.send(Ok(bound)));
            (listener, file)
        }
        Err(error) => {
            drop(tell.send(Err(error)));
            return;
        }
    };
    drop(entered);
    runtime.block_on(accept(&listener, context, quitting));
    drop(listener);
    // Ends connections, and waits for work that has been begun.
    runtime.shutdown_timeout(END_PATIENCE);
}

async fn accept(listener: &Listener, context: &Arc<Context>, quitting: Receiver<()>) {
    let gate = context.gate.clone();
    // Whoever wakes this runtime writes to a descriptor of its own table. The threads outside have
    // another one, where that number is a file of the application: they must wait for a worker,
    // which shares the table, to do it.
    let mut quit = tokio::task::spawn_blocking(move || {
        // Nothing is ever sent: the sender's drop is the message.
        let _: std::result::Result<(), RecvError> = quitting.recv();
    });
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
            if Pin::new(&mut quit).poll(task).is_ready() {
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
