//! What the readers of both documents share.

use serde_json::value::RawValue;

use super::document::LoadProblem;
use crate::intention::json::{self, At, Fields, Flaw};

/// How many bytes a document may have.
pub(super) const MAX_DOCUMENT: usize = 40 * 1024 * 1024;

/// Why a document is refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) pointer: String,
    pub(super) text: String,
}

impl From<Flaw> for Refused {
    fn from(flaw: Flaw) -> Self {
        Self {
            pointer: flaw.pointer,
            text: flaw.text,
        }
    }
}

/// Reading of documents.
pub(super) struct Reading;

impl Reading {
    /// The JSON of a document's body.
    pub(super) fn body(body: &[u8]) -> Result<&RawValue, Refused> {
        let root = At::ROOT;
        if body.len() > MAX_DOCUMENT {
            return Err(root
                .flaw(format!("the document is longer than {MAX_DOCUMENT} bytes"))
                .into());
        }
        json::document(body).map_err(|error| {
            root.flaw(format!("the document is not valid JSON: {error}"))
                .into()
        })
    }

    /// Names the fields that nobody has asked for.
    pub(super) fn warn_of_rest(
        fields: &Fields<'_>,
        document: &str,
        warnings: &mut Vec<LoadProblem>,
    ) {
        warnings.extend(fields.rest().take(100).map(|(name, _)| LoadProblem {
            document: document.to_owned(),
            pointer: At::ROOT.key(name).to_string(),
            text: "this field is not known and ignored".to_owned(),
        }));
    }
}
