//! The form of answers.
#![forbid(unsafe_code)]

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
    HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

use super::admit::Refusal;

/// Marks an error as Go's endpoint does, so that `go tool pprof` shows its text.
const X_GO_PPROF: HeaderName = HeaderName::from_static("x-go-pprof");
/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

pub(super) fn text(text: String) -> Answer {
    typed(text, "text/plain; charset=utf-8")
}

pub(super) fn typed(body: impl Into<Bytes>, kind: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

pub(super) fn download(profile: Vec<u8>) -> Answer {
    let mut answer = typed(profile, "application/octet-stream");
    answer.headers_mut().insert(
        CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"profile.pb.gz\""),
    );
    answer
}

/// What somebody gets who is not answered.
pub(super) fn refused(refusal: Refusal) -> Answer {
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
    sealed(answer)
}

/// An answer that is neither kept nor taken for anything else, nor loads anything.
pub(super) fn sealed(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'"));
    answer
}
