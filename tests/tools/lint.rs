//! `portcullis lint`.

use serde_json::Value;

use crate::{API, Folder};

/// An entry for `api` with these sources.
fn entry(sources: &str) -> String {
    format!("Kind = \"service-intentions\"\nName = \"api\"\nSources = [\n{sources}\n]\n")
}

/// An entry with these permissions for `web`.
fn permissions(all: &[&str]) -> String {
    let all: String = all
        .iter()
        .map(|one| format!("      {{ {one} }},\n"))
        .collect();
    entry(&format!(
        "  {{\n    Name = \"web\"\n    Permissions = [\n{all}    ]\n  }}"
    ))
}

/// The findings about some files: code, severity and line.
#[track_caller]
fn lint(files: &[(&str, &str)], more: &[&str]) -> (Option<i32>, Vec<(String, String, u64)>, Value) {
    let folder = Folder::new(files);
    let arguments: Vec<&str> = ["lint", "."]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    let (code, document) = folder.json(&arguments);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let found = document["findings"].as_array().expect("a list");
    let found = found
        .iter()
        .map(|one| {
            let line = one["line"].as_u64().expect("a line");
            (text(&one["code"]), text(&one["severity"]), line)
        })
        .collect();
    (code, found, document)
}

/// A file with the codes that it must have, and those that it must not have.
#[track_caller]
fn has(files: &[(&str, &str)], more: &[&str], wanted: &[(&str, &str, u64)], unwanted: &[&str]) {
    let (_, found, document) = lint(files, more);
    for (code, severity, line) in wanted {
        let one = ((*code).to_owned(), (*severity).to_owned(), *line);
        assert!(found.contains(&one), "{one:?} is missing: {document:#}");
    }
    for code in unwanted {
        assert!(
            !found.iter().any(|(other, ..)| other == code),
            "{code}: {document:#}"
        );
    }
}

