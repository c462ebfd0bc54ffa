//! Rotation: what is listed afterwards, what the certificates say, and whether
//! old and new trust each other.

use std::sync::Arc;

use http::Method;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};

use crate::agents::{Agent, Kind};
use crate::certificates::{ders, describe, parse};
use crate::client::{Answer, Call};
use crate::suite::{Step, Suite};

const CONFIGURATION: &str = "/v1/connect/ca/configuration";
/// Of a service that nobody has asked for before, so that its first one is of the root in
/// force: Consul hands out an older one for a while, and would wake who waits with the next.
const LEAF: &str = "/v1/agent/connect/ca/leaf/blocked";

pub(crate) async fn run(suite: &mut Suite) {
    certificates(suite, "at first").await;
    for (kind, bits) in [("ec", 384), ("rsa", 2048), ("ec", 521), ("ec", 256)] {
        let name = format!("to {kind} {bits}");
        let config = json!({"Provider": "consul", "Config": {"LeafCertTTL": "72h", "PrivateKeyType": kind, "PrivateKeyBits": bits}});
        rotate(suite, &name, &config).await;
    }
    let forced = json!({"Provider": "consul", "Config": {"PrivateKeyType": "ec", "PrivateKeyBits": 384}, "ForceWithoutCrossSigning": true});
    rotate(suite, "without cross-signing", &forced).await;
    same_key_type(suite).await;
    blocked_leaf(suite).await;
}

async fn rotate(suite: &mut Suite, name: &str, config: &Value) {
    suite
        .run(Step::put(
            &format!("rotation {name}"),
            CONFIGURATION,
            config,
        ))
        .await;
    suite
        .run(Step::get(
            &format!("configuration after rotation {name}"),
            CONFIGURATION,
        ))
        .await;
    certificates(suite, &format!("after rotation {name}")).await;
}

async fn get(agent: &Agent, target: &str) -> Answer {
    let call = Call {
        method: Method::GET,
        target: target.to_owned(),
        headers: Vec::new(),
        body: "".into(),
    };
    agent.call(&call).await
}

/// Writing the same key type again does not rotate.
async fn same_key_type(suite: &mut Suite) {
    let config = json!({"Provider": "consul", "Config": {"PrivateKeyType": "ec", "PrivateKeyBits": 384, "LeafCertTTL": "71h"}});
    suite
        .run(Step::put("the same key type again", CONFIGURATION, &config))
        .await;
    certificates(suite, "after the same key type").await;
}

/// Compares roots and a leaf by what their certificates say.
async fn certificates(suite: &mut Suite, when: &str) {
    let (real, ours) = tokio::join!(picture(&suite.real), picture(&suite.ours));
    for (key, real) in real.as_object().expect("an object") {
        suite.same(
            &format!("certificates {when}"),
            key,
            real,
            &ours[key.as_str()],
        );
    }
}

async fn picture(agent: &Agent) -> Value {
    let roots = get(agent, "/v1/connect/ca/roots").await.json();
    // A service that nobody has asked for: others may get theirs up to 30 s later.
    let name = format!("rotated-{}", roots["Roots"].as_array().map_or(0, Vec::len));
    let leaf = get(agent, &format!("/v1/agent/connect/ca/leaf/{name}"))
        .await
        .json();
    let list = roots["Roots"].as_array().expect("roots").clone();
    let mut keys: Vec<String> = list
        .iter()
        .map(|root| {
            format!(
                "{} {} active {} intermediates {}",
                root["PrivateKeyType"],
                root["PrivateKeyBits"],
                root["Active"],
                root["IntermediateCerts"].as_array().map_or(0, Vec::len)
            )
        })
        .collect();
    keys.sort();
    let ids: Vec<&str> = list.iter().filter_map(|root| root["ID"].as_str()).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    let active = list
        .iter()
        .find(|root| root["Active"] == true)
        .expect("an active root");
    let der = |root: &Value| ders(root["RootCert"].as_str().expect("PEM")).remove(0);
    let root = der(active);
    let chain = ders(leaf["CertPEM"].as_str().expect("PEM"));
    let before = |der: &[u8]| parse(der).validity().not_before.timestamp();
    // The root that was replaced last signed the intermediate.
    let previous: Vec<Vec<u8>> = list
        .iter()
        .filter(|root| root["Active"] == false)
        .map(der)
        .collect();
    let signer = chain.get(1).and_then(|intermediate| {
        previous
            .iter()
            .find(|root| parse(root).subject().as_raw() == parse(intermediate).issuer().as_raw())
    });
    let td = &agent.trust_domain;
    json!({
        "roots": keys,
        "roots in order of their ids": ids == sorted,
        "active root is named": roots["ActiveRootID"] == active["ID"],
        "root": describe(&root, &root, td),
        "root key id": active["SigningKeyID"] == key_id(&root),
        "serial of the root": active["SerialNumber"].as_u64() == u64::try_from(&parse(&root).tbs_certificate.serial).ok(),
        "leaf": describe(&chain[0], &root, td),
        "leaf is from the new root": parse(&chain[0]).issuer().as_raw() == parse(&root).subject().as_raw(),
        "chain length": chain.len(),
        "intermediate": chain.get(1).map(|one| describe(one, signer.expect("its issuer is listed"), td)),
        "intermediate is of the new key": chain.get(1).map(|one| parse(one).tbs_certificate.subject_pki.raw == parse(&root).tbs_certificate.subject_pki.raw),
        "intermediate is dated back": chain.get(1).map(|one| (before(&root) - before(one) - 60).abs() <= 2),
        "new root trusts the leaf": trusts(std::slice::from_ref(&root), &chain[..1]),
        "old root trusts the chain": signer.map(|old| trusts(std::slice::from_ref(old), &chain)),
        "old root trusts the leaf alone": signer.map(|old| trusts(std::slice::from_ref(old), &chain[..1])),
        "leaf key fits": key_fits(&leaf),
    })
}

