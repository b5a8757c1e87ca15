//! How the profiler does: for people, for scripts, for Prometheus.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use crate::heap::account::Account;
use crate::session::engine::EngineNote;
use crate::session::fork::session;
use crate::session::requests::figures::RouteFigures;
use crate::unwind::lock_owners::OWNERS;

/// Counters that only grow, as Prometheus wants to know of each.
const GAUGES: [&str; 5] = [
    "period_ns",
    "hold_max_ns",
    "own_bytes",
    "failed",
    "gil_waits_hidden",
];

/// Routes, and what they are for.
const ROUTES: [(&str, &str); 12] = [
    (
        "profile?seconds=5",
        "CPU profile of the next seconds (pprof)",
    ),
    ("wall?seconds=5", "the same, opened on wall time"),
    (
        "report",
        "the report page of the last minutes; with ?seconds=5 of the next seconds",
    ),
    ("profile?last=60", "CPU profile of the last seconds (pprof)"),
    ("threads?debug=1", "where all threads stand, by place"),
    ("threads?debug=2", "every thread's stack and what it does"),
    ("threads?format=json", "the same as JSON"),
    (
        "task_steps",
        "how long the steps of asyncio's tasks took, by coroutine",
    ),
    (
        "heap",
        "what is in use of what was allocated (pprof); ?gc=1 collects garbage first; ?seconds=5 tells the difference",
    ),
    ("allocs", "the same, opened on what was allocated"),
    ("status", "how the profiler does (JSON)"),
    ("metrics", "the same for Prometheus"),
];

/// The index page. It has no script and asks for nothing.
#[must_use]
pub fn index(program: &str, engine: &EngineNote, counters: &[(&'static str, u64)]) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>rprof</title>\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "<h1>rprof: {}</h1>\n<p>process {}, engine {} ({})</p>\n<table>",
        escaped(program),
        std::process::id(),
        escaped(engine.name),
        escaped(&engine.reason)
    );
    for (route, what) in ROUTES {
        let _ = writeln!(
            page,
            "<tr><td><a href=\"/debug/pprof/{route}\">{route}</a><td>{what}"
        );
    }
    page.push_str("</table>\n<h2>Counters</h2>\n<table>\n");
    for (name, value) in counters {
        let _ = writeln!(page, "<tr><td>{name}<td>{value}");
    }
    page.push_str(
        "</table>\n<p><code>go tool pprof http://THIS-HOST/debug/pprof/profile?seconds=5</code></p>\n",
    );
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

/// What locks have counted, while they do.
pub fn lock_counters() -> impl Iterator<Item = (&'static str, u64)> {
    let figures = OWNERS.is_on().then(|| OWNERS.figures().counters());
    figures.into_iter().flatten()
}

/// Everything at once.
#[must_use]
pub fn to_json(program: &str, turned_away: u64) -> Value {
    let session = session();
    let engine = session.engine();
    let counters: Map<String, Value> = session
        .health()
        .counters()
        .into_iter()
        .chain(lock_counters())
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect();
    json!({
        "program": program,
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "engine": engine.name,
        "engine_reason": engine.reason,
        "last_error": session.health().last_error(),
        "connections_turned_away": turned_away,
        "requests_unwatched": session.requests().unwatched.load(Relaxed),
        "events_dropped": session.watch().dropped.load(Relaxed),
        "counters": counters,
    })
}

/// The counters in Prometheus' text format: times in seconds, as its conventions have it.
#[must_use]
pub fn metrics(counters: &[(&'static str, u64)]) -> String {
    let mut text = String::new();
    for (name, value) in counters {
        let is_gauge = GAUGES.contains(name);
        let (base, number) = match name.strip_suffix("_ns") {
            Some(base) => (format!("{base}_seconds"), *value as f64 / 1e9),
            None => ((*name).to_owned(), *value as f64),
        };
        let suffix = if is_gauge { "" } else { "_total" };
        let kind = if is_gauge { "gauge" } else { "counter" };
        let _ = writeln!(
            text,
            "# TYPE rprof_{base}{suffix} {kind}\nrprof_{base}{suffix} {number}"
        );
    }
    text
}

/// Who has the memory of the process, where the heap is being sampled.
#[must_use]
pub fn memory_metrics(account: &Account) -> String {
    let mut text = String::from("# TYPE rprof_memory_bytes gauge\n");
    for (part, bytes) in account.parts() {
        let _ = writeln!(text, "rprof_memory_bytes{{part=\"{part}\"}} {bytes}");
    }
    text
}

/// The figures of the application's requests, as a summary by route.
#[must_use]
pub fn request_metrics(figures: &[RouteFigures]) -> String {
    if figures.is_empty() {
        return String::new();
    }
    let escaped = |route: &RouteFigures| {
        route
            .route
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let mut text = String::from("# TYPE rprof_request_seconds summary\n");
    for route in figures {
        let name = escaped(route);
        for part in [0.5, 0.9, 0.99] {
            let seconds = route.quantile_ns(part) as f64 / 1e9;
            let _ = writeln!(
                text,
                "rprof_request_seconds{{route=\"{name}\",quantile=\"{part}\"}} {seconds}"
            );
        }
        let _ = writeln!(
            text,
            "rprof_request_seconds_sum{{route=\"{name}\"}} {}\n\
             rprof_request_seconds_count{{route=\"{name}\"}} {}",
            route.sum_ns as f64 / 1e9,
            route.count
        );
    }
    // Seconds of CPU by the threads' clocks, and of how many requests that is known.
    let sums = "# TYPE rprof_request_cpu_seconds_total counter\n";
    let counts = "# TYPE rprof_request_cpu_known_total counter\n";
    let (mut sums, mut counts) = (String::from(sums), String::from(counts));
    for route in figures {
        let (name, seconds) = (escaped(route), route.cpu_ns as f64 / 1e9);
        let _ = writeln!(
            sums,
            "rprof_request_cpu_seconds_total{{route=\"{name}\"}} {seconds}"
        );
        let _ = writeln!(
            counts,
            "rprof_request_cpu_known_total{{route=\"{name}\"}} {}",
            route.cpu_count
        );
    }
    text + &sums + &counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_typed_and_in_seconds() {
        let text = metrics(&[
            ("ticks", 12),
            ("sampler_cpu_ns", 1_500_000_000),
            ("own_bytes", 7),
        ]);
        for line in [
            "# TYPE rprof_ticks_total counter",
            "rprof_ticks_total 12",
            "rprof_sampler_cpu_seconds_total 1.5",
            "# TYPE rprof_own_bytes gauge",
            "rprof_own_bytes 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn names_are_inert_on_the_index() {
        let page = index("<script>", &EngineNote::default(), &[]);
        assert!(!page.contains("<script>"));
    }
}
