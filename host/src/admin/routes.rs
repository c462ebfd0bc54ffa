//! What is answered at which path.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, Role, report};
use crate::metrics;

/// A reply.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) body: String,
    /// Methods, where another one is wanted.
    pub(super) allow: Option<&'static str>,
}

impl Answer {
    pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let mut body = text.into();
        body.push('\n');
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            body,
            allow: None,
        }
    }

    fn json(status: StatusCode, value: &Value) -> Self {
        Self {
            kind: "application/json",
            ..Self::text(status, format!("{value:#}"))
        }
    }

    pub(super) fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }
}

/// What admin answers, for people.
const PATHS: &str = "\
GET  /status         readiness, connections, policy, component, watches
GET  /config         effective configuration, without secrets (also /config_dump)
GET  /certs          leaf and roots: identities, serials, ends
GET  /logging        the log level
POST /logging        another one: ?level=debug, or {\"level\":\"info,access=debug\"}
POST /drain          stop as by SIGTERM (also /quitquitquit)
GET  /ready /live    as the health listener
GET  /metrics        as the metrics listener";

/// Answers a request that passed the guard.
pub(super) async fn answer(
    admin: &Admin,
    role: Role,
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Answer {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let all = role == Role::Admin;
    match path {
        "/ready" | "/healthz/ready" if all || role == Role::Health => read(reads, || ready(admin)),
        "/live" | "/healthz/live" if all || role == Role::Health => {
            read(reads, || Answer::text(StatusCode::OK, "alive"))
        }
        "/metrics" if all || role == Role::Metrics => read(reads, || Answer {
            status: StatusCode::OK,
            kind: metrics::CONTENT_TYPE,
            body: metrics::encoded(admin.0.subject.get().cloned()),
            allow: None,
        }),
        "/" if all => read(reads, || Answer::text(StatusCode::OK, PATHS)),
        "/status" if all && reads => Answer::json(StatusCode::OK, &report::status(admin).await),
        "/config" | "/config_dump" if all => read(reads, || {
            Answer::json(StatusCode::OK, &report::config(admin))
        }),
        "/certs" if all => read(reads, || {
            Answer::json(StatusCode::OK, &report::certificates(admin))
        }),
        "/logging" if all => logging(admin, method, query, body),
        "/drain" | "/quitquitquit" if all => drain(admin, method),
        "/status" if all => read(false, || Answer::text(StatusCode::OK, "")),
        _ => Answer::text(StatusCode::NOT_FOUND, not_found(role)),
    }
}

fn not_found(role: Role) -> String {
    let paths = match role {
        Role::Admin => PATHS,
        Role::Metrics => "GET /metrics",
        Role::Health => "GET /ready, GET /live",
    };
    format!("nothing is here; there is:\n{paths}")
}

fn read(reads: bool, answer: impl FnOnce() -> Answer) -> Answer {
    if reads {
        answer()
    } else {
        Answer::text(StatusCode::METHOD_NOT_ALLOWED, "use GET").allow("GET")
    }
}

fn ready(admin: &Admin) -> Answer {
    let missing = admin.missing();
    let status = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Answer::json(status, &report::readiness(&missing))
}

fn drain(admin: &Admin, method: &Method) -> Answer {
    if *method != Method::POST {
        return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "use POST").allow("POST");
    }
    tracing::info!("somebody asks for a drain by the admin listener");
    admin.0.drain.cancel();
    Answer::text(
        StatusCode::ACCEPTED,
        "stopping: no more connections are taken",
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

fn logging(admin: &Admin, method: &Method, query: &str, body: &[u8]) -> Answer {
    let Some(log) = &admin.0.log else {
        return Answer::text(
            StatusCode::NOT_FOUND,
            "the program that embeds this proxy logs by itself",
        );
    };
    if *method == Method::POST {
        let wanted = match (query.strip_prefix("level="), body) {
            (Some(level), b"") => level.to_owned(),
            (None, body) if query.is_empty() => match serde_json::from_slice::<Level>(body) {
                Ok(Level { level }) => level,
                Err(error) => return unreadable(&error.to_string()),
            },
            _ => return unreadable("neither ?level= nor a body, or both"),
        };
        let before = log.current();
        if let Err(problem) = log.change(&wanted) {
            return Answer::text(StatusCode::BAD_REQUEST, problem);
        }
        tracing::info!(
            before,
            now = log.current(),
            "the log level has been changed"
        );
    } else if !matches!(*method, Method::GET | Method::HEAD) {
        let refused = Answer::text(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST");
        return refused.allow("GET, POST");
    }
    Answer::json(StatusCode::OK, &json!({ "level": log.current() }))
}

fn unreadable(why: &str) -> Answer {
    Answer::text(
        StatusCode::BAD_REQUEST,
        format!("say the level by ?level=debug or by {{\"level\":\"debug\"}}: {why}"),
    )
}
