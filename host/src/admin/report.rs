//! What admin and health tell, as JSON.

use serde_json::{Value, json};

use super::{Admin, Subject, certificates as described};
use crate::member::Member;
use crate::proxy::Observer;
use crate::watcher::{Lack, key};

/// Whether connections are taken, and what is missing.
pub(super) fn readiness(missing: &[Lack]) -> Value {
    let missing: Vec<Value> = missing
        .iter()
        .map(|lack| json!({ "part": lack.part, "state": lack.state, "text": lack.text }))
        .collect();
    json!({ "ready": missing.is_empty(), "missing": missing })
}

/// The effective configuration, and where it really listens.
pub(super) fn config(admin: &Admin) -> Value {
    let mut settings = admin.0.settings.clone();
    if let (Some(settings), Some(subject)) = (settings.as_object_mut(), admin.0.subject.get()) {
        let listening = match subject {
            Subject::Proxy(proxy) => listening(proxy),
            #[cfg(feature = "envoy")]
            Subject::Server(server) => json!(server.address().to_string()),
        };
        settings.insert("listening".to_owned(), listening);
    }
    settings
}

fn listening(proxy: &Observer) -> Value {
    let addresses = proxy.addresses();
    let upstreams: Vec<_> = addresses
        .upstreams
        .iter()
        .map(ToString::to_string)
        .collect();
    json!({
        "inbound": addresses.inbound.map(|address| address.to_string()),
        "upstreams": upstreams,
    })
}

/// Our certificate and the roots; no keys.
pub(super) fn certificates(admin: &Admin) -> Value {
    let Some(subject) = admin.0.subject.get() else {
        return json!({ "leaf": null, "roots": [] });
    };
    let leaf = subject.member().tls().leaf().current().map(|leaf| {
        json!({
            "identity": leaf.id.to_string(),
            "serial": leaf.serial,
            "not_before": leaf.not_before.to_string(),
            "not_after": leaf.not_after.to_string(),
            "chain": leaf.chain().iter().map(|der| described::der(der)).collect::<Vec<_>>(),
        })
    });
    let roots = subject.member().watcher().roots();
    let peers = subject.member().watcher().peers().into_iter();
    let peers = peers.map(|(name, peer)| {
        let roots: Vec<_> = peer
            .roots
            .iter()
            .flat_map(|pem| described::pem(pem))
            .collect();
        json!({ "peer": name, "trust_domain": peer.trust_domain, "roots": roots })
    });
    json!({
        "peers": peers.collect::<Vec<_>>(),
        "leaf": leaf,
        "trust_domain": roots.as_ref().map(|roots| roots.trust_domain.as_str()),
        "active_root": roots.as_ref().map(|roots| roots.active.as_str()),
        "roots": roots.iter().flat_map(|roots| &roots.pems).flat_map(|pem| described::pem(pem)).collect::<Vec<_>>(),
    })
}

/// How it does.
pub(super) async fn status(admin: &Admin) -> Value {
    let missing = admin.missing();
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "process": std::process::id(),
        "readiness": readiness(&missing),
    });
    if let (Some(status), Some(subject)) = (status.as_object_mut(), admin.0.subject.get()) {
        let member = subject.member();
        let details = [
            ("service", json!(member.service())),
            ("draining", json!(subject.draining())),
            match subject {
                Subject::Proxy(proxy) => ("connections", connections(proxy)),
                #[cfg(feature = "envoy")]
                Subject::Server(server) => server.report(),
            },
            ("policy", policy(member).await),
            ("parts", parts(member)),
            ("jwt", jwt(member)),
            ("peers", peers(member)),
            ("watches", watches(member)),
        ];
        status.extend(details.map(|(name, value)| (name.to_owned(), value)));
    }
    status
}

fn connections(proxy: &Observer) -> Value {
    let stats = proxy.stats();
    json!({
        "active": stats.active,
        "allowed": stats.allowed,
        "refused": stats.refused,
        "cut": stats.cut,
    })
}

async fn policy(member: &Member) -> Value {
    let policy = member.tls().verifier().policy();
    let component = policy.component();
    let counts = policy.counts();
    let default = member.watcher().default_policy().await;
    json!({
        "generation": policy.generation(),
        "digest": policy.digest(),
        "default": default.map(|default| default.to_string()),
        "component": component.map(|component| json!({
            "name": component.name(),
            "sha256": component.sha256(),
            "failures": counts.failures,
            "rebuilds": counts.rebuilds,
        })),
    })
}

fn parts(member: &Member) -> Value {
    let watcher = member.watcher();
    let (readiness, now) = (watcher.readiness(), watcher.config().clock.now());
    let parts = readiness.parts().map(|(name, part)| {
        json!({
            "part": key(name),
            "confirmed_seconds_ago": part.age(now).map(|age| age.as_secs()),
            "error": part.error,
        })
    });
    json!(parts)
}

/// Providers and the keys that are not in their entries; `null` for a service that no
/// token can be shown to.
fn jwt(member: &Member) -> Value {
    let watcher = member.watcher();
    let now = watcher.config().clock.now();
    let Some((count, error)) = watcher.jwt_providers() else {
        return Value::Null;
    };
    let sets = watcher.key_sets().into_iter().map(|(provider, set)| {
        let age = set.confirmed_at.map(|at| now.millis_since(at) / 1_000);
        json!({
            "provider": provider,
            "from": set.from,
            "confirmed_seconds_ago": age,
            "error": set.error,
        })
    });
    json!({ "providers": count, "error": error, "key_sets": sets.collect::<Vec<_>>() })
}

/// The cluster peers that intentions name; without a trust domain nobody of them is let in.
fn peers(member: &Member) -> Value {
    let watcher = member.watcher();
    let now = watcher.config().clock.now();
    let peers = watcher.peers().into_iter().map(|(name, peer)| {
        let age = peer.confirmed_at.map(|at| now.millis_since(at) / 1_000);
        json!({
            "peer": name,
            "trust_domain": peer.trust_domain,
            "roots": peer.roots.len(),
            "confirmed_seconds_ago": age,
            "error": peer.error,
        })
    });
    Value::Array(peers.collect())
}

fn watches(member: &Member) -> Value {
    let activity = member.watcher().activity();
    let watches = activity.into_iter().map(
        |(kind, watch)| json!({ "watch": kind, "index": watch.index, "errors": watch.errors }),
    );
    Value::Array(watches.collect())
}
