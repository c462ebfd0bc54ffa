//! The document that all destinations share.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::document::LoadProblem;
use super::freshness::Freshness;
use super::reading::{Reading, Refused};
use super::roots;
use super::tokens;
use crate::chain::{Bundles, PeerBundle, TrustBundle};
use crate::http::RequestNormalization;
use crate::identity::{Excerpt, Partition, PeerName, SpiffeId, TrustDomain};
use crate::intention::json::{self, At, Fields};
use crate::intention::{DefaultPolicy, Matching};
use crate::jwt::Providers;
use crate::time::Timestamp;

/// Name of the document.
pub(super) const NAME: &str = "mesh";
/// How long the last good data decides, unless the document says otherwise.
const DEFAULT_MAX_STALE: u64 = 24 * 60 * 60 * 1000;

/// The mesh, as its document describes it.
#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) trust_domain: TrustDomain,
    pub(super) bundles: Bundles,
    /// The peers by trust domain; one domain may be peered by several partitions.
    peers: BTreeMap<TrustDomain, Vec<(Partition, PeerName)>>,
    pub(super) default_policy: DefaultPolicy,
    pub(super) default_policy_source: Option<String>,
    pub(super) matching: Matching,
    /// The providers of tokens.
    pub(super) providers: Providers,
    pub(super) normalization: RequestNormalization,
    /// Refuse requests whose path can be read in several ways, where matching is strict.
    pub(super) refuse_ambiguous_paths: bool,
    pub(super) max_stale: u64,
    pub(super) freshness: Freshness,
}

/// Where an identity belongs.
pub(super) enum Home<'m> {
    /// The mesh's own trust domain.
    Local,
    /// A loaded peer.
    Peer(&'m PeerName),
    /// A loaded peer's trust domain, but not the partition that it exports from.
    OtherPartition,
    /// None of these.
    Foreign,
}

impl Mesh {
    /// Reads the document's body.
    pub(super) fn read(
        body: &[u8],
        confirmed_at: Timestamp,
        warnings: &mut Vec<LoadProblem>,
    ) -> Result<Self, Refused> {
        let at = At::ROOT;
        let mut fields = Fields::of(Reading::body(body)?, &at)?;
        let trust_domain = fields
            .take_text("trust_domain", &at)?
            .ok_or_else(|| at.key("trust_domain").flaw("this field is missing"))?;
        let trust_domain = TrustDomain::parse(&trust_domain)
            .map_err(|error| at.key("trust_domain").flaw(error.to_string()))?;
        let mut warn = |pointer: String, text: String| {
            warnings.push(LoadProblem {
                document: NAME.to_owned(),
                pointer,
                text,
            });
        };
        let local = roots::read(&mut fields, &at, &trust_domain, &mut warn)?
            .ok_or_else(|| at.key("roots").flaw("none of the roots can be read"))?;
        let peers = match fields.take("peers", &at)? {
            Some(raw) => read_peers(raw, &at.key("peers"), &trust_domain, &mut warn)?,
            None => Vec::new(),
        };
        let default_policy = match fields.take_text("default_policy", &at)? {
            Some(code) => DefaultPolicy::from_code(&code).ok_or_else(|| {
                at.key("default_policy")
                    .flaw("this is not one of `allow`, `deny` and `unknown`")
            })?,
            None => {
                let text = "this field is missing: what no intention covers is denied";
                warn(at.key("default_policy").to_string(), text.to_owned());
                DefaultPolicy::Unknown
            }
        };
        let default_policy_source = fields
            .take_text("default_policy_source", &at)?
            .map(|text| Excerpt::of(&text).to_string());
        let matching = match fields.take_text("matching", &at)?.as_deref() {
            None | Some("strict") => Matching::Strict,
            Some("envoy") => Matching::Envoy,
            Some(_) => {
                return Err(at
                    .key("matching")
                    .flaw("this is not one of `strict` and `envoy`")
                    .into());
            }
        };
        let max_stale = match fields.take("max_stale_ms", &at)? {
            Some(raw) => json::unsigned(raw, &at.key("max_stale_ms"))?,
            None => DEFAULT_MAX_STALE,
        };
        let normalization = match fields.take("request_normalization", &at)? {
            Some(raw) => read_normalization(raw, &at.key("request_normalization"), &mut warn)?,
            None => RequestNormalization::default(),
        };
        let refuse_ambiguous_paths = match fields.take_text("ambiguous_path", &at)?.as_deref() {
            None | Some("match") => false,
            Some("reject") => true,
            Some(_) => {
                return Err(at
                    .key("ambiguous_path")
                    .flaw("this is not one of `match` and `reject`")
                    .into());
            }
        };
        let providers = tokens::read_providers(&mut fields, &at, &mut warn)?;
        Reading::warn_of_rest(&fields, NAME, warnings);
        let (bundles, peers) = bundle(local, peers);
        Ok(Self {
            trust_domain,
            bundles,
            peers,
            default_policy,
            default_policy_source,
            matching,
            providers,
            normalization,
            refuse_ambiguous_paths,
            max_stale,
            freshness: Freshness::confirmed(confirmed_at),
        })
    }