#[test]
fn a_transcript() {
    let folder = Folder::new(&[("api.hcl", API)]);
    let said = folder.run(&["lint", "api.hcl", "-default-intention-policy", "deny"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert!(
        said.out.contains("warning[deny-escapable-slashes]: ") && said.out.contains("[envoy]"),
        "{said:?}"
    );
    assert!(
        said.out
            .contains("  at      api.hcl:8 (Sources[0].Permissions[0])"),
        "{said:?}"
    );
    assert!(said.out.contains("  remedy  "), "{said:?}");
    assert!(
        said.out
            .ends_with("; strict matching, default policy deny (flag)\n"),
        "{said:?}"
    );
    // What is a warning may be made to count, and be left out.
    let warned = ["lint", "api.hcl", "-deny", "warnings"];
    assert_eq!(folder.run(&warned).code, Some(1));
    assert_eq!(
        folder
            .run(&["lint", "api.hcl", "-deny", "deny-escapable-slashes"])
            .code,
        Some(1)
    );
    let (code, document) = folder.json(&["lint", "api.hcl", "-allow", "deny-escapable-slashes"]);
    assert_eq!(code, Some(0));
    assert_eq!(document["default_policy_source"], "assumed");
    assert!(
        !document.to_string().contains("deny-escapable-slashes"),
        "{document}"
    );
    folder.refused(
        &["lint", "api.hcl", "-deny", "everything"],
        &["--deny", "unreachable-permission"],
    );
    folder.refused(&["lint", "nowhere"], &["nowhere"]);
    folder.write("twice/a.hcl", API);
    folder.write("twice/b.hcl", API);
    folder.refused(&["lint", "twice"], &["b.hcl:1", "there twice", "a.hcl:1"]);
}

#[test]
fn nothing_is_said_about_rules_in_order() {
    let tidy = permissions(&[
        r#"Action = "allow" HTTP { PathExact = "/items" Methods = ["GET", "HEAD"] }"#,
        r#"Action = "allow" HTTP { PathPrefix = "/items/" Methods = ["GET", "HEAD"] }"#,
    ]);
    let (code, found, _) = lint(&[("a.hcl", &tidy)], &["-deny", "notes"]);
    assert_eq!((code, found), (Some(0), vec![]));
}

#[test]
fn permissions_that_never_decide() {
    let rules = permissions(&[
        r#"Action = "allow" HTTP { PathPrefix = "/v1/" Methods = ["GET", "POST"] }"#,
        r#"Action = "allow" HTTP { PathExact = "/v1/x" Methods = ["GET"] }"#,
        r#"Action = "deny" HTTP { PathPrefix = "/v1/secret" Methods = ["GET"] }"#,
        r#"Action = "deny" HTTP { PathPrefix = "/v1/secret" }"#,
        r#"Action = "allow" HTTP { PathExact = "/e%41" }"#,
        r#"Action = "allow" HTTP { PathExact = "/x?y=1" }"#,
        r#"Action = "allow" HTTP { PathRegex = "items/.*" }"#,
    ]);
    let wanted = [
        ("unreachable-permission", "warning", 8),
        ("deny-behind-allow", "error", 9),
        ("never-matches", "error", 11),
        ("never-matches", "error", 12),
        ("never-matches", "error", 13),
    ];
    has(&[("a.hcl", &rules)], &[], &wanted, &[]);
    let (code, _, document) = lint(&[("a.hcl", &rules)], &[]);
    assert_eq!(code, Some(1), "{document}");
    // In Envoy's reading a denial behind an allow is out of reach for every request.
    let only: Vec<&Value> = document["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|one| one["code"] == "deny-behind-allow")
        .collect();
    assert_eq!(only.len(), 1, "{document:#}");
    assert_eq!(only[0]["evidence"][0]["effect"], "allow");
}

#[test]
fn denials_that_can_be_escaped() {
    let rules = permissions(&[
        r#"Action = "deny" HTTP { PathPrefix = "/admin/x" }"#,
        r#"Action = "deny" HTTP { PathExact = "/secret" Methods = ["GET"] }"#,
        r#"Action = "deny" HTTP { PathPrefix = "/h" Header = [{ Name = "X-Role" Exact = "guest" }] }"#,
        r#"Action = "deny" HTTP { PathPrefix = "/g" Header = [{ Name = "host" Exact = "a.example" }] }"#,
        r#"Action = "allow" HTTP { PathPrefix = "/" }"#,
    ]);
    let strict = [
        ("deny-escapable-slashes", "warning", 7),
        ("deny-escapable-encoding", "warning", 7),
        ("deny-escapable-case", "note", 7),
        ("deny-escapable-trailing-slash", "warning", 8),
        ("deny-escapable-head", "warning", 8),
        ("deny-escapable-missing-header", "error", 9),
        ("deny-escapable-spaces", "warning", 9),
        ("deny-escapable-host", "warning", 10),
    ];
    has(&[("a.hcl", &rules)], &[], &strict, &[]);
    let envoy = [
        ("deny-escapable-slashes", "error", 7),
        ("deny-escapable-encoding", "error", 7),
        ("deny-escapable-spaces", "error", 9),
    ];
    has(&[("a.hcl", &rules)], &["-matching", "envoy"], &envoy, &[]);
    // What the mesh normalises is no way out: neither of two, even for Envoy.
    let mesh = "Kind = \"mesh\"\nHTTP { Incoming { RequestNormalization { PathWithEscapedSlashesAction = \"REJECT_REQUEST\" } } }\n";
    has(
        &[("a.hcl", &rules), ("m.hcl", mesh)],
        &["-matching", "envoy"],
        &[],
        &["deny-escapable-encoding"],
    );
    // The same denials where nothing else is allowed are not escaped at all.
    let closed = rules.replace("PathPrefix = \"/\"", "PathExact = \"/only\"");
    let escapes: Vec<&str> = strict.iter().map(|(code, ..)| *code).collect();
    has(&[("a.hcl", &closed)], &[], &[], &escapes);
    // And where the default allows, they are.
    let only = ["-default-intention-policy", "allow"];
    has(
        &[("a.hcl", &closed)],
        &only,
        &[("deny-escapable-missing-header", "error", 9)],
        &[],
    );
}

#[test]
fn entries_on_one_line_are_told_apart() {
    let one = |name: &str| {
        format!(
            r#"{{"Kind":"service-intentions","Name":"{name}","Sources":[{{"Name":"web","Permissions":[{{"Action":"allow","HTTP":{{"PathPrefix":"/a"}}}}]}}]}}"#
        )
    };
    let list = format!("[{},{}]", one("api"), one("db"));
    let (_, found, document) = lint(&[("list.json", &list)], &[]);
    assert_eq!(found.len(), 2, "{document:#}");
    let fields: Vec<&Value> = (0..2)
        .map(|at| &document["findings"][at]["field"])
        .collect();
    assert_eq!(
        fields,
        [
            "api Sources[0].Permissions[0].HTTP.PathPrefix",
            "db Sources[0].Permissions[0].HTTP.PathPrefix"
        ]
    );
}

#[test]
fn values_beyond_ascii() {
    let rules = permissions(&[
        r#"Action = "deny" HTTP { PathPrefix = "/a/" Header = [{ Name = "x-b" Exact = "\u00e9\u4e2d" }] }"#,
        r#"Action = "allow" HTTP { PathPrefix = "/" }"#,
    ]);
    let wanted = [("deny-escapable-missing-header", "error", 7)];
    has(&[("a.hcl", &rules)], &[], &wanted, &[]);
}

#[test]
fn patterns() {
    let rules = permissions(&[
        r#"Action = "allow" HTTP { PathRegex = "/v1.0/items" }"#,
        r#"Action = "allow" HTTP { PathRegex = "/plain" }"#,
        r#"Action = "allow" HTTP { PathRegex = "/(a|b)" Header = [{ Name = "x" Regex = ".*" }] }"#,
        r#"Action = "allow" HTTP { PathPrefix = "/v2" }"#,
        r#"Action = "allow" HTTP { PathRegex = "/v3\\.0/items" }"#,
        r#"Action = "allow" HTTP { PathRegex = "/.*" }"#,
    ]);
    let wanted = [
        ("broad-regex", "warning", 7),
        ("needless-regex", "note", 8),
        ("broad-regex", "warning", 9),
        ("broad-prefix", "note", 10),
        ("broad-regex", "warning", 12),
    ];
    has(&[("a.hcl", &rules)], &[], &wanted, &[]);
    let (_, found, document) = lint(&[("a.hcl", &rules)], &[]);
    assert!(
        !found.iter().any(|(_, _, line)| *line == 11),
        "{document:#}"
    );
    let invalid = permissions(&[
        "Action = \"allow\" HTTP {\n PathRegex = \"/(?=x)\"\n }",
        r#"Action = "allow" HTTP { PathExact = "nope" }"#,
    ]);
    let (code, found, document) = lint(&[("a.hcl", &invalid)], &[]);
    assert_eq!(code, Some(1));
    assert_eq!(
        found,
        [("invalid-regex".to_owned(), "error".to_owned(), 8)],
        "{document:#}"
    );
    let text = document["findings"][0]["text"].as_str().expect("text");
    assert!(text.contains("at byte"), "{text}");
    let evidence = &document["findings"][0]["evidence"][0];
    assert_eq!(
        evidence["because"]["code"], "unreadable-rule",
        "{document:#}"
    );
    assert_eq!(
        document["findings"][0]["field"],
        "Sources[0].Permissions[0].HTTP.PathRegex"
    );
}

#[test]
fn jwt_and_protocol() {
    let jwt = r#"JWT { Providers = [{ Name = "okta" }] }"#;
    let rules = permissions(&[
        &format!(r#"Action = "deny" HTTP {{ PathPrefix = "/a/" }} {jwt}"#),
        &format!(r#"Action = "allow" HTTP {{ PathPrefix = "/b/" }} {jwt}"#),
    ]);
    let okta = "Kind = \"jwt-provider\"\nName = \"okta\"\nIssuer = \"okta\"\nJSONWebKeySet { Local { JWKS = \"e30=\" } }\n";
    let other = okta.replace("okta", "other");
    let deny = ["-default-intention-policy", "deny"];
    let allow = ["-default-intention-policy", "allow"];
    has(
        &[("a.hcl", &rules), ("o.hcl", okta)],
        &deny,
        &[("jwt-without-effect", "error", 7)],
        &["jwt-never-satisfied"],
    );
    has(
        &[("a.hcl", &rules), ("o.hcl", okta)],
        &allow,
        &[("jwt-without-effect", "error", 8)],
        &[],
    );
    // A denial that asks for a JWT denies nobody without one: there is nothing to escape.
    let escapes = ["deny-escapable-slashes", "deny-escapable-case"];
    // (With the key set above, which has no key, it denies everybody.)
    has(&[("a.hcl", &rules)], &allow, &[], &escapes);
    has(
        &[("a.hcl", &rules), ("o.hcl", &other)],
        &deny,
        &[("jwt-never-satisfied", "error", 8)],
        &[],
    );
    // Where no provider is among the files, nothing is known about them.
    has(&[("a.hcl", &rules)], &deny, &[], &["jwt-never-satisfied"]);

    let tcp = "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"tcp\"\n";
    has(
        &[("a.hcl", API), ("d.hcl", tcp)],
        &[],
        &[("l7-on-tcp", "error", 5)],
        &[],
    );
    let http = "Kind = \"proxy-defaults\"\nName = \"global\"\nConfig { protocol = \"http\" }\n";
    has(&[("a.hcl", API), ("d.hcl", http)], &[], &[], &["l7-on-tcp"]);
    has(
        &[("a.hcl", API)],
        &["-protocol", "tcp"],
        &[("l7-on-tcp", "error", 5)],
        &[],
    );
    let with_jwt = format!(
        "{}{jwt}\n",
        entry("  { Name = \"web\" Action = \"allow\" }")
    );
    has(
        &[("a.hcl", &with_jwt), ("d.hcl", tcp), ("o.hcl", okta)],
        &[],
        &[("jwt-on-tcp", "error", 4)],
        &[],
    );
}

#[test]
fn what_envoy_reads_otherwise() {
    let api = entry("  { Name = \"*\" Action = \"deny\" }");
    let all = "Kind = \"service-intentions\"\nName = \"*\"\nSources = [{ Name = \"web\" Action = \"allow\" }]\n";
    has(
        &[("a.hcl", &api), ("b.hcl", all)],
        &["-default-intention-policy", "deny"],
        &[("envoy-precedence", "warning", 3)],
        &[],
    );
    let (api, all) = (api.replace("deny", "allow"), all.replace("allow", "deny"));
    has(
        &[("a.hcl", &api), ("b.hcl", &all)],
        &["-default-intention-policy", "allow"],
        &[("envoy-precedence", "error", 3)],
        &[],
    );
    // Of two with the default's own action neither is compiled into Envoy's rules.
    has(
        &[("a.hcl", &api), ("b.hcl", &all)],
        &["-default-intention-policy", "deny"],
        &[],
        &["envoy-precedence"],
    );
    let dotted = entry("  { Name = \"web.v1\" Action = \"allow\" }");
    has(
        &[("a.hcl", &dotted)],
        &[],
        &[("envoy-name-pattern", "warning", 4)],
        &[],
    );
    let both = entry(
        "  { Name = \"web.v1\" Action = \"allow\" },\n  { Name = \"we+b\" Action = \"allow\" }",
    );
    has(
        &[("a.hcl", &both)],
        &[],
        &[("unreachable-intention", "warning", 5)],
        &[],
    );
}

#[test]
fn every_form_of_input() {
    let list = r#"[{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Action":"allow","Precedence":9,"LegacyID":"","LegacyMeta":null,"Type":"consul"}],"CreateIndex":12,"ModifyIndex":12,"Hash":17446744073709551615}]"#;
    let reply = r#"{"api":[{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"api","SourceType":"consul","Action":"allow","Precedence":9,"CreateIndex":1,"ModifyIndex":1}],"db":null}"#;
    let intentions = r#"[{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"api","SourceType":"consul","Action":"allow","Precedence":9}]"#;
    let snake = "kind = \"service-intentions\"\nname = \"api\"\nsources { name = \"web\" action = \"allow\" }\nsources { name = \"db\" action = \"deny\" }\n";
    let bootstrap = "config_entries { bootstrap = [ { kind = \"service-intentions\" name = \"api\" sources = [ { name = \"web\" action = \"allow\" } ] } ] }\n";
    for (name, content, count) in [
        ("list.json", list, 1),
        ("reply.json", reply, 1),
        ("intentions.json", intentions, 1),
        ("snake.hcl", snake, 2),
        ("bootstrap.hcl", bootstrap, 1),
    ] {
        let folder = Folder::new(&[(name, content)]);
        let (code, document) = folder.json(&["lint", name, "-deny", "notes"]);
        assert_eq!(
            (code, &document["intentions"]),
            (Some(0), &count.into()),
            "{name}: {document}"
        );
    }
}
