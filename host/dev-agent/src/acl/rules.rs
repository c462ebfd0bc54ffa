//! A token's rules: exact names beat prefixes, longer prefixes beat shorter ones.

use std::collections::BTreeMap;

/// What a rule grants, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Deny,
    Read,
    Write,
}

impl Access {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "deny" => Some(Self::Deny),
            "read" | "list" => Some(Self::Read),
            "write" => Some(Self::Write),
            _ => None,
        }
    }

    /// Of two rules for one thing: deny, else the stronger.
    fn merge(self, other: Self) -> Self {
        if self == Self::Deny || other == Self::Deny {
            Self::Deny
        } else {
            self.max(other)
        }
    }
}

/// Rules for one kind of resource.
#[derive(Debug, Default)]
struct Named {
    exact: BTreeMap<String, Access>,
    prefix: BTreeMap<String, Access>,
}

impl Named {
    fn get(&self, name: &str) -> Option<Access> {
        self.exact.get(name).copied().or_else(|| {
            let fitting = self
                .prefix
                .iter()
                .filter(|(prefix, _)| name.starts_with(prefix.as_str()));
            fitting
                .max_by_key(|(prefix, _)| prefix.len())
                .map(|(_, access)| *access)
        })
    }

    fn add(&mut self, is_prefix: bool, name: &str, access: Access) {
        let map = if is_prefix {
            &mut self.prefix
        } else {
            &mut self.exact
        };
        map.entry(name.to_owned())
            .and_modify(|known| *known = known.merge(access))
            .or_insert(access);
    }

    fn all(&self) -> impl Iterator<Item = Access> + '_ {
        self.exact.values().chain(self.prefix.values()).copied()
    }
}

/// All rules of a token that this agent looks at.
#[derive(Debug, Default)]
pub(super) struct Rules {
    services: Named,
    intentions: Named,
    nodes: Named,
    agents: Named,
    operator: Option<Access>,
    mesh: Option<Access>,
    peering: Option<Access>,
}

/// Kinds of rules that Consul knows and nothing here asks for.
const OTHER: [&str; 10] = [
    "acl",
    "event",
    "event_prefix",
    "identity",
    "identity_prefix",
    "key",
    "key_prefix",
    "query",
    "query_prefix",
    "session",
];
const OTHER_PLAIN: [&str; 3] = ["keyring", "peering", "session_prefix"];

impl Rules {
    /// Adds a rule for one named resource: `service "web" { policy = … intentions = … }`.
    pub(super) fn add_named(
        &mut self,
        kind: &str,
        name: &str,
        policy: Access,
        intentions: Option<Access>,
    ) -> Result<(), String> {
        let (base, prefix) = match kind.strip_suffix("_prefix") {
            Some(base) => (base, true),
            None => (kind, false),
        };
        match base {
            "service" => {
                // Who may see a service may see the rules about it.
                let implied = if policy == Access::Deny {
                    Access::Deny
                } else {
                    Access::Read
                };
                self.services.add(prefix, name, policy);
                self.intentions
                    .add(prefix, name, intentions.unwrap_or(implied));
            }
            "node" => self.nodes.add(prefix, name, policy),
            "agent" => self.agents.add(prefix, name, policy),
            _ if OTHER.contains(&kind) || OTHER_PLAIN.contains(&kind) => {}
            _ => return Err(format!("unknown kind of rule `{kind}`")),
        }
        Ok(())
    }

    /// Adds a rule without a name: `operator = "write"`.
    pub(super) fn add_plain(&mut self, kind: &str, policy: Access) -> Result<(), String> {
        let known = match kind {
            "operator" => &mut self.operator,
            "mesh" => &mut self.mesh,
            "peering" => &mut self.peering,
            "acl" | "keyring" => return Ok(()),
            _ => return Err(format!("unknown rule `{kind}`")),
        };
        *known = Some(known.map_or(policy, |before| before.merge(policy)));
        Ok(())
    }

    pub(super) fn service(&self, name: &str) -> Option<Access> {
        self.services.get(name)
    }

    pub(super) fn any_service(&self, wanted: Access) -> bool {
        self.services.all().any(|access| access >= wanted)
    }

    pub(super) fn intention(&self, name: &str) -> Option<Access> {
        self.intentions.get(name)
    }

    pub(super) fn any_intention(&self, wanted: Access) -> bool {
        self.intentions.all().any(|access| access >= wanted)
    }

    pub(super) fn every_intention(&self, wanted: Access, default: Access) -> bool {
        self.intentions.prefix.get("").copied().unwrap_or(default) >= wanted
            && self.intentions.all().all(|access| access >= wanted)
    }

    pub(super) fn node(&self, name: &str) -> Option<Access> {
        self.nodes.get(name)
    }

    pub(super) fn agent(&self, name: &str) -> Option<Access> {
        self.agents.get(name)
    }

    pub(super) fn operator(&self) -> Option<Access> {
        self.operator
    }

    /// The right to peerings, which the right to operate includes.
    pub(super) fn peering(&self) -> Option<Access> {
        self.peering.or(self.operator)
    }

    /// The right to the mesh, which the right to operate includes.
    pub(super) fn mesh(&self) -> Option<Access> {
        self.mesh.or(self.operator)
    }
}
