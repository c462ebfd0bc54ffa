//! The match reply's list for one destination, and the documents around it. Whatever is
//! read prints as plain text, and strict matching never allows what Envoy's denies.

use portcullis_core::chain;
use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::{
    Caller, DefaultPolicy, Destination, Effect, IntentionSet, Matching, Protocol,
};
use portcullis_core::policy::{Client, Document, Policy};
use portcullis_core::time::Timestamp;

/// Reads the bytes as a list, as a service's document and as the mesh's.
pub fn run(input: &[u8]) {
    list(input);
    documents(input);
}

fn list(input: &[u8]) {
    let target = Destination::parse("db").expect("a destination");
    let (set, problems) = match IntentionSet::decode(input, &target) {
        Ok(read) => read,
        Err(error) => return printable(&error.to_string()),
    };
    for problem in &problems {
        printable(&problem.to_string());
    }
    for intention in set.intentions() {
        printable(&intention.to_string());
        assert!((1..=9).contains(&intention.precedence));
    }
    for name in ["web", "WEB", "api"] {
        let id = SpiffeId::parse(&format!("spiffe://t/ns/default/dc/d/svc/{name}")).expect("an ID");
        let path = id.service().expect("a service");
        for caller in [Caller::local(path), Caller::of_peer("beta", path)] {
            let judge =
                |matching| set.judge(&caller, Protocol::Tcp, DefaultPolicy::Allow, matching);
            let (strict, envoy) = (judge(Matching::Strict), judge(Matching::Envoy));
            let narrower = strict.effect != Effect::Allow || envoy.effect == Effect::Allow;
            assert!(narrower, "{strict:?} {envoy:?}");
            if let Some(index) = strict.intention {
                assert!(
                    set.get(index)
                        .is_some_and(|intention| intention.covers_target)
                );
            }
        }
    }
}

fn documents(input: &[u8]) {
    let mut policy = Policy::new(chain::rustcrypto());
    let confirmed_at = Timestamp::from_millis(0);
    let service = [&b"{\"intentions\":"[..], input, b"}"].concat();
    let document = |name: &str, body: &[u8]| Document {
        name: name.to_owned(),
        body: Some(body.to_vec()),
        confirmed_at,
    };
    let report = policy.load(
        1,
        vec![
            document("mesh", br#"{"trust_domain":"t","default_policy":"allow"}"#),
            document("mesh", input),
            document("service/default/default/db", input),
            document("service/default/default/db", &service),
        ],
    );
    for problem in report.refused.iter().chain(&report.warnings) {
        printable(&problem.document);
        printable(&problem.pointer);
        printable(&problem.text);
    }
    let client = Client::from_uri("spiffe://t/ns/default/dc/d/svc/web");
    let explained = policy.explain("db", &client, None, confirmed_at);
    let decision = policy.authorize("db", &client, None, confirmed_at);
    assert_eq!(explained.decision, decision);
    printable(&explained.text);
}

fn printable(text: &str) {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    assert!(is_plain, "{text:?}");
}

/// Lists as Consul writes them, a service's document and a mesh's.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        &br#"[{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"db","SourceType":"consul","Action":"allow","Precedence":9,"CreateIndex":28,"ModifyIndex":29},{"SourceName":"*","DestinationName":"*","Action":"deny","Meta":{"k":"v"}}]"#[..],
        br#"[{"SourceName":"WEB","SourcePeer":"beta","DestinationName":"db","Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/a","Header":[{"Name":"x","Exact":"1","Invert":true}],"Methods":["GET"]},"JWT":{"Providers":[{"Name":"o","VerifyClaims":[{"Path":["a"],"Value":"b"}]}]}}],"JWT":{"Providers":[]}}]"#,
        br#"{"protocol":"http","intentions":[{"SourceName":"web","DestinationName":"db","Action":"allow"}]}"#,
        br#"{"trust_domain":"t","roots":[],"default_policy":"allow","peers":{"beta":{"trust_domain":"b","exported_partition":"p"}},"matching":"envoy","max_stale_ms":0,"request_normalization":{},"jwt_providers":[{}]}"#,
        b"null",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}
