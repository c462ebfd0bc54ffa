//! A decision log on a full disk: connections go on, what is lost is counted, and with room
//! it goes on without half a line.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use portcullis_tests::api::Api;
use portcullis_tests::load::Load;
use portcullis_tests::pair::Pair;
use portcullis_tests::ports;
use portcullis_tests::process::eventually;
use serde_json::Value;

use crate::disk::{can_mount, mounted};
use crate::scene::{Embedded, SOON, counted};

#[test]
fn a_decision_log_on_a_full_disk_costs_no_connection_and_goes_on_with_room() {
    if !can_mount("a_decision_log_on_a_full_disk") {
        return;
    }
    let embedded = Embedded::start();
    let folder = tempfile::tempdir().expect("a folder");
    let mount = format!(
        "mount -t tmpfs -o mode=0700,size=256k tmpfs {}",
        folder.path().display()
    );
    let file = folder.path().join("decisions.ndjson");
    let [metrics] = ports::free::<1>();
    let pair = Pair::prepared(embedded.address(), |command| {
        // The other one decides nothing.
        let is_inbound = command.get_args().any(|argument| argument == "-register");
        if is_inbound {
            command
                .arg(format!("-decision-log={}", file.display()))
                .arg(format!("-metrics=127.0.0.1:{metrics}"));
            let program = mounted(&mount, command);
            *command = program;
        }
    });
    let load = Load::start(pair.door);
    pair.passes(&load);
    let seen = |path: &Path| {
        Path::new("/proc")
            .join(pair.db.id().to_string())
            .join("root")
            .join(path.strip_prefix("/").unwrap_or(path))
    };
    let filler = seen(&folder.path().join("filler"));
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    // Its last page has room for some lines.
    load.next(50);
    eventually("the disk is full", SOON, || {
        load.next(10);
        pair.db
            .log()
            .contains("the decision log cannot be written")
            .then_some(())
    });
    let counts = load.next(300);
    counted("decision log on a full disk", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    let stuck = whole(&seen(&file));

    fs::remove_file(&filler).expect("the filler goes");
    eventually("it goes on", SOON, || {
        (whole(&seen(&file)) >= stuck + 300).then_some(())
    });
    pair.db.logs("the decision log is written again");
    drop(load);
    // Nothing was lost: all of it found room while it waited.
    let api = Api::new(SocketAddr::from(([127, 0, 0, 1], metrics)), None);
    let body = api.get("/metrics").body;
    let dropped = "portcullis_decision_log_lines_total{result=\"dropped\"} 0";
    assert!(body.contains(dropped), "{body}");
}

/// How many whole lines there are; every one of them can be read.
fn whole(file: &Path) -> usize {
    let text = fs::read_to_string(file).expect("it is there");
    let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
    let parsed = whole.lines().map(|line| {
        let line: Value = serde_json::from_str(line).expect("a line");
        assert!(line["id"].is_string(), "{line}");
    });
    parsed.count()
}
