//! The document of one destination.

use super::document::LoadProblem;
use super::freshness::Freshness;
use super::reading::{Reading, Refused};
use crate::intention::json::{At, Fields};
use crate::intention::{Destination, IntentionSet, Protocol};
use crate::time::Timestamp;

/// One destination, as its document describes it.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) protocol: Protocol,
    pub(super) intentions: IntentionSet,
    pub(super) freshness: Freshness,
    /// The first intention that denies a peer whose bundle is not loaded.
    pub(super) orphan_denial: Option<u32>,
}

impl Service {
    /// Reads the document's body.
    pub(super) fn read(
        destination: &Destination,
        body: &[u8],
        confirmed_at: Timestamp,
        warnings: &mut Vec<LoadProblem>,
    ) -> Result<Self, Refused> {
        let document = destination.document();
        let at = At::ROOT;
        let raw = Reading::body(body)?;
        let mut fields = Fields::of(raw, &at)?;
        let protocol = match fields.take_text("protocol", &at)? {
            None => Protocol::default(),
            Some(name) => Protocol::from_code(&name).ok_or_else(|| {
                at.key("protocol")
                    .flaw("this is not one of `tcp`, `http`, `http2` and `grpc`")
            })?,
        };
        let list = fields.take_or_null("intentions", &at)?.ok_or_else(|| {
            at.key("intentions")
                .flaw("this field is missing; `null` is no intentions")
        })?;
        let (intentions, problems) = IntentionSet::decode_raw(list, destination)
            .map_err(|error| at.key("intentions").flaw(error.to_string()))?;
        Reading::warn_of_rest(&fields, &document, warnings);
        warnings.extend(problems.into_iter().map(|problem| LoadProblem {
            document: document.clone(),
            pointer: format!("/intentions{}", problem.pointer),
            text: problem.text,
        }));
        Ok(Self {
            protocol,
            intentions,
            freshness: Freshness::confirmed(confirmed_at),
            orphan_denial: None,
        })
    }
}

/// The destination whose document has this name: `service/partition/namespace/name`.
pub(super) fn destination_of(document: &str) -> Result<Destination, Refused> {
    let refused = |text: String| Refused {
        pointer: String::new(),
        text,
    };
    let name = document
        .strip_prefix("service/")
        .filter(|name| name.matches('/').count() == 2)
        .ok_or_else(|| {
            refused(
                "the name is none of `mesh`, `service/<partition>/<namespace>/<name>` and `jwks/<provider>`"
                    .to_owned(),
            )
        })?;
    Destination::parse(name).map_err(|error| refused(error.to_string()))
}
