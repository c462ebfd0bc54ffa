//! Which headers the rules of a target look at.

use std::collections::BTreeSet;

use super::Policy;
use super::question::HeaderNeeds;
use crate::http::Underscores;
use crate::intention::{Destination, IntentionSet, Rule};

impl Policy {
    /// Which headers the rules of `target` look at: all if it is not loaded.
    #[must_use]
    pub fn needed_headers(&self, target: &str) -> HeaderNeeds {
        let service = Destination::parse(target)
            .ok()
            .and_then(|destination| self.services.get(&destination.key()));
        match service {
            Some(service) if !service.protocol.is_http() => HeaderNeeds::None,
            // Any header may be a reason to refuse the request.
            Some(_) if self.refuses_underscores() => HeaderNeeds::All,
            Some(service) => needed(&service.intentions),
            None => HeaderNeeds::All,
        }
    }
}

impl Policy {
    fn refuses_underscores(&self) -> bool {
        self.mesh
            .as_ref()
            .is_some_and(|mesh| mesh.normalization.underscores == Underscores::Reject)
    }
}

fn needed(intentions: &IntentionSet) -> HeaderNeeds {
    let mut names = BTreeSet::new();
    for intention in intentions.intentions().iter().filter(|i| i.covers_target) {
        match &intention.rule {
            // A token may be in any header that its provider names.
            Rule::Connection { jwt: Some(_), .. } | Rule::Requests { jwt: Some(_), .. } => {
                return HeaderNeeds::All;
            }
            Rule::Requests { permissions, .. } => {
                if permissions
                    .iter()
                    .any(|permission| permission.jwt.is_some())
                {
                    return HeaderNeeds::All;
                }
                let headers = permissions
                    .iter()
                    .flat_map(|permission| &permission.http.headers);
                names.extend(headers.filter_map(|header| header_name(&header.name)));
            }
            Rule::Connection { .. } | Rule::Unreadable { .. } => {}
        }
    }
    if names.is_empty() {
        return HeaderNeeds::None;
    }
    HeaderNeeds::Named(names.into_iter().collect())
}

/// The header behind a name; pseudo headers are parts of the request, but for the
/// authority, which HTTP/1.1 has as a header.
fn header_name(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix(':') {
        Some("authority") => Some("host".to_owned()),
        Some(_) => None,
        None => Some(name),
    }
}
