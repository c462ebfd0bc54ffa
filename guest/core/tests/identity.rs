//! SPIFFE IDs: what is read, what is refused and under which name, and properties.

use portcullis_core::identity::{
    Datacenter, IdentityError, Kind, Namespace, NodeId, Part, Partition, PeerName, ServiceName,
    SpiffeId, TrustDomain,
};
use proptest::prelude::*;

const TD: &str = "9d670d25-b05e-44a6-8267-4bee0201b162.consul";

fn id(uri: &str) -> SpiffeId {
    SpiffeId::parse(uri).unwrap_or_else(|error| panic!("{uri}: {error}"))
}

fn code(uri: &str) -> &'static str {
    match SpiffeId::parse(uri) {
        Ok(id) => panic!("{uri} was read as {id}"),
        Err(error) => error.code(),
    }
}

#[test]
fn consuls_five_forms_are_told_apart() {
    let cases = [
        ("/ns/default/dc/dc1/svc/web", "service"),
        ("/ap/east/ns/default/dc/dc1/svc/web", "service"),
        ("/agent/client/dc/dc1/id/8a6f", "agent"),
        ("/ap/east/agent/client/dc/dc1/id/8a6f", "agent"),
        ("/agent/server/dc/dc1", "server"),
        ("/gateway/mesh/dc/dc1", "mesh-gateway"),
        ("/ap/east/gateway/mesh/dc/dc1", "mesh-gateway"),
        ("", "signing"),
        // Valid, but none of Consul's.
        ("/ap/east/agent/server/dc/dc1", "other"),
        ("/NS/default/dc/dc1/svc/web", "other"),
        ("/ns/default/dc/dc1/SVC/web", "other"),
        ("/ns/default/dc/dc1/svc/web/svc/db", "other"),
        ("/ns/default/dc/dc1/svc/web/x/y/z", "other"),
        ("/ns/default/dc/dc1/svc", "other"),
        ("/ns/default/svc/web", "other"),
        ("/ap/east", "other"),
        ("/ap/ap/ns/ns/dc/dc/svc/svc/svc", "other"),
        ("/web", "other"),
    ];
    for (path, kind) in cases {
        let uri = format!("spiffe://{TD}{path}");
        assert_eq!(id(&uri).kind().name(), kind, "{path}");
        assert_eq!(id(&uri).to_string(), uri);
    }
}

#[test]
fn a_service_is_taken_apart() {
    let web = id(&format!(
        "spiffe://{TD}/ap/East/ns/Team_1/dc/dc-1/svc/Web.v1"
    ));
    let path = web.service().expect("a service");
    assert_eq!(web.trust_domain(), &TD);
    assert_eq!(path.partition, "east", "partitions are kept in lower case");
    assert_eq!(path.namespace, "Team_1");
    assert_eq!(path.datacenter, "dc-1");
    assert_eq!(path.service, "Web.v1");
    // Words of the form may be names as well.
    let odd = id(&format!("spiffe://{TD}/ap/ap/ns/ns/dc/dc/svc/svc"));
    assert_eq!(odd.service().expect("a service").service, "svc");
    assert_eq!(
        id(&format!("spiffe://{TD}/agent/server/dc/dc1")).service(),
        None
    );
}

#[test]
fn the_default_partition_is_no_partition() {
    for partition in ["default", "Default", "DEFAULT"] {
        let written = id(&format!(
            "spiffe://{TD}/ap/{partition}/ns/default/dc/dc1/svc/web"
        ));
        let plain = id(&format!("spiffe://{TD}/ns/default/dc/dc1/svc/web"));
        assert_eq!(written, plain);
        assert_eq!(written.to_string(), plain.to_string());
        assert!(written.service().expect("a service").partition.is_default());
    }
    let gateway = id(&format!("spiffe://{TD}/ap/default/gateway/mesh/dc/dc1"));
    assert_eq!(gateway, id(&format!("spiffe://{TD}/gateway/mesh/dc/dc1")));
}

