//! h2spec, a public conformance client of HTTP/2, against the inbound listener. Its cases
//! that we fail are listed in `conformance.txt`, each with the reason; that list is exact.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use portcullis_tests::peers;
use portcullis_tests::process::Process;
use portcullis_tests::stage::ANY;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;

use crate::client::Client;
use crate::scene::{SOON, Scene};

/// Cases that are known to fail: `section/number  reason`.
const KNOWN: &str = include_str!("conformance.txt");

/// Lets a program without certificates speak to the mesh: its bytes go on by mutual TLS.
async fn door(client: Client) -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut local, _)) = listener.accept().await {
            let client = client.clone();
            tokio::spawn(async move {
                let mut mesh = client.connect(&["h2"]).await;
                let _ = copy_bidirectional(&mut local, &mut mesh).await;
            });
        }
    });
    address
}

/// What became of each case of a report in the form of JUnit.
fn cases(report: &str) -> BTreeMap<String, bool> {
    let mut cases = BTreeMap::new();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for case in report.split("<testcase ").skip(1) {
        let (_, package) = case.split_once("package=\"").expect("its section");
        let (section, _) = package.split_once('"').expect("its end");
        let number = numbers.entry(section.to_owned()).or_default();
        *number += 1;
        let (case, _) = case.split_once("</testcase>").unwrap_or((case, ""));
        let failed = ["<failure", "<error", "<skipped"]
            .into_iter()
            .any(|mark| case.contains(mark));
        cases.insert(format!("{section}/{number}"), !failed);
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_as_its_specification_says() {
    let Some(h2spec) = peers::require("http2_is_spoken_as_its_specification_says", "h2spec") else {
        return;
    };
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    let scene = Scene::start("http2", permissions, &[]).await;
    let door = door(scene.client("web")).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (report, log) = (folder.path().join("report.xml"), folder.path().join("log"));
    let mut command = Command::new(h2spec);
    command
        .args(["--strict", "--host", "127.0.0.1", "--path", "/hello"])
        .args(["--port", &door.port().to_string()])
        // How long it waits before a case has failed: long, as machines may be busy.
        .args(["--timeout", "10", "--junit-report"])
        .arg(&report)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&log).expect("a log"))
        .stderr(Stdio::null());
    let mut running = Process::new(command.spawn().expect("h2spec starts"));
    let ended = tokio::task::block_in_place(|| running.wait(10 * SOON));
    assert!(ended.is_some(), "it hangs");
    let report = std::fs::read_to_string(&report).expect("a report");
    let cases = cases(&report);
    assert!(cases.len() > 130, "only {} cases", cases.len());
    let failed: BTreeSet<&str> = cases
        .iter()
        .filter(|(_, passed)| !**passed)
        .map(|(name, _)| name.as_str())
        .collect();
    let known: BTreeSet<&str> = KNOWN
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once("  ").expect("a case and its reason").0)
        .collect();
    assert_eq!(
        failed,
        known,
        "the list in tests/http/conformance.txt is not what h2spec finds:\n{}",
        std::fs::read_to_string(&log).unwrap_or_default()
    );
    // Whatever it did, others are served.
    let mut two = scene.client("web").http2().await;
    let request = http::Request::get("https://a/x").body(crate::client::empty());
    let answer = portcullis_tests::stage::within(two.send_request(request.unwrap())).await;
    assert_eq!(answer.expect("an answer").status(), 200);
}
