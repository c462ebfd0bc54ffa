//! Bytes to SPIFFE ID. What is accepted is written back and read again as the same.

use portcullis_core::identity::{SpiffeId, TrustDomain};

/// Reads the bytes as an ID.
pub fn run(input: &[u8]) {
    let Ok(id) = SpiffeId::parse_bytes(input) else {
        return;
    };
    let text = id.to_string();
    assert!(
        text.len() <= input.len(),
        "`{text}` is longer than what was read"
    );
    assert_eq!(SpiffeId::parse(&text).as_ref(), Ok(&id));
    assert_eq!(
        TrustDomain::parse(id.trust_domain().as_str()).as_ref(),
        Ok(id.trust_domain())
    );
    assert!(
        input.is_ascii()
            && !input
                .iter()
                .any(|byte| b"%?#@: \0".contains(byte) && *byte != b':')
    );
}

/// One ID of every form, and some that are refused.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "spiffe://9d670d25-b05e-44a6-8267-4bee0201b162.consul/ns/default/dc/dc1/svc/web",
        "spiffe://mesh.example/ap/east/ns/default/dc/dc1/svc/web",
        "spiffe://mesh.example/ap/default/agent/client/dc/dc1/id/8a6f",
        "spiffe://mesh.example/agent/server/dc/dc1",
        "spiffe://mesh.example/gateway/mesh/dc/dc1",
        "spiffe://mesh.example",
        "spiffe://mesh.example/a/b/c/d/e/f/g/h/i/j",
        "SPIFFE://user@mesh.example:80/ns/%2e%2e/dc//svc/?x#y",
    ]
    .map(|uri| uri.as_bytes().to_vec())
    .to_vec()
}
