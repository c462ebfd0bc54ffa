//! The dashboard and the alert rules in `examples/operations`: they parse, and whatever
//! they ask for is exported.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::exposition::Exposition;

const DASHBOARD: &str = include_str!("../../examples/operations/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../examples/operations/alerts.yaml");

/// Functions, operators and words of PromQL that the examples may use.
const WORDS: [&str; 21] = [
    "sum",
    "rate",
    "increase",
    "max",
    "min",
    "by",
    "without",
    "on",
    "and",
    "or",
    "unless",
    "time",
    "histogram_quantile",
    "clamp_min",
    "absent",
    "changes",
    "count",
    "ignoring",
    "group_left",
    "bool",
    "avg",
];

/// Expressions of all panels.
fn panels() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets
        .map(|target| target["expr"].as_str().expect("an expression").to_owned())
        .collect()
}

/// Rules by name: expression, severity, summary.
fn rules() -> Vec<(String, String)> {
    let documents = yaml_rust2::YamlLoader::load_from_str(ALERTS).expect("YAML");
    let groups = documents[0]["groups"].as_vec().expect("groups");
    let mut all = Vec::new();
    for rule in groups
        .iter()
        .flat_map(|group| group["rules"].as_vec().expect("rules"))
    {
        let text = |value: &yaml_rust2::Yaml| {
            value
                .as_str()
                .unwrap_or_else(|| panic!("{rule:?}"))
                .to_owned()
        };
        let name = text(&rule["alert"]);
        assert!(
            ["warning", "critical"].contains(&text(&rule["labels"]["severity"]).as_str()),
            "{name}"
        );
        assert!(!text(&rule["annotations"]["summary"]).is_empty());
        assert!(!text(&rule["annotations"]["description"]).is_empty());
        all.push((name, text(&rule["expr"])));
    }
    all
}

/// Metrics in an expression. Strings, durations and label lists are left out.
fn metrics(expression: &str) -> BTreeSet<String> {
    let (mut depth, mut round, mut names) = (0_i32, 0_i32, BTreeSet::new());
    let mut word = String::new();
    let (mut listing, mut previous) = (false, String::new());
    for character in expression.chars().chain([' ']) {
        if (character.is_ascii_alphanumeric() || character == '_' || character == ':') && depth == 0
        {
            word.push(character);
            continue;
        }
        let ended = std::mem::take(&mut word);
        if !ended.is_empty() && !ended.starts_with(|first: char| first.is_ascii_digit()) {
            if !listing && !WORDS.contains(&ended.as_str()) {
                names.insert(ended.clone());
            }
            previous = ended;
        }
        match character {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            '(' => {
                round += 1;
                listing = ["by", "without", "on", "ignoring"].contains(&previous.as_str());
            }
            ')' => {
                round -= 1;
                listing = false;
            }
            _ => {}
        }
        if !character.is_whitespace() {
            previous = if ended_word(&previous, character) {
                previous
            } else {
                String::new()
            };
        }
        assert!(depth >= 0 && round >= 0, "{expression}");
    }
    assert!(depth == 0 && round == 0, "{expression}");
    names
}

/// Whether `previous` still stands right before a parenthesis.
fn ended_word(previous: &str, character: char) -> bool {
    !previous.is_empty() && character.is_ascii_alphanumeric()
}

pub(crate) fn names_are_exported(exported: &[Exposition]) {
    let names: BTreeSet<String> = exported.iter().flat_map(Exposition::names).collect();
    let expressions = panels()
        .into_iter()
        .chain(rules().into_iter().map(|(_, expression)| expression));
    let mut used = BTreeSet::new();
    for expression in expressions {
        let found = metrics(&expression);
        assert!(!found.is_empty(), "{expression}");
        for name in found {
            assert!(
                names.contains(&name),
                "`{name}` of `{expression}` is not exported; there are {names:?}"
            );
            used.insert(name);
        }
    }
    // The examples are about what operators need to see.
    for name in [
        "leaf_expiry_timestamp_seconds",
        "stale_seconds",
        "inbound_tcp_authz_deny_total",
        "ready",
        "component_failures_total",
        "peer_roots",
        "jwks_stale_seconds",
        "decision_log_lines_total",
        "shadow_decisions_total",
    ] {
        assert!(used.contains(&format!("portcullis_{name}")), "{name}");
    }
}

#[test]
fn the_examples_parse_and_are_about_the_important_things() {
    assert!(panels().len() >= 12);
    let names: Vec<String> = rules().into_iter().map(|(name, _)| name).collect();
    for name in [
        "PortcullisLeafExpires",
        "PortcullisPolicyStale",
        "PortcullisDenials",
        "PortcullisNotReady",
    ] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let ids: BTreeSet<i64> = dashboard["panels"]
        .as_array()
        .expect("panels")
        .iter()
        .map(|panel| panel["id"].as_i64().expect("an ID"))
        .collect();
    assert_eq!(
        ids.len(),
        dashboard["panels"].as_array().expect("panels").len(),
        "IDs differ"
    );
}

#[test]
fn metrics_of_expressions_are_found() {
    let found =
        metrics(r#"sum by (reason) (rate(a_total{x="b c"}[5m])) / on (pod) c - time() > 3"#);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a_total", "c"]);
}
