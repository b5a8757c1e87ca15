//! What is answered at which path. The scheme is that of Go's `net/http/pprof`, so that whatever
//! scrapes Go programs scrapes this: `go tool pprof`, Grafana Alloy, Parca.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::TryRecvError;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, HOST, HeaderName, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::gate::Gate;
use super::query::Query;
use super::status;
use super::token::{Shown, Token};
use super::workers::Workers;
use crate::capture::direct::DirectEngine;
use crate::clock::cpu::monotonic_ns;
use crate::error::Error;
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::model::sample_type::{SampleType, present_name, sampled};
use crate::model::snapshot::Snapshot;
use crate::pprof::encode::encode;
use crate::report::dump;
use crate::session::config::{RecordingConfig, Requests, ThreadFilter};
use crate::session::control::RecordingId;
use crate::session::flight::Pick;
use crate::session::fork::session;
use crate::session::requests::Capture;

/// The longest profile, in seconds.
pub const MAX_SECONDS: u64 = 300;
/// What Go takes when nothing is said.
const DEFAULT_SECONDS: f64 = 30.0;
const MIN_SECONDS: f64 = 0.01;
/// How far back it can be asked for, in seconds.
const MAX_LAST: f64 = 86_400.0;
const DEFAULT_RATE: f64 = 100.0;
/// Profiles at a time; all share the one sampler.
const MAX_PROFILES: usize = 4;
/// CPU time the sampler may use for a profile, as a fraction of one core.
const MAX_OVERHEAD: f64 = 0.05;

/// Where the next requests of a kind are asked for.
const NEXT: &str = "/debug/pprof/next";
/// Requests that can be asked for there.
const MAX_NEXT: f64 = 10_000.0;
/// How many of them have ended.
const X_RPROF_REQUESTS: HeaderName = HeaderName::from_static("x-rprof-requests");

/// Marks an error as Go's endpoint does, so that `go tool pprof` shows its text.
const X_GO_PPROF: HeaderName = HeaderName::from_static("x-go-pprof");
/// What browsers tell about the page that asks, and what it wants the answer for
/// (<https://www.w3.org/TR/fetch-metadata/>).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// What the routes know.
pub struct Context {
    /// The connections.
    pub gate: Arc<Gate>,
    /// What runs.
    pub program: String,
    /// What a request must show, if anything.
    pub token: Option<Token>,
    /// Whether the `Host` of a request must name this machine: a page elsewhere could point a name
    /// of its own at it (DNS rebinding).
    pub must_be_local: bool,
    /// Looks at all threads without the GIL; the reason if that cannot be.
    pub dumper: Result<Mutex<DirectEngine>, String>,
    /// What stands before and behind the profile in the report page.
    page: (String, String),
    /// Where work is done that waits for others.
    pub workers: Workers,
    profiles: Semaphore,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Context")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context without any request yet.
    #[must_use]
    pub fn new(
        program: String,
        token: Option<String>,
        must_be_local: bool,
        dumper: Result<DirectEngine, String>,
        page: (String, String),
    ) -> Self {
        Self {
            gate: Arc::new(Gate::default()),
            program,
            token: token.map(Token::new),
            must_be_local,
            dumper: dumper.map(Mutex::new),
            page,
            workers: Workers::default(),
            profiles: Semaphore::new(MAX_PROFILES),
        }
    }
}

/// Why a request is not answered.
struct Refusal {
    status: StatusCode,
    text: String,
}

fn refuse(status: StatusCode, text: impl Into<String>) -> Refusal {
    Refusal {
        status,
        text: text.into(),
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// Answers a request.
pub async fn answer<B>(context: &Arc<Context>, request: &Request<B>) -> Answer {
    if session().refusals().due().is_some() {
        session().try_again();
    }
    let answered = match admit(context, request) {
        Ok(()) => route(context, request).await,
        Err(refusal) => Err(refusal),
    };
    let mut answer = answered.unwrap_or_else(|refusal| {
        let mut answer = text(refusal.text + "\n");
        *answer.status_mut() = refusal.status;
        let headers = answer.headers_mut();
        headers.insert(X_GO_PPROF, HeaderValue::from_static("1"));
        if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        if refusal.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    });
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'"));
    answer
}

/// Whether whoever asks may.
fn admit<B>(context: &Context, request: &Request<B>) -> Result<(), Refusal> {
    let is_control = request.method() == Method::POST && request.uri().path() == NEXT;
    if request.method() != Method::GET && !is_control {
        return Err(refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered, and POST at /debug/pprof/next",
        ));
    }
    if is_control && context.token.is_none() {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "POST is answered only where a token is needed: rprof.serve(token=...)",
        ));
    }
    if context.must_be_local {
        admit_local(request)?;
    }
    let Some(token) = &context.token else {
        return Ok(());
    };
    let shown = header(request, &AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    match token.judge(shown, monotonic_ns()) {
        Shown::Right => Ok(()),
        Shown::Wrong => Err(refuse(
            StatusCode::UNAUTHORIZED,
            "a token is needed: Authorization: Bearer TOKEN",
        )),
        Shown::WrongAgain => Err(refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "too many wrong tokens; try again later",
        )),
    }
}

