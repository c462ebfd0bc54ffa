//! Places of fields, and entries put over others.

use portcullis_core::intention::Destination;

use super::Entries;

const HCL: &str = "kind = \"service-intentions\"
name = \"api\"
sources {
  name = \"web\"
  permissions {
    action = \"allow\"
    http { path_prefix = \"/a\" }
  }
  permissions {
    action = \"deny\"
    http {
      header {
        name = \"x\"
        regex = \"(\"
      }
    }
  }
}
";

fn read(hcl: &str) -> Entries {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("portcullis-entries-{}-{number}.hcl", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, hcl).expect("written");
    let entries = Entries::read(std::slice::from_ref(&file));
    std::fs::remove_file(&file).expect("removed");
    entries.expect("entries")
}

#[test]
fn fields_of_repeated_blocks_are_found() {
    let entries = read(HCL);
    let place = |pointer: &str| {
        let place = entries.rules()[0].place(pointer);
        (place.line, place.field)
    };
    let at = |line, field: &str| (Some(line), field.to_owned());
    assert_eq!(place(""), at(3, "Sources[0]"));
    assert_eq!(place("/SourceName"), at(4, "Sources[0].Name"));
    assert_eq!(place("/Permissions/1"), at(9, "Sources[0].Permissions[1]"));
    assert_eq!(
        place("/Permissions/1/HTTP/Header/0/Regex"),
        at(14, "Sources[0].Permissions[1].HTTP.Header[0].Regex")
    );
    // What is not there leads to what is around it.
    assert_eq!(
        place("/Permissions/1/JWT"),
        at(9, "Sources[0].Permissions[1]")
    );
}

#[test]
fn a_candidate_replaces_entries_and_nothing_else() {
    let before = read(HCL);
    let entry = |name: &str| {
        format!(
            "Kind = \"service-intentions\"\nName = \"{name}\"\nSources = [{{ Name = \"*\" Action = \"deny\" }}]\n"
        )
    };
    let names = |entries: &Entries| {
        let rules = entries.rules().iter();
        rules
            .map(|rule| {
                format!(
                    "{}-{}",
                    rule.source_name(),
                    rule.destination().expect("one")
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&before.with(&read(&entry("API")), false)), ["*-api"]);
    assert_eq!(
        names(&before.with(&read(&entry("db")), false)),
        ["web-api", "*-db"]
    );
    assert_eq!(names(&before.with(&read(&entry("db")), true)), ["*-db"]);
    let protocol = "Kind = \"service-defaults\"\nName = \"Api\"\nProtocol = \"HTTP2\"\n";
    let after = before.with(&read(protocol), false);
    let api = Destination::parse("api").expect("a name");
    assert_eq!(
        (before.protocol(&api), after.protocol(&api)),
        (None, Some("http2"))
    );
    assert_eq!(before.supposed_protocol(&api), "http");
}

#[test]
fn too_long_a_list_is_refused_by_name() {
    let rule = |number: usize| {
        format!(
            r#"{{"SourceName":"s{number}","DestinationName":"api","SourceType":"consul","Action":"allow"}}"#
        )
    };
    let rules: Vec<String> = (0..=65_536).map(rule).collect();
    let entries = read_json(&format!("[{}]", rules.join(",")));
    let api = Destination::parse("api").expect("a name");
    let error = entries.decode(&api).expect_err("too many").to_string();
    assert!(
        error.contains("`api`") && error.contains("65536"),
        "{error}"
    );
}

fn read_json(text: &str) -> Entries {
    Entries::from_json("list.json", text).expect("entries")
}
