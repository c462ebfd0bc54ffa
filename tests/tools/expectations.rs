//! `portcullis test`.

use crate::{API, Folder};

const TESTS: &str = r#"
intentions     = "api.hcl"
default_policy = "deny"
target         = "api"
source         = "web"

test {
  name = "web reads items"
  request { path = "/items/1?x=2" headers = { x-tenant = "a" } }
  expect { effect = "allow" code = "permission" permission = 1 forwarded_path = "/items/1?x=2" }
}
test {
  name = "web deletes nothing"
  request { method = "DELETE" path = "/items/1" headers = [["x-a", "1"], ["x-a", "2"]] }
  expect = "deny"
}
test {
  name = "no spelling leads to the secret"
  request { path = "//items%2Fsecret/../secret" }
  expect = "deny"
}
test {
  name   = "batch does everything"
  source = "batch"
  request { method = "DELETE" path = "/items/1" }
  expect = "allow"
}
test {
  name   = "strangers do nothing"
  source = "stranger"
  request { path = "/items/1" }
  expect { code = "default-policy" }
}
"#;

#[test]
fn a_suite_that_passes() {
    let folder = Folder::new(&[("api.hcl", API), ("api.test.hcl", TESTS)]);
    let said = folder.run(&["test", "api.test.hcl"]);
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (Some(0), "5 tests: 5 passed, 0 failed\n", "")
    );
    // The same by the core without WebAssembly, of a directory, and some of it.
    let said = folder.run(&["test", ".", "-engine", "native", "-run", "^web |batch"]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (
            Some(0),
            "3 tests: 3 passed, 0 failed, 2 left out by --run\n"
        ),
        "{said:?}"
    );
}

