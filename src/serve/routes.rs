//! What is answered at which path. The scheme is that of Go's `net/http/pprof`, so that whatever
//! scrapes Go programs scrapes this: `go tool pprof`, Grafana Alloy, Parca.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::TryRecvError;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::sync::SemaphorePermit;

use super::admit::{NEXT, Refusal, admit, refuse};
use super::answers::{Answer, download, refused, sealed, text, typed};
use super::context::{Context, MAX_PROFILES};
use super::heap::heap;
use super::query::Query;
use super::status;
use crate::account::RequestFilter;
use crate::account::steps::STEPS;
use crate::clock::cpu::monotonic_ns;
use crate::error::Error;
use crate::fold::profile::Profile;
use crate::heap::report;
use crate::model::measure::{Column, MeasureId, MeasureSet, present_name};
use crate::model::snapshot::Snapshot;
use crate::model::task::Tasks;
use crate::pprof::encode::encode;
use crate::report::dump;
use crate::report::page_facts::page_facts;
use crate::session::config::RecordingConfig;
use crate::session::control::RecordingId;
use crate::session::flight::Pick;
use crate::session::fork::session;
use crate::session::requests::captures::Capture;
use crate::sink::heap_beside;

/// The longest profile, in seconds.
pub const MAX_SECONDS: u64 = 300;
/// What Go takes when nothing is said.
const DEFAULT_SECONDS: f64 = 30.0;
const MIN_SECONDS: f64 = 0.01;
/// How far back it can be asked for, in seconds.
const MAX_LAST: f64 = 86_400.0;

/// Requests that can be asked for there.
const MAX_NEXT: f64 = 10_000.0;
/// How many of them have ended.
const X_RPROF_REQUESTS: HeaderName = HeaderName::from_static("x-rprof-requests");

/// Answers a request.
pub async fn answer<B>(context: &Arc<Context>, request: &Request<B>) -> Answer {
    if session().refusals().due().is_some() {
        session().try_again();
    }
    let answered = match admit(context, request) {
        Ok(()) => route(context, request).await,
        Err(refusal) => Err(refusal),
    };
    answered.map_or_else(refused, sealed)
}

async fn route<B>(context: &Arc<Context>, request: &Request<B>) -> Result<Answer, Refusal> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match request.uri().path() {
        "/" | "/debug/pprof" | "/debug/pprof/" => {
            let health = session().health().counters();
            let page = status::index(&context.program, &session().engine(), &health);
            Ok(typed(page, "text/html; charset=utf-8"))
        }
        "/debug/pprof/profile" | "/debug/pprof/cpu" => {
            Ok(download(encoded(context, &query, "cpu").await?))
        }
        "/debug/pprof/wall" => Ok(download(encoded(context, &query, "wall").await?)),
        "/debug/pprof/heap" => heap(context, &query, MeasureId::InuseSpace).await,
        "/debug/pprof/allocs" => heap(context, &query, MeasureId::AllocSpace).await,
        "/debug/pprof/report" => report(context, &query).await,
        NEXT if request.method() == Method::POST => next(context, &query).await,
        NEXT => Err(refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "ask by POST: curl -X POST -H 'Authorization: Bearer TOKEN' \
             '.../debug/pprof/next?count=100&route=/checkout' -o next.pb.gz",
        )),
        // Go's name for the like of threads.
        "/debug/pprof/threads" | "/debug/pprof/goroutine" => threads(context, &query).await,
        "/debug/pprof/task_steps" => task_steps(),
        "/debug/pprof/status" => {
            let status = status::to_json(&context.program, context.gate.turned_away.load(Relaxed));
            Ok(typed(status.to_string() + "\n", "application/json"))
        }
        "/debug/pprof/metrics" | "/metrics" => {
            // The kernel may take its time to tell.
            let strain = context.workers.run(|| session().strain().read()).await;
            let mut counters = session().health().counters();
            counters.extend(strain.unwrap_or_default().counters());
            counters.extend(status::lock_counters());
            let telling = heap_beside::current().filter(|_| report::figures().is_on);
            let account = match telling {
                Some(telling) => context.workers.run(move || (telling.account)()).await,
                None => None,
            };
            let memory = account
                .as_ref()
                .map_or_else(String::new, status::memory_metrics);
            Ok(typed(
                status::metrics(&counters)
                    + &memory
                    + &status::request_metrics(&session().requests().figures()),
                // https://prometheus.io/docs/instrumenting/exposition_formats/
                "text/plain; version=0.0.4; charset=utf-8",
            ))
        }
        "/debug/pprof/cmdline" => Err(refuse(
            StatusCode::FORBIDDEN,
            "the command line is not shown: it may hold secrets",
        )),
        _ => Err(refuse(
            StatusCode::NOT_FOUND,
            "there is nothing here; see /debug/pprof/",
        )),
    }
}

