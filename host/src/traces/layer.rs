//! Turns events of the access log into spans.

use std::fmt;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context as OtelContext, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// The target of the access log.
const ACCESS: &str = "access";

/// The layer; sees nothing but the access log.
pub(crate) struct Spans(SdkTracer);

impl Spans {
    pub(super) fn new(tracer: SdkTracer) -> Self {
        Self(tracer)
    }
}

impl<S: Subscriber> Layer<S> for Spans {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let about: &Metadata<'_> = event.metadata();
        if about.target() != ACCESS {
            return;
        }
        let mut connection = Connection::default();
        event.record(&mut connection);
        let ended = SystemTime::now();
        let began = ended
            .checked_sub(Duration::from_millis(connection.duration_ms))
            .unwrap_or(ended);
        let mut keys = connection.attributes.iter().map(|one| one.key.as_str());
        let request = keys.any(|key| key == "http.request.method");
        let (name, kind) = match (connection.direction.as_str(), request) {
            ("outbound", true) => ("outbound request", SpanKind::Client),
            ("outbound", false) => ("outbound connection", SpanKind::Client),
            (_, true) => ("inbound request", SpanKind::Server),
            (_, false) => ("inbound connection", SpanKind::Server),
        };
        let refused = *about.level() <= Level::WARN;
        let status = if refused {
            let code = KeyValue::new("error.type", connection.code.clone());
            connection.attributes.push(code);
            Status::error(connection.reason.clone())
        } else {
            Status::Unset
        };
        let parent = OtelContext::new();
        let parent = match connection.parent {
            Some(above) => parent.with_remote_span_context(above),
            None => parent,
        };
        let mut span = self
            .0
            .span_builder(name)
            .with_kind(kind)
            .with_start_time(began)
            .with_attributes(connection.attributes)
            .start_with_context(&self.0, &parent);
        span.set_status(status);
        span.end_with_timestamp(ended);
    }
}

/// What a line of the access log says.
#[derive(Default)]
struct Connection {
    attributes: Vec<KeyValue>,
    direction: String,
    code: String,
    reason: String,
    duration_ms: u64,
    /// The span of the request's sender.
    parent: Option<SpanContext>,
}

/// The span that a `traceparent` names; the proxy has looked at its form.
fn span_of(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

/// The semantic conventions' name for a field, where they have one.
fn attribute(field: &str) -> String {
    match field {
        "src.addr" => "network.peer.address".to_owned(),
        "dst.addr" => "server.address".to_owned(),
        "tls.version" => "tls.protocol.version".to_owned(),
        "http.method" => "http.request.method".to_owned(),
        "http.path" => "url.path".to_owned(),
        "http.status" => "http.response.status_code".to_owned(),
        "http.version" => "network.protocol.version".to_owned(),
        other => format!("portcullis.{other}"),
    }
}

impl Connection {
    fn number(&mut self, field: &Field, value: i64) {
        self.attributes
            .push(KeyValue::new(attribute(field.name()), value));
    }
}

impl Visit for Connection {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            self.record_str(field, &format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "direction" => value.clone_into(&mut self.direction),
            "code" => value.clone_into(&mut self.code),
            "reason" => value.clone_into(&mut self.reason),
            "traceparent" => {
                self.parent = span_of(value);
                return;
            }
            _ => {}
        }
        self.attributes
            .push(KeyValue::new(attribute(field.name()), value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "duration_ms" {
            self.duration_ms = value;
        }
        self.number(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.attributes
            .push(KeyValue::new(attribute(field.name()), value));
    }
}
