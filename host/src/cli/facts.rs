//! What `check` lets the policy know, from an agent or from a file.

use std::path::{Path, PathBuf};

use portcullis::agent_client::{AgentClient, AgentError};
use portcullis::entries::Entries;
use portcullis::jwks::{JwksSettings, Source, fetch, shown};
use portcullis::watcher::{DefaultPolicy as Found, find_default_policy};
use portcullis_core::agent::{
    HttpReply, HttpRequest, Query, ReplyError, ReplyHeaders, RequestError, config, matches,
    peerings, roots,
};
use portcullis_core::intention::Destination;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::agent::{ask, refused};
use super::failure::Failure;
use super::proxy::arguments::DefaultPolicy;

/// The largest list of providers that is read.
const MAX_LIST: usize = 8 * 1024 * 1024;

/// The trust domain of questions from files, where any will do.
const NO_TRUST_DOMAIN: &str = "from-a-file.consul";

/// What the policy is to know.
pub(crate) struct Facts {
    /// The mesh's own.
    pub(crate) trust_domain: String,
    /// PEM.
    pub(crate) roots: Vec<String>,
    /// The destination's intentions, raw.
    pub(crate) intentions: String,
    /// `allow`, `deny` or `unknown`.
    pub(crate) default_policy: &'static str,
    /// Where that comes from, or why it is not known.
    pub(crate) default_source: String,
    /// The bundles of the peers that the intentions name, by name.
    pub(crate) peers: Map<String, Value>,
    /// Why the others have none.
    pub(crate) lacks: Vec<(String, String)>,
}

/// What the policy is to know for a question about a request.
#[derive(Default)]
pub(crate) struct HttpFacts {
    /// `RequestNormalization` of the mesh, raw.
    pub(crate) normalization: Option<String>,
    /// The `jwt-provider` entries, a raw list; absent where they may not be read.
    pub(crate) providers: Option<String>,
    /// The keys that are not in those entries, by provider.
    pub(crate) key_sets: Vec<(String, Vec<u8>)>,
    /// What could not be had, with the provider.
    pub(crate) lacks: Vec<(String, String)>,
}

impl HttpFacts {
    /// From the agent, which may refuse; keys of those providers alone that `intentions`,
    /// a raw list, may speak of.
    ///
    /// Fails when the agent cannot be asked, or its answers cannot be read.
    pub(crate) async fn from_agent(
        client: &AgentClient,
        intentions: &str,
        jwks: &JwksSettings,
    ) -> Result<Self, Failure> {
        let query = Query::default();
        let mut facts = Self::default();
        let mesh = config::get("mesh", "mesh", &query);
        match told(client, mesh, config::decode_normalization).await? {
            Ok(found) => facts.normalization = found,
            Err(refusal) => facts.lacks.push(("mesh".to_owned(), refusal)),
        }
        let list = config::list("jwt-provider", &query);
        let read = |reply: &HttpReply<'_>| {
            let body = String::from_utf8_lossy(reply.ok(MAX_LIST)?).into_owned();
            Ok((body, reply.headers.filtered))
        };
        match told(client, list, read).await? {
            Ok((body, false)) => facts.add_providers(body, intentions, jwks).await?,
            Ok((_, true)) => facts.lacks.push((
                "jwt-provider".to_owned(),
                "the token may not read these entries: it needs `mesh:read`, or `service:write` on some service".to_owned(),
            )),
            Err(refusal) => facts.lacks.push(("jwt-provider".to_owned(), refusal)),
        }
        Ok(facts)
    }

    /// The same from files with config entries.
    ///
    /// Fails when one cannot be read.
    pub(crate) async fn from_files(
        files: &[PathBuf],
        intentions: &str,
        jwks: &JwksSettings,
    ) -> Result<Self, Failure> {
        let mut facts = Self::default();
        if files.is_empty() {
            return Ok(facts);
        }
        let entries = Entries::read(files).map_err(|error| Failure::from_error(&error))?;
        facts.normalization = entries.normalization().map(ToString::to_string);
        let providers = Value::from(entries.providers()).to_string();
        facts.add_providers(providers, intentions, jwks).await?;
        Ok(facts)
    }

    /// An empty list is none, as for a proxy.
    async fn add_providers(
        &mut self,
        body: String,
        intentions: &str,
        jwks: &JwksSettings,
    ) -> Result<(), Failure> {
        let list = if body.is_empty() { "null" } else { &body };
        let entries: Option<Vec<&RawValue>> = serde_json::from_str(list).map_err(|error| {
            Failure::while_doing("the jwt-provider entries cannot be read", &error)
        })?;
        let entries = entries.unwrap_or_default();
        let intentions: Value = serde_json::from_str(intentions).unwrap_or_default();
        let sources = entries.iter().filter_map(|entry| Source::of(entry));
        let mut fetches = JoinSet::new();
        for source in sources.filter(|source| speaks_of(&intentions, &source.provider)) {
            let jwks = jwks.clone();
            fetches.spawn(async move {
                let fetched = fetch(&source, &jwks).await;
                (source, fetched)
            });
        }
        if !entries.is_empty() {
            self.providers = Some(body);
        }
        for (source, fetched) in fetches.join_all().await {
            match fetched {
                Ok(keys) => self.key_sets.push((source.provider, keys)),
                Err(error) => {
                    let lack = format!("{}: {error}", shown(&source.place));
                    self.lacks.push((format!("jwks/{}", source.provider), lack));
                }
            }
        }
        self.key_sets.sort_unstable();
        self.lacks.sort_unstable();
        Ok(())
    }
}

