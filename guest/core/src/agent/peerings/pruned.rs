//! The reply with nothing in it but what [`decode`](super::decode) reads.
//!
//! That is what is handed on to others, and what can be compared: heartbeats and counts of
//! services change all the time.

use std::collections::BTreeSet;

use super::ReplyError;
use crate::agent::json::{Object, Value};
use crate::agent::reply::HttpReply;
use crate::agent::request::MAX_REPLY;
use crate::identity::PeerName;

/// What is read of each peering.
const FIELDS: [&str; 4] = ["Name", "State", "DeletedAt", "PeerCAPems"];
/// Stands for what cannot be read, and is not of the type that anything here has.
const UNREADABLE: &str = "false";

/// A list of peerings that [`decode`](super::decode) reads as it reads `reply`: all of them, or
/// those with these names.
///
/// # Errors
/// [`ReplyError`], when it is no list of objects.
pub fn pruned(
    reply: &HttpReply<'_>,
    named: Option<&BTreeSet<String>>,
) -> Result<String, ReplyError> {
    let mut text = String::from("[");
    for item in reply.json(MAX_REPLY)?.list()? {
        let fields = item.object()?;
        // Who has no name is handed on, so that the whole list is refused there as it is here.
        let name = fields.text("Name").ok();
        let name = name.and_then(|name| PeerName::parse(&name).ok());
        let is_wanted = named
            .zip(name)
            .is_none_or(|(named, name)| named.contains(name.as_str()));
        if !is_wanted {
            continue;
        }
        text.push_str(if text.len() > 1 { ",{" } else { "{" });
        for name in FIELDS {
            push(&mut text, name, &fields);
        }
        match fields
            .optional("Remote")
            .and_then(|remote| remote.map(|remote| remote.object()).transpose())
        {
            Ok(None) => {}
            Ok(Some(remote)) => {
                text.push_str("\"Remote\":{");
                push(&mut text, "Partition", &remote);
                close(&mut text);
                text.push(',');
            }
            Err(_) => text.push_str("\"Remote\":false,"),
        }
        close(&mut text);
    }
    text.push(']');
    Ok(text)
}

fn push(text: &mut String, name: &str, fields: &Object<'_>) {
    let value = fields.optional(name);
    let raw = match &value {
        Ok(None) => return,
        Ok(Some(value)) => Value::raw(value),
        Err(_) => UNREADABLE,
    };
    for part in ["\"", name, "\":", raw, ","] {
        text.push_str(part);
    }
}

/// Ends an object, whose last field left a comma.
fn close(text: &mut String) {
    if text.ends_with(',') {
        text.pop();
    }
    text.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::peerings::decode;
    use crate::agent::testing::{ok, status};

    const ROOT: &str = include_str!("../../../tests/data/consul/p256-root0.pem");

    #[test]
    fn nothing_is_left_but_what_is_read() {
        let body = serde_json::json!([
            { "ID": "7", "Name": "a", "State": "ACTIVE", "PeerCAPems": [ROOT], "PeerID": "9",
              "StreamStatus": { "LastHeartbeat": "now" }, "PeerServerAddresses": ["10.0.0.1:1"],
              "Remote": { "Partition": "East", "Datacenter": "beta" }, "Meta": null },
            { "Name": "b", "State": "PENDING" },
            { "Name": "c", "DeletedAt": "2026-11-21T17:15:19Z", "Remote": {} },
        ])
        .to_string();
        let all = pruned(&ok(&body), None).unwrap();
        let expected = serde_json::json!([
            { "Name": "a", "State": "ACTIVE", "PeerCAPems": [ROOT], "Remote": { "Partition": "East" } },
            { "Name": "b", "State": "PENDING" },
            { "Name": "c", "DeletedAt": "2026-11-21T17:15:19Z", "Remote": {} },
        ]);
        let read: serde_json::Value = serde_json::from_str(&all).unwrap();
        assert_eq!(read, expected);
        assert_eq!(decode(&ok(&all)), decode(&ok(&body)));
        assert_eq!(pruned(&ok(&all), None).unwrap(), all);
        let named = BTreeSet::from(["b".to_owned(), "z".to_owned()]);
        let some = pruned(&ok(&body), Some(&named)).unwrap();
        assert_eq!(some, r#"[{"Name":"b","State":"PENDING"}]"#);
        assert_eq!(pruned(&ok("null"), None).unwrap(), "[]");
    }

    #[test]
    fn what_cannot_be_read_cannot_be_read_afterwards() {
        for fields in [
            r#""State":"ACTIVE","State":"ACTIVE""#,
            r#""state":"ACTIVE""#,
            r#""State":"ACTIVE","PeerCAPems":{}"#,
            r#""State":"ACTIVE","PeerCAPems":[],"peercapems":[]"#,
            r#""State":7"#,
            r#""State":"ACTIVE","PeerCAPems":["x"],"Remote":7"#,
            r#""State":"ACTIVE","PeerCAPems":["x"],"Remote":{"Partition":7}"#,
            r#""State":"ACTIVE","PeerCAPems":["x"],"Remote":{"partition":""}"#,
        ] {
            let body = format!(r#"[{{"Name":"a",{fields}}}]"#);
            let before = decode(&ok(&body)).unwrap();
            let after = decode(&ok(&pruned(&ok(&body), None).unwrap())).unwrap();
            assert!(before[0].bundle.is_err(), "{body}");
            assert!(after[0].bundle.is_err(), "{body}");
        }
        let nameless = r#"[{"State":"ACTIVE"}]"#;
        let named = BTreeSet::from(["a".to_owned()]);
        let handed = pruned(&ok(nameless), Some(&named)).unwrap();
        assert!(decode(&ok(&handed)).is_err(), "{handed}");
        let twice = r#"[{"Name":"a"},{"Name":"a"}]"#;
        assert!(decode(&ok(&pruned(&ok(twice), None).unwrap())).is_err());
        for body in ["{}", "[7]", "x"] {
            assert!(pruned(&ok(body), None).is_err(), "{body}");
        }
        assert!(pruned(&status(403), None).unwrap_err().is_forbidden());
    }
}