#[test]
fn every_broken_rule_has_its_own_name() {
    let service = "/ns/default/dc/dc1/svc/web";
    let long_domain = "a".repeat(256);
    let cases = [
        (String::new(), "empty"),
        (format!("spiffe://{TD}/{}", "a".repeat(2048)), "too-long"),
        ("web".to_owned(), "wrong-scheme"),
        (format!("https://{TD}{service}"), "wrong-scheme"),
        (format!(" spiffe://{TD}{service}"), "wrong-scheme"),
        (format!("SPIFFE://{TD}{service}"), "scheme-not-lower-case"),
        (format!("Spiffe://{TD}{service}"), "scheme-not-lower-case"),
        (format!("spiffe:{TD}{service}"), "no-authority"),
        (format!("spiffe:/{TD}{service}"), "no-authority"),
        ("spiffe".to_owned(), "no-authority"),
        (format!("spiffe://{TD}{service}?x=1"), "has-query"),
        (format!("spiffe://{TD}?"), "has-query"),
        (format!("spiffe://{TD}{service}#f"), "has-fragment"),
        (format!("spiffe://{TD}{service}?x=1#f"), "has-fragment"),
        (format!("spiffe://user@{TD}{service}"), "has-user-info"),
        (format!("spiffe://user:pw@{TD}{service}"), "has-user-info"),
        (format!("spiffe://@{TD}{service}"), "has-user-info"),
        (format!("spiffe://{TD}:8443{service}"), "has-port"),
        (format!("spiffe://{TD}:{service}"), "has-port"),
        (
            format!("spiffe://{TD}/ns/default/dc/dc1/svc/w%65b"),
            "percent-encoded",
        ),
        (
            format!("spiffe://{TD}/ns/default/dc/dc1/svc/a%2Fb"),
            "percent-encoded",
        ),
        (
            format!("spiffe://mesh%2Eexample{service}"),
            "percent-encoded",
        ),
        (format!("spiffe://{service}"), "empty-trust-domain"),
        ("spiffe://".to_owned(), "empty-trust-domain"),
        (
            format!("spiffe://{long_domain}{service}"),
            "trust-domain-too-long",
        ),
        (
            format!("spiffe://Mesh.example{service}"),
            "trust-domain-not-lower-case",
        ),
        (
            format!("spiffe://mesh example{service}"),
            "bad-trust-domain-character",
        ),
        (
            format!("spiffe://m\u{fc}nchen.example{service}"),
            "bad-trust-domain-character",
        ),
        (format!("spiffe://[::1]{service}"), "has-port"),
        (
            format!("spiffe://mesh\0.example{service}"),
            "bad-trust-domain-character",
        ),
        (format!("spiffe://{TD}{service}/"), "trailing-slash"),
        (format!("spiffe://{TD}/"), "trailing-slash"),
        (
            format!("spiffe://{TD}//ns/default/dc/dc1/svc/web"),
            "empty-segment",
        ),
        (
            format!("spiffe://{TD}/ns//default/dc/dc1/svc/web"),
            "empty-segment",
        ),
        (
            format!("spiffe://{TD}/ns/default/dc/dc1/svc/.."),
            "dot-segment",
        ),
        (
            format!("spiffe://{TD}/./ns/default/dc/dc1/svc/web"),
            "dot-segment",
        ),
        (
            format!("spiffe://{TD}/ns/default/dc/dc1/svc/web\0"),
            "bad-path-character",
        ),
        (
            format!("spiffe://{TD}/ns/default/dc/dc1/svc/*"),
            "bad-path-character",
        ),
        (
            format!("spiffe://{TD}/ns/default/dc/dc1/svc/w eb"),
            "bad-path-character",
        ),
        (
            format!("spiffe://{TD}/ns/default/dc/dc1/svc/w\u{435}b"),
            "bad-path-character",
        ),
        (
            format!("spiffe://{TD}/ns/default/dc/dc1/svc/a+b"),
            "bad-path-character",
        ),
        (
            format!("spiffe://{TD}/ns/default/dc/dc1/svc/web;x"),
            "bad-path-character",
        ),
        (
            format!("spiffe://{TD}\\{service}"),
            "bad-trust-domain-character",
        ),
    ];
    for (uri, expected) in &cases {
        assert_eq!(code(uri), *expected, "{uri}");
    }
}

