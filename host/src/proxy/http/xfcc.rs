//! `x-forwarded-client-cert`: what the application is told about the client's certificate.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::settings::ClientCertDetails;

/// The header.
pub(super) const NAME: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Our element: who was called, the hash of the client's certificate, who it is. SPIFFE IDs
/// hold nothing that would have to be quoted.
pub(super) fn element(ours: &str, leaf: &[u8], client: &str) -> Option<HeaderValue> {
    let mut text = format!("By={ours};Hash=");
    for byte in Sha256::digest(leaf) {
        let _ = write!(text, "{byte:02x}");
    }
    let _ = write!(text, ";URI={client}");
    HeaderValue::try_from(text).ok()
}

/// Brings the header into the form that the mode asks for.
pub(super) fn apply(mode: ClientCertDetails, ours: Option<&HeaderValue>, headers: &mut HeaderMap) {
    match mode {
        ClientCertDetails::ForwardOnly | ClientCertDetails::AlwaysForwardOnly => {}
        ClientCertDetails::Sanitize => {
            headers.remove(NAME);
        }
        ClientCertDetails::SanitizeSet => {
            headers.remove(NAME);
            if let Some(ours) = ours {
                headers.insert(NAME, ours.clone());
            }
        }
        ClientCertDetails::AppendForward => {
            let mut all: Vec<&[u8]> = headers
                .get_all(NAME)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect();
            all.extend(ours.map(HeaderValue::as_bytes));
            match HeaderValue::from_bytes(&all.join(&b","[..])) {
                Ok(joined) if !all.is_empty() => {
                    headers.insert(NAME, joined);
                }
                _ => {
                    headers.remove(NAME);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_does_what_envoy_says_of_it() {
        let ours = element(
            "spiffe://t/ns/default/dc/d/svc/api",
            b"leaf",
            "spiffe://t/ns/default/dc/d/svc/web",
        )
        .unwrap();
        let text = ours.to_str().unwrap().to_owned();
        assert!(
            text.starts_with("By=spiffe://t/ns/default/dc/d/svc/api;Hash=")
                && text.ends_with(";URI=spiffe://t/ns/default/dc/d/svc/web")
        );
        assert_eq!(text.split("Hash=").nth(1).unwrap().find(';'), Some(64));
        let after = |mode, theirs: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in theirs {
                headers.append(NAME, HeaderValue::from_static(value));
            }
            apply(mode, Some(&ours), &mut headers);
            let all: Vec<String> = headers
                .get_all(NAME)
                .iter()
                .map(|value| value.to_str().unwrap().to_owned())
                .collect();
            all
        };
        let theirs = ["URI=a", "URI=b"];
        assert_eq!(after(ClientCertDetails::Sanitize, &theirs), [""; 0]);
        assert_eq!(
            after(ClientCertDetails::SanitizeSet, &theirs),
            [text.as_str()]
        );
        assert_eq!(after(ClientCertDetails::SanitizeSet, &[]), [text.as_str()]);
        assert_eq!(after(ClientCertDetails::ForwardOnly, &theirs), theirs);
        assert_eq!(after(ClientCertDetails::AlwaysForwardOnly, &theirs), theirs);
        assert_eq!(
            after(ClientCertDetails::AppendForward, &theirs),
            [format!("URI=a,URI=b,{text}")]
        );
        assert_eq!(after(ClientCertDetails::AppendForward, &[]), [text]);
    }
}
