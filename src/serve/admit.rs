//! Who is answered, and what others are told instead.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{AUTHORIZATION, HOST, HeaderName};
use hyper::{Method, Request, StatusCode};

use super::context::Context;
use super::token::Shown;
use crate::clock::cpu::monotonic_ns;
use crate::error::Error;

/// Where the next requests of a kind are asked for.
pub(super) const NEXT: &str = "/debug/pprof/next";
/// What browsers tell about the page that asks, and what it wants the answer for
/// (<https://www.w3.org/TR/fetch-metadata/>).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Why a request is not answered.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

pub(super) fn refuse(status: StatusCode, text: impl Into<String>) -> Refusal {
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

/// Whether whoever asks may.
pub(super) fn admit<B>(context: &Context, request: &Request<B>) -> Result<(), Refusal> {
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
