//! The door: everything Python can call, each a conversion of arguments and one call inwards.

mod asgi;
mod captures;
mod direct;
mod dump;
mod exact_locks;
mod gil;
mod greenlets;
mod handed_in;
mod heap;
mod hooks;
mod labels;
mod last_window;
mod late;
mod leaks;
mod measures;
mod memory;
mod owner;
mod profile;
mod profile_rows;
mod recording;
mod reporter;
mod requests;
mod resume;
#[cfg(unix)]
mod serve;
mod steps;
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
    use super::direct::{decode_lines, learn_tasks, learn_trio, no_tasks, no_trio};
    #[pymodule_export]
    use super::dump::{dump_on_signal, no_dump_on_signal};
    #[pymodule_export]
    use super::exact_locks::lock_figures;
    #[pymodule_export]
    use super::greenlets::{learn_greenlets, new_context, no_greenlets};
    #[pymodule_export]
    use super::handed_in::{install, tell_process};
    #[pymodule_export]
    use super::heap::{heap_figures, heap_of_request, heap_profile, memory_account};
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
    use super::leaks::find_leaks;
    #[pymodule_export]
    use super::measures::{format_value, measures};
    #[pymodule_export]
    use super::owner::{Block, Recording, Turn, take_turn};
    #[pymodule_export]
    use super::profile::Profile;
    #[pymodule_export]
    use super::recording::{
        age_ns, counters, dump_threads, end_recordings, engine, expand_output, is_writing,
        kept_files, last_error, main_thread_id, output_rotates, recent, recent_of, start_recording,
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
    use super::steps::{begin_task_steps, end_task_steps, task_step_figures};
    #[pymodule_export]
    use super::viewer::viewer_asset;
    #[pymodule_export]
    use super::watch::{Heartbeat, start_watch, stop_watch, watch_limits, watch_loop};
    #[pymodule_export]
    use super::wsgi::{Answer, WsgiServer};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::hooks::require_main_interpreter()?;
        super::hooks::quiet_panics();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
