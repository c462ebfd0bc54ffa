use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use portcullis_core::agent::peerings::{Bundle, Peering};
use portcullis_core::identity::{Partition, PeerName, TrustDomain};
use portcullis_core::intention::{Matching, Protocol};
use portcullis_core::time::Timestamp;

use super::super::follow::Subject as _;
use super::super::intentions::Intentions;
use super::{Hub, MeshRoots};
use crate::agent_client::AgentReply;
use crate::clock::Clock;
use crate::runtime::{Policy, aws_lc};

const DB: &str = "service/default/default/db";

const fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A hub of a policy without a component, and its clock.
fn hub() -> (Arc<Hub>, Clock) {
    let clock = Clock::manual(at(1_000));
    let budget = Some(Duration::from_secs(3_600));
    let policy = Policy::native(aws_lc());
    let hub = Hub::new(policy, clock.clone(), budget, Matching::Strict);
    (hub, clock)
}

/// A hub whose `db` speaks TCP and has no intentions, as of 1,000.
async fn hub_of_db() -> Arc<Hub> {
    let (hub, _) = hub();
    hub.set_protocol(DB, Protocol::Tcp).await.unwrap();
    let list = vec![(DB.to_owned(), b"[]".to_vec())];
    let refused = hub.set_intentions(list, at(1_000)).await.unwrap();
    assert!(refused.is_empty());
    hub
}

fn roots() -> MeshRoots {
    MeshRoots {
        trust_domain: "t.consul".to_owned(),
        active: String::new(),
        pems: Vec::new(),
        intermediates: Vec::new(),
    }
}

/// The body of a document in force, and as of when.
fn in_force(hub: &Hub, name: &str) -> Option<(String, Timestamp)> {
    let (_, _, documents) = hub.policy.in_force();
    let found = documents.into_iter().find(|one| one.name == name)?;
    let body = String::from_utf8(found.body.unwrap()).unwrap();
    Some((body, found.confirmed_at))
}

fn confirmed(hub: &Hub, name: &str) -> Timestamp {
    in_force(hub, name).unwrap().1
}

