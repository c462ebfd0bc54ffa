//! What is so at this moment: readiness, policy, certificates, watches.

use std::time::{Duration, UNIX_EPOCH};

use portcullis_core::time::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;

use crate::admin::Subject;
use crate::member::Member;
use crate::proxy::Observer;
use crate::watcher::key;

/// Label names and values.
type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
pub(super) struct State(pub(super) Option<Subject>);

pub(super) type Done = Result<(), std::fmt::Error>;

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Done {
        let encoder = &mut encoder;
        let component = self.0.as_ref().and_then(|subject| {
            let policy = subject.member().tls().verifier().policy();
            policy.component().map(|component| component.sha256())
        });
        let mut about = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        about.extend(component.map(|sha256| ("component_sha256", sha256)));
        info(encoder, "build", "This program", about)?;
        let ready = self
            .0
            .as_ref()
            .is_some_and(|subject| subject.missing().is_empty());
        let draining = self.0.as_ref().is_some_and(Subject::draining);
        gauge(
            encoder,
            "ready",
            "Whether connections are taken",
            ready.into(),
        )?;
        gauge(
            encoder,
            "draining",
            "Whether the proxy is stopping",
            draining.into(),
        )?;
        let Some(subject) = &self.0 else {
            return Ok(());
        };
        match subject {
            Subject::Proxy(proxy) => refused_at_once(encoder, proxy)?,
            #[cfg(feature = "envoy")]
            Subject::Server(server) => super::servers::encode(encoder, server)?,
        }
        let member = subject.member();
        policy(encoder, member)?;
        super::decisions::encode(encoder, member.decisions())?;
        certificates(encoder, member)?;
        key_sets(encoder, member)?;
        peers(encoder, member)?;
        watches(encoder, member)
    }
}

