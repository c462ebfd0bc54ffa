//! What cannot be read denies, and says where.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::{
    Caller, DecodeError, DefaultPolicy, Destination, Effect, IntentionSet, Matching, Problem,
    Protocol, Reason, Rule,
};

fn decode(list: &str) -> Result<(IntentionSet, Vec<Problem>), DecodeError> {
    IntentionSet::decode(list.as_bytes(), &Destination::parse("db").unwrap())
}

/// What a list says about `web`, under default allow.
fn web(list: &str) -> (Effect, Reason) {
    ask(list, "web")
}

fn ask(list: &str, name: &str) -> (Effect, Reason) {
    let (set, _) = decode(list).unwrap();
    let id = SpiffeId::parse(&format!("spiffe://t/ns/default/dc/d/svc/{name}")).unwrap();
    let caller = Caller::local(id.service().unwrap());
    let verdict = set.judge(
        &caller,
        Protocol::Tcp,
        DefaultPolicy::Allow,
        Matching::Strict,
    );
    (verdict.effect, verdict.reason)
}

const UNREADABLE: (Effect, Reason) = (Effect::Deny, Reason::UnreadableRule);
const OPEN: (Effect, Reason) = (Effect::Allow, Reason::DefaultPolicy);
const ALLOWED: (Effect, Reason) = (Effect::Allow, Reason::Intention);

