//! `HTTP.Incoming.RequestNormalization` of Consul's `mesh` config entry.

use serde_json::value::RawValue;

use crate::intention::json::{At, Fields, Flaw};

/// How requests are brought into one form before they are judged and forwarded.
///
/// <https://developer.hashicorp.com/consul/docs/reference/config-entry/mesh>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestNormalization {
    /// Leave dot segments, backslashes and needless escapes in the path.
    pub insecure_disable_path_normalization: bool,
    /// Make one slash of several.
    pub merge_slashes: bool,
    /// What to do with `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// What to do with `_` in the name of a header.
    pub underscores: Underscores,
}

/// What to do with `%2F` and `%5C` in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Leave them.
    #[default]
    Keep,
    /// Answer 400.
    Reject,
    /// Answer 307 to the path with slashes in their place.
    Redirect,
    /// Put slashes in their place and go on.
    Forward,
}

/// What to do with headers that have `_` in their name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// Nothing.
    #[default]
    Allow,
    /// Answer 400.
    Reject,
    /// Neither match nor forward them.
    Drop,
}

impl RequestNormalization {
    /// Reads the object; the second value names fields that are not known.
    ///
    /// # Errors
    /// If a field has another type or an action that is not known.
    pub(crate) fn decode(raw: &RawValue, at: &At<'_>) -> Result<(Self, Vec<Flaw>), Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let insecure_disable_path_normalization =
            fields.take_flag("InsecureDisablePathNormalization", at)?;
        let merge_slashes = fields.take_flag("MergeSlashes", at)?;
        let key = "PathWithEscapedSlashesAction";
        let escaped_slashes = match fields.take_text(key, at)?.as_deref() {
            None | Some("IMPLEMENTATION_SPECIFIC_DEFAULT" | "KEEP_UNCHANGED") => {
                EscapedSlashes::Keep
            }
            Some("REJECT_REQUEST") => EscapedSlashes::Reject,
            Some("UNESCAPE_AND_REDIRECT") => EscapedSlashes::Redirect,
            Some("UNESCAPE_AND_FORWARD") => EscapedSlashes::Forward,
            Some(_) => {
                return Err(at.key(key).flaw(
                    "this is not one of `IMPLEMENTATION_SPECIFIC_DEFAULT`, `KEEP_UNCHANGED`, `REJECT_REQUEST`, `UNESCAPE_AND_REDIRECT` and `UNESCAPE_AND_FORWARD`",
                ));
            }
        };
        let key = "HeadersWithUnderscoresAction";
        let underscores = match fields.take_text(key, at)?.as_deref() {
            None | Some("ALLOW") => Underscores::Allow,
            Some("REJECT_REQUEST") => Underscores::Reject,
            Some("DROP_HEADER") => Underscores::Drop,
            Some(_) => {
                return Err(at
                    .key(key)
                    .flaw("this is not one of `ALLOW`, `REJECT_REQUEST` and `DROP_HEADER`"));
            }
        };
        let unknown = fields
            .rest()
            .take(100)
            .map(|(name, _)| at.key(name).flaw("this field is not known and ignored"))
            .collect();
        let read = Self {
            insecure_disable_path_normalization,
            merge_slashes,
            escaped_slashes,
            underscores,
        };
        Ok((read, unknown))
    }
}
