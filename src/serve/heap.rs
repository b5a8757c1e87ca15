//! The heap: what is in use, and what was allocated.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use super::admit::{Refusal, refuse};
use super::answers::{Answer, download};
use super::context::Context;
use super::query::Query;
use super::routes::{MAX_SECONDS, blocking, take_permit};
use crate::clock::cpu::{monotonic_ns, unix_time_ns};
use crate::error::Error;
use crate::heap::report::{self, Since};
use crate::model::measure::MeasureId;
use crate::pprof::encode::encode;
use crate::sink::heap_beside::{self, HeapTelling};

/// A window that ends with the request, even if the client goes away.
struct Window(Since);

impl Drop for Window {
    fn drop(&mut self) {
        report::end(&self.0);
    }
}

/// What was allocated since samples are taken and what is in use; or what is allocated in the next
/// seconds, and what is in use then more than now. With `gc` garbage is collected before each look at that.
pub(super) async fn heap(
    context: &Arc<Context>,
    query: &Query,
    default_type: MeasureId,
) -> Result<Answer, Refusal> {
    let bad = |message: String| refuse(StatusCode::BAD_REQUEST, message);
    let longest = Duration::from_secs(MAX_SECONDS).as_secs_f64();
    let seconds = query.number("seconds", 0.0, 0.0, longest).map_err(bad)?;
    let collects = query.text("gc").is_some_and(|value| value != "0");
    let is_on = report::figures().is_on;
    let telling = heap_beside::current().filter(|_| is_on);
    let telling = telling.ok_or_else(|| {
        refuse(
            StatusCode::NOT_FOUND,
            "the heap is not being sampled: rprof.start(memory=True) does it",
        )
    })?;
    let _place = take_permit(context)?;
    let collect = move |telling: &HeapTelling| -> Result<(), Error> {
        if !collects {
            return Ok(());
        }
        (telling.collect)().map_err(|why| Error::state(format!("gc=1 is not possible now: {why}")))
    };
    let window = if seconds > 0.0 {
        let own = telling.clone();
        let begun = blocking(context, move || {
            collect(&own)?;
            Ok::<_, Error>(Window(report::begin_difference(
                monotonic_ns(),
                unix_time_ns(),
            )))
        });
        let window = begun.await??;
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        window
    } else {
        let figures = report::figures();
        Window(Since::beginning(&figures, monotonic_ns(), unix_time_ns()))
    };
    let bytes = blocking(context, move || {
        collect(&telling)?;
        let none = || Error::state("the heap is not being sampled any more");
        let (mut profile, next) = telling.profile(&window.0).ok_or_else(none)?;
        report::end(&next);
        let name = default_type.row().name;
        if profile.column(name).is_some() {
            profile.default_sample_type = Arc::from(name);
        }
        encode(&profile)
    });
    Ok(download(bytes.await??))
}
