//! The posts of a session: workers that may be there besides the sampler and the writer, and what a
//! fork does to all of them.
#![forbid(unsafe_code)]

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::Session;
use super::native_thread::Refused;
use super::worker::Handle as _;
use super::worker::{Work, Worker};
use crate::error::Result;

/// A fork tries for so long to end the threads while it keeps the GIL. They mostly sleep, so this is
/// enough but for one that is waiting for the GIL itself.
pub const UNDER_GIL_PATIENCE: Duration = Duration::from_millis(2);
/// How long a fork waits for the ends of recordings that nobody waits for.
const ENDINGS_PATIENCE: Duration = Duration::from_secs(2);

/// The workers besides the sampler and the writer, in the order in which a fork ends them. They are
/// started again in the reverse order, after the sampler and the writer, whose work they use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Post {
    /// Writes every thread's stack when a signal comes.
    Dumper,
    /// Tells the application what the watcher has seen.
    Reporter,
    /// Answers at the endpoint.
    Server,
    /// Looks for what is slow or stands still.
    Watcher,
}

/// A worker that has a post.
pub trait Occupant: Work {
    /// Its post.
    const POST: Post;
    /// How long a fork waits for it while it keeps the GIL, which the worker may need.
    const WITH_GIL: Duration = UNDER_GIL_PATIENCE;
    /// How long a fork then waits without the GIL.
    const WITHOUT_GIL: Duration;
    /// How long a fork then waits for whoever starts or ends it, to start it again.
    const AGAIN: Duration = Self::WITHOUT_GIL;
    /// Whether a forked child goes on with it.
    const IS_INHERITED: bool = false;
}

/// Where a worker is that may be started and ended at any time.
pub struct Slot<W: Occupant>(Mutex<Worker<W>>);

impl<W: Occupant> Slot<W> {
    /// What is there. It stays locked while its thread is started or ended: that waits for the thread,
    /// which may wait for the GIL, and so must not be done with the GIL for long.
    pub fn lock(&self) -> MutexGuard<'_, Worker<W>> {
        self.0.lock()
    }

    /// The same, unless somebody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, Worker<W>>> {
        self.0.try_lock()
    }

    /// Starts the thread of a worker that takes the place of what is there.
    ///
    /// # Errors
    /// When the system refuses a thread; what it was to work with is given back.
    pub fn start(&self, work: Box<W>) -> std::result::Result<(), Refused<Box<W>>> {
        // Locked first: a fork in between would not see the thread.
        let mut worker = self.0.lock();
        *worker = Worker::start(work)?;
        Ok(())
    }

    /// Ends the worker for good. A thread that does not end in time is left to itself: it has been
    /// told to end, and does when it can. Whether it has ended.
    pub fn end(&self, patience: Duration) -> bool {
        let Some(mut worker) = self.0.try_lock_for(patience) else {
            return false;
        };
        let has_ended = worker.end(patience);
        *worker = Worker::None;
        has_ended
    }

    /// Ends the thread ahead of a fork and keeps the state; `without_gil` is used only if it has to be
    /// waited for.
    pub fn park_ahead(&self, without_gil: WithoutGil<'_>) {
        if !self.park(W::WITH_GIL) && !W::WITHOUT_GIL.is_zero() {
            without_gil(&|| {
                // The fork is the program's: what does not end in time goes on beside it.
                let _: bool = self.park(W::WITHOUT_GIL);
            });
        }
    }

    fn park(&self, patience: Duration) -> bool {
        let worker = self.0.try_lock_for(patience);
        worker.is_some_and(|mut worker| worker.park(patience))
    }
}

/// A slot, whatever works there.
trait Member: Any + Send + Sync {
    fn post(&self) -> Post;
    fn park_ahead(&self, without_gil: WithoutGil<'_>);
    /// Starts the thread again.
    fn go_on(&self) -> Result<()>;
    /// The same, but waits for nobody; `None` if somebody is in the way.
    fn try_again(&self) -> Option<Result<()>>;
    /// What a forked child goes on with, if anything.
    fn inherit(&self) -> Option<Arc<dyn Member>>;
}

/// Lets go of the GIL, calls what it is given, and takes the GIL again.
pub type WithoutGil<'a> = &'a dyn Fn(&(dyn Fn() + Sync));

impl<W: Occupant> Member for Slot<W> {
    fn post(&self) -> Post {
        W::POST
    }

