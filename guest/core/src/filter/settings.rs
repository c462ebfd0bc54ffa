//! The plugin configuration: `guest/envoy/README.md` is its documentation.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::http::RequestNormalization;
use crate::identity::TrustDomain;
use crate::intention::json::{self, At, Fields, Flaw};
use crate::intention::{Destination, Protocol};

const DEFAULT_WAIT_MS: u64 = 60_000;
const DEFAULT_MAX_STALE_MS: u64 = 24 * 60 * 60 * 1000;
const DEFAULT_START_WAIT_MS: u64 = 5_000;
const MAX_START_WAIT_MS: u64 = 60_000;
const MAX_CONFIGURATION: usize = 64 * 1024;

/// What a filter is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The destination.
    pub service: Destination,
    /// Where the policy comes from.
    pub agent: AgentSettings,
    /// The mesh's trust domain, where it is not left to the agent.
    pub trust_domain: Option<TrustDomain>,
    /// Of the destination; what the filter's place says, if absent.
    pub protocol: Option<Protocol>,
    /// What holds where no intention matches.
    pub default_policy: DefaultPolicySetting,
    /// `strict` or `envoy`, as the document `mesh` takes it.
    pub matching: &'static str,
    /// `match` or `reject`, as the document `mesh` takes it.
    pub ambiguous_path: &'static str,
    /// `HTTP.Incoming.RequestNormalization` as JSON; the agent's `mesh` entry says, if absent.
    pub request_normalization: Option<String>,
    /// How long the last good policy decides; 0 for ever.
    pub max_stale_ms: u64,
    /// How long early connections wait for the first policy.
    pub start_wait_ms: u64,
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// Who checks the certificate.
    pub peer_verification: PeerVerification,
    /// Which decisions are written to the filter state; by the filter's place, if absent.
    pub filter_state: Option<FilterState>,
    /// Who may be asked for keys of JWT providers; nobody else is, but the relay.
    pub jwks: Vec<KeyServer>,
}

/// A server that may be asked for one key set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyServer {
    /// What a provider's entry must have, letter by letter.
    pub uri: String,
    /// Envoy's cluster.
    pub cluster: String,
    /// The `Host` that is sent.
    pub authority: String,
    /// The target that is asked for.
    pub path_and_query: String,
    /// Whether the URI is one of HTTPS; the cluster must do TLS then.
    pub is_https: bool,
}

/// Where the policy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// Envoy's cluster.
    pub cluster: String,
    /// The `Host` that is sent.
    pub authority: String,
    /// As `?dc=`.
    pub datacenter: Option<String>,
    /// How long a blocking query may stay open.
    pub wait_ms: u64,
    /// It is a relay that fetches the keys of JWT providers, too.
    pub jwks: bool,
}

/// What holds where no intention matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultPolicySetting {
    /// The agent is asked.
    Auto,
    /// As given.
    Allow,
    /// As given.
    Deny,
}

/// Whether decisions are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are.
    Enforce,
    /// They are counted and logged only.
    Shadow,
}

/// Who checks the peer's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerVerification {
    /// Envoy; what it has not verified is refused.
    Envoy,
    /// The filter, against the agent's roots.
    Filter,
}

/// Which decisions are written to the filter state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterState {
    /// All.
    All,
    /// Those that refuse.
    Refused,
    /// None.
    None,
}

/// Why a configuration is refused. It names the field and what it may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin configuration: {}: {text}", if .field.is_empty() { "the whole" } else { .field.as_str() })]
pub struct SettingsError {
    /// The field, as `agent.cluster`; empty for the whole. Printable.
    pub field: String,
    /// What is wrong; printable.
    pub text: String,
}

impl From<Flaw> for SettingsError {
    fn from(flaw: Flaw) -> Self {
        let pointer = flaw.pointer.strip_prefix('/').unwrap_or(&flaw.pointer);
        let field = match pointer {
            "" => String::new(),
            pointer => format!("`{}`", pointer.replace('/', ".")),
        };
        Self {
            field,
            text: flaw.text,
        }
    }
}

