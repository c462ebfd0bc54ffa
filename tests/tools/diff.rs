//! `portcullis diff` of files and logs.

use serde_json::{Value, json};

use crate::{API, Folder};

#[test]
fn files_that_say_the_same_and_others() {
    let changed = API.replace(r#"["GET"]"#, r#"["GET", "DELETE"]"#);
    let folder = Folder::new(&[("old.hcl", API), ("new.hcl", &changed)]);
    let said = folder.run(&["diff", "old.hcl", "-against", "old.hcl"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert!(said.out.contains("none gets another answer"), "{said:?}");
    let said = folder.run(&["diff", "new.hcl", "-against", "old.hcl"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let mut lines = said.out.lines();
    assert_eq!(lines.next(), Some("web -> api  deny -> allow"), "{said:?}");
    assert!(said.out.contains("  request  DELETE /items/"), "{said:?}");
    assert!(
        said.out.contains("  now      denied") && said.out.contains("  then     allowed"),
        "{said:?}"
    );
    let (code, document) = folder.json(&["diff", "new.hcl", "-against", "old.hcl"]);
    assert_eq!((code, &document["same"]), (Some(1), &false.into()));
    for change in document["changes"].as_array().expect("a list") {
        assert_eq!(
            (&change["source"], &change["destination"]),
            (&"web".into(), &"api".into())
        );
        assert_eq!(change["request"]["method"], "DELETE");
        assert_eq!(
            (&change["before"]["effect"], &change["after"]["effect"]),
            (&"deny".into(), &"allow".into())
        );
    }
    // A rule that is gone, and one for everybody: known callers, and those unknown.
    let open = "Kind = \"service-intentions\"\nName = \"api\"\nSources = [{ Name = \"*\" Action = \"allow\" }]\n";
    folder.write("open.hcl", open);
    let (_, document) = folder.json(&["diff", "open.hcl", "-against", "old.hcl"]);
    let changed: Vec<&str> = document["changes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["source"].as_str())
        .collect();
    assert!(
        changed.contains(&"any-other-service") && changed.contains(&"web"),
        "{document:#}"
    );
    assert!(!changed.contains(&"batch"), "{document:#}");
    let tcp = "Kind = \"service-intentions\"\nName = \"db\"\nSources = [{ Name = \"web\" Action = \"allow\" }]\n";
    folder.write("a/db.hcl", tcp);
    folder.write("b/db.hcl", &tcp.replace("allow", "deny"));
    let said = folder.run(&["diff", "a", "-against", "b"]);
    assert!(
        said.code == Some(1) && said.out.starts_with("web -> db  deny -> allow\n"),
        "{said:?}"
    );
    folder.refused(&["diff", "nowhere.hcl", "-against", "b"], &["nowhere.hcl"]);
    folder.refused(
        &["diff", "a", "-against", "b", "-log", "none.ndjson"],
        &["none.ndjson"],
    );
}

/// A record in the format of `host/DECISIONS-LOG.md`.
fn record(method: &str, path: &str, headers: Value) -> String {
    json!({
        "time": "2026-11-21T12:00:00.123Z", "id": "7f3a9c0e5b214d68", "generation": 7,
        "policy": "sha256:00", "source": "spiffe://from-a-file.consul/ns/default/dc/dc1/svc/web",
        "destination": "default/default/api",
        "request": {"method": method, "path": path, "headers": headers},
        "effect": "deny", "because": {"code": "permission", "intention": 0, "permission": 1},
        "a-field-of-later": true,
    })
    .to_string()
}

#[test]
fn requests_whose_query_is_withheld_are_left_out_where_rules_look_at_it() {
    let log = [
        record("GET", "/items/1?key=withheld", json!([])),
        record("GET", "/items/2?key=", json!([])),
    ]
    .join("\n");
    let rule = r#"PathPrefix = "/items/secret" "#;
    let query = rule.replace(
        "PathPrefix",
        r#"Header = [{ Name = ":Path" Suffix = "=1" }] PathPrefix"#,
    );
    let changed = API.replace(rule, &query);
    assert_ne!(API, changed);
    let folder = Folder::new(&[("old.hcl", API), ("new.hcl", &changed), ("log", &log)]);
    let compared = |new: &str| {
        let (_, document) = folder.json(&["diff", new, "-against", "old.hcl", "-log", "log"]);
        (document["compared"].clone(), document["left_out"].clone())
    };
    assert_eq!(compared("old.hcl"), (json!(2), json!({})));
    let why = "rules look at `:path`, and of the query values are withheld";
    assert_eq!(compared("new.hcl"), (json!(1), json!({ why: 1 })));
}

#[test]
fn the_requests_of_a_log() {
    let changed = API.replace(r#"["GET"]"#, r#"["GET", "DELETE"]"#).replace(
        r#"PathPrefix = "/items/secret" "#,
        r#"PathPrefix = "/items/secret" Header = [{ Name = "x-role" Exact = "guest" }] "#,
    );
    let log = [
        record("GET", "/items/1", json!([])),
        record("DELETE", "/items/1", json!([["x-other", null]])),
        record("DELETE", "/items/1", json!([["x-other", null]])),
        record("DELETE", "/items/secret", json!([["X-Role", null]])),
        record("GET", "/items/secret", json!([["x-role", "guest"]])),
        record("GET", "/items/secret", json!([["x-role", "admin"]])),
        r#"{"time":"2026-11-21T12:00:01.000Z","dropped":12}"#.to_owned(),
        r#"{"time":"2026-11-21T12:00:01.000Z","destination":"api","effect":"deny"}"#.to_owned(),
        String::new(),
    ]
    .join("\n");
    let folder = Folder::new(&[
        ("old.hcl", API),
        ("new.hcl", &changed),
        ("log.ndjson", &log),
    ]);
    let arguments = [
        "diff",
        "new.hcl",
        "-against",
        "old.hcl",
        "-log",
        "log.ndjson",
    ];
    let (code, document) = folder.json(&arguments);
    assert_eq!(
        (code, &document["compared"]),
        (Some(1), &5.into()),
        "{document:#}"
    );
    let changes = document["changes"].as_array().expect("a list");
    let found: Vec<(&Value, &Value, &Value)> = changes
        .iter()
        .map(|one| {
            (
                &one["request"]["method"],
                &one["request"]["path"],
                &one["count"],
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (&"DELETE".into(), &"/items/1".into(), &2.into()),
            (&"GET".into(), &"/items/secret".into(), &1.into()),
        ],
        "{document:#}"
    );
    let left = document["left_out"].as_object().expect("an object");
    let left: u64 = left.values().filter_map(Value::as_u64).sum();
    assert_eq!(
        left, 14,
        "dropped, without identity, and withheld: {document:#}"
    );
    let said = folder.run(&arguments);
    assert!(
        said.out.contains("  request  2x DELETE /items/1\n"),
        "{said:?}"
    );
    assert!(
        !said.out.contains("admin\n"),
        "values of a log stay out: {said:?}"
    );
    for (line, part) in [
        ("{\"destination\":7}", "destination"),
        ("{}", "`destination`"),
        ("nonsense", "expected"),
    ] {
        folder.write(
            "bad.ndjson",
            &format!("{}\n{line}\n", record("GET", "/", json!([]))),
        );
        folder.refused(
            &[
                "diff",
                "new.hcl",
                "-against",
                "old.hcl",
                "-log",
                "bad.ndjson",
            ],
            &["line 2", part],
        );
    }
}
