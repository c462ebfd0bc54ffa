//! Which providers of tokens intentions name.

use std::collections::BTreeSet;

use serde_json::value::RawValue;

use crate::intention::json::{At, Fields, document, items};

/// The providers that intentions name: a raw list, as the agent gives it. What cannot be
/// read names none; the policy denies by it, and says so.
#[must_use]
pub fn named_by(intentions: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let list = document(intentions.as_bytes()).ok();
    let list = list.and_then(|list| items(list, &At::ROOT).ok());
    for intention in list.unwrap_or_default() {
        let permissions = add(intention, &mut names);
        for permission in permissions.unwrap_or_default() {
            add(permission, &mut names);
        }
    }
    names
}

/// Adds what an intention or a permission names; gives its permissions.
fn add<'a>(rule: &'a RawValue, names: &mut BTreeSet<String>) -> Option<Vec<&'a RawValue>> {
    let at = At::ROOT;
    let mut fields = Fields::of(rule, &at).ok()?;
    if let Ok(Some(jwt)) = fields.take("JWT", &at) {
        let mut jwt = Fields::of(jwt, &at).ok()?;
        for provider in jwt.take_items("Providers", &at).ok()? {
            let name = Fields::of(provider, &at).ok()?.take_text("Name", &at);
            names.extend(name.ok()?.map(|name| name.into_owned()));
        }
    }
    fields.take_items("Permissions", &at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_named_by_intentions_and_by_permissions() {
        let list = r#"[{"SourceName":"web"},7,{"JWT":null},{"JWT":7},
            {"JWT":{"Providers":[{"Name":"a"},{"Name":"b","VerifyClaims":[]}]},
             "Permissions":[{"Action":"allow","JWT":{"Providers":[{"Name":"c"}]}},{"Action":"deny"}]},
            {"Permissions":[{"JWT":{"Providers":[{"Name":""}]}},{"JWT":{"Providers":[{"Name":"d"}]}}]}]"#;
        let names: Vec<String> = named_by(list).into_iter().collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        for none in ["", "{}", "[]", "null", r#"[{"JWT":{"Providers":7}}]"#] {
            assert!(named_by(none).is_empty(), "{none}");
        }
    }
}