#[test]
fn every_name_has_its_own_rules_too() {
    assert_eq!(ServiceName::parse("").unwrap_err().code(), "empty-name");
    assert_eq!(
        Namespace::parse(&"a".repeat(2049)).unwrap_err().code(),
        "name-too-long"
    );
    assert_eq!(Datacenter::parse("..").unwrap_err().code(), "dot-name");
    assert_eq!(
        NodeId::parse("a/b").unwrap_err().code(),
        "bad-name-character"
    );
    assert_eq!(
        PeerName::parse("*").unwrap_err().code(),
        "bad-name-character"
    );
    assert_eq!(
        Partition::parse("a%20").unwrap_err().code(),
        "bad-name-character"
    );
    assert_eq!(Partition::parse("East").unwrap(), "east");
    assert_eq!(
        TrustDomain::parse("").unwrap_err().code(),
        "empty-trust-domain"
    );
    let error = ServiceName::parse("a b").unwrap_err();
    assert_eq!(error.to_string(), "` ` cannot be in the service name `a b`");
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let uri = [
        b"spiffe://mesh.example/ns/default/dc/dc1/svc/".as_slice(),
        &[0xff],
    ]
    .concat();
    let error = SpiffeId::parse_bytes(&uri).unwrap_err();
    assert_eq!(error.code(), "not-utf8");
    assert!(error.to_string().contains("\\xff"), "{error}");
    assert_eq!(
        SpiffeId::parse_bytes(&[b'a'; 2049]).unwrap_err(),
        IdentityError::TooLong { length: 2049 }
    );
}

#[test]
fn lengths_are_limited_to_the_byte() {
    let prefix = "spiffe://mesh.example/";
    let longest = format!("{prefix}{}", "a".repeat(2048 - prefix.len()));
    assert_eq!(longest.len(), 2048);
    assert_eq!(id(&longest).to_string(), longest);
    assert_eq!(code(&format!("{longest}a")), "too-long");
    assert_eq!(
        id(&format!("spiffe://{}", "a".repeat(255))).kind(),
        &Kind::Signing
    );
}

#[test]
fn errors_cannot_forge_log_lines() {
    let uri = "spiffe://mesh.example/ns/a\r\n2026 allow \u{1b}[31m\u{2028}\u{202e}";
    let error = SpiffeId::parse(uri).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(
        text.chars().all(|c| c.is_ascii() && !c.is_ascii_control()),
        "{text:?}"
    );
    let long = SpiffeId::parse(&format!("x{}", "\u{1}".repeat(2000))).unwrap_err();
    assert!(long.to_string().len() < 700, "{}", long.to_string().len());
}