/// Whether a text anywhere in it is this one.
fn speaks_of(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Array(items) => items.iter().any(|item| speaks_of(item, text)),
        Value::Object(fields) => fields.values().any(|field| speaks_of(field, text)),
        _ => false,
    }
}

/// What the agent tells, nothing where there is nothing, or in which words it refuses.
///
/// Fails otherwise.
async fn told<T: Default>(
    client: &AgentClient,
    request: Result<HttpRequest, RequestError>,
    read: impl FnOnce(&HttpReply<'_>) -> Result<T, ReplyError>,
) -> Result<Result<T, String>, Failure> {
    let request = request.map_err(|error| Failure::from_error(&error))?;
    match client.ask(&request, read).await {
        Ok(found) => Ok(Ok(found)),
        Err(AgentError::Status { status: 404, .. }) => Ok(Ok(T::default())),
        Err(error @ AgentError::Denied { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(refused(&error)),
    }
}

/// Trust domain, intentions and default policy, from the agent.
///
/// Fails when the agent cannot be asked, or its answers cannot be read.
pub(crate) async fn from_agent(
    client: &AgentClient,
    destination: &str,
    default: DefaultPolicy,
) -> Result<Facts, Failure> {
    let roots = ask(client, Ok(roots::request(&Query::default())), roots::decode).await?;
    let names = [destination];
    let intentions = ask(
        client,
        matches::request(&names, &Query::default()),
        |reply| {
            let mut lists = matches::decode(reply, &names)?.lists;
            lists.pop().map_or(Ok("null".to_owned()), |(_, list)| {
                list.map(|list| list.json.to_owned())
            })
        },
    )
    .await?;
    let (default_policy, default_source) = match default {
        DefaultPolicy::Auto => discover(client, destination, &roots.trust_domain).await,
        given => (given.as_str(), "flag".to_owned()),
    };
    let (peers, lacks) = peers(client, &intentions, &roots.trust_domain).await?;
    Ok(Facts {
        peers,
        lacks,
        roots: roots.pems().map(str::to_owned).collect(),
        trust_domain: roots.trust_domain,
        intentions,
        default_policy,
        default_source,
    })
}

/// The bundles of the peers that a raw list of intentions names, and why others have none.
///
/// Fails when the agent cannot be asked, or its answer cannot be read.
async fn peers(
    client: &AgentClient,
    intentions: &str,
    own: &str,
) -> Result<(Map<String, Value>, Vec<(String, String)>), Failure> {
    let (mut found, mut lacks) = (Map::new(), Vec::new());
    let named = peerings::named_by(intentions);
    if named.is_empty() {
        return Ok((found, lacks));
    }
    let request = Ok(peerings::request(&Query::default()));
    let list = told(client, request, peerings::decode).await?;
    for name in &named {
        let bundle = match &list {
            Ok(list) => {
                peerings::usable(name, &named, list, Some(own)).map_err(|why| why.to_string())
            }
            Err(refusal) => Err(refusal.clone()),
        };
        match bundle {
            Ok(bundle) => drop(found.insert(name.clone(), bundle.document())),
            Err(why) => lacks.push((format!("peers/{name}"), why)),
        }
    }
    Ok((found, lacks))
}

/// The default policy by what the agent tells, and how it was found or why it was not.
pub(crate) async fn discover(
    client: &AgentClient,
    destination: &str,
    trust_domain: &str,
) -> (&'static str, String) {
    let trust_domain = std::future::ready(Some(trust_domain.to_owned()));
    match find_default_policy(client, destination, trust_domain).await {
        Ok(Found::Known { allow, source }) => {
            (if allow { "allow" } else { "deny" }, source.to_owned())
        }
        Ok(Found::Unknown { because }) => ("unknown", because),
        Err(error) => ("unknown", error.to_string()),
    }
}

/// The same from a file with a reply to `intentions/match` for `name`, or a list
/// of intentions; any trust domain will do.
///
/// Fails when the file cannot be read, or does not hold that.
pub(crate) fn from_file(
    file: &Path,
    name: &str,
    trust_domain: Option<String>,
    default: DefaultPolicy,
) -> Result<Facts, Failure> {
    let destination = Destination::parse(name)
        .map_err(|error| Failure::while_doing(format_args!("`{name}`"), &error))?;
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::while_doing(format_args!("cannot read `{shown}`"), &error))?;
    let not_json = |error: &(dyn std::error::Error + 'static)| {
        Failure::while_doing(format_args!("`{shown}` cannot be read"), error)
    };
    let intentions = if text.trim_start().starts_with('[') {
        let list: Vec<&RawValue> = serde_json::from_str(&text).map_err(|error| not_json(&error))?;
        let ours: Vec<&str> = list
            .iter()
            .map(|item| item.get())
            .filter(|item| concerns(item, &destination))
            .collect();
        format!("[{}]", ours.join(","))
    } else {
        let reply = HttpReply {
            status: 200,
            headers: ReplyHeaders::default(),
            body: text.as_bytes(),
        };
        let mut lists = matches::decode(&reply, &[name])
            .map_err(|error| not_json(&error))?
            .lists;
        let (_, list) = lists
            .pop()
            .ok_or_else(|| Failure::runtime(format_args!("`{shown}` holds no list")))?;
        let advice = || {
            format!(
                "it must be the reply for the name `{}`, or a list of intentions",
                name
            )
        };
        list.map_err(|error| not_json(&error).advice(advice()))?
            .json
            .to_owned()
    };
    Ok(Facts {
        trust_domain: trust_domain.unwrap_or_else(|| NO_TRUST_DOMAIN.to_owned()),
        roots: Vec::new(),
        intentions,
        default_policy: match default {
            DefaultPolicy::Auto => "unknown",
            given => given.as_str(),
        },
        default_source: "flag".to_owned(),
        peers: Map::new(),
        lacks: Vec::new(),
    })
}

/// Whether an intention of a list is about `destination`. One that cannot be read
/// is: the policy then denies and says so.
fn concerns(item: &str, destination: &Destination) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct About {
        destination_name: String,
        #[serde(rename = "DestinationNS", default)]
        destination_namespace: String,
        #[serde(default)]
        destination_partition: String,
    }
    let covers = |given: &str, ours: &str| {
        let given = if given.is_empty() { "default" } else { given };
        given == "*" || given.eq_ignore_ascii_case(ours)
    };
    serde_json::from_str::<About>(item).map_or(true, |about| {
        covers(&about.destination_name, destination.name())
            && covers(&about.destination_namespace, destination.namespace())
            && covers(&about.destination_partition, destination.partition())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_to_the_destination_and_never_lose_what_cannot_be_read() {
        let db = Destination::parse("db").unwrap();
        let about = |name: &str, more: &str| {
            concerns(&format!("{{\"DestinationName\":\"{name}\"{more}}}"), &db)
        };
        assert!(about("db", ""));
        assert!(about("DB", ""));
        assert!(about("*", ""));
        assert!(about("db", ",\"DestinationNS\":\"default\""));
        assert!(!about("api", ""));
        assert!(!about("db", ",\"DestinationNS\":\"other\""));
        for unreadable in [
            "7",
            "{}",
            r#"{"DestinationName":7}"#,
            r#"{"DestinationName":"api","DestinationName":"db"}"#,
        ] {
            assert!(concerns(unreadable, &db), "{unreadable}");
        }
    }
}
