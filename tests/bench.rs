//! The benchmark harness still works: every row gives figures for every contender. How
//! large they are is not looked at.

use portcullis_tests::bench::settings::Settings;
use portcullis_tests::bench::{Bench, rows};
use portcullis_tests::peers;

#[test]
fn every_row_gives_figures() {
    let peers = ["consul", "envoy"].map(|peer| peers::require("every_row_gives_figures", peer));
    let with_peers = peers.iter().all(Option::is_some);
    let settings = Settings::parse(["--small", "--rounds", "1"].map(str::to_owned)).unwrap();
    let mut bench = Bench::new(settings).unwrap();
    assert_eq!(bench.missing.is_empty(), with_peers, "{:?}", bench.missing);

    let figures = bench.run().unwrap();
    assert!(figures.len() >= rows::ALL.len());
    for figure in &figures {
        if !with_peers && figure.columns.is_empty() {
            let says_why = figure.notes.iter().any(|note| note.starts_with("MISSING"));
            assert!(
                says_why || figure.title.contains("cross-signed"),
                "{}",
                figure.title
            );
            continue;
        }
        let names: Vec<&str> = figure
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        assert!(names[0].starts_with("ours"), "{}: {names:?}", figure.title);
        for column in &figure.columns {
            assert!(
                !column.samples.is_empty(),
                "{}: {}",
                figure.title,
                column.name
            );
            let sound = column
                .samples
                .iter()
                .all(|sample| sample.is_finite() && *sample >= 0.0);
            assert!(sound, "{}: {:?}", figure.title, column.samples);
        }
        assert!(figure.text().contains(&figure.title));
        assert!(figure.markdown().starts_with("| "));
    }
    let per_peer = |title: &str| {
        let figure = figures
            .iter()
            .find(|figure| figure.title.starts_with(title));
        figure.map_or(0, |figure| figure.columns.len())
    };
    for title in [
        "new mTLS connection, known",
        "bulk",
        "128-byte",
        "resident memory, idle",
        "start",
    ] {
        assert_eq!(per_peer(title), if with_peers { 3 } else { 1 }, "{title}");
    }
    let cpu = &figures[0].columns[0].samples[0];
    assert!(
        *cpu > 0.0,
        "a handshake that costs nothing was not measured"
    );

    // No handshake fails while the CA is rotated.
    let rotations = figures
        .iter()
        .filter(|figure| figure.title.starts_with("failed"));
    for rotation in rotations {
        assert_eq!(rotation.columns[0].samples, [0.0], "{}", rotation.text());
    }
}

#[test]
fn what_is_unknown_is_refused() {
    let parse = |arguments: &[&str]| {
        Settings::parse(arguments.iter().map(|argument| (*argument).to_owned()))
            .unwrap_err()
            .to_string()
    };
    assert!(parse(&["connectoins"]).contains("rows are connections, first-seen"));
    assert!(parse(&["--rounds", "0"]).contains("from 1 upwards"));
    assert!(parse(&["--rounds"]).contains("needs a value"));
    assert!(parse(&["--peers=nginx"]).contains("unknown peer `nginx`"));
}

#[test]
fn figures_are_medians_with_their_spread() {
    use portcullis_tests::bench::figures::{Figure, quantile};

    let mut figure = Figure::new("work", "us", Some(10.0)).with_ratios(&[("peer", 0.5)]);
    for (ours, peer) in [(9.0, 20.0), (12.0, 20.0), (10.0, 10.0)] {
        figure.add("ours", ours);
        figure.add("peer", peer);
    }
    assert_eq!(figure.reached(), Some(true));
    let text = figure.text();
    assert!(
        text.contains("10.0 us") && text.contains("(9.00..12.0)"),
        "{text}"
    );
    // Round by round: 0.45, 0.6 and 1.
    assert!(
        text.contains("= 0.60 (0.45..1.00), goal 0.50 NOT reached"),
        "{text}"
    );
    figure.add("ours", 100.0);
    figure.add("ours", 100.0);
    assert_eq!(figure.reached(), Some(false));
    assert!(figure.text().contains("at most 10.0 us, NOT reached"));

    let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
    assert_eq!(quantile(&hundred, 0.99), Some(99.0));
    assert_eq!(quantile(&hundred, 0.5), Some(50.0));
    assert_eq!(quantile(&[], 0.5), None);
}
