//! Logs: one line per event on standard error, as text or JSON.
//!
//! The formats are our own, because every value may come from a hostile
//! client, agent or component: see [`crate::escape`]. The access log has the
//! target `access`.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use portcullis::admin::LogLevel;
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::log_writer;
use portcullis::escape::{escape, json_string};

/// The longest value of a field that is written.
const LONGEST_VALUE: usize = 4_096;

/// RFC 3339 with milliseconds, UTC.
const TIME: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    /// The level or filter cannot be read.
    #[error(
        "log level `{given}` of {origin} is neither trace, debug, info, warn, error, off nor a filter such as `info,access=debug`"
    )]
    Level {
        /// What was given.
        given: String,
        /// The flag or the variable.
        origin: &'static str,
    },
    /// The format is unknown.
    #[error("LOG_FORMAT=`{0}` is neither text nor json")]
    Format(String),
    /// Traces are asked for that cannot be exported.
    #[cfg(feature = "otel")]
    #[error(transparent)]
    Traces(#[from] crate::traces::TracesError),
    /// Something else in this process logs already.
    #[error("logging has been started already")]
    Twice(#[from] TryInitError),
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Logging flags, the same for every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct LogArgs {
    /// How much to log on standard error: trace, debug, info, warn, error or off, or a filter such as `info,access=debug` [env: RUST_LOG]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Logging")]
    log_level: Option<String>,
    /// Log one JSON object per line [env: LOG_FORMAT=json]
    #[arg(long, global = true, help_heading = "Logging")]
    log_json: bool,
}

/// Starts logging. A flag beats the environment (`RUST_LOG`, `LOG_FORMAT`),
/// which beats `default_level`.
///
/// Fails when the level or the format cannot be read, or when called twice.
pub(crate) fn start(arguments: &LogArgs, default_level: &str) -> Result<(), TelemetryError> {
    let environment = std::env::var("RUST_LOG")
        .ok()
        .filter(|value| !value.is_empty());
    let filter = match (&arguments.log_level, environment) {
        (Some(level), _) => filter(level, "--log-level")?,
        (None, Some(level)) => filter(&level, "RUST_LOG")?,
        (None, None) => filter(default_level, "the default")?,
    };
    let format = match std::env::var("LOG_FORMAT")
        .ok()
        .filter(|value| !value.is_empty())
    {
        _ if arguments.log_json => Format::Json,
        None => Format::Text,
        Some(value) => match value.to_ascii_lowercase().as_str() {
            "json" => Format::Json,
            "text" | "plain" => Format::Text,
            _ => return Err(TelemetryError::Format(value)),
        },
    };
    let colour = format == Format::Text
        && std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let level = filter.to_string();
    let (filter, handle) = reload::Layer::new(filter);
    let lines = Lines {
        format,
        colour,
        write: log_writer::write,
    };
    init(filter, lines)?;
    log_writer::start();
    let _ = CHANGEABLE.set(Changeable {
        level: Mutex::new(level),
        handle,
    });
    Ok(())
}

#[cfg(not(feature = "otel"))]
fn init<W: Fn(String) + Send + Sync + 'static>(
    filter: reload::Layer<EnvFilter, Registry>,
    lines: Lines<W>,
) -> Result<(), TelemetryError> {
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    for name in [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ] {
        if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
            tracing::info!(
                "{name} is set, and this program was built without traces (cargo feature `otel`)"
            );
        }
    }
    Ok(())
}

/// With traces where the environment asks for them: what is logged does not matter to them.
#[cfg(feature = "otel")]
fn init<W: Fn(String) + Send + Sync + 'static>(
    filter: reload::Layer<EnvFilter, Registry>,
    lines: Lines<W>,
) -> Result<(), TelemetryError> {
    match crate::traces::layer()? {
        None => tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()?,
        Some(spans) => tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(spans)
            .try_init()?,
    }
    Ok(())
}

/// Delivers what is left; nothing is traced afterwards.
pub(crate) fn finish() {
    #[cfg(feature = "otel")]
    crate::traces::finish();
}