fn refused_at_once(encoder: &mut DescriptorEncoder<'_>, proxy: &Observer) -> Done {
    let stats = proxy.stats();
    let mut family = encoder.encode_descriptor(
        "tcp_connections_rejected",
        "Connections that were closed at once, before anything was known of them",
        None,
        MetricType::Counter,
    )?;
    for (reason, count) in [
        ("too-many-connections", stats.over_limit),
        ("no-descriptor", stats.without_descriptor),
        ("accept-failed", stats.accept_failed),
    ] {
        let labels: Labels = vec![("reason", reason.to_owned())];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    gauge(
        encoder,
        "handshakes_active",
        "Handshakes of clients right now",
        stats.handshaking.try_into().unwrap_or(i64::MAX),
    )
}

fn policy(encoder: &mut DescriptorEncoder<'_>, member: &Member) -> Done {
    let policy = member.tls().verifier().policy();
    gauge(
        encoder,
        "policy_generation",
        "The generation in force",
        policy.generation().try_into().unwrap_or(i64::MAX),
    )?;
    info(
        encoder,
        "policy_revision",
        "The documents in force",
        vec![("digest", policy.digest())],
    )?;
    let counts = policy.counts();
    counter(
        encoder,
        "component_failures",
        "Traps, limits, deadlines and impossible answers of the policy component",
        counts.failures,
    )?;
    counter(
        encoder,
        "component_rebuilds",
        "Instances of the policy component that were made anew after a failure",
        counts.rebuilds,
    )?;
    let watcher = member.watcher();
    let (readiness, now) = (watcher.readiness(), watcher.config().clock.now());
    let mut stale = encoder.encode_descriptor(
        "stale_seconds",
        "How long ago the agent confirmed what is in use",
        None,
        MetricType::Gauge,
    )?;
    for (name, part) in readiness.parts() {
        if let Some(age) = part.age(now) {
            let labels: Labels = vec![("part", key(name).to_owned())];
            ConstGauge::new(age.as_secs_f64()).encode(stale.encode_family(&labels)?)?;
        }
    }
    let mut missing = encoder.encode_descriptor(
        "missing",
        "Whether something is missing that readiness needs",
        None,
        MetricType::Gauge,
    )?;
    let lacks = readiness.lacks(now);
    for (name, _) in readiness.parts() {
        let part = key(name);
        let lacking = lacks.iter().any(|lack| lack.part == part);
        let labels: Labels = vec![("part", part.to_owned())];
        ConstGauge::new(i64::from(lacking)).encode(missing.encode_family(&labels)?)?;
    }
    if let Some(most) = readiness.max_stale {
        let most = most.as_secs().try_into().unwrap_or(i64::MAX);
        gauge(
            encoder,
            "max_stale_seconds",
            "The staleness budget: after it everything is denied",
            most,
        )?;
    }
    Ok(())
}

fn certificates(encoder: &mut DescriptorEncoder<'_>, member: &Member) -> Done {
    if let Some(leaf) = member.tls().leaf().current() {
        for (name, help, at) in [
            (
                "leaf_expiry_timestamp_seconds",
                "When our certificate ends",
                leaf.not_after,
            ),
            (
                "leaf_start_timestamp_seconds",
                "When our certificate began",
                leaf.not_before,
            ),
        ] {
            gauge(encoder, name, help, seconds(at))?;
        }
    }
    let roots = member.watcher().roots();
    let count = roots.map_or(0, |roots| roots.pems.len());
    gauge(
        encoder,
        "roots_count",
        "Root certificates in use",
        count.try_into().unwrap_or(i64::MAX),
    )
}

fn key_sets(encoder: &mut DescriptorEncoder<'_>, member: &Member) -> Done {
    let watcher = member.watcher();
    let (sets, now) = (watcher.key_sets(), watcher.config().clock.now());
    let mut stale = encoder.encode_descriptor(
        "jwks_stale_seconds",
        "How long ago the keys of a JWT provider were last read whole",
        None,
        MetricType::Gauge,
    )?;
    for (provider, set) in &sets {
        if let Some(at) = set.confirmed_at {
            let age = Duration::from_millis(now.millis_since(at));
            let labels: Labels = vec![("provider", provider.clone())];
            ConstGauge::new(age.as_secs_f64()).encode(stale.encode_family(&labels)?)?;
        }
    }
    let mut fetches = encoder.encode_descriptor(
        "jwks_fetches",
        "Looks at the keys of JWT providers, with their result",
        None,
        MetricType::Counter,
    )?;
    for (provider, set) in &sets {
        let failed = set.failed.iter().map(|(reason, count)| (*reason, *count));
        for (result, count) in std::iter::once(("success", set.good)).chain(failed) {
            let labels: Labels = vec![
                ("provider", provider.clone()),
                ("result", result.to_owned()),
            ];
            ConstCounter::new(count).encode(fetches.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn peers(encoder: &mut DescriptorEncoder<'_>, member: &Member) -> Done {
    let watcher = member.watcher();
    let (peers, now) = (watcher.peers(), watcher.config().clock.now());
    let mut roots = encoder.encode_descriptor(
        "peer_roots",
        "Roots in use of a cluster peer that intentions name; 0 lets nobody of it in",
        None,
        MetricType::Gauge,
    )?;
    for (name, peer) in &peers {
        let labels: Labels = vec![("peer", name.clone())];
        let count = i64::try_from(peer.roots.len()).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(roots.encode_family(&labels)?)?;
    }
    let mut stale = encoder.encode_descriptor(
        "peer_stale_seconds",
        "How long ago the agent confirmed what it tells about a cluster peer",
        None,
        MetricType::Gauge,
    )?;
    for (name, peer) in &peers {
        if let Some(at) = peer.confirmed_at {
            let age = Duration::from_millis(now.millis_since(at));
            let labels: Labels = vec![("peer", name.clone())];
            ConstGauge::new(age.as_secs_f64()).encode(stale.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn watches(encoder: &mut DescriptorEncoder<'_>, member: &Member) -> Done {
    let activity = member.watcher().activity();
    let mut errors = encoder.encode_descriptor(
        "watch_errors",
        "Questions to the agent that failed",
        None,
        MetricType::Counter,
    )?;
    for (kind, watch) in &activity {
        for (reason, count) in &watch.errors {
            let labels: Labels = vec![
                ("watch", (*kind).to_owned()),
                ("reason", (*reason).to_owned()),
            ];
            ConstCounter::new(*count).encode(errors.encode_family(&labels)?)?;
        }
    }
    let mut index = encoder.encode_descriptor(
        "watch_index",
        "The agent's index of the last answer that was used",
        None,
        MetricType::Gauge,
    )?;
    for (kind, watch) in &activity {
        if let Some(number) = watch.index {
            let labels: Labels = vec![("watch", (*kind).to_owned())];
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            ConstGauge::new(number).encode(index.encode_family(&labels)?)?;
        }
    }
    let mut success = encoder.encode_descriptor(
        "watch_last_success_timestamp_seconds",
        "When an answer of the agent was last used",
        None,
        MetricType::Gauge,
    )?;
    for (kind, watch) in &activity {
        let since = watch
            .last_success
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        if let Some(since) = since {
            let labels: Labels = vec![("watch", (*kind).to_owned())];
            ConstGauge::new(since.as_secs_f64()).encode(success.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Done {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

pub(super) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Done {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn info(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, labels: Labels) -> Done {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Info)?;
    Info::new(labels).encode(metric)
}

fn seconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis() / 1_000).unwrap_or(i64::MAX)
}
