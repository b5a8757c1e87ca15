//! How many connections there may be, and who has to leave for a new one.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

/// Connections at a time.
pub const MAX_CONNECTIONS: usize = 8;

/// One connection's place.
#[derive(Debug, Default)]
pub struct Guest {
    /// Whether a request of it is being answered; only then it cannot be asked to leave.
    pub is_served: AtomicBool,
    handle: Mutex<Option<AbortHandle>>,
}

/// Lets connections in and out.
#[derive(Debug, Default)]
pub struct Gate {
    guests: Mutex<Vec<Arc<Guest>>>,
    /// Connections that had to leave before their request was complete, or were not let in.
    pub turned_away: AtomicU64,
}

impl Gate {
    /// A place for a new connection, if need be that of the oldest one that only holds it: whoever
    /// opens connections and sends nothing must not keep others out. `None` if all are served.
    #[must_use]
    pub fn enter(&self) -> Option<Arc<Guest>> {
        let mut guests = self.guests.lock();
        if guests.len() >= MAX_CONNECTIONS {
            self.turned_away.fetch_add(1, Relaxed);
            let idle = guests
                .iter()
                .position(|guest| !guest.is_served.load(Relaxed))?;
            let guest = guests.remove(idle);
            if let Some(handle) = guest.handle.lock().take() {
                handle.abort();
            }
        }
        let guest = Arc::new(Guest::default());
        guests.push(guest.clone());
        Some(guest)
    }

    /// Tells how to end a connection.
    pub fn seated(guest: &Guest, handle: AbortHandle) {
        *guest.handle.lock() = Some(handle);
    }

    /// Gives the place back.
    pub fn leave(&self, guest: &Arc<Guest>) {
        self.guests
            .lock()
            .retain(|other| !Arc::ptr_eq(other, guest));
    }
}