fn task_steps() -> Result<Answer, Refusal> {
    if STEPS.is_on() {
        Ok(text(STEPS.text()))
    } else {
        Err(refuse(
            StatusCode::NOT_FOUND,
            "the steps of tasks are not counted: rprof.start(task_steps=True)",
        ))
    }
}

/// A recording that ends with the request, even if the client goes away.
struct RecordingGuard(Option<RecordingId>);

impl RecordingGuard {
    async fn begin(context: &Context, config: RecordingConfig) -> Result<Self, Refusal> {
        // Made where it begins: whoever goes away meanwhile ends it.
        let begun = blocking(context, move || {
            let id = session().start(config, None, None)?;
            Ok::<_, Error>(Self(Some(id)))
        });
        Ok(begun.await??)
    }

    async fn end(mut self, context: &Context) -> Result<Arc<Profile>, Refusal> {
        match self.0.take() {
            Some(id) => Ok(blocking(context, move || session().stop(id))
                .await??
                .profile),
            None => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "ended twice")),
        }
    }
}

impl Drop for RecordingGuard {
    fn drop(&mut self) {
        if let Some(id) = self.0.take() {
            // Nobody wants it any more. The sampler answers at once.
            drop(session().stop(id));
        }
    }
}

/// Runs what waits for other threads elsewhere, so that others are answered meanwhile.
pub(super) async fn blocking<T: Send + 'static>(
    context: &Context,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let done = context.workers.run(work).await;
    done.ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, "it has failed"))
}

/// A capture that ends with the request for it.
struct Captured(Capture);

impl Drop for Captured {
    fn drop(&mut self) {
        session().requests().close(self.0.bit);
    }
}

/// The next requests of a kind, and only they.
async fn next(context: &Arc<Context>, query: &Query) -> Result<Answer, Refusal> {
    const LOOK: Duration = Duration::from_millis(20);
    let bad = |message: String| refuse(StatusCode::BAD_REQUEST, message);
    let wanted = query.number("count", 100.0, 1.0, MAX_NEXT).map_err(bad)? as u32;
    let longest = Duration::from_secs(MAX_SECONDS).as_secs_f64();
    let seconds = query
        .number("seconds", DEFAULT_SECONDS, MIN_SECONDS, longest)
        .map_err(bad)?;
    let rate = query
        .number("rate", context.rate, 0.01, 10_000.0)
        .map_err(bad)?;
    let route = query.text("route").map(str::to_owned);
    let _permit = take_permit(context)?;
    let captured = Captured(session().requests().capture()?);
    let requests = RequestFilter {
        captures: captured.0.bit,
        keep_apart: false,
    };
    let recording = RecordingGuard::begin(context, config(context, rate, requests)).await?;
    session()
        .requests()
        .open(captured.0.bit, wanted, route.clone());
    let end = tokio::time::Instant::now() + Duration::from_secs_f64(seconds);
    while captured.0.done.try_recv() != Err(TryRecvError::Disconnected)
        && tokio::time::Instant::now() < end
    {
        tokio::time::sleep(LOOK).await;
    }
    let (_, ended) = session().requests().progress(captured.0.bit);
    let profile = recording.end(context).await?;
    if ended == 0 {
        let kind = route.map_or_else(String::new, |route| format!(" of {route}"));
        return Err(refuse(
            StatusCode::GATEWAY_TIMEOUT,
            format!("no request{kind} has begun and ended within {seconds} s"),
        ));
    }
    let mut answer = download(blocking(context, move || encode(&profile)).await??);
    if let Ok(progress) = HeaderValue::from_str(&format!("{ended}/{wanted}")) {
        answer.headers_mut().insert(X_RPROF_REQUESTS, progress);
    }
    Ok(answer)
}

fn unknown_type<'name>(wanted: &str, known: impl Iterator<Item = &'name str>) -> Refusal {
    let known: Vec<&str> = known.collect();
    refuse(
        StatusCode::BAD_REQUEST,
        format!("type={wanted:?} is unknown; choose {}", known.join(", ")),
    )
}

pub(super) fn take_permit(context: &Context) -> Result<SemaphorePermit<'_>, Refusal> {
    context.profiles.try_acquire().map_err(|_| {
        refuse(
            StatusCode::TOO_MANY_REQUESTS,
            format!("{MAX_PROFILES} profiles are being recorded already; try again later"),
        )
    })
}

fn config(context: &Context, rate: f64, requests: RequestFilter) -> RecordingConfig {
    let period_ns = (1e9 / rate).round().max(1.0) as u64;
    RecordingConfig {
        max_overhead: context.max_overhead,
        requests,
        ..RecordingConfig::of_all(&context.program, period_ns)
    }
}