    fn park_ahead(&self, without_gil: WithoutGil<'_>) {
        Self::park_ahead(self, without_gil);
    }

    fn go_on(&self) -> Result<()> {
        // Whoever has it is starting or ending it.
        let Some(mut worker) = self.0.try_lock_for(W::AGAIN) else {
            return Ok(());
        };
        match (worker.go_on()?, &*worker) {
            (true, Worker::Running(running)) => running.handle.await_begin(),
            _ => Ok(()),
        }
    }

    fn try_again(&self) -> Option<Result<()>> {
        Some(self.0.try_lock()?.go_on().map(drop))
    }

    fn inherit(&self) -> Option<Arc<dyn Member>> {
        let mut worker = W::IS_INHERITED.then(|| self.0.try_lock())??;
        match std::mem::replace(&mut *worker, Worker::None) {
            parked @ Worker::Parked(_) => Some(Arc::new(Self(Mutex::new(parked)))),
            // Its thread is the parent's. What is forgotten is not dropped.
            other => {
                std::mem::forget(other);
                None
            }
        }
    }
}

/// Every post that has been taken, in their order.
#[derive(Default)]
pub struct Posts(Mutex<Vec<Arc<dyn Member>>>);

impl Posts {
    fn slot<W: Occupant>(&self) -> Arc<Slot<W>> {
        let mut members = self.0.lock();
        let index = match members.binary_search_by_key(&W::POST, |member| member.post()) {
            Ok(index) => index,
            Err(index) => {
                members.insert(index, Arc::new(Slot::<W>(Mutex::new(Worker::None))));
                index
            }
        };
        let member: Arc<dyn Any + Send + Sync> = members[index].clone();
        match member.downcast() {
            Ok(slot) => slot,
            Err(_) => unreachable!("one kind of worker has one post"),
        }
    }

    fn all(&self) -> Vec<Arc<dyn Member>> {
        self.0.lock().clone()
    }
}

impl Session {
    /// Where the worker of this kind is, if there is any.
    #[must_use]
    pub fn slot<W: Occupant>(&self) -> Arc<Slot<W>> {
        self.posts().slot()
    }

    /// Ends all threads ahead of a fork; what they work with stays.
    ///
    /// If possible without giving the GIL away: a forking thread that lets go of it lets the main
    /// thread begin the interpreter's shutdown meanwhile, and a child forked in that state can start
    /// no thread (3.12, `Modules/_threadmodule.c`: `interp->finalizing`).
    pub fn park_for_fork(&self, without_gil: WithoutGil<'_>) {
        // Those who use the recordings come first.
        for member in self.posts().all() {
            member.park_ahead(without_gil);
        }
        if !self.has_no_endings() {
            without_gil(&|| self.await_endings(ENDINGS_PATIENCE));
        }
        self.announce_fork();
        if !self.park_within(UNDER_GIL_PATIENCE) {
            without_gil(&|| self.park_with_patience());
        }
    }

    /// Starts all threads again in the parent. What cannot be had is tried again later.
    pub fn go_on_after_fork(&self) {
        self.end_fork();
        self.go_on();
    }

    /// Starts the threads of what a forked child has inherited.
    pub fn go_on(&self) {
        for member in self.posts().all().into_iter().rev() {
            self.note(member.go_on());
        }
    }

    /// Asks for the threads that the system has refused, if there are any and it is time to. Waits for
    /// nobody.
    ///
    /// From the application's threads, for some of ours use what those have open.
    #[inline]
    pub fn try_all_again(&self) {
        if let Some(due) = self.refusals().due() {
            self.try_again_if_due(due);
        }
    }

    #[cold]
    fn try_again_if_due(&self, due: u64) {
        let mut have_asked = self.try_again();
        for member in self.posts().all().into_iter().rev() {
            match member.try_again() {
                Some(asked) => self.note(asked),
                None => have_asked = false,
            }
        }
        if have_asked {
            self.refusals().end(due);
        }
    }

    fn note(&self, begun: Result<()>) {
        if let Err(error) = begun {
            self.refuse(&error);
        }
    }