/// Keeps out what a page elsewhere can make a browser on this machine send.
fn admit_local<B>(request: &Request<B>) -> Result<(), Refusal> {
    // Of two names, one for us and one for somebody before us, neither counts.
    let mut hosts = request.headers().get_all(HOST).iter();
    let is_ours = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_this_machine),
        _ => false,
    };
    // A request that names its host in the first line, as for a proxy, means that one.
    let target = request.uri().authority();
    if !is_ours || !target.is_none_or(|target| is_this_machine(target.as_str())) {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "the Host header must name this machine: 127.0.0.1, [::1] or localhost",
        ));
    }
    // It could not read the answer, but begin profiles and take all places for them. Following a
    // link to here is fine.
    let is_of_elsewhere = header(request, &SEC_FETCH_SITE) == Some("cross-site");
    if is_of_elsewhere && header(request, &SEC_FETCH_DEST) != Some("document") {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "pages of other sites are not answered",
        ));
    }
    Ok(())
}

fn header<'a, B>(request: &'a Request<B>, name: &HeaderName) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// Whether a `Host` header names this machine by a name that nobody else can own.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let in_brackets = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match in_brackets {
        Some(address) => address
            .parse()
            .is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => {
            name.eq_ignore_ascii_case("localhost")
                || name
                    .parse()
                    .is_ok_and(|address: Ipv4Addr| address.is_loopback())
        }
    }
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
            Ok(download(profile(context, &query, "cpu").await?))
        }
        "/debug/pprof/wall" => Ok(download(profile(context, &query, "wall").await?)),
        "/debug/pprof/report" => report(context, &query).await,
        NEXT if request.method() == Method::POST => next(context, &query).await,
        NEXT => Err(refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "ask by POST: curl -X POST -H 'Authorization: Bearer TOKEN' \
             '.../debug/pprof/next?count=100&route=/checkout' -o next.pb.gz",
        )),
        // Go's name for the like of threads.
        "/debug/pprof/threads" | "/debug/pprof/goroutine" => threads(context, &query).await,
        "/debug/pprof/status" => {
            let status = status::to_json(&context.program, context.gate.turned_away.load(Relaxed));
            Ok(typed(status.to_string() + "\n", "application/json"))
        }
        "/debug/pprof/metrics" | "/metrics" => Ok(typed(
            status::metrics(&session().health().counters())
                + &status::request_metrics(&session().requests().figures()),
            // https://prometheus.io/docs/instrumenting/exposition_formats/
            "text/plain; version=0.0.4; charset=utf-8",
        )),
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

fn text(text: String) -> Answer {
    typed(text, "text/plain; charset=utf-8")
}

fn typed(body: impl Into<Bytes>, kind: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// A recording that ends with the request, even if the client goes away.
struct Recording(Option<RecordingId>);

impl Recording {
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

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(id) = self.0.take() {
            // Nobody wants it any more. The sampler answers at once.
            drop(session().stop(id));
        }
    }
}

/// Runs what waits for other threads elsewhere, so that others are answered meanwhile.
async fn blocking<T: Send + 'static>(
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
        .number("rate", DEFAULT_RATE, 0.01, 10_000.0)
        .map_err(bad)?;
    let route = query.text("route").map(str::to_owned);
    let _place = take_place(context)?;
    let captured = Captured(session().requests().capture()?);
    let requests = Requests {
        captures: captured.0.bit,
        keep_apart: false,
    };
    let recording = Recording::begin(context, config(context, rate, requests)).await?;
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

fn unknown_type(wanted: &str, known: &[SampleType]) -> Refusal {
    let known: Vec<&str> = known.iter().map(|kind| &*kind.name).collect();
    refuse(
        StatusCode::BAD_REQUEST,
        format!("type={wanted:?} is unknown; choose {}", known.join(", ")),
    )
}

fn take_place(context: &Context) -> Result<SemaphorePermit<'_>, Refusal> {
    context.profiles.try_acquire().map_err(|_| {
        refuse(
            StatusCode::TOO_MANY_REQUESTS,
            format!("{MAX_PROFILES} profiles are being recorded already; try again later"),
        )
    })
}