/// One rule web -> db with these further fields.
fn rule(fields: &str) -> String {
    format!(r#"[{{"SourceName":"web","DestinationName":"db",{fields}}}]"#)
}

#[test]
fn a_list_is_an_array_or_null() {
    for (list, wrong) in [
        ("{}", "an object"),
        ("\"[]\"", "a string"),
        ("0", "a number"),
        ("true", "a boolean"),
    ] {
        assert_eq!(decode(list).unwrap_err(), DecodeError::NotAList(wrong));
    }
    for list in ["", "[", "[{]", "[1,]", "null null", "[1] [2]", "nul"] {
        assert!(
            matches!(decode(list).unwrap_err(), DecodeError::Syntax(_)),
            "{list}"
        );
    }
    for none in ["null", "[]", " [ ] "] {
        assert_eq!(web(none), OPEN);
    }
    let many = format!(
        "[{}0]",
        "0,".repeat(portcullis_core::intention::MAX_INTENTIONS)
    );
    assert!(matches!(
        decode(&many).unwrap_err(),
        DecodeError::TooMany { .. }
    ));
}

#[test]
fn a_rule_whose_action_is_in_doubt_denies_whom_it_covers() {
    for fields in [
        r#""Action":"ALLOW""#,
        r#""Action":"Allow""#,
        r#""Action":"allow ""#,
        r#""Action":"log""#,
        r#""Action":true"#,
        r#""Action":["allow"]"#,
        r#""Action":null"#,
        r#""Action":"""#,
        r#""Precedence":9"#,
        r#""Permissions":[]"#,
        r#""Permissions":{}"#,
        r#""Permissions":"x","Action":"allow""#,
        r#""Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}],"Action":"allow""#,
        r#""Action":"deny","Action":"allow""#,
        r#""Action":"allow","Action":"allow""#,
        r#""Action":"allow","\u0041ction":"deny""#,
        r#""Action":"allow","action":"deny""#,
        r#""action":"allow""#,
        r#""Action":"allow","permissions":[]"#,
        "\"Action\":\"allow\",\"Permi\u{17f}sions\":[]",
        r#""Action":"allow","jwt":{}"#,
        r#""Action":"allow","JWT":[]"#,
        r#""Action":"allow","JWT":{"Providers":[{}]}"#,
        r#""Action":"allow","JWT":{"Provider":[]}"#,
        r#""Action":"allow","JWT":{"Providers":[{"Name":"a","VerifyClaims":[{"Path":"a","Value":"x"}]}]}"#,
        r#""Action":"allow","JWT":{"Providers":[{"Name":"a","VerifyClaims":[{"Path":["a"],"Value":1}]}]}"#,
        r#""Action":"allow","Conditions":{"after":"noon"}"#,
        r#""Action":"allow","Conditions":[]"#,
        r#""Action":"allow","SourceType":"vm""#,
        r#""Action":"allow","SourceSamenessGroup":"all""#,
    ] {
        let list = rule(fields);
        assert_eq!(web(&list), UNREADABLE, "{list}");
        let (_, problems) = decode(&list).unwrap();
        assert!(
            problems
                .iter()
                .any(|p| p.denies && p.pointer.starts_with("/0")),
            "{list}"
        );
    }
    // It covers nobody else.
    assert_eq!(ask(&rule(r#""Action":"log""#), "api"), OPEN);
}

#[test]
fn a_rule_whose_source_is_in_doubt_covers_everybody() {
    for source in [
        r#""SourceNS":"default""#,
        r#""SourceName":7"#,
        r#""SourceName":"""#,
        r#""SourceName":null"#,
        r#""SourceName":"web","SourceName":"api""#,
        r#""SourceName":"web","sourcename":"api""#,
        r#""SourceName":"we*""#,
        r#""SourceName":"web","SourceNS":"*""#,
        r#""SourceName":"web","SourceNS":["default"]"#,
        r#""SourceName":"web","SourcePeer":"*""#,
        r#""SourceName":"web","SourcePeer":"beta","SourcePartition":"ap1""#,
        r#""SourceName":"web","SourcePartition":"*""#,
        r#""SourceName":"web","SourceNamespace":"other""#,
        r#""SourceName":"web","SourceDatacenter":"dc2""#,
    ] {
        for action in ["allow", "deny"] {
            let list = format!(r#"[{{{source},"DestinationName":"db","Action":"{action}"}}]"#);
            for name in ["web", "api", "other"] {
                assert_eq!(ask(&list, name), UNREADABLE, "{list}");
            }
        }
    }
    for list in ["[7]", "[null]", "[[]]", "[\"web\"]"] {
        assert_eq!(web(list), UNREADABLE, "{list}");
    }
}

#[test]
fn a_rule_whose_destination_is_in_doubt_is_about_this_one() {
    for destination in [
        r#""DestinationNS":"default""#,
        r#""DestinationName":7"#,
        r#""DestinationName":"db","DestinationName":"api""#,
        r#""DestinationName":"api","destinationname":"db""#,
        r#""DestinationName":"api","DestinationNS":"*""#,
        r#""DestinationName":"api","DestinationPort":80"#,
        r#""DestinationName":"d*""#,
        r#""DestinationName":"db","DestinationPartition":"*""#,
    ] {
        let list = format!(r#"[{{"SourceName":"web",{destination},"Action":"allow"}}]"#);
        assert_eq!(web(&list), UNREADABLE, "{list}");
        assert_eq!(ask(&list, "api"), OPEN, "{list}");
    }
}

#[test]
fn a_rule_about_another_service_never_decides_and_keeps_its_place() {
    let list = r#"[
        {"SourceName":"web","DestinationName":"api","Action":"deny"},
        {"SourceName":"web","DestinationName":"db","DestinationNS":"other","Action":"deny"},
        {"SourceName":"web","DestinationName":"db","DestinationPartition":"ap1","Action":"deny"},
        {"SourceName":"*","DestinationName":"db","Action":"allow"}
    ]"#;
    assert_eq!(web(list), ALLOWED);
    let (set, problems) = decode(list).unwrap();
    assert_eq!(set.intentions().len(), 4);
    assert_eq!(problems.len(), 3);
    assert!(
        problems
            .iter()
            .all(|p| !p.denies && p.text.contains("never decides"))
    );
}

#[test]
fn what_only_describes_warns_and_nothing_more() {
    for fields in [
        r#""Description":7"#,
        r#""Description":"a","Description":"b""#,
        r#""description":"a""#,
        r#""Meta":[]"#,
        r#""Meta":{"a":1}"#,
        r#""Precedence":"9""#,
        r#""Precedence":8"#,
        r#""Precedence":-1"#,
        r#""CreateIndex":1.5"#,
        r#""UpdatedBy":"somebody""#,
        r#""Hash":{}"#,
    ] {
        let list = rule(&format!(r#"{fields},"Action":"allow""#));
        assert_eq!(web(&list), ALLOWED, "{list}");
        let (_, problems) = decode(&list).unwrap();
        assert!(
            !problems.is_empty() && problems.iter().all(|p| !p.denies),
            "{list}: {problems:?}"
        );
    }
    for fields in [
        r#""Permissions":[]"#,
        r#""Permissions":null"#,
        r#""JWT":null"#,
        r#""SourceNS":"","SourcePartition":"","SourcePeer":"","SourceSamenessGroup":"","SourceType":"""#,
        r#""SourcePartition":"Default","SourceType":"consul","Precedence":9,"Meta":{"k":"v"}"#,
    ] {
        let list = rule(&format!(r#"{fields},"Action":"allow""#));
        assert_eq!(web(&list), ALLOWED, "{list}");
        assert_eq!(decode(&list).unwrap().1, [], "{list}");
    }
}

#[test]
fn every_part_of_a_permission_decides() {
    let http = |http: &str| format!(r#"{{"Action":"allow","HTTP":{http}}}"#);
    let header = |header: &str| http(&format!(r#"{{"Header":[{header}]}}"#));
    let bad = [
        r#"{"HTTP":{"PathPrefix":"/"}}"#.to_owned(),
        r#"{"Action":"permit","HTTP":{"PathPrefix":"/"}}"#.to_owned(),
        r#"{"Action":"allow"}"#.to_owned(),
        r#"{"Action":"allow","JWT":{"Providers":[{"Name":"a"}]}}"#.to_owned(),
        r#"{"Action":"allow","HTTP":{"PathPrefix":"/"},"GRPC":{}}"#.to_owned(),
        r#"{"Action":"allow","HTTP":{"PathPrefix":"/"},"Note":"x"}"#.to_owned(),
        r#"{"Action":"deny","Action":"allow","HTTP":{"PathPrefix":"/"}}"#.to_owned(),
        "7".to_owned(),
        http("{}"),
        http("[]"),
        http(r#"{"PathPrefix":"/","PathExact":"/a"}"#),
        http(r#"{"PathPrefix":"/","pathprefix":"/b"}"#),
        http(r#"{"PathPrefix":"v1"}"#),
        http(r#"{"PathExact":"v1"}"#),
        http(r#"{"PathPrefix":1}"#),
        http(r#"{"PathSuffix":"/x"}"#),
        http(r#"{"PathPrefix":"/","Query":[]}"#),
        http(r#"{"Methods":["get"]}"#),
        http(r#"{"Methods":["FOO"]}"#),
        http(r#"{"Methods":"GET"}"#),
        http(r#"{"PathPrefix":"/","Methods":[1]}"#),
        http(r#"{"Header":{}}"#),
        header(r#"{"Exact":"a"}"#),
        header(r#"{"Name":"x"}"#),
        header(r#"{"Name":"x","Present":false}"#),
        header(r#"{"Name":"x","Present":"true"}"#),
        header(r#"{"Name":"x","Present":true,"Exact":"a"}"#),
        header(r#"{"Name":"x","Exact":""}"#),
        header(r#"{"Name":"x","Exact":"a","Prefix":"b"}"#),
        header(r#"{"Name":"x","Present":true,"IgnoreCase":true}"#),
        header(r#"{"Name":"x","Regex":"a","IgnoreCase":true}"#),
        header(r#"{"Name":"x","Exact":"a","Invert":1}"#),
        header(r#"{"Name":"x","Exact":"a","Not":true}"#),
    ];
    for permission in bad {
        let list = rule(&format!(r#""Permissions":[{permission}]"#));
        assert_eq!(web(&list), UNREADABLE, "{list}");
        let (_, problems) = decode(&list).unwrap();
        assert!(
            problems[0].pointer.starts_with("/0/Permissions"),
            "{problems:?}"
        );
    }
}

#[test]
fn consuls_own_reply_is_read_in_full() {
    let list = r#"[{"ID":"654dcaa3-0000-0000-0000-000000000000","Description":"d","SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"db","SourcePartition":"default","DestinationPartition":"default","SourceType":"consul","Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},{"Action":"allow","HTTP":{"PathPrefix":"/v1","Header":[{"Name":"x-auth","Present":true},{"Name":"x-debug","Exact":"1","Invert":true},{"Name":"x-tenant","Prefix":"A","IgnoreCase":true},{"Name":"a","Suffix":"s"},{"Name":"b","Contains":"c"},{"Name":"r","Regex":"[0-9]+"}],"Methods":["GET","POST"]},"JWT":{"Providers":[{"Name":"okta","VerifyClaims":[{"Path":["aud"],"Value":"z"},{"Path":["none"]}]}]}},{"Action":"allow","HTTP":{"PathExact":"/healthz"}},{"Action":"allow","HTTP":{"PathRegex":"/re[0-9]+"}}],"JWT":{"Providers":[{"Name":"okta"}]},"Meta":{"k":"v"},"Precedence":9,"CreatedAt":"2026-11-21T00:00:00Z","UpdatedAt":"2026-11-21T00:00:00Z","Hash":"aGFzaA==","CreateIndex":36,"ModifyIndex":37}]"#;
    let (set, problems) = decode(list).unwrap();
    assert_eq!(problems, []);
    let intention = &set.intentions()[0];
    let Rule::Requests { permissions, jwt } = &intention.rule else {
        panic!("{intention:?}")
    };
    assert_eq!(permissions.len(), 4);
    assert_eq!(permissions[1].http.headers.len(), 6);
    assert_eq!(permissions[1].http.methods, ["GET", "POST"]);
    assert_eq!(
        permissions[1].jwt.as_ref().unwrap().providers[0]
            .claims
            .len(),
        2
    );
    assert!(jwt.is_some());
    let said = &intention.description;
    assert_eq!(said.meta, [("k".to_owned(), "v".to_owned())]);
    assert_eq!((said.create_index, said.modify_index), (Some(36), Some(37)));
    assert_eq!(said.hash.as_deref(), Some("aGFzaA=="));
    assert_eq!(said.created_at.as_deref(), Some("2026-11-21T00:00:00Z"));
    assert!(said.legacy_id.is_some() && said.description.is_some());
    assert_eq!(intention.to_string(), "web -> db: 4 permissions with JWT");
}

#[test]
fn nothing_that_others_wrote_is_printed_as_it_came() {
    let list = r#"[{"SourceName":"we\u001b[31mb\n\u2028","DestinationName":"d\r\nb","Action":"al\u0007low","\u009bx":{}}]"#;
    let (set, problems) = decode(list).unwrap();
    let mut texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.push(set.intentions()[0].to_string());
    for text in texts {
        assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{text:?}");
    }
}

#[test]
fn problems_are_bounded() {
    let list = format!("[{}7]", "7,".repeat(5_000));
    let (set, problems) = decode(&list).unwrap();
    assert_eq!(set.intentions().len(), 5_001);
    assert_eq!(problems.len(), 101);
    assert!(problems[100].text.contains("4901 more"));
}