    /// Takes over what a forked child goes on with.
    pub(super) fn inherit_from(&self, parent: &Self) {
        // Somebody may have had it when the process was forked.
        if let Some(members) = parent.posts().0.try_lock() {
            let inherited = members.iter().filter_map(|member| member.inherit());
            *self.posts().0.lock() = inherited.collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::native_thread::Kind;
    use crate::session::native_thread::tests::refuse;
    use crate::session::worker::tests::{Clerk, Line, PATIENCE};

    macro_rules! occupant {
        ($name:ident, $post:expr, $is_inherited:expr) => {
            struct $name(Box<Clerk>, Arc<Mutex<Vec<Post>>>);

            impl Work for $name {
                type Handle = Line;

                const NAME: &'static str = "rprof-test";
                const KIND: Kind = Kind::Own;

                fn prepare(&mut self) -> Line {
                    self.1.lock().push($post);
                    self.0.ready()
                }

                fn run(&mut self) {
                    self.0.work();
                    self.1.lock().push($post);
                }
            }

            impl Occupant for $name {
                const POST: Post = $post;
                const WITH_GIL: Duration = Duration::ZERO;
                const WITHOUT_GIL: Duration = PATIENCE;
                const IS_INHERITED: bool = $is_inherited;
            }
        };
    }

    occupant!(Early, Post::Dumper, true);
    occupant!(Late, Post::Watcher, false);

    type Log = Arc<Mutex<Vec<Post>>>;

    /// A session with both, the later one first, and what they have done.
    fn busy_session() -> (Session, Log) {
        let (session, log) = (Session::new(), Log::default());
        let late = session
            .slot::<Late>()
            .start(Box::new(Late(Clerk::idle(), log.clone())));
        let early = session
            .slot::<Early>()
            .start(Box::new(Early(Clerk::idle(), log.clone())));
        assert!(late.is_ok() && early.is_ok());
        log.lock().clear();
        (session, log)
    }

    fn is_running<W: Occupant>(session: &Session) -> bool {
        matches!(*session.slot::<W>().lock(), Worker::Running(_))
    }

    #[test]
    fn a_fork_ends_all_in_one_order_and_starts_them_in_the_other() {
        let (session, log) = busy_session();
        session.park_for_fork(&|wait| wait());
        assert!(!is_running::<Early>(&session) && !is_running::<Late>(&session));
        session.go_on_after_fork();
        assert!(is_running::<Early>(&session) && is_running::<Late>(&session));
        let (early, late) = (Post::Dumper, Post::Watcher);
        assert_eq!(*log.lock(), [early, late, late, early]);
        assert!(session.slot::<Early>().end(PATIENCE) && session.slot::<Late>().end(PATIENCE));
        assert!(session.slot::<Early>().lock().is_none());
    }

    #[test]
    fn a_child_goes_on_with_what_is_inherited_and_no_more() {
        let (parent, log) = busy_session();
        parent.park_for_fork(&|wait| wait());
        log.lock().clear();
        let child = Session::new();
        child.inherit_from(&parent);
        assert!(!is_running::<Early>(&child));
        child.go_on();
        assert!(is_running::<Early>(&child) && child.slot::<Late>().lock().is_none());
        assert_eq!(*log.lock(), [Post::Dumper]);
        assert!(child.slot::<Early>().end(PATIENCE));
        // Nor is a thread, which would be the parent's.
        let (parent, _) = busy_session();
        let child = Session::new();
        child.inherit_from(&parent);
        assert!(child.slot::<Early>().lock().is_none());
    }

    #[test]
    fn what_is_refused_is_asked_for_again_unless_somebody_is_in_the_way() {
        let (session, _) = busy_session();
        session.park_for_fork(&|wait| wait());
        refuse(true);
        session.go_on_after_fork();
        refuse(false);
        assert!(session.refusals().are_any());
        let slot = session.slot::<Early>();
        let held = slot.lock();
        while session.refusals().due().is_none() {
            std::thread::yield_now();
        }
        session.try_all_again();
        assert!(is_running::<Late>(&session) && session.refusals().are_any());
        drop(held);
        session.try_all_again();
        assert!(is_running::<Early>(&session) && !session.refusals().are_any());
        assert!(slot.end(PATIENCE) && session.slot::<Late>().end(PATIENCE));
    }
}
