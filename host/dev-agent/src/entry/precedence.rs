//! Precedence and order of intentions.

use serde_json::{Map, Value};

/// Consul's number: exact destination 9 or 8, wildcard destination 6 or 5.
pub(crate) fn precedence(source: &str, destination: &str) -> u64 {
    let by_destination = if destination == "*" { 6 } else { 9 };
    by_destination - u64::from(source == "*")
}

/// The text of a field, empty when it is absent.
pub(crate) fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Sorts intentions as the match endpoint does: highest precedence first, then
/// by peer and names.
pub(crate) fn sort(intentions: &mut [Map<String, Value>]) {
    intentions.sort_by(|a, b| {
        let rank = |of: &Map<String, Value>| of.get("Precedence").and_then(Value::as_u64);
        let names = |of: &Map<String, Value>| {
            ["SourcePeer", "SourceName", "DestinationName"].map(|name| text(of, name).to_owned())
        };
        rank(b).cmp(&rank(a)).then_with(|| names(a).cmp(&names(b)))
    });
}

#[cfg(test)]
mod tests {
    use super::precedence;

    #[test]
    fn the_four_numbers() {
        assert_eq!(precedence("web", "db"), 9);
        assert_eq!(precedence("*", "db"), 8);
        assert_eq!(precedence("web", "*"), 6);
        assert_eq!(precedence("*", "*"), 5);
    }
}