impl Settings {
    /// Reads JSON.
    ///
    /// # Errors
    /// [`SettingsError`] for whatever is not exactly as documented: unknown fields too.
    pub fn parse(configuration: &[u8]) -> Result<Self, SettingsError> {
        let at = At::ROOT;
        if configuration.is_empty() {
            return Err(at
                .flaw("there is none: give JSON in a google.protobuf.StringValue")
                .into());
        }
        if configuration.len() > MAX_CONFIGURATION {
            return Err(at.flaw("it is longer than 64 KiB").into());
        }
        let raw = json::document(configuration).map_err(|error| {
            at.flaw(format!(
                "it is not JSON ({error}): give it in a google.protobuf.StringValue, a Struct arrives as protobuf"
            ))
        })?;
        let mut fields = Fields::of(raw, &at)?;
        let service = required(&mut fields, "service", &at)?;
        let service = Destination::parse(&service)
            .map_err(|error| at.key("service").flaw(error.to_string()))?;
        let max_stale_ms = number(
            &mut fields,
            "max_stale_ms",
            &at,
            DEFAULT_MAX_STALE_MS,
            (0, u64::MAX),
        )?;
        let agent = fields
            .take("agent", &at)?
            .ok_or_else(|| at.key("agent").flaw("this field is missing"))?;
        let agent = AgentSettings::read(agent, &at.key("agent"), max_stale_ms)?;
        let trust_domain = match given(&mut fields, "trust_domain", &at)? {
            Some(text) => Some(
                TrustDomain::parse(&text)
                    .map_err(|error| at.key("trust_domain").flaw(error.to_string()))?,
            ),
            None => None,
        };
        let protocols = [
            ("tcp", Protocol::from_code("tcp")),
            ("http", Protocol::from_code("http")),
            ("http2", Protocol::from_code("http2")),
            ("grpc", Protocol::from_code("grpc")),
        ];
        let protocol = choice(&mut fields, "protocol", &at, &protocols)?.flatten();
        let default_policy = choice(
            &mut fields,
            "default_policy",
            &at,
            &[
                ("auto", DefaultPolicySetting::Auto),
                ("allow", DefaultPolicySetting::Allow),
                ("deny", DefaultPolicySetting::Deny),
            ],
        )?;
        let matching = choice(
            &mut fields,
            "matching",
            &at,
            &[("strict", "strict"), ("envoy", "envoy")],
        )?;
        let ambiguous_path = choice(
            &mut fields,
            "ambiguous_path",
            &at,
            &[("match", "match"), ("reject", "reject")],
        )?;
        let request_normalization = match fields.take("request_normalization", &at)? {
            Some(raw) => {
                let at = at.key("request_normalization");
                let (_, unknown) = RequestNormalization::decode(raw, &at)?;
                if let Some(flaw) = unknown.into_iter().next() {
                    return Err(flaw.into());
                }
                Some(raw.get().to_owned())
            }
            None => None,
        };
        let start_wait_ms = number(
            &mut fields,
            "start_wait_ms",
            &at,
            DEFAULT_START_WAIT_MS,
            (0, MAX_START_WAIT_MS),
        )?;
        let mode = choice(
            &mut fields,
            "mode",
            &at,
            &[("enforce", Mode::Enforce), ("shadow", Mode::Shadow)],
        )?;
        let peer_verification = choice(
            &mut fields,
            "peer_verification",
            &at,
            &[
                ("envoy", PeerVerification::Envoy),
                ("filter", PeerVerification::Filter),
            ],
        )?;
        let filter_state = choice(
            &mut fields,
            "filter_state",
            &at,
            &[
                ("all", FilterState::All),
                ("refused", FilterState::Refused),
                ("none", FilterState::None),
            ],
        )?;
        let jwks = key_servers(&mut fields, &at)?;
        none_left(&fields, &at)?;
        Ok(Self {
            service,
            agent,
            trust_domain,
            protocol,
            default_policy: default_policy.unwrap_or(DefaultPolicySetting::Auto),
            matching: matching.unwrap_or("strict"),
            ambiguous_path: ambiguous_path.unwrap_or("match"),
            request_normalization,
            max_stale_ms,
            start_wait_ms,
            mode: mode.unwrap_or(Mode::Enforce),
            peer_verification: peer_verification.unwrap_or(PeerVerification::Envoy),
            filter_state,
            jwks,
        })
    }
}

