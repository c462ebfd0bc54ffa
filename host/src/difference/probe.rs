//! Whom and what to ask about where there is no log: callers and requests that either
//! side speaks of.

use std::collections::BTreeSet;

use portcullis_core::intention::{Action, Destination, IntentionSet, Rule as Says};

use crate::entries::{ANY_SERVICE, Asked, Entries, Settings, service_uri};
use crate::lint::requests;

/// How many requests are asked about besides those that permissions are meant for.
const MIXED: usize = 400;

/// The services that either side names as destination, those of the catalog, and one that
/// stands for all others.
pub(super) fn destinations(sides: [&Entries; 2]) -> BTreeSet<Destination> {
    let mut all: BTreeSet<Destination> = BTreeSet::new();
    for side in sides {
        all.extend(side.targets());
        let catalog = side.services().iter();
        all.extend(catalog.filter_map(|name| Destination::parse(name).ok()));
    }
    all.extend(Destination::parse(ANY_SERVICE).ok());
    all
}

/// The clients that either side names, services of the catalog, and one that stands for
/// all others; names for people and SPIFFE IDs.
pub(super) fn callers(sides: [&Entries; 2], settings: &Settings) -> Vec<(String, String)> {
    let mut all: BTreeSet<(String, String)> = BTreeSet::new();
    let mut add = |shown: String, uri: Option<String>| {
        all.extend(uri.map(|uri| (shown, uri)));
    };
    let own = &settings.trust_domain;
    for side in sides {
        for rule in side.rules() {
            let (namespace, partition) = rule.source_space();
            let name = match rule.source_name() {
                "*" => ANY_SERVICE,
                name => name,
            };
            let namespace = if namespace == "*" {
                "default"
            } else {
                namespace
            };
            match rule.peer() {
                Some(peer) => {
                    let domain = settings.peer_domain(peer).unwrap_or_default();
                    let uri = service_uri(&domain, "default", namespace, name);
                    add(format!("peer:{peer}/{name}"), uri);
                }
                None => {
                    let shown = match (partition, namespace) {
                        ("default", "default") => name.to_owned(),
                        ("default", namespace) => format!("{namespace}/{name}"),
                        (partition, namespace) => format!("{partition}/{namespace}/{name}"),
                    };
                    add(shown, service_uri(own, partition, namespace, name));
                }
            }
            if let Some(destination) = rule.destination() {
                let uri = service_uri(
                    own,
                    destination.partition(),
                    destination.namespace(),
                    destination.name(),
                );
                add(destination.to_string(), uri);
            }
        }
        for name in side.services() {
            add(name.clone(), service_uri(own, "default", "default", name));
        }
    }
    let uri = service_uri(own, "default", "default", ANY_SERVICE);
    add(ANY_SERVICE.to_owned(), uri);
    all.into_iter().collect()
}

/// Requests that the permissions of either side speak of, each with each other's methods
/// and headers, and one that none speaks of.
pub(super) fn asked(sets: [&IntentionSet; 2]) -> Vec<Asked> {
    let mut own: Vec<Asked> = Vec::new();
    for set in sets {
        for intention in set.intentions().iter().filter(|one| one.covers_target) {
            if let Says::Requests { permissions, .. } = &intention.rule {
                // Denials first: they are what must not be lost.
                let (denials, others): (Vec<_>, Vec<_>) = permissions
                    .iter()
                    .partition(|one| one.action == Action::Deny);
                for permission in denials.into_iter().chain(others) {
                    own.extend(requests(&permission.http));
                }
            }
        }
    }
    own.push(Asked::new("GET", "/"));
    let mut seen = BTreeSet::new();
    own.retain(|asked| seen.insert(asked.clone()));
    let mut all = own.clone();
    let most = own.len() + MIXED;
    let paths: BTreeSet<&String> = own.iter().map(|asked| &asked.path).collect();
    let mut methods: BTreeSet<&str> = own.iter().map(|asked| asked.method.as_str()).collect();
    methods.extend(["GET", "POST"]);
    let none = Vec::new();
    let mut headers: BTreeSet<&Vec<(String, String)>> =
        own.iter().map(|asked| &asked.headers).collect();
    headers.insert(&none);
    for headers in &headers {
        for path in &paths {
            for method in &methods {
                if all.len() >= most {
                    return all;
                }
                let mut asked = Asked::new(method, path);
                asked.headers = (*headers).clone();
                if seen.insert(asked.clone()) {
                    all.push(asked);
                }
            }
        }
    }
    all
}