fn config(context: &Context, rate: f64, requests: Requests) -> RecordingConfig {
    RecordingConfig {
        period_ns: (1e9 / rate).round().max(1.0) as u64,
        max_overhead: MAX_OVERHEAD,
        limits: Limits::default(),
        threads: ThreadFilter::All,
        window_ns: None,
        program: context.program.clone(),
        requests,
        ring: None,
    }
}

/// Records for so many seconds, or takes what was recorded in the last ones.
async fn profile(
    context: &Arc<Context>,
    query: &Query,
    default_type: &str,
) -> Result<Vec<u8>, Refusal> {
    let bad = |message: String| refuse(StatusCode::BAD_REQUEST, message);
    let longest = Duration::from_secs(MAX_SECONDS).as_secs_f64();
    let seconds = query
        .number("seconds", DEFAULT_SECONDS, MIN_SECONDS, longest)
        .map_err(bad)?;
    let rate = query
        .number("rate", DEFAULT_RATE, 0.01, 10_000.0)
        .map_err(bad)?;
    let wanted = present_name(query.text("type").unwrap_or(default_type)).to_owned();
    let knows = |kind: &SampleType| *kind.name == *wanted;
    if !sampled(true).iter().any(knows) {
        return Err(unknown_type(&wanted, &sampled(true)));
    }
    let mut profile = if query.text("last").is_some() {
        let last = query.number("last", 0.0, 1.0, MAX_LAST).map_err(bad)?;
        let wanted = Pick {
            since_ns: monotonic_ns().saturating_sub((last * 1e9) as u64),
            ..Pick::default()
        };
        blocking(context, move || session().recent(&wanted)).await??
    } else {
        let _place = take_place(context)?;
        let recording =
            Recording::begin(context, config(context, rate, Requests::default())).await?;
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        (*recording.end(context).await?).clone()
    };
    // Without the direct engine there are fewer.
    let Some(kind) = profile.sample_types.iter().find(|kind| knows(kind)) else {
        return Err(unknown_type(&wanted, &profile.sample_types));
    };
    profile.default_sample_type = kind.name.clone();
    Ok(blocking(context, move || encode(&profile)).await??)
}

fn download(profile: Vec<u8>) -> Answer {
    let mut answer = typed(profile, "application/octet-stream");
    answer.headers_mut().insert(
        CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"profile.pb.gz\""),
    );
    answer
}

/// The page of the last minutes, or of the next seconds if they are asked for.
async fn report(context: &Arc<Context>, query: &Query) -> Result<Answer, Refusal> {
    let last = Query::parse("last=300");
    let is_asked = query.text("seconds").is_some() || query.text("last").is_some();
    let bytes = profile(context, if is_asked { query } else { &last }, "wall").await?;
    let (before, after) = &context.page;
    let mut page = String::with_capacity(before.len() + after.len() + bytes.len() * 4 / 3 + 4);
    page.push_str(before);
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

/// Every thread's stack, now.
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
    let snapshot = blocking(context, move || look(&looking)).await??;
    if as_json {
        return Ok(typed(
            dump::to_json(&snapshot).to_string() + "\n",
            "application/json",
        ));
    }
    match &*debug {
        "1" => Ok(text(dump::places(&snapshot))),
        "2" => Ok(text(dump::threads(&snapshot))),
        other => Err(refuse(
            StatusCode::BAD_REQUEST,
            format!("debug={other:?} is unknown; choose 1 (by place) or 2 (by thread)"),
        )),
    }
}

fn look(context: &Context) -> Result<Snapshot, Refusal> {
    let dumper = context
        .dumper
        .as_ref()
        .map_err(|reason| refuse(StatusCode::SERVICE_UNAVAILABLE, reason.clone()))?;
    let mut snapshot = Snapshot::default();
    match dumper.lock().look_once(&mut snapshot) {
        Ok(_) => {
            session().note_standing(&mut snapshot);
            Ok(snapshot)
        }
        Err(_) => Err(refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "no snapshot could be taken; is the interpreter shutting down?",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_name_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:6060",
            "127.1.2.3",
            "[::1]:1",
            "[::1]",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "127.0.0.1.example.org",
            "10.0.0.1:80",
            "localhost.evil:80",
            "user@localhost",
            "localhost:80:80",
            "localhost:+80",
            "[127.0.0.1]",
            "[[::1]]",
            "[::1",
            "::1]",
            "::1",
            "[::1].example.org",
            "[::ffff:10.0.0.1]",
            "0.0.0.0",
            "2130706433",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
