//! Roots in a document: PEM texts to a trust bundle.

use super::reading::Refused;
use crate::chain::TrustBundle;
use crate::identity::TrustDomain;
use crate::intention::json::{self, At, Fields};

/// Takes out the field `roots`; absent is empty. `None` if there are roots and none
/// of them can be read.
///
/// A root that cannot be read only makes fewer peers acceptable, so it is left out
/// with a warning.
pub(super) fn read(
    fields: &mut Fields<'_>,
    at: &At<'_>,
    trust_domain: &TrustDomain,
    warn: &mut impl FnMut(String, String),
) -> Result<Option<TrustBundle>, Refused> {
    let texts = match fields.take("roots", at)? {
        Some(raw) => json::texts(raw, &at.key("roots"))?,
        None => Vec::new(),
    };
    let at = at.key("roots");
    let mut good = Vec::new();
    for (i, pem) in texts.iter().enumerate() {
        match TrustBundle::from_pem(trust_domain.clone(), &[pem.as_ref()]) {
            Ok(_) => good.push(pem.as_ref()),
            Err(error) => warn(
                at.index(i).to_string(),
                format!("{error}; this root is left out"),
            ),
        }
    }
    if good.is_empty() && !texts.is_empty() {
        return Ok(None);
    }
    let bundle = TrustBundle::from_pem(trust_domain.clone(), &good);
    bundle
        .map(Some)
        .map_err(|error| at.flaw(error.to_string()).into())
}