/// What can be changed while running.
struct Changeable {
    level: Mutex<String>,
    handle: reload::Handle<EnvFilter, Registry>,
}

static CHANGEABLE: OnceLock<Changeable> = OnceLock::new();

/// The log of this process, for those who read and change its level.
pub(crate) struct Log;

impl LogLevel for Log {
    fn current(&self) -> String {
        let level = CHANGEABLE.get().map(|log| &log.level);
        level.map_or_else(
            || "off".to_owned(),
            |level| level.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        )
    }

    fn change(&self, level: &str) -> Result<(), String> {
        let filter = filter(level, "the request").map_err(|error| error.to_string())?;
        let Some(log) = CHANGEABLE.get() else {
            return Err("logging has not been started".to_owned());
        };
        let mut current = log.level.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = filter.to_string();
        log.handle
            .reload(filter)
            .map_err(|error| error.to_string())?;
        *current = shown;
        Ok(())
    }
}

/// Reads a level, with Consul's spelling of it too, or a filter.
fn filter(text: &str, origin: &'static str) -> Result<EnvFilter, TelemetryError> {
    let unreadable = || TelemetryError::Level {
        given: text.to_owned(),
        origin,
    };
    let level = match text.to_ascii_lowercase().as_str() {
        level @ ("trace" | "debug" | "info" | "warn" | "error" | "off") => level.to_owned(),
        "err" => "error".to_owned(),
        // A lone word would be taken for a target by that name.
        _ if !text.contains('=') && !text.contains(',') => return Err(unreadable()),
        _ => text.to_owned(),
    };
    EnvFilter::builder().parse(level).map_err(|_| unreadable())
}

/// The layer that writes the lines.
struct Lines<W> {
    format: Format,
    colour: bool,
    write: W,
}

/// A field's value, already escaped for the format.
struct Value {
    name: &'static str,
    text: String,
}

/// Fields in order of appearance; the last value of a name counts.
struct Fields {
    format: Format,
    message: Option<String>,
    values: Vec<Value>,
}

impl Fields {
    fn new(format: Format) -> Self {
        Self {
            format,
            message: None,
            values: Vec::new(),
        }
    }

    fn put(&mut self, name: &'static str, text: String) {
        match self.values.iter_mut().find(|value| value.name == name) {
            Some(value) => value.text = text,
            None => self.values.push(Value { name, text }),
        }
    }

    fn put_text(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            self.message = Some(text.to_owned());
            return;
        }
        let value = match self.format {
            Format::Json => json_string(text, LONGEST_VALUE),
            Format::Text => plain(text),
        };
        self.put(field.name(), value);
    }
}

/// A value in a text line: bare where that is clear, else quoted.
fn plain(text: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    if !text.is_empty() && text.len() <= LONGEST_VALUE && text.bytes().all(bare) {
        return text.to_owned();
    }
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escape(&quoted, LONGEST_VALUE))
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.put(field.name(), value.to_string());
        } else {
            self.put_text(field, &value.to_string());
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put_text(field, &value.to_string());
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(String) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new(self.format);
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new(self.format);
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for value in &outer.values {
                    fields.put(value.name, value.text.clone());
                }
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let now = OffsetDateTime::now_utc().format(TIME).unwrap_or_default();
        let line = match self.format {
            Format::Json => json_line(&now, metadata.level(), metadata.target(), &fields),
            Format::Text => text_line(
                &now,
                metadata.level(),
                metadata.target(),
                &fields,
                self.colour,
            ),
        };
        (self.write)(line);
    }
}

fn json_line(now: &str, level: &Level, target: &str, fields: &Fields) -> String {
    let message = fields.message.as_deref().unwrap_or_default();
    let mut line = format!(
        "{{\"timestamp\":\"{now}\",\"level\":\"{level}\",\"target\":{},\"message\":{}",
        json_string(target, LONGEST_VALUE),
        json_string(message, LONGEST_VALUE),
    );
    for value in &fields.values {
        // A field must not stand twice, nor replace what the line itself says.
        let prefix = match value.name {
            "timestamp" | "level" | "target" => "field.",
            _ => "",
        };
        let _ = write!(
            line,
            ",\"{prefix}{}\":{}",
            escape(value.name, 200),
            value.text
        );
    }
    line.push_str("}\n");
    line
}

