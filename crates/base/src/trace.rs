//! Traces: which requests to stores were made for the sake of which request of a client, each with its time.
//!
//! Off unless an engine turns it on, once a process; then a request costs one look at a flag. Where it is on, a request's span is
//! carried along by the task that does its work: what that task asks of stores becomes a child of it. What other tasks do
//! later, such as uploads, has spans of its own.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::context::WithContext;
use opentelemetry::trace::{FutureExt as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use parking_lot::RwLock;

use super::rt::{Instant, Rt};

static IS_ON: AtomicBool = AtomicBool::new(false);
static TRACING: RwLock<Option<Arc<Tracing>>> = RwLock::new(None);

/// The tracer that spans go to, and its clock.
#[derive(Debug)]
struct Tracing {
    tracer: SdkTracer,
    rt: Rt,
    /// The date of one moment; `at` is the same moment by measured time. Spans are dated by the latter: the
    /// clock that has the date is too coarse, and may be set meanwhile.
    wall: SystemTime,
    at: Instant,
}

/// Turns tracing on: requests have spans from here on.
pub fn start(rt: &Rt, tracer: SdkTracer) {
    let wall = UNIX_EPOCH + Duration::from_millis(rt.wall_ms());
    *TRACING.write() = Some(Arc::new(Tracing { tracer, rt: rt.clone(), wall, at: rt.now() }));
    IS_ON.store(true, Ordering::Release);
}

/// Turns tracing off: no more spans are made, and those under way are not reported.
pub fn stop() {
    IS_ON.store(false, Ordering::Release);
    *TRACING.write() = None;
}

/// A name and a value that a span tells of its request.
pub type Fact = KeyValue;

/// Makes a fact of a name and a value.
pub fn fact(name: &'static str, value: impl Into<opentelemetry::Value>) -> Fact {
    KeyValue::new(name, value)
}

/// The two sides that a request can be seen from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// A client asks this host.
    Served,
    /// This host asks a store.
    Asked,
}

/// A request under way. A span that is dropped without an end is reported all the same.
#[derive(Debug)]
pub struct Span {
    of: Arc<Tracing>,
    context: Context,
}

impl Tracing {
    fn now(&self) -> SystemTime {
        self.wall + self.rt.now().since(self.at)
    }
}

impl Span {
    /// Begins a span, whose parent is the request that this task works for. `None`: traces are off.
    pub fn begin(
        side: Side,
        name: impl FnOnce() -> String,
        facts: impl FnOnce() -> Vec<Fact>,
    ) -> Option<Span> {
        if !IS_ON.load(Ordering::Relaxed) {
            return None;
        }
        Span::of(TRACING.read().clone()?, side, name(), facts())
    }

    #[cold]
    fn of(of: Arc<Tracing>, side: Side, name: String, facts: Vec<Fact>) -> Option<Span> {
        let kind = if side == Side::Served { SpanKind::Server } else { SpanKind::Client };
        let builder =
            of.tracer.span_builder(name).with_kind(kind).with_start_time(of.now()).with_attributes(facts);
        let parent = Context::current();
        let span = builder.start_with_context(&of.tracer, &parent);
        let context = parent.with_span(span);
        Some(Span { of, context })
    }

    /// Runs the work under this span. The future lies on the heap, so that a request's future is no larger
    /// where traces are off.
    pub fn around<F: Future>(&self, work: F) -> WithContext<Pin<Box<F>>> {
        Box::pin(work).with_context(self.context.clone())
    }

    pub fn end(self, facts: impl IntoIterator<Item = Fact>, failure: Option<&dyn Display>) {
        let span = self.context.span();
        if !span.is_recording() {
            return;
        }
        facts.into_iter().for_each(|fact| span.set_attribute(fact));
        if let Some(why) = failure {
            span.set_status(Status::error(why.to_string()));
        }
        span.end_with_timestamp(self.of.now());
    }
}
