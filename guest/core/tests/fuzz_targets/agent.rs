//! Replies of the agent. The first byte picks the reader; the rest is the body.

use portcullis_core::agent::{
    HttpReply, ReplyError, ReplyHeaders, authorize, config, health, intentions, leaf, matches,
    roots, self_info, service, services,
};

const NAMES: [&str; 3] = ["web", "default/db", "api"];

/// Reads the bytes as a reply of one kind.
pub fn run(input: &[u8]) {
    let Some((kind, body)) = input.split_first() else {
        return;
    };
    let reply = HttpReply {
        status: 200,
        headers: ReplyHeaders::default(),
        body,
    };
    let result = match kind % 9 {
        0 => roots::decode(&reply).map(|roots| {
            assert!(!roots.roots.is_empty() && !roots.trust_domain.is_empty());
            assert!(roots.roots.iter().any(|root| root.id == roots.active_id));
        }),
        1 => leaf::decode(&reply, "web").map(|leaf| {
            assert!(leaf.valid_after < leaf.valid_before);
            assert!(format!("{leaf:?}").contains("SecretPem(..)"));
        }),
        2 => split(&reply),
        3 => authorize::decode(&reply).map(|answer| {
            // Go's reader would say the same: the last of several, in any case.
            assert_eq!(as_go_reads(body, "authorized"), Some(answer.authorized));
        }),
        4 => health::decode(&reply).map(|instances| {
            for instance in instances.all {
                assert!(instance.port > 0 && !instance.service.is_empty());
            }
        }),
        5 => self_info::decode(&reply).map(drop),
        6 => {
            let _ = services::decode(&reply);
            service::decode(&reply).map(drop)
        }
        7 => intentions::decode_list(&reply).map(drop),
        _ => config::decode_normalization(&reply).map(drop),
    };
    if let Err(error) = result {
        let text = error.to_string();
        assert!(!text.contains(['\n', '\r', '\u{1b}', '\0']), "{text:?}");
    }
}

/// Every list is a piece of the reply that is an array or null by itself.
fn split(reply: &HttpReply<'_>) -> Result<(), ReplyError> {
    let matches = matches::decode(reply, &NAMES)?;
    assert_eq!(matches.lists.len(), NAMES.len());
    for (_, list) in matches.lists {
        let Ok(list) = list else { continue };
        let value: serde_json::Result<Option<Vec<Box<serde_json::value::RawValue>>>> =
            serde_json::from_str(list.json);
        assert!(value.is_ok(), "{}", list.json);
    }
    Ok(())
}

fn as_go_reads(body: &[u8], key: &str) -> Option<bool> {
    let map: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_slice(body).ok()?;
    let values: Vec<_> = map
        .iter()
        .filter(|(name, _)| name.to_lowercase() == key)
        .map(|(_, value)| value.get().parse().ok())
        .collect();
    match values.as_slice() {
        [value] => *value,
        _ => None,
    }
}

/// A reply of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        r#"{"ActiveRootID":"39:a0","TrustDomain":"9d67.consul","Roots":[{"ID":"39:a0","Name":"CA","SerialNumber":10,"RootCert":"PEM1\n","IntermediateCerts":["X"],"Active":true},{"ID":"3e:b0","RootCert":"PEM2\n","IntermediateCerts":null,"Active":false}]}"#,
        r#"{"SerialNumber":"09","CertPEM":"C\n","PrivateKeyPEM":"K\n","Service":"web","ServiceURI":"spiffe://9d67.consul/ns/default/dc/dc1/svc/web","ValidAfter":"2026-11-21T01:01:13Z","ValidBefore":"2026-11-24T01:01:13Z","CreateIndex":23,"ModifyIndex":23}"#,
        r#"{"web":null,"default/db":[{"SourceName":"web","Action":"allow","Precedence":9}],"api":[]}"#,
        r#"{"Authorized":true,"Reason":"Matched L4 intention: default/web =\u003e default/db (Precedence: 9, Action: ALLOW)"}"#,
        r#"[{"Node":{"Node":"n","Address":"127.0.0.1","Datacenter":"dc1"},"Service":{"ID":"redis","Service":"redis","Address":"","Port":8000,"Weights":{"Passing":1,"Warning":1},"Connect":{"Native":true},"PeerName":""},"Checks":[{"Status":"passing"}]}]"#,
        r#"{"Config":{"Datacenter":"dc1","NodeName":"n","Version":"1.22.2"},"DebugConfig":{"ConnectEnabled":true,"ACLsEnabled":true,"ACLResolverSettings":{"ACLDefaultPolicy":"deny"},"DefaultIntentionPolicy":""}}"#,
        r#"{"Kind":"connect-proxy","ID":"p","Service":"p","Port":20000,"ContentHash":"2aa1","Proxy":{"DestinationServiceName":"web","LocalServicePort":8080,"Upstreams":[{"DestinationName":"db","LocalBindPort":9192}]}}"#,
        r#"[{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"api","Permissions":[{}],"Precedence":9}]"#,
        r#"{"HTTP":{"Incoming":{"RequestNormalization":{"MergeSlashes":true}}}}"#,
    ]
    .iter()
    .zip(0_u8..)
    .map(|(body, kind)| [&[kind], body.as_bytes()].concat())
    .collect()
}