/// Records for so many seconds, or takes what was recorded in the last ones.
async fn profile(
    context: &Arc<Context>,
    query: &Query,
    default_type: &str,
) -> Result<Profile, Refusal> {
    let bad = |message: String| refuse(StatusCode::BAD_REQUEST, message);
    let longest = Duration::from_secs(MAX_SECONDS).as_secs_f64();
    let seconds = query
        .number("seconds", DEFAULT_SECONDS, MIN_SECONDS, longest)
        .map_err(bad)?;
    let rate = query
        .number("rate", context.rate, 0.01, 10_000.0)
        .map_err(bad)?;
    let wanted = present_name(query.text("type").unwrap_or(default_type)).to_owned();
    let known = || MeasureSet::WITH_GIL.iter().map(|id| id.row().name);
    if !known().any(|name| name == wanted) {
        return Err(unknown_type(&wanted, known()));
    }
    let mut profile = if query.text("last").is_some() {
        let last = query.number("last", 0.0, 1.0, MAX_LAST).map_err(bad)?;
        let wanted = Pick {
            since_ns: monotonic_ns().saturating_sub((last * 1e9) as u64),
            ..Pick::default()
        };
        blocking(context, move || session().recent(&wanted)).await??
    } else {
        let _permit = take_permit(context)?;
        let recording =
            RecordingGuard::begin(context, config(context, rate, RequestFilter::default())).await?;
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        (*recording.end(context).await?).clone()
    };
    // What is measured depends on the engine and the options.
    let names = profile.columns.iter().map(Column::name);
    if !names.clone().any(|name| name == wanted) {
        return Err(unknown_type(&wanted, names));
    }
    profile.default_sample_type = Arc::from(wanted.as_str());
    Ok(profile)
}

/// The same as a file.
async fn encoded(
    context: &Arc<Context>,
    query: &Query,
    default_type: &str,
) -> Result<Vec<u8>, Refusal> {
    let profile = profile(context, query, default_type).await?;
    Ok(blocking(context, move || encode(&profile)).await??)
}

/// The page of the last minutes, or of the next seconds if they are asked for.
async fn report(context: &Arc<Context>, query: &Query) -> Result<Answer, Refusal> {
    let last = Query::parse("last=300");
    let is_asked = query.text("seconds").is_some() || query.text("last").is_some();
    let profile = profile(context, if is_asked { query } else { &last }, "wall").await?;
    let facts = page_facts(&profile.meta.comments);
    let bytes = blocking(context, move || encode(&profile)).await??;
    let (before, between, after) = &context.page;
    let around = before.len() + between.len() + after.len();
    let mut page = String::with_capacity(around + facts.len() + bytes.len() * 4 / 3 + 4);
    page.push_str(before);
    page.push_str(&facts);
    page.push_str(between);
    STANDARD.encode_string(bytes, &mut page);
    page.push_str(after);
    let mut answer = typed(page, "text/html; charset=utf-8");
    // The page has a policy of its own, which names its script.
    answer.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("frame-ancestors 'none'"),
    );
    Ok(answer)
}

/// Every thread's stack, now, where the tasks of asyncio wait, and who holds the locks.
async fn threads(context: &Arc<Context>, query: &Query) -> Result<Answer, Refusal> {
    let debug = query.text("debug").unwrap_or("1").to_owned();
    let as_json = match query.text("format") {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => {
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                format!("format={other:?} is unknown; choose text or json"),
            ));
        }
    };
    let looking = context.clone();
    let (snapshot, seen) = blocking(context, move || look(&looking)).await??;
    if as_json {
        let data = dump::to_json(&snapshot, &seen);
        return Ok(typed(data.to_string() + "\n", "application/json"));
    }
    match &*debug {
        "1" => Ok(text(dump::by_place(&snapshot, &seen))),
        "2" => Ok(text(dump::by_thread(&snapshot, &seen))),
        other => Err(refuse(
            StatusCode::BAD_REQUEST,
            format!("debug={other:?} is unknown; choose 1 (by place) or 2 (by thread)"),
        )),
    }
}

fn look(context: &Context) -> Result<(Snapshot, Tasks), Refusal> {
    let dumper = context
        .dumper
        .as_ref()
        .map_err(|reason| refuse(StatusCode::SERVICE_UNAVAILABLE, reason.clone()))?;
    let mut dumper = dumper.lock();
    match dumper.look_once() {
        Ok(mut snapshot) => {
            session().note_standing(&mut snapshot);
            let tasks = dumper.look_at_tasks(&mut snapshot, None);
            Ok((snapshot, tasks))
        }
        Err(_) => Err(refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "no snapshot could be taken; is the interpreter shutting down?",
        )),
    }
}