fn key_id(root: &[u8]) -> Value {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(parse(root).tbs_certificate.subject_pki.raw);
    let hex: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    json!(hex.join(":"))
}

/// Whether a chain verifies against these roots, for a client and for a server.
fn trusts(roots: &[Vec<u8>], chain: &[Vec<u8>]) -> bool {
    let mut store = rustls::RootCertStore::empty();
    for root in roots {
        store
            .add(CertificateDer::from(root.clone()))
            .expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(store.clone()),
        Arc::clone(&provider),
    );
    let verifier = verifier.build().expect("a verifier");
    let chain: Vec<CertificateDer<'static>> =
        chain.iter().cloned().map(CertificateDer::from).collect();
    let (leaf, rest) = chain.split_first().expect("a leaf");
    let client = verifier
        .verify_client_cert(leaf, rest, UnixTime::now())
        .is_ok();
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider);
    let verifier = verifier.build().expect("a verifier");
    let name = ServerName::try_from("web").expect("a name");
    let server = rustls::client::danger::ServerCertVerifier::verify_server_cert(
        &*verifier,
        leaf,
        rest,
        &name,
        &[],
        UnixTime::now(),
    );
    // No DNS name is in the certificate: everything before that check has passed.
    let server = matches!(
        server,
        Err(rustls::Error::InvalidCertificate(
            rustls::CertificateError::NotValidForName
                | rustls::CertificateError::NotValidForNameContext { .. }
        ))
    );
    client && server
}

/// Whether the leaf's key can be loaded and belongs to its certificate.
fn key_fits(leaf: &Value) -> bool {
    use rustls_pki_types::PrivateKeyDer;
    use rustls_pki_types::pem::PemObject as _;
    let key = PrivateKeyDer::from_pem_slice(
        leaf["PrivateKeyPEM"]
            .as_str()
            .unwrap_or_default()
            .as_bytes(),
    );
    let Ok(PrivateKeyDer::Sec1(key)) = key else {
        return false;
    };
    let chain = ders(leaf["CertPEM"].as_str().unwrap_or_default())
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::Sec1(key))
        .expect("a key");
    rustls::sign::CertifiedKey::new(chain, key)
        .keys_match()
        .is_ok()
}

/// A leaf call that is blocked while the root is replaced gets a certificate
/// of the new root; a call that does not block gets it at once.
async fn blocked_leaf(suite: &mut Suite) {
    let config =
        json!({"Provider": "consul", "Config": {"PrivateKeyType": "ec", "PrivateKeyBits": 256}});
    async fn ask(agent: &Agent, config: &Value) -> Value {
        let before = get(agent, LEAF).await;
        let target = format!("{LEAF}?index={}&wait=50s", before.index());
        let rotation = async {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            let call = Call {
                method: Method::PUT,
                target: CONFIGURATION.to_owned(),
                headers: Vec::new(),
                body: config.to_string().into(),
            };
            assert_eq!(agent.call(&call).await.status, 200);
        };
        let (after, ()) = tokio::join!(get(agent, &target), rotation);
        let issuer = |answer: &Answer| {
            let chain = ders(answer.json()["CertPEM"].as_str().expect("PEM"));
            parse(&chain[0]).issuer().to_string()
        };
        // Consul now and then answers from before, for up to 30 seconds.
        let mut same = false;
        for _ in 0..400 {
            same = issuer(&get(agent, LEAF).await) == issuer(&after);
            if same {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        json!({
            "index is higher": after.index() > before.index(),
            "another issuer": issuer(&after) != issuer(&before),
            "the same one afterwards": same,
            "another key": after.json()["PrivateKeyPEM"] != before.json()["PrivateKeyPEM"],
            "cache": after.headers.get("x-cache").map(|value| value.to_str().unwrap_or_default().to_owned()),
        })
    }
    assert!(
        matches!(suite.ours.kind, Kind::Dev(_)),
        "ours is the development agent"
    );
    let (real, ours) = tokio::join!(ask(&suite.real, &config), ask(&suite.ours, &config));
    suite.same("a leaf blocked during rotation", "outcome", real, ours);
}