fn text_line(now: &str, level: &Level, target: &str, fields: &Fields, colour: bool) -> String {
    let (start, end) = match (colour, *level) {
        (false, _) => ("", ""),
        (true, Level::ERROR) => ("\u{1b}[31m", "\u{1b}[0m"),
        (true, Level::WARN) => ("\u{1b}[33m", "\u{1b}[0m"),
        (true, Level::INFO) => ("\u{1b}[32m", "\u{1b}[0m"),
        (true, _) => ("\u{1b}[2m", "\u{1b}[0m"),
    };
    let message = fields.message.as_deref().unwrap_or_default();
    let mut line = format!(
        "{now} {start}{level:<5}{end} {}: {}",
        escape(target, 200),
        escape(message, LONGEST_VALUE)
    );
    for value in &fields.values {
        let _ = write!(line, " {}={}", escape(value.name, 200), value.text);
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const HOSTILE: &str = "x\r\n2026-01-01 INFO forged\u{1b}[2J\u{2028}\u{9b}\u{202e}\"}";

    fn logged(format: Format, log: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&lines);
        let write = move |line: String| sink.lock().unwrap().push_str(&line);
        let layer = Lines {
            format,
            colour: false,
            write,
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        lines.lock().unwrap().clone()
    }

    fn hostile_event() {
        let span = tracing::info_span!("connection", peer = HOSTILE, later = tracing::field::Empty);
        span.record("later", HOSTILE);
        let _entered = span.enter();
        tracing::info!(
            target: "access",
            { shown = %HOSTILE, debug = ?HOSTILE, level = "mine", bytes = 7_u64, ok = true, ratio = f64::NAN,
              "src.identity" = HOSTILE },
            "closed by {HOSTILE}"
        );
    }

    #[test]
    fn hostile_text_stays_on_one_ascii_line_in_both_formats() {
        for format in [Format::Text, Format::Json] {
            let out = logged(format, hostile_event);
            let line = out.strip_suffix('\n').expect("a line");
            assert!(
                line.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{line}"
            );
        }
    }

    #[test]
    fn json_lines_can_be_parsed_and_keep_the_values() {
        let out = logged(Format::Json, hostile_event);
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        for field in ["shown", "peer", "later", "src.identity"] {
            assert_eq!(line[field], HOSTILE, "{field}");
        }
        assert_eq!(line["message"], format!("closed by {HOSTILE}"));
        assert_eq!(
            (&line["level"], &line["field.level"]),
            (&"INFO".into(), &"mine".into())
        );
        assert_eq!((&line["bytes"], &line["ok"]), (&7.into(), &true.into()));
        assert_eq!(line["target"], "access");
        assert_eq!(line["ratio"], "NaN");
    }

    #[test]
    fn long_values_are_cut() {
        let long = "y".repeat(1_000_000);
        for format in [Format::Text, Format::Json] {
            let out = logged(format, || tracing::info!(path = long, "m"));
            assert!(out.len() < 2 * LONGEST_VALUE, "{}", out.len());
        }
    }

    #[test]
    fn a_field_stands_once() {
        let out = logged(Format::Json, || {
            let _entered = tracing::info_span!("s", name = "outer").entered();
            tracing::info!(name = "inner", "m");
        });
        assert_eq!(out.matches("\"name\"").count(), 1);
        assert!(out.contains("\"name\":\"inner\""));
    }

    #[test]
    fn levels_as_consul_spells_them() {
        for level in ["INFO", "err", "Trace", "info,access=debug", "hyper=off"] {
            assert!(filter(level, "RUST_LOG").is_ok(), "{level}");
        }
        for level in ["loud", "info,=,", "access=loud"] {
            assert!(filter(level, "RUST_LOG").is_err(), "{level}");
        }
    }
}
