//! The door: everything Python can call, each a conversion of arguments and one call inwards.

mod asgi;
mod captures;
mod direct;
mod dump;
mod errors;
mod gil;
mod hooks;
mod labels;
mod last_window;
mod owner;
mod profile;
mod recording;
mod reporter;
mod requests;
mod resume;
#[cfg(unix)]
mod serve;
mod viewer;
mod watch;
mod wsgi;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::asgi::{AsgiRequests, note_route};
    #[pymodule_export]
    use super::captures::{Capture, capture_requests, route_figures};
    #[pymodule_export]
    use super::direct::decode_lines;
    #[pymodule_export]
    use super::dump::{dump_on_signal, no_dump_on_signal};
    #[pymodule_export]
    use super::hooks::{
        after_fork_in_child, after_fork_in_parent, after_fork_in_parent_later, ask_again,
        before_fork, hook_parent, install_hooks,
    };
    #[pymodule_export]
    use super::labels::{Labels, current_labels};
    #[pymodule_export]
    use super::last_window::{StandIn, handle_sigterm};
    #[pymodule_export]
    use super::owner::{Block, Recording, Turn, take_turn};
    #[pymodule_export]
    use super::profile::Profile;
    #[pymodule_export]
    use super::recording::{
        age_ns, counters, dump_threads, end_recordings, engine, expand_output, inject_panic,
        is_writing, kept_files, last_error, main_thread_id, output_rotates, recent, recent_of,
        start_recording,
    };
    #[pymodule_export]
    use super::reporter::{pause_reports, start_reports, stop_reports, take_events, wake_event};
    #[pymodule_export]
    use super::requests::Request;
    #[pymodule_export]
    use super::resume::{resume_later, resume_now};
    #[pymodule_export]
    use super::serve::{Serving, is_local_address, serve, stop_serving};
    #[pymodule_export]
    use super::viewer::viewer_asset;
    #[pymodule_export]
    use super::watch::{Heart, start_watch, stop_watch, watch_limits, watch_loop};
    #[pymodule_export]
    use super::wsgi::{Answer, WsgiServer};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::hooks::require_main_interpreter()?;
        super::hooks::quiet_panics();
        super::errors::load(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
