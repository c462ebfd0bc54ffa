//! What the watchers have, what is missing, and how old it is.

use std::fmt;
use std::time::Duration;

use portcullis_core::time::Timestamp;

/// One thing that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// When the agent last confirmed it; absent until the first good answer.
    pub confirmed_at: Option<Timestamp>,
    /// Why the last question failed, if it did.
    pub error: Option<String>,
}

impl Part {
    /// How long ago the agent confirmed it.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.confirmed_at
            .map(|at| Duration::from_millis(now.millis_since(at)))
    }
}

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// `leaf`, `roots`, `intentions` or `default-policy`.
    pub part: &'static str,
    /// `absent`, `stale` or `expired`.
    pub state: &'static str,
    /// In words, with what stands in the way.
    pub text: String,
}

/// Everything that a member of the mesh needs before it can serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Our certificate.
    pub leaf: Part,
    /// Until when our certificate is valid.
    pub leaf_expires: Option<Timestamp>,
    /// Trust domain and roots.
    pub roots: Part,
    /// The intentions of our own service.
    pub intentions: Part,
    /// What holds when no intention matches: whether it was looked for.
    pub default_policy: Part,
    /// The staleness budget; absent when it is switched off.
    pub max_stale: Option<Duration>,
}

impl Readiness {
    /// The parts by name.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, &Part); 4] {
        [
            ("leaf certificate", &self.leaf),
            ("roots", &self.roots),
            ("intentions", &self.intentions),
            ("default policy", &self.default_policy),
        ]
    }

    /// What is missing at `now`, each with what stands in its way. Empty means ready.
    #[must_use]
    pub fn missing(&self, now: Timestamp) -> Vec<String> {
        let lacks = self.lacks(now);
        lacks.into_iter().map(|lack| lack.text).collect()
    }

    /// The same for programs.
    #[must_use]
    pub fn lacks(&self, now: Timestamp) -> Vec<Lack> {
        let mut lacks = Vec::new();
        for (name, part) in self.parts() {
            let because = part
                .error
                .as_ref()
                .map(|error| format!(": {error}"))
                .unwrap_or_default();
            let (state, text) = match part.age(now) {
                None => ("absent", format!("no {name} yet{because}")),
                Some(age)
                    if name != "leaf certificate"
                        && self.max_stale.is_some_and(|most| age > most) =>
                {
                    let age = minutes(age);
                    let text = format!("the {name} are stale: not confirmed for {age}{because}");
                    ("stale", text)
                }
                Some(_) => continue,
            };
            lacks.push(Lack {
                part: key(name),
                state,
                text,
            });
        }
        if self.leaf_expires.is_some_and(|expires| now >= expires) {
            lacks.push(Lack {
                part: "leaf",
                state: "expired",
                text: "the leaf certificate has expired".to_owned(),
            });
        }
        lacks
    }

    /// What is served although the agent has not confirmed it for a minute or more.
    #[must_use]
    pub fn stale(&self, now: Timestamp) -> Vec<(&'static str, Duration)> {
        let policy = [("roots", &self.roots), ("intentions", &self.intentions)];
        let late = policy
            .into_iter()
            .filter_map(|(name, part)| Some((name, part.age(now)?)));
        late.filter(|(_, age)| *age > super::WAIT + Duration::from_secs(60))
            .collect()
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_ready(&self, now: Timestamp) -> bool {
        self.missing(now).is_empty()
    }
}

/// The name of a part for programs.
pub(crate) fn key(name: &'static str) -> &'static str {
    match name {
        "leaf certificate" => "leaf",
        "default policy" => "default-policy",
        name => name,
    }
}

fn minutes(age: Duration) -> String {
    format!("{} min", age.as_secs() / 60)
}

/// What has the default policy said?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultPolicy {
    /// `allow` or `deny`, from elsewhere (`flag`, `agent/self`, `probe`).
    Known {
        /// Whether connections without a matching intention are allowed.
        allow: bool,
        /// Who says so.
        source: &'static str,
    },
    /// It could not be found out: denied, and why.
    Unknown {
        /// What stood in the way.
        because: String,
    },
}

impl fmt::Display for DefaultPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known {
                allow: true,
                source,
            } => write!(formatter, "allow (by {source})"),
            Self::Known {
                allow: false,
                source,
            } => write!(formatter, "deny (by {source})"),
            Self::Unknown { because } => write!(formatter, "unknown ({because})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_missing() {
        let now = Timestamp::from_unix_secs(100_000);
        let good = Part {
            confirmed_at: Some(now),
            error: None,
        };
        let mut readiness = Readiness {
            max_stale: Some(Duration::from_secs(3_600)),
            ..Readiness::default()
        };
        readiness.leaf.error = Some("refused".to_owned());
        assert_eq!(readiness.missing(now).len(), 4);
        assert_eq!(
            readiness.missing(now)[0],
            "no leaf certificate yet: refused"
        );
        (readiness.leaf, readiness.roots) = (good.clone(), good.clone());
        (readiness.intentions, readiness.default_policy) = (good.clone(), good);
        assert!(readiness.is_ready(now));
        let later = now.saturating_add_millis(2 * 3_600_000);
        assert_eq!(readiness.missing(later).len(), 3);
        assert_eq!(readiness.stale(later).len(), 2);
        readiness.max_stale = None;
        assert!(readiness.is_ready(later));
        readiness.leaf_expires = Some(later);
        assert_eq!(
            readiness.missing(later),
            ["the leaf certificate has expired"]
        );
    }
}
