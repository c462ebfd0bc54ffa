//! Paths, beside what Envoy 1.40 made of them: `tests/data/envoy-paths.ndjson` was recorded
//! from a real one, with a listener for each setting, verbatim over TCP.

use std::collections::BTreeMap;

use portcullis_core::http::{
    BadRequest, EscapedSlashes, Preparation, Prepared, Request, RequestNormalization,
};
use portcullis_core::intention::Matching;
use serde_json::Value;

fn settings(listener: &str) -> RequestNormalization {
    let mut settings = RequestNormalization::default();
    for part in listener.split('+') {
        match part {
            "default" => {}
            "merge" => settings.merge_slashes = true,
            "raw" => settings.insecure_disable_path_normalization = true,
            "reject" => settings.escaped_slashes = EscapedSlashes::Reject,
            "redirect" => settings.escaped_slashes = EscapedSlashes::Redirect,
            "forward" => settings.escaped_slashes = EscapedSlashes::Forward,
            other => panic!("{other}"),
        }
    }
    settings
}

fn request(target: &str) -> Request {
    Request {
        method: b"GET".to_vec(),
        path: target.chars().map(|c| u8::try_from(c).unwrap()).collect(),
        ..Request::default()
    }
}

/// `forward PATH`, `redirect PATH` or `refuse`.
fn ours(request: &Request, settings: &RequestNormalization) -> Result<String, BadRequest> {
    let text = |path: &[u8]| path.iter().copied().map(char::from).collect::<String>();
    Ok(match Prepared::read(request, settings, Matching::Envoy)? {
        Preparation::Judged(prepared) => {
            format!("forward {}", text(prepared.path_and_query().unwrap()))
        }
        Preparation::Redirect(location) => format!("redirect {}", text(&location)),
    })
}

#[test]
fn paths_become_what_envoy_makes_of_them() {
    let recorded = include_str!("../data/envoy-paths.ndjson");
    let (mut alike, mut not_fixed) = (BTreeMap::new(), 0);
    let mut wrong = Vec::new();
    for line in recorded.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let settings = settings(line["listener"].as_str().unwrap());
        let request = request(line["target"].as_str().unwrap());
        let (kind, theirs) = ["forward", "redirect", "refuse"]
            .into_iter()
            .find_map(|kind| Some((kind, line.get(kind)?.as_str()?)))
            .unwrap();
        match ours(&request, &settings) {
            Ok(ours) => {
                if ours != format!("{kind} {theirs}") {
                    wrong.push(format!("{line}: {ours}"));
                }
                *alike.entry(kind).or_insert(0) += 1;
            }
            // Envoy's own answer would become another one in the next Envoy.
            Err(BadRequest::NotFixed) => {
                let again = self::request(theirs);
                let same = Ok(format!("forward {theirs}"));
                assert_ne!(ours(&again, &settings), same, "{line}");
                not_fixed += 1;
            }
            Err(error) => {
                assert_eq!((kind, theirs), ("refuse", "400"), "{line} {error}");
                *alike.entry(kind).or_insert(0) += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{alike:?}, {not_fixed} whose form is not fixed");
    assert!(alike["forward"] > 1_500 && alike["redirect"] > 50 && alike["refuse"] > 100);
    assert!(not_fixed > 5 && not_fixed < 100, "{not_fixed}");
}
