//! OpenTelemetry traces (cargo feature `otel`): one span for each line of the access log.
//!
//! The span is made when its connection has ended, of what the log says of it; so it
//! holds what a log may hold, and no secrets. What is exported to whom is up to the
//! `OTEL_*` variables.

mod collector;
mod layer;

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

use collector::Collector;
use layer::Spans;

/// How long the end waits for the last spans to be delivered.
const LAST: Duration = Duration::from_secs(3);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TracesError {
    /// A variable asks for what there is not.
    #[error("`{variable}={value}` is not supported: {instead}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What is supported.
        instead: &'static str,
    },
    /// Certificates for the collector cannot be used.
    #[error("the CA certificates for the trace collector cannot be used: {0}")]
    Certificates(String),
    /// The exporter refuses its settings.
    #[error("traces cannot be exported: {0}")]
    Exporter(String),
}

/// The layer that makes spans, where the environment names a collector.
///
/// Fails when the environment asks for what there is not.
pub(crate) fn layer() -> Result<Option<Spans>, TracesError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    if !wanted(&variable)? {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new(&variable)?)
        .build()
        .map_err(|error| TracesError::Exporter(error.to_string()))?;
    let mut resource = Resource::builder();
    let attributes = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    if variable("OTEL_SERVICE_NAME").is_none() && !attributes.contains("service.name=") {
        resource = resource.with_service_name("portcullis");
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    let tracer = provider.tracer("portcullis");
    let _ = PROVIDER.set(provider);
    Ok(Some(Spans::new(tracer)))
}

/// Whether a collector is named, and nothing says that it is not wanted.
fn wanted(variable: &dyn Fn(&str) -> Option<String>) -> Result<bool, TracesError> {
    let named = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    let mut wanted = named.iter().any(|name| variable(name).is_some());
    match variable("OTEL_TRACES_EXPORTER").as_deref() {
        None => {}
        Some("otlp") => wanted = true,
        Some("none") => wanted = false,
        Some(other) => {
            return Err(TracesError::Variable {
                variable: "OTEL_TRACES_EXPORTER",
                value: other.to_owned(),
                instead: "it is `otlp` or `none`",
            });
        }
    }
    if variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        wanted = false;
    }
    for name in [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ] {
        match variable(name) {
            Some(protocol) if wanted && protocol != "http/protobuf" => {
                return Err(TracesError::Variable {
                    variable: name,
                    value: protocol,
                    instead: "it is `http/protobuf`, which collectors take on port 4318",
                });
            }
            _ => {}
        }
    }
    Ok(wanted)
}

/// Delivers what is left. To be called at the end of the process.
pub(crate) fn finish() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown_with_timeout(LAST)
    {
        tracing::warn!(%error, "the last traces were not delivered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wanted(variables: &[(&str, &str)]) -> Result<bool, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        wanted(&variable).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_exported_unless_a_collector_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert_eq!(is_wanted(&[]), Ok(false));
        assert_eq!(is_wanted(&[endpoint]), Ok(true));
        assert_eq!(is_wanted(&[("OTEL_TRACES_EXPORTER", "otlp")]), Ok(true));
        for off in [
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_SDK_DISABLED", "TRUE"),
        ] {
            assert_eq!(is_wanted(&[endpoint, off]), Ok(false), "{off:?}");
        }
        for bad in [
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ] {
            let error = is_wanted(&[endpoint, bad]).unwrap_err();
            assert!(error.contains(bad.0) && error.contains(bad.1), "{error}");
        }
    }
}