impl AgentSettings {
    fn read(raw: &RawValue, at: &At<'_>, max_stale_ms: u64) -> Result<Self, SettingsError> {
        let mut fields = Fields::of(raw, at)?;
        let cluster = required(&mut fields, "cluster", at)?.into_owned();
        let authority = given(&mut fields, "authority", at)?.unwrap_or(Cow::Borrowed("localhost"));
        let plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        if !authority.chars().all(plain) || authority.len() > 255 {
            return Err(at
                .key("authority")
                .flaw("this is not `host` or `host:port`")
                .into());
        }
        let datacenter = given(&mut fields, "datacenter", at)?;
        let is_name = |name: &str| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if datacenter.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(at
                .key("datacenter")
                .flaw("this is not the name of a datacenter")
                .into());
        }
        let wait_ms = number(
            &mut fields,
            "wait_ms",
            at,
            DEFAULT_WAIT_MS,
            (1_000, 600_000),
        )?;
        let jwks = fields.take_flag("jwks", at)?;
        none_left(&fields, at)?;
        // What is confirmed by answers alone must be answered twice within the budget.
        let most = match max_stale_ms {
            0 => u64::MAX,
            budget => (budget / 2).max(1),
        };
        Ok(Self {
            cluster,
            authority: authority.into_owned(),
            datacenter: datacenter.map(Cow::into_owned),
            wait_ms: wait_ms.min(most),
            jwks,
        })
    }
}

impl KeyServer {
    fn read(raw: &RawValue, at: &At<'_>) -> Result<Self, SettingsError> {
        let mut fields = Fields::of(raw, at)?;
        let uri = required(&mut fields, "uri", at)?.into_owned();
        let cluster = required(&mut fields, "cluster", at)?.into_owned();
        none_left(&fields, at)?;
        let text = "this is not `https://HOST[:PORT]/PATH`, or `http` without TLS";
        Self::of(uri, cluster).ok_or_else(|| at.key("uri").flaw(text).into())
    }

    /// The server behind a URI, by a cluster; `None` if the URI asks nobody.
    #[must_use]
    pub fn of(uri: String, cluster: String) -> Option<Self> {
        let (is_https, rest) = match (uri.strip_prefix("https://"), uri.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        let is_path = path.chars().all(|c| c.is_ascii_graphic() && c != '#');
        if authority.is_empty() || !authority.chars().all(plain) || !is_path {
            return None;
        }
        let usual = if is_https { ":443" } else { ":80" };
        let authority = authority
            .strip_suffix(usual)
            .unwrap_or(authority)
            .to_owned();
        let path_and_query = match path {
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/{path}"),
        };
        Some(Self {
            authority,
            path_and_query,
            is_https,
            uri,
            cluster,
        })
    }
}

fn key_servers(fields: &mut Fields<'_>, at: &At<'_>) -> Result<Vec<KeyServer>, SettingsError> {
    let list = at.key("jwks");
    let mut servers: Vec<KeyServer> = Vec::new();
    for (place, raw) in fields.take_items("jwks", at)?.into_iter().enumerate() {
        let at = list.index(place);
        let server = KeyServer::read(raw, &at)?;
        if servers.iter().any(|other| other.uri == server.uri) {
            return Err(at.key("uri").flaw("this URI is listed twice").into());
        }
        servers.push(server);
    }
    Ok(servers)
}

fn required<'a>(
    fields: &mut Fields<'a>,
    key: &str,
    at: &At<'_>,
) -> Result<Cow<'a, str>, SettingsError> {
    given(fields, key, at)?.ok_or_else(|| at.key(key).flaw("this field is missing").into())
}

/// A string that is not empty; `null` is none.
fn given<'a>(
    fields: &mut Fields<'a>,
    key: &str,
    at: &At<'_>,
) -> Result<Option<Cow<'a, str>>, SettingsError> {
    let Some(raw) = fields.take_or_null(key, at)? else {
        return Ok(None);
    };
    let text = json::text(raw, &at.key(key))?;
    if text.is_empty() {
        return Err(at.key(key).flaw("this is empty").into());
    }
    Ok(Some(text))
}

