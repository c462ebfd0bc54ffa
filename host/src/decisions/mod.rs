//! What was decided, for others: the decision log, and a candidate beside the live policy.
//!
//! Nothing here decides, and nothing here keeps a connection waiting.

mod file;
mod line;
mod log;

use std::borrow::Cow;

use http::HeaderMap;
use portcullis_core::http::{HttpVersion, encode_headers};
use portcullis_core::intention::{Decision, Reason};
use portcullis_core::policy::{Client, HeaderNeeds, Request};
use portcullis_core::time::Timestamp;

pub(crate) use line::Because;
pub use log::{DecisionLog, DecisionLogConfig, DecisionLogError, Destination};

use crate::runtime::Policy;
use crate::shadow::{Shadow, Verdict};

/// Who is told of decisions. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    /// Where they are logged.
    pub log: Option<DecisionLog>,
    /// The candidate that is asked beside.
    pub shadow: Option<Shadow>,
}

/// A request that was judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) version: HttpVersion,
    pub(crate) method: &'a str,
    pub(crate) target: &'a [u8],
    pub(crate) authority: Option<&'a [u8]>,
    pub(crate) headers: &'a HeaderMap,
}

impl Asked<'_> {
    /// As the policy takes it, with the headers that it needs; `None` if they are too many.
    pub(crate) fn to_core(self, needs: &HeaderNeeds) -> Option<Request> {
        let headers = self
            .headers
            .iter()
            .filter(|(name, _)| is_needed(name.as_str(), needs))
            .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        Some(Request {
            version: self.version,
            method: self.method.as_bytes().to_vec(),
            path: self.target.to_vec(),
            authority: self.authority.map(<[u8]>::to_vec),
            scheme: None,
            headers: encode_headers(headers)?,
        })
    }
}

/// Whether rules look at a header. Who is called belongs to every request.
fn is_needed(name: &str, needs: &HeaderNeeds) -> bool {
    match needs {
        _ if name == "host" => true,
        HeaderNeeds::None => false,
        HeaderNeeds::Named(names) => names.iter().any(|needed| needed == name),
        HeaderNeeds::All => true,
    }
}

/// A decision and what it was about.
pub(crate) struct Decided<'a> {
    /// Who decided.
    pub(crate) policy: &'a Policy,
    /// The service that was called.
    pub(crate) service: &'a str,
    pub(crate) client: &'a Client,
    pub(crate) request: Option<Asked<'a>>,
    /// What the live rules look at.
    pub(crate) needs: &'a HeaderNeeds,
    pub(crate) decision: &'a Decision,
    pub(crate) now: Timestamp,
}

/// What the access log says of it besides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Its line in the decision log, where it has one.
    pub(crate) id: Option<String>,
    /// What the candidate says, where that is something else.
    pub(crate) difference: Option<Box<Verdict>>,
}

impl Decisions {
    /// Whether nobody wants to know.
    pub(crate) fn is_idle(&self) -> bool {
        self.log.is_none() && self.shadow.is_none()
    }

    /// A connection or a request has been decided: the candidate is asked, and it is logged.
    pub(crate) fn decided(&self, decided: &Decided<'_>) -> Told {
        let shadow = self.shadow.as_ref();
        let verdict = shadow.and_then(|shadow| shadow.compare(decided));
        self.log(decided, verdict)
    }

    /// What stood falls: it was judged again, and is refused now.
    pub(crate) fn fallen(&self, decided: &Decided<'_>) -> Told {
        self.log(decided, None)
    }

    fn log(&self, decided: &Decided<'_>, verdict: Option<Verdict>) -> Told {
        let needs = match &verdict {
            // A rule of the candidate may look at another header.
            Some(verdict) => union(decided.needs, &verdict.needs),
            None => Cow::Borrowed(decided.needs),
        };
        let log = self.log.as_ref();
        Told {
            id: log.and_then(|log| log.take(decided, &needs, verdict.as_ref())),
            difference: verdict.filter(|verdict| verdict.differs).map(Box::new),
        }
    }
}

fn union<'a>(one: &'a HeaderNeeds, other: &HeaderNeeds) -> Cow<'a, HeaderNeeds> {
    match (one, other) {
        (_, HeaderNeeds::None) | (HeaderNeeds::All, _) => Cow::Borrowed(one),
        (HeaderNeeds::None, other) => Cow::Owned(other.clone()),
        (_, HeaderNeeds::All) => Cow::Owned(HeaderNeeds::All),
        (HeaderNeeds::Named(one), HeaderNeeds::Named(other)) => {
            let mut both = one.clone();
            both.extend(other.iter().filter(|name| !one.contains(name)).cloned());
            Cow::Owned(HeaderNeeds::Named(both))
        }
    }
}

/// Whether no other intentions could change this answer: nothing was known that they speak of.
pub(crate) fn is_beyond_intentions(code: Reason) -> bool {
    matches!(
        code,
        Reason::NotReady | Reason::Stale | Reason::PolicyFailed | Reason::DefaultPolicyUnknown
    )
}
