//! Large requests and large rules: bounded, and answered.

use portcullis_core::chain;
use portcullis_core::http::{BadRequest, Prepared, Request, RequestNormalization, encode_headers};
use portcullis_core::intention::{Matching, Reason};
use portcullis_core::policy::{Client, Document, Policy};
use portcullis_core::time::Timestamp;
use serde_json::{Value, json};

fn policy(permissions: &[Value]) -> Policy {
    let mesh =
        json!({ "trust_domain": "t", "roots": [], "default_policy": "deny", "max_stale_ms": 0 });
    let rule = json!({ "SourceName": "web", "DestinationName": "db", "Permissions": permissions });
    let service = json!({ "protocol": "http", "intentions": [rule] });
    let mut policy = Policy::new(chain::rustcrypto());
    let documents = [("mesh", mesh), ("service/default/default/db", service)];
    let documents = documents.map(|(name, body)| Document {
        name: name.to_owned(),
        body: Some(body.to_string().into_bytes()),
        confirmed_at: Timestamp::default(),
    });
    assert!(policy.load(1, documents.into()).refused.is_empty());
    policy
}

fn bad(request: &Request) -> Option<BadRequest> {
    Prepared::read(request, &RequestNormalization::default(), Matching::Strict).err()
}

fn get(path: Vec<u8>, headers: &[(&[u8], &[u8])]) -> Request {
    Request {
        method: b"GET".to_vec(),
        path,
        headers: encode_headers(headers.iter().copied()).unwrap(),
        ..Request::default()
    }
}

#[test]
fn thousands_of_permissions_are_tried_in_order() {
    let count = 5_000_u32;
    let mut permissions: Vec<Value> = (0..count)
        .map(|i| {
            json!({ "Action": "allow", "HTTP": { "PathExact": format!("/{i}"),
                "Header": [{ "Name": format!("x-{i}"), "Contains": "a", "IgnoreCase": true }] } })
        })
        .collect();
    permissions.push(json!({ "Action": "allow", "HTTP": { "PathPrefix": "/last" } }));
    let mut policy = policy(&permissions);
    let client = Client::from_uri("spiffe://t/ns/default/dc/dc1/svc/web");
    let mut ask =
        |request: &Request| policy.authorize("db", &client, Some(request), Timestamp::default());
    let last = ask(&get(b"/last/x".to_vec(), &[]));
    assert_eq!(
        (last.code, last.permission),
        (Reason::Permission, Some(count))
    );
    let name = b"X-4999";
    let one = ask(&get(b"/4999".to_vec(), &[(name, b"bAb")]));
    assert_eq!(
        (one.code, one.permission),
        (Reason::Permission, Some(4_999))
    );
    assert_eq!(
        ask(&get(b"/4999".to_vec(), &[(name, b"b")])).code,
        Reason::NoPermissionMatched
    );
}

#[test]
fn requests_that_are_too_large_are_bad() {
    let path = |length: usize| [b"/", vec![b'a'; length - 1].as_slice()].concat();
    assert_eq!(bad(&get(path(64 * 1024), &[])), None);
    assert_eq!(
        bad(&get(path(64 * 1024 + 1), &[])),
        Some(BadRequest::TooLarge)
    );
    let header: (&[u8], &[u8]) = (b"x", b"y");
    assert_eq!(bad(&get(path(1), &vec![header; 1_000])), None);
    assert_eq!(
        bad(&get(path(1), &vec![header; 1_001])),
        Some(BadRequest::TooLarge)
    );
    let value = vec![b'y'; 1024 * 1024];
    assert_eq!(
        bad(&get(path(1), &[(b"x", &value)])),
        Some(BadRequest::TooLarge)
    );
}

#[test]
fn a_cut_block_of_headers_is_bad() {
    let whole = encode_headers([(&b"x"[..], &b"y"[..])]).unwrap();
    for length in 1..whole.len() {
        let request = Request {
            headers: whole[..length].to_vec(),
            ..get(b"/".to_vec(), &[])
        };
        assert_eq!(bad(&request), Some(BadRequest::HeaderBlock), "{length}");
    }
    let request = Request {
        headers: vec![255; 12],
        ..get(b"/".to_vec(), &[])
    };
    assert_eq!(bad(&request), Some(BadRequest::HeaderBlock));
}

/// The worst that a path can be costs some milliseconds at most: the time is that of the
/// test runner, the assertion is only that there is an end.
#[test]
fn the_worst_paths_have_an_end() {
    for part in ["/..", "/.", "//", ";", "%2f..", "/;..%5c", "/a;/..%2F"] {
        let path = format!("/{}", part.repeat(64 * 1024 / part.len() - 1));
        let mut policy = policy(&[json!({ "Action": "deny", "HTTP": { "PathPrefix": "/admin" } })]);
        let client = Client::from_uri("spiffe://t/ns/default/dc/dc1/svc/web");
        let request = get(path.into_bytes(), &[]);
        let decision = policy.authorize("db", &client, Some(&request), Timestamp::default());
        assert!(!decision.is_allowed());
    }
}