fn number(
    fields: &mut Fields<'_>,
    key: &str,
    at: &At<'_>,
    default: u64,
    (least, most): (u64, u64),
) -> Result<u64, SettingsError> {
    let Some(raw) = fields.take_or_null(key, at)? else {
        return Ok(default);
    };
    let number = json::unsigned(raw, &at.key(key))?;
    if number < least || number > most {
        let text = format!("this is not between {least} and {most}");
        return Err(at.key(key).flaw(text).into());
    }
    Ok(number)
}

fn choice<T: Copy>(
    fields: &mut Fields<'_>,
    key: &str,
    at: &At<'_>,
    choices: &[(&str, T)],
) -> Result<Option<T>, SettingsError> {
    let Some(raw) = fields.take_or_null(key, at)? else {
        return Ok(None);
    };
    let text = json::text(raw, &at.key(key))?;
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, choice)) => Ok(Some(*choice)),
        None => {
            let names: Vec<String> = choices
                .iter()
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            let text = format!("this is none of {}", names.join(", "));
            Err(at.key(key).flaw(text).into())
        }
    }
}

fn none_left(fields: &Fields<'_>, at: &At<'_>) -> Result<(), SettingsError> {
    match fields.rest().next() {
        Some((name, _)) => Err(at.key(name).flaw("this field is not known").into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"{"service":"db","agent":{"cluster":"a"}}"#;

    #[test]
    fn the_least_configuration_has_the_documented_defaults() {
        let settings = Settings::parse(LEAST.as_bytes()).unwrap();
        assert_eq!(settings.service.key(), "default/default/db");
        assert_eq!(settings.agent.authority, "localhost");
        assert_eq!(settings.agent.wait_ms, 60_000);
        assert_eq!(settings.max_stale_ms, 86_400_000);
        assert_eq!(settings.start_wait_ms, 5_000);
        assert_eq!(settings.protocol, None);
        assert_eq!(settings.matching, "strict");
        assert_eq!(settings.mode, Mode::Enforce);
        assert_eq!(settings.peer_verification, PeerVerification::Envoy);
        assert_eq!(settings.filter_state, None);
    }

    #[test]
    fn everything_can_be_given() {
        let text = r#"{"service":"p/n/db","agent":{"cluster":"a","authority":"h:1","datacenter":"dc-2",
            "wait_ms":1000},"trust_domain":"t.consul","protocol":"grpc","default_policy":"deny",
            "matching":"envoy","ambiguous_path":"reject","request_normalization":{"MergeSlashes":true},
            "max_stale_ms":0,"start_wait_ms":0,"mode":"shadow","peer_verification":"filter",
            "filter_state":"none"}"#;
        let settings = Settings::parse(text.as_bytes()).unwrap();
        assert_eq!(settings.protocol, Protocol::from_code("grpc"));
        assert_eq!(settings.agent.datacenter.as_deref(), Some("dc-2"));
        assert_eq!(
            settings.request_normalization.as_deref(),
            Some(r#"{"MergeSlashes":true}"#)
        );
        assert_eq!(settings.mode, Mode::Shadow);
        assert_eq!(settings.filter_state, Some(FilterState::None));
    }

    #[test]
    fn a_wait_leaves_room_for_two_answers_within_the_budget() {
        let text = r#"{"service":"db","agent":{"cluster":"a"},"max_stale_ms":3000}"#;
        let settings = Settings::parse(text.as_bytes()).unwrap();
        assert_eq!(settings.agent.wait_ms, 1_500);
    }

    #[test]
    fn key_servers_are_named_by_whole_uris() {
        let read = |uri: &str| {
            let text = format!(
                r#"{{"service":"db","agent":{{"cluster":"a","jwks":true}},"jwks":[{{"uri":"{uri}","cluster":"k"}}]}}"#
            );
            let mut settings = Settings::parse(text.as_bytes()).ok()?;
            assert!(settings.agent.jwks);
            settings.jwks.pop()
        };
        let of = |uri: &str| {
            let server = read(uri)?;
            Some((server.is_https, server.authority, server.path_and_query))
        };
        let is = |https, authority: &str, path: &str| {
            Some((https, authority.to_owned(), path.to_owned()))
        };
        assert_eq!(
            of("https://a.example/k?x=1"),
            is(true, "a.example", "/k?x=1")
        );
        assert_eq!(of("https://a:443"), is(true, "a", "/"));
        assert_eq!(of("https://a:80?x"), is(true, "a:80", "/?x"));
        assert_eq!(of("http://[::1]:8080/k"), is(false, "[::1]:8080", "/k"));
        for uri in [
            "",
            "a",
            "ftp://a/",
            "https://",
            "https:///k",
            "https://u@a/",
            "https://a/ k",
            "https://a/#k",
            "HTTPS://a/",
        ] {
            assert_eq!(read(uri), None, "{uri}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |rest: &str| format!(r#"{{"service":"db","agent":{{"cluster":"a"}},{rest}}}"#);
        let agent = |rest: &str| format!(r#"{{"service":"db","agent":{{"cluster":"a",{rest}}}}}"#);
        for (text, field) in [
            (String::new(), "the whole"),
            ("\n\x07service".to_owned(), "the whole"),
            ("[]".to_owned(), "the whole"),
            (r#"{"agent":{"cluster":"a"}}"#.to_owned(), "`service`"),
            (
                r#"{"service":"","agent":{"cluster":"a"}}"#.to_owned(),
                "`service`",
            ),
            (
                r#"{"service":"a b","agent":{"cluster":"a"}}"#.to_owned(),
                "`service`",
            ),
            (
                r#"{"service":5,"agent":{"cluster":"a"}}"#.to_owned(),
                "`service`",
            ),
            (r#"{"service":"db"}"#.to_owned(), "`agent`"),
            (r#"{"service":"db","agent":"a"}"#.to_owned(), "`agent`"),
            (
                r#"{"service":"db","agent":{}}"#.to_owned(),
                "`agent.cluster`",
            ),
            (agent(r#""token":"x""#), "`agent.token`"),
            (agent(r#""authority":"a b""#), "`agent.authority`"),
            (agent(r#""datacenter":"a&b""#), "`agent.datacenter`"),
            (agent(r#""wait_ms":10"#), "`agent.wait_ms`"),
            (agent(r#""cluster":"b""#), "`agent.cluster`"),
            (with(r#""Service":"x""#), "`Service`"),
            (with(r#""unknown":1"#), "`unknown`"),
            (with(r#""trust_domain":"A B""#), "`trust_domain`"),
            (with(r#""protocol":"udp""#), "`protocol`"),
            (with(r#""protocol":null"#), "`protocol`"),
            (with(r#""default_policy":"DENY""#), "`default_policy`"),
            (with(r#""matching":true"#), "`matching`"),
            (with(r#""ambiguous_path":"deny""#), "`ambiguous_path`"),
            (
                with(r#""request_normalization":{"MergeSlash":true}"#),
                "`request_normalization.MergeSlash`",
            ),
            (with(r#""max_stale_ms":-1"#), "`max_stale_ms`"),
            (with(r#""max_stale_ms":"1h""#), "`max_stale_ms`"),
            (with(r#""start_wait_ms":60001"#), "`start_wait_ms`"),
            (with(r#""mode":"permissive""#), "`mode`"),
            (with(r#""peer_verification":"none""#), "`peer_verification`"),
            (with(r#""filter_state":"some""#), "`filter_state`"),
            (agent(r#""jwks":"yes""#), "`agent.jwks`"),
            (with(r#""jwks":{}"#), "`jwks`"),
            (with(r#""jwks":[{"uri":"https://a/"}]"#), "`jwks.0.cluster`"),
            (with(r#""jwks":[{"cluster":"k"}]"#), "`jwks.0.uri`"),
            (
                with(r#""jwks":[{"uri":"https://a/","cluster":"k","x":1}]"#),
                "`jwks.0.x`",
            ),
            (
                with(
                    r#""jwks":[{"uri":"https://a/","cluster":"k"},{"uri":"https://a/","cluster":"l"}]"#,
                ),
                "`jwks.1.uri`",
            ),
        ] {
            let error = Settings::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("plugin configuration: {field}: ")),
                "{text}: {error}"
            );
        }
    }
}