#[test]
fn the_example_passes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/intentions");
    let said = Folder::new(&[]).run(&["test", folder]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = Folder::new(&[]).run(&["lint", &format!("{folder}/api.hcl"), "-deny", "warnings"]);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn the_page_says_what_is_true() {
    let page = include_str!("../../host/POLICY-TOOLS.md");
    let block = |begin: &str| {
        let (_, rest) = page.split_once(begin).expect("a block");
        rest.split_once("```").expect("it ends").0.to_owned()
    };
    // Its file of expectations, with rules that keep the second and fail the first.
    let rules = API
        .replace("/items/secret", "/items")
        .replace("Methods    = [\"GET\"]", "");
    let folder = Folder::new(&[("api.hcl", &rules), ("api.test.hcl", &block("```hcl\n"))]);
    let said = folder.run(&["test", "api.test.hcl", "-run", "reads"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let transcript = block("```text\n");
    assert!(
        said.out.starts_with(&transcript),
        "{}\n{transcript}",
        said.out
    );
    // And every code of the linter, with its severity.
    for code in portcullis::lint::Code::ALL {
        let row = format!("| `{code}` | {}", code.severity().as_str());
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn a_failure_shows_question_difference_and_why() {
    let changed = API.replace(r#"["GET"]"#, r#"["HEAD"]"#);
    let folder = Folder::new(&[("api.hcl", &changed), ("api.test.hcl", TESTS)]);
    let said = folder.run(&["test", "api.test.hcl"]);
    assert_eq!((said.code, said.err.as_str()), (Some(1), ""), "{said:?}");
    for line in [
        "FAIL  web reads items  (api.test.hcl:7)",
        "  question  web -> api: GET /items/1?x=2  (with x-tenant)",
        "  expected  effect allow",
        "  got       effect deny",
        "  expected  permission 1",
        "  got       permission none",
        "5 tests: 4 passed, 1 failed",
    ] {
        assert!(
            said.out.lines().any(|one| one == line),
            "`{line}`: {said:?}"
        );
    }
    assert!(said.out.contains("  answer    denied"), "{said:?}");
    assert!(said.out.contains("the method does not match"), "{said:?}");
    assert!(
        !said.out.contains("x-tenant: a"),
        "values stay out: {said:?}"
    );
    let (code, document) = folder.json(&["test", "api.test.hcl"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        (&document["ok"], &document["failed"]),
        (&false.into(), &1.into())
    );
    let test = &document["tests"][0];
    assert_eq!(
        (&test["id"], &test["line"]),
        (&"web reads items".into(), &7.into())
    );
    assert_eq!(test["differences"][0]["name"], "effect");
    assert_eq!(test["answer"]["effect"], "deny");
    assert!(test["answer"]["trace"]["steps"].is_array(), "{test}");
}

#[test]
fn questions_of_eval_become_tests() {
    // Whole questions, intentions included, one a line: no other file and no agent.
    let line = |id: &str, method: &str, expect: &str| {
        format!(
            r#"{{"id":"{id}","ask":"authorize","intentions":[{{"SourceName":"web","DestinationName":"api","SourceType":"consul","Permissions":[{{"Action":"allow","HTTP":{{"Methods":["GET"]}}}}]}}],"default_policy":"deny","trust_domain":"t.consul","target":"api","protocol":"http","client_uris":["spiffe://t.consul/ns/default/dc/dc1/svc/web"],"request":{{"method":"{method}","path":"/","headers":[]}},"expect":{expect}}}"#
        )
    };
    let lines = [
        line("a", "GET", r#""allow""#),
        String::new(),
        line(
            "b",
            "POST",
            r#"{"effect":"deny","code":"no-permission-matched"}"#,
        ),
        line("c", "POST", r#""allow""#),
    ];
    let folder = Folder::new(&[("recorded.ndjson", &lines.join("\n"))]);
    let said = folder.run(&["test", "recorded.ndjson"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.out.contains("FAIL  c  (recorded.ndjson:4)"),
        "{said:?}"
    );
    assert!(
        said.out.ends_with("3 tests: 2 passed, 1 failed\n"),
        "{said:?}"
    );
    let json = r#"[{"id":"x","source":"web","target":"api","default_policy":"allow","protocol":"tcp","intentions":null,"expect":"allow"}]"#;
    folder.write("x.json", json);
    assert_eq!(folder.run(&["test", "x.json"]).code, Some(0));
}

#[test]
fn peers_gateways_and_match_replies() {
    let reply = r#"{"api":[{"SourceName":"web","SourcePeer":"east","DestinationName":"api","SourceType":"consul","Action":"allow"}]}"#;
    let tests = r#"
default_policy = "deny"
target = "api"
tests = [
  { name = "the peer's" source = "peer:east/web" expect = "allow" },
  { name = "our own" source = "web" expect = "deny" },
  { name = "elsewhere" source = "spiffe://other.consul/ns/default/dc/dc1/svc/web" expect { code = "foreign-trust-domain" } },
]
"#;
    let folder = Folder::new(&[("match.json", reply), ("peer.test.hcl", tests)]);
    let said = folder.run(&["test", "peer.test.hcl", "-intentions", "match.json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn what_cannot_be_read_is_named_with_file_line_and_field() {
    let folder = Folder::new(&[("api.hcl", API), ("ok.test.hcl", TESTS)]);
    let wrong = |name: &str, content: &str, parts: &[&str]| {
        folder.write(name, content);
        folder.refused(&["test", name, "-intentions", "api.hcl"], parts);
    };
    let question = "default_policy = \"deny\"\ntest {\n  source = \"web\"\n  target = \"api\"\n";
    wrong(
        "a.hcl",
        &format!("{question}  expcet = \"deny\"\n}}\n"),
        &["a.hcl:5", "`expcet`", "`expect`"],
    );
    wrong(
        "b.hcl",
        &format!("{question}  expect = \"denied\"\n}}\n"),
        &["b.hcl:5", "`denied`", "allow, deny"],
    );
    wrong(
        "c.hcl",
        &format!("{question}  expect {{ code = \"no\" }}\n}}\n"),
        &["c.hcl:5", "`no`"],
    );
    wrong(
        "d.hcl",
        &format!("{question}}}\n"),
        &["d.hcl:2", "no `expect`"],
    );
    wrong(
        "e.hcl",
        &format!("{question}  request {{ path = \"/\" colour = 1 }}\n  expect = \"deny\"\n}}\n"),
        &["e.hcl:2", "colour"],
    );
    wrong(
        "f.hcl",
        "default_policy = \"deny\"\n",
        &["f.hcl:1", "no test"],
    );
    wrong(
        "g.hcl",
        "default_policy = \"deny\"\ntest {\n target = \"api\"\n expect = \"deny\"\n}\n",
        &["g.hcl:2", "`source`"],
    );
    wrong(
        "h.hcl",
        "test {\n source = \"web\"\n target = \"api\"\n expect = \"deny\"\n}\n",
        &["h.hcl:1", "`default_policy`"],
    );
    wrong("i.ndjson", "{\"id\":1\n", &["i.ndjson:1", "JSON"]);
    wrong("j.yaml", "a: 1\n", &["j.yaml", ".hcl"]);
    folder.refused(&["test", "nowhere.hcl"], &["nowhere.hcl", "No such file"]);
    folder.refused(
        &["test", "ok.test.hcl", "-run", "("],
        &["--run", "never closed"],
    );
    folder.refused(
        &["test", "ok.test.hcl", "-run", "zzz"],
        &["nothing was tested"],
    );
    // The intentions beside it.
    let with = |content: &str, parts: &[&str]| {
        folder.write("bad.hcl", content);
        folder.refused(&["test", "ok.test.hcl", "-intentions", "bad.hcl"], parts);
    };
    with(
        &API.replace("PathPrefix", "PathPerfix"),
        &["bad.hcl:10", "`PathPerfix`", "path_prefix"],
    );
    with(
        &API.replace("\"deny\"\n", "[]\n"),
        &["bad.hcl:9", "`Action`", "a list"],
    );
    with(
        "Kind = \"service-router\"\nName = \"x\"\n",
        &["bad.hcl:1", "service-router"],
    );
    with("Name = \"x\"\n", &["bad.hcl:1", "`Kind`"]);
    with(
        "Kind = \"service-intentions\"\nName = \"x\"\n",
        &["bad.hcl:1", "`Sources`"],
    );
    with(
        "Kind = \"mesh\"\nHTTP { Incoming { RequestNormalization {\n PathWithEscapedSlashesAction = \"EAT\" } } }\n",
        &["bad.hcl:3", "`EAT`", "REJECT_REQUEST"],
    );
    with(
        "Kind = \"service-defaults\"\nName = \"x\"\nProtocol = \"smtp\"\n",
        &["bad.hcl:1", "`smtp`", "grpc"],
    );
}

#[test]
fn keys_of_providers_come_from_their_files() {
    let data = include_str!("../../guest/core/tests/data/jwt/tokens.json");
    let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
    let keys = data["keys"]["all"].to_string();
    let entries = r#"
Kind = "service-defaults"
Name = "api"
Protocol = "http"
---
Kind = "service-intentions"
Name = "api"
Sources = [{ Name = "web" Permissions = [{
  Action = "allow" HTTP { PathPrefix = "/" } JWT { Providers = [{ Name = "okta" }] }
}] }]
---
Kind = "jwt-provider"
Name = "okta"
Issuer = "okta"
JSONWebKeySet { Local { Filename = "keys.json" } }
"#;
    let files: Vec<String> = entries.split("---").map(str::to_owned).collect();
    let token = data["tokens"]["ES256"].as_str().expect("a token");
    assert_eq!(data["now"], 1_800_000_000);
    let at = "2027-01-15T08:00:00Z";
    let tests = format!(
        r#"
default_policy = "deny"
test {{
  name = "with a token"  source = "web"  target = "api"  at = "{at}"
  request {{ path = "/" headers = {{ authorization = "Bearer {token}" }} }}
  expect = "allow"
}}
test {{
  name = "without"  source = "web"  target = "api"  at = "{at}"
  request {{ path = "/" }}
  expect {{ code = "jwt-not-satisfied" }}
}}
"#
    );
    let folder = Folder::new(&[
        ("defaults.hcl", &files[0]),
        ("api.hcl", &files[1]),
        ("okta.hcl", &files[2]),
        ("keys.json", &keys),
        ("api.test.hcl", &tests),
    ]);
    let run = || {
        let entries = ["defaults.hcl", "api.hcl", "okta.hcl"];
        let mut arguments = vec!["test", "api.test.hcl"];
        arguments.extend(entries.iter().flat_map(|file| ["-intentions", file]));
        folder.run(&arguments)
    };
    let said = run();
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "2 tests: 2 passed, 0 failed\n"),
        "{said:?}"
    );
    std::fs::remove_file(folder.path().join("keys.json")).expect("it was there");
    let said = run();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("its keys are not loaded"), "{said:?}");
}
