//! Reads the OpenMetrics text format, strictly where Prometheus is.

use std::collections::{BTreeMap, BTreeSet};

/// Everything that one answer says.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    /// Types of families by name.
    pub(crate) families: BTreeMap<String, String>,
    /// Samples by name and labels as they stand.
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    /// Reads `text`.
    ///
    /// # Panics
    /// At whatever breaks the format, with the line.
    pub(crate) fn read(text: &str) -> Self {
        let mut all = Self::default();
        let body = text.strip_suffix("# EOF\n").expect("the end is said");
        let mut family: Option<(String, String)> = None;
        let mut ended = BTreeSet::new();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let mut words = rest.splitn(3, ' ');
                let (kind, name) = (words.next().expect(line), words.next().expect(line));
                let text = words.next().unwrap_or_default();
                assert!(is_name(name), "{line}");
                if family.as_ref().is_none_or(|(current, _)| current != name) {
                    assert!(ended.insert(name.to_owned()), "a family twice: {line}");
                    family = Some((name.to_owned(), String::new()));
                }
                match kind {
                    "HELP" | "UNIT" => assert!(!text.is_empty(), "{line}"),
                    "TYPE" => {
                        assert!(
                            ["counter", "gauge", "histogram", "info"].contains(&text),
                            "{line}"
                        );
                        all.families.insert(name.to_owned(), text.to_owned());
                        family = Some((name.to_owned(), text.to_owned()));
                    }
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect(line);
            let name = series.split('{').next().expect(line);
            let (current, kind) = family.as_ref().expect(line);
            let suffix = name.strip_prefix(current.as_str()).expect(line);
            let good: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_sum", "_count", "_bucket"],
                _ => panic!("{line}"),
            };
            assert!(good.contains(&suffix), "{line}");
            check_labels(&series[name.len()..], line);
            let value: f64 = value.parse().expect(line);
            assert!(
                value.is_finite() && (kind != "counter" || value >= 0.0),
                "{line}"
            );
            assert!(
                all.samples.insert(series.to_owned(), value).is_none(),
                "a series twice: {line}"
            );
        }
        all
    }

    /// The sum of the series of `name` that have all these labels; absent if there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect();
        let found: Vec<f64> = self
            .samples
            .iter()
            .filter(|(series, _)| series.split('{').next() == Some(name))
            .filter(|(series, _)| wanted.iter().all(|label| series.contains(label.as_str())))
            .map(|(_, value)| *value)
            .collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// Names of samples, as queries use them.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let names = self.samples.keys();
        names
            .map(|series| series.split('{').next().unwrap_or_default().to_owned())
            .collect()
    }

    /// How many series there are.
    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }
}

fn is_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.starts_with(|first: char| first.is_ascii_lowercase())
}

/// `{name="value",…}` with plain values, or nothing.
fn check_labels(labels: &str, line: &str) {
    if labels.is_empty() {
        return;
    }
    let inner = labels
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .expect(line);
    let mut seen = BTreeSet::new();
    for label in inner.split(',') {
        let (key, value) = label.split_once('=').expect(line);
        assert!(is_name(key) && seen.insert(key), "{line}");
        let value = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .expect(line);
        assert!(
            value.len() <= 64
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'),
            "{line}"
        );
    }
}