    /// Where an identity belongs. Trust domains are compared exactly; a peer's
    /// services come from the partition that it exports from.
    pub(super) fn home(&self, id: &SpiffeId) -> Home<'_> {
        if *id.trust_domain() == self.trust_domain {
            return Home::Local;
        }
        let Some(peers) = self.peers.get(id.trust_domain()) else {
            return Home::Foreign;
        };
        let Some(service) = id.service() else {
            // No partition to compare: any of them, it is refused for its kind anyway.
            return peers
                .first()
                .map_or(Home::Foreign, |(_, name)| Home::Peer(name));
        };
        peers
            .iter()
            .find(|(partition, _)| *partition == service.partition)
            .map_or(Home::OtherPartition, |(_, name)| Home::Peer(name))
    }

    /// Whether identities of this peering are accepted.
    pub(super) fn has_peer(&self, name: &str) -> bool {
        self.peers
            .values()
            .flatten()
            .any(|(_, peer)| peer.as_str() == name)
    }
}

/// A peering, as the document describes it.
struct Peer {
    name: PeerName,
    trust_domain: TrustDomain,
    partition: Partition,
    roots: TrustBundle,
}

fn read_peers(
    raw: &RawValue,
    at: &At<'_>,
    own: &TrustDomain,
    warn: &mut impl FnMut(String, String),
) -> Result<Vec<Peer>, Refused> {
    let fields = Fields::of(raw, at)?;
    let mut peers: Vec<Peer> = Vec::new();
    for (name, raw) in fields.rest() {
        let at = at.key(name);
        let name = PeerName::parse(name).map_err(|error| at.flaw(error.to_string()))?;
        if peers.iter().any(|peer| peer.name == name) {
            return Err(at.flaw("this peer occurs twice").into());
        }
        let Some(peer) = read_peer(name, raw, &at, warn)? else {
            let text = "none of the peer's roots can be read, so the peer is left out";
            warn(at.to_string(), text.to_owned());
            continue;
        };
        if peer.trust_domain == *own {
            let text = "this peer has the mesh's own trust domain and is left out";
            warn(at.to_string(), text.to_owned());
            continue;
        }
        peers.push(peer);
    }
    Ok(without_twins(peers, at, warn))
}

fn read_peer(
    name: PeerName,
    raw: &RawValue,
    at: &At<'_>,
    warn: &mut impl FnMut(String, String),
) -> Result<Option<Peer>, Refused> {
    let mut fields = Fields::of(raw, at)?;
    let trust_domain = fields
        .take_text("trust_domain", at)?
        .ok_or_else(|| at.key("trust_domain").flaw("this field is missing"))?;
    let trust_domain = TrustDomain::parse(&trust_domain)
        .map_err(|error| at.key("trust_domain").flaw(error.to_string()))?;
    let roots = roots::read(&mut fields, at, &trust_domain, warn)?;
    let partition = match fields.take_text("exported_partition", at)? {
        Some(partition) => Partition::parse(&partition)
            .map_err(|error| at.key("exported_partition").flaw(error.to_string()))?,
        None => Partition::default_partition(),
    };
    for (field, _) in fields.rest() {
        warn(
            at.key(field).to_string(),
            "this field is not known and ignored".to_owned(),
        );
    }
    Ok(roots.map(|roots| Peer {
        name,
        trust_domain,
        partition,
        roots,
    }))
}

/// Two peerings that export the same partition of one trust domain cannot be told
/// apart by identity, so neither is believed.
fn without_twins(
    peers: Vec<Peer>,
    at: &At<'_>,
    warn: &mut impl FnMut(String, String),
) -> Vec<Peer> {
    let same = |a: &Peer, b: &Peer| {
        a.trust_domain == b.trust_domain && a.partition == b.partition && a.name != b.name
    };
    let is_twin: Vec<bool> = peers
        .iter()
        .map(|peer| peers.iter().any(|other| same(peer, other)))
        .collect();
    peers
        .into_iter()
        .zip(is_twin)
        .filter_map(|(peer, twin)| {
            if twin {
                let text =
                    "another peer has the same trust domain and partition; neither is accepted";
                warn(at.key(peer.name.as_str()).to_string(), text.to_owned());
            }
            (!twin).then_some(peer)
        })
        .collect()
}

type PeersByDomain = BTreeMap<TrustDomain, Vec<(Partition, PeerName)>>;

fn bundle(local: TrustBundle, peers: Vec<Peer>) -> (Bundles, PeersByDomain) {
    let mut by_domain = PeersByDomain::new();
    let mut bundles = BTreeMap::new();
    for Peer {
        name,
        trust_domain,
        partition,
        roots,
    } in peers
    {
        by_domain
            .entry(trust_domain)
            .or_default()
            .push((partition.clone(), name.clone()));
        bundles.insert(
            name,
            PeerBundle {
                bundle: roots,
                exported_partition: partition,
            },
        );
    }
    (
        Bundles {
            local,
            peers: bundles,
        },
        by_domain,
    )
}

fn read_normalization(
    raw: &RawValue,
    at: &At<'_>,
    warn: &mut impl FnMut(String, String),
) -> Result<RequestNormalization, Refused> {
    let (normalization, unknown) = RequestNormalization::decode(raw, at)?;
    for flaw in unknown {
        warn(flaw.pointer, flaw.text);
    }
    if normalization.insecure_disable_path_normalization {
        let text = "paths are judged and forwarded as they arrive; without strict matching, `/public/../admin` is not under `/admin`";
        warn(
            at.key("InsecureDisablePathNormalization").to_string(),
            text.to_owned(),
        );
    }
    Ok(normalization)
}
