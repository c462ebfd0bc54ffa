//! The same requests to the development agent and to a real Consul agent: every reply must
//! be the same but for the differences that `host/dev-agent/DIFFERENCES.md` lists (with an
//! older line than 1.22 also its list in `tests/peers`), and each of those must be there.

#[path = "api/agents.rs"]
mod agents;
#[path = "api/certificates.rs"]
mod certificates;
#[path = "api/client.rs"]
mod client;
#[path = "api/compare.rs"]
mod compare;
#[path = "api/suite.rs"]
mod suite;

#[path = "api/acl.rs"]
mod acl;
#[path = "api/blocking.rs"]
mod blocking;
#[path = "api/catalog.rs"]
mod catalog;
#[path = "api/config.rs"]
mod config;
#[path = "api/connect.rs"]
mod connect;
#[path = "api/intentions.rs"]
mod intentions;
#[path = "api/rotation.rs"]
mod rotation;

use agents::Setup;
use suite::Suite;

/// Without ACLs: every endpoint, blocking, and at the end rotation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_acls() {
    let Some(mut suite) = Suite::start("plain", Setup::default()).await else {
        return;
    };
    connect::run(&mut suite).await;
    config::run(&mut suite).await;
    intentions::run(&mut suite).await;
    catalog::run(&mut suite).await;
    blocking::run(&mut suite).await;
    rotation::run(&mut suite).await;
    suite.finish();
}

/// ACLs with default deny: who may do what, and how it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_acls() {
    let Some(mut suite) = Suite::start("acl", acl::setup()).await else {
        return;
    };
    acl::run(&mut suite).await;
    suite.finish();
}

/// Intentions denied by default while ACLs are off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_intentions_denied_by_default() {
    let setup = Setup {
        intentions_denied: true,
        rsa: true,
        ..Setup::default()
    };
    let Some(mut suite) = Suite::start("strict", setup).await else {
        return;
    };
    intentions::run_denied_by_default(&mut suite).await;
    suite.finish();
}