#[test]
fn differences_are_named() {
    let web = id("spiffe://a.example/ns/n/dc/d/svc/web");
    let cases = [
        ("spiffe://a.example/ns/n/dc/d/svc/web", None),
        (
            "spiffe://b.example/ns/n/dc/d/svc/db",
            Some(Part::TrustDomain),
        ),
        (
            "spiffe://a.example/ap/p/ns/n/dc/d/svc/web",
            Some(Part::Partition),
        ),
        (
            "spiffe://a.example/ns/m/dc/d/svc/web",
            Some(Part::Namespace),
        ),
        (
            "spiffe://a.example/ns/n/dc/e/svc/web",
            Some(Part::Datacenter),
        ),
        ("spiffe://a.example/ns/n/dc/e/svc/Web", Some(Part::Service)),
        ("spiffe://a.example/gateway/mesh/dc/d", Some(Part::Kind)),
        ("spiffe://a.example", Some(Part::Kind)),
    ];
    for (other, part) in cases {
        assert_eq!(web.first_difference(&id(other)), part, "{other}");
    }
    let pairs = [
        (
            "/agent/client/dc/d/id/1",
            "/agent/client/dc/d/id/2",
            Part::Agent,
        ),
        (
            "/agent/client/dc/d/id/1",
            "/agent/client/dc/e/id/1",
            Part::Datacenter,
        ),
        (
            "/ap/p/agent/client/dc/d/id/1",
            "/agent/client/dc/d/id/1",
            Part::Partition,
        ),
        ("/gateway/mesh/dc/d", "/gateway/mesh/dc/e", Part::Datacenter),
        (
            "/gateway/mesh/dc/d",
            "/ap/p/gateway/mesh/dc/d",
            Part::Partition,
        ),
        ("/agent/server/dc/d", "/agent/server/dc/e", Part::Datacenter),
        ("/x", "/y", Part::Path),
    ];
    for (a, b, part) in pairs {
        let (a, b) = (id(&format!("spiffe://t{a}")), id(&format!("spiffe://t{b}")));
        assert_eq!(a.first_difference(&b), Some(part), "{a} {b}");
    }
}

/// The grammar once more, written another way: by characters and a state, not by splitting.
fn fits_the_grammar(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("spiffe://") else {
        return false;
    };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or("");
    let domain_fits = (1..=255).contains(&domain.len())
        && domain
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    let path_fits = parts.all(|segment| {
        !matches!(segment, "" | "." | "..")
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    });
    uri.len() <= 2048 && domain_fits && path_fits
}

/// Text that is nearly an ID: real parts, and things that should not be there.
fn nearly_an_id() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("/ns/default/dc/dc1/svc/web".to_owned()),
        2 => Just("/ap/default".to_owned()),
        2 => Just("/agent/server/dc/dc1".to_owned()),
        2 => Just("/gateway/mesh/dc/dc1".to_owned()),
        4 => "/[a-z.]{0,3}",
        1 => "[A-Z%?#@:/\\\\ *]{1,2}",
        1 => "\\PC",
    ];
    let scheme = prop_oneof![8 => Just("spiffe://"), 1 => Just("SPIFFE://"), 1 => Just("spiffe:/"), 1 => Just("")];
    (
        scheme,
        "[a-z0-9._-]{0,20}",
        prop::collection::vec(piece, 0..4),
    )
        .prop_map(|(scheme, domain, pieces)| format!("{scheme}{domain}{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn accepted_is_what_fits_the_grammar(uri in nearly_an_id()) {
        let read = SpiffeId::parse(&uri);
        prop_assert_eq!(read.is_ok(), fits_the_grammar(&uri), "{}: {:?}", uri, read);
    }

    #[test]
    fn parsing_undoes_display(uri in nearly_an_id()) {
        if let Ok(id) = SpiffeId::parse(&uri) {
            prop_assert_eq!(SpiffeId::parse(&id.to_string()), Ok(id.clone()));
            prop_assert_eq!(SpiffeId::parse_bytes(uri.as_bytes()), Ok(id));
        }
    }

    #[test]
    fn different_text_is_another_identity_but_for_the_partition(a in nearly_an_id(), b in nearly_an_id()) {
        if let (Ok(a), Ok(b)) = (SpiffeId::parse(&a), SpiffeId::parse(&b)) {
            prop_assert_eq!(a == b, a.to_string() == b.to_string());
            prop_assert_eq!(a == b, a.first_difference(&b).is_none());
        }
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(id) = SpiffeId::parse_bytes(&bytes) {
            prop_assert!(fits_the_grammar(&id.to_string()));
        }
    }
}