fn reply(body: &str) -> AgentReply {
    AgentReply {
        status: 200,
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn list(action: &str, peer: &str) -> String {
    format!(
        r#"{{"db":[{{"SourceName":"web","SourcePeer":"{peer}","DestinationName":"db","Action":"{action}","Precedence":9}}]}}"#
    )
}

fn peering(name: &str) -> Peering {
    let bundle = Bundle {
        trust_domain: TrustDomain::parse("peer.consul").unwrap(),
        roots: Vec::new(),
        exported_partition: Partition::default_partition(),
    };
    Peering {
        name: PeerName::parse(name).unwrap(),
        bundle: Ok(bundle),
    }
}

#[tokio::test]
async fn intentions_are_loaded_again_when_nobody_knows_which_are_in_force() {
    let (hub, clock) = hub();
    hub.set_roots(roots(), at(1_000)).await.unwrap();
    let peerings: Arc<[Peering]> = vec![peering("p")].into();
    hub.set_peerings(Some((peerings, at(1_000)))).await.unwrap();
    hub.peerings.send_modify(|seen| seen.is_looked_for = true);
    let mut followed = Intentions::new(Arc::clone(&hub), vec!["db".to_owned()], true);
    followed
        .used(&reply(&list("deny", "")), true)
        .await
        .unwrap();
    // The rules are taken, the bundle that comes with them is not.
    hub.documents.lock().await.providers = Some("[1]".to_owned());
    let taken = followed.used(&reply(&list("allow", "p")), true).await;
    assert!(taken.is_err());
    assert!(in_force(&hub, DB).unwrap().0.contains("allow"));
    hub.documents.lock().await.providers = None;
    clock.set(at(5_000));
    followed
        .used(&reply(&list("deny", "")), true)
        .await
        .unwrap();
    let (body, confirmed_at) = in_force(&hub, DB).unwrap();
    assert!(body.contains("deny"), "{body}");
    assert_eq!(confirmed_at, at(5_000));
}

#[tokio::test]
async fn a_change_of_protocol_makes_nothing_older() {
    let hub = hub_of_db().await;
    hub.touch(&[DB.to_owned()], at(5_000)).await;
    hub.set_protocol(DB, Protocol::Http).await.unwrap();
    let (body, confirmed_at) = in_force(&hub, DB).unwrap();
    assert!(body.contains("http"), "{body}");
    assert_eq!(confirmed_at, at(5_000));
}

#[tokio::test]
async fn a_protocol_that_is_not_taken_leaves_what_comes_back_confirmed() {
    let hub = hub_of_db().await;
    // What the policy refuses under any protocol.
    let before = hub.documents.lock().await.lists.clone();
    let bad = (b"1".to_vec(), at(1_000));
    hub.documents.lock().await.lists.insert(DB.to_owned(), bad);
    hub.set_protocol(DB, Protocol::Http).await.unwrap_err();
    hub.documents.lock().await.lists = before;
    hub.touch(&[DB.to_owned()], at(2_000)).await;
    assert_eq!(confirmed(&hub, DB), at(1_000), "it says something else");
    hub.set_protocol(DB, Protocol::Tcp).await.unwrap();
    hub.touch(&[DB.to_owned()], at(3_000)).await;
    assert_eq!(confirmed(&hub, DB), at(3_000));
}

#[tokio::test]
async fn the_mesh_ages_while_a_part_of_it_is_refused_and_no_longer() {
    let (hub, _) = hub();
    hub.set_roots(roots(), at(1_000)).await.unwrap();
    let refused = Some("[1]".to_owned());
    let taken = hub.set_providers(refused.clone(), at(1_000)).await;
    assert!(taken.is_err());
    hub.set_normalization(refused).await.unwrap_err();
    hub.touch_mesh(at(2_000)).await;
    assert_eq!(confirmed(&hub, "mesh"), at(1_000));
    let seen = hub.readiness().borrow().roots.clone();
    assert_eq!(seen.confirmed_at, Some(at(1_000)), "readiness says so too");
    assert!(seen.error.is_some());
    hub.set_providers(None, at(3_000)).await.unwrap();
    hub.touch_mesh(at(3_000)).await;
    assert_eq!(confirmed(&hub, "mesh"), at(1_000), "the other is refused");
    hub.set_normalization(None).await.unwrap();
    assert_eq!(confirmed(&hub, "mesh"), at(3_000));
    hub.touch_mesh(at(4_000)).await;
    assert_eq!(confirmed(&hub, "mesh"), at(4_000));
    assert_eq!(hub.readiness().borrow().roots.confirmed_at, Some(at(4_000)));
}

#[tokio::test]
async fn peers_that_come_back_after_others_were_refused_are_confirmed() {
    let (hub, _) = hub();
    hub.set_roots(roots(), at(1_000)).await.unwrap();
    hub.documents
        .lock()
        .await
        .name_peers(DB, ["p".to_owned()].into());
    hub.documents.lock().await.providers = Some("[1]".to_owned());
    let peerings: Arc<[Peering]> = vec![peering("p")].into();
    let found = Some((peerings, at(1_000)));
    hub.set_peerings(found).await.unwrap_err();
    hub.touch_mesh(at(2_000)).await;
    assert_eq!(confirmed(&hub, "mesh"), at(1_000));
    hub.documents.lock().await.providers = None;
    hub.set_peerings(None).await.unwrap();
    hub.touch_mesh(at(3_000)).await;
    assert_eq!(confirmed(&hub, "mesh"), at(3_000));
}

#[tokio::test]
async fn what_is_loaded_beside_the_roots_has_their_time_at_once() {
    let (hub, _) = hub();
    hub.set_roots(roots(), at(1_000)).await.unwrap();
    hub.set_normalization(Some("{}".to_owned())).await.unwrap();
    assert_eq!(confirmed(&hub, "mesh"), at(1_000));
}

#[tokio::test]
async fn readiness_and_the_mesh_follow_a_clock_that_is_set_back() {
    let (hub, _) = hub();
    hub.set_roots(roots(), at(1_000)).await.unwrap();
    hub.touch_mesh(at(9_000_000)).await;
    hub.touch_mesh(at(2_000)).await;
    hub.set_normalization(Some("{}".to_owned())).await.unwrap();
    assert_eq!(confirmed(&hub, "mesh"), at(2_000));
    assert_eq!(hub.readiness().borrow().roots.confirmed_at, Some(at(2_000)));
}

#[tokio::test]
async fn providers_age_by_their_last_confirmation() {
    let (hub, clock) = hub();
    hub.set_roots(roots(), at(1_000)).await.unwrap();
    let list = || Some("[]".to_owned());
    hub.set_providers(list(), at(1_000)).await.unwrap();
    clock.set(at(4_000_000));
    // The agent is back just before somebody looks at their age.
    hub.set_providers(list(), at(4_000_000)).await.unwrap();
    hub.age_providers().await.unwrap();
    assert!(hub.documents.lock().await.providers.is_some());
    clock.set(at(8_000_000));
    hub.age_providers().await.unwrap();
    assert!(hub.documents.lock().await.providers.is_none());
}
