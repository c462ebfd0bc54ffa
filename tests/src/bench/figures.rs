//! Figures: medians, ratios to the peers and their spread.

use std::fmt::Write as _;

/// What was measured of one contender, one sample for each round.
#[derive(Clone, Debug)]
pub struct Column {
    /// The contender.
    pub name: String,
    /// The samples, in the order of the rounds.
    pub samples: Vec<f64>,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub title: String,
    /// Its unit.
    pub unit: &'static str,
    /// The most that our figure should be.
    pub goal: Option<f64>,
    /// The most that ours should be of a peer's: its name and the ratio.
    pub ratios: &'static [(&'static str, f64)],
    /// The share of samples within the number that stands for all: a half is the median.
    pub share: f64,
    /// Ours first.
    pub columns: Vec<Column>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

impl Figure {
    /// A figure without samples.
    #[must_use]
    pub fn new(title: impl Into<String>, unit: &'static str, goal: Option<f64>) -> Self {
        Self {
            title: title.into(),
            unit,
            goal,
            ratios: &[],
            share: 0.5,
            columns: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// With the 99th percentile in place of the median.
    #[must_use]
    pub fn p99(mut self) -> Self {
        self.share = 0.99;
        self
    }

    /// With the most that ours should be of a peer's.
    #[must_use]
    pub fn with_ratios(mut self, ratios: &'static [(&'static str, f64)]) -> Self {
        self.ratios = ratios;
        self
    }

    /// Adds one sample of a contender.
    pub fn add(&mut self, name: &str, sample: f64) {
        match self.columns.iter_mut().find(|column| column.name == name) {
            Some(column) => column.samples.push(sample),
            None => self.columns.push(Column {
                name: name.to_owned(),
                samples: vec![sample],
            }),
        }
    }

    /// Whether ours is within the goal.
    #[must_use]
    pub fn reached(&self) -> Option<bool> {
        let ours = self.columns.first()?.at(self.share)?;
        Some(ours <= self.goal?)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.title.clone();
        if let Some(goal) = self.goal {
            let verdict = match self.reached() {
                Some(true) => "reached",
                Some(false) => "NOT reached",
                None => "not measured",
            };
            let _ = write!(
                text,
                "   goal: at most {} {}, {verdict}",
                round(goal),
                self.unit
            );
        }
        text.push('\n');
        let first = self.columns.first();
        for (place, column) in self.columns.iter().enumerate() {
            let _ = write!(
                text,
                "  {:<24} {:>9} {:<5} ({})",
                column.name,
                column.at(self.share).map_or_else(|| "-".to_owned(), round),
                self.unit,
                column.spread()
            );
            if let Some(first) = first.filter(|_| place > 0)
                && let Some(ratio) = Ratio::of(first, column, self.share)
            {
                let _ = write!(
                    text,
                    "   {} / {} = {}",
                    first.name,
                    column.name,
                    ratio.text()
                );
                if let Some((_, most)) = self.ratios.iter().find(|(name, _)| *name == column.name) {
                    let verdict = if ratio.median() <= *most {
                        "reached"
                    } else {
                        "NOT reached"
                    };
                    let _ = write!(text, ", goal {most:.2} {verdict}");
                }
            }
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }

    /// A row of a Markdown table: title, goal, ours, and what is beside it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let goal = self
            .goal
            .map_or_else(String::new, |goal| format!("≤ {}", round(goal)));
        let mut columns = self.columns.iter();
        let ours = columns.next();
        let cell = |column: &Column| {
            format!(
                "{} ({})",
                column.at(self.share).map_or_else(|| "-".to_owned(), round),
                column.spread()
            )
        };
        let beside: Vec<String> = columns
            .map(|column| {
                let ratio = ours.and_then(|ours| Ratio::of(ours, column, self.share));
                let ratio = ratio.map_or_else(String::new, |ratio| {
                    let goal = self.ratios.iter().find(|(name, _)| *name == column.name);
                    let goal =
                        goal.map_or_else(String::new, |(_, most)| format!(" (goal {most:.2})"));
                    format!(", ×{}{goal}", ratio.text())
                });
                format!("{} {}{ratio}", column.name, cell(column))
            })
            .collect();
        format!(
            "| {}, {} | {goal} | {} | {} | {} |",
            self.title,
            self.unit,
            ours.map_or_else(
                || "-".to_owned(),
                |ours| format!("{} {}", ours.name, cell(ours))
            ),
            beside.join("; "),
            match self.reached() {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "",
            }
        )
    }
}

/// The head of the Markdown table.
pub const MARKDOWN_HEAD: &str = "| what | goal | ours, median (min..max) | beside, with the ratio of ours to it (min..max) | reached |\n|---|---|---|---|---|";

impl Column {
    /// The sample that this share of all does not exceed.
    #[must_use]
    pub fn at(&self, share: f64) -> Option<f64> {
        quantile(&self.samples, share)
    }

    /// The smallest and the largest sample.
    #[must_use]
    pub fn spread(&self) -> String {
        match (quantile(&self.samples, 0.0), quantile(&self.samples, 1.0)) {
            (Some(least), Some(most)) => format!("{}..{}", round(least), round(most)),
            _ => "-".to_owned(),
        }
    }
}

/// How ours compares, round by round.
struct Ratio(Vec<f64>);

impl Ratio {
    fn of(ours: &Column, peer: &Column, share: f64) -> Option<Self> {
        if share > 0.5 {
            // Percentiles of many samples: rounds do not belong together.
            return Some(Self(vec![ours.at(share)? / peer.at(share)?]));
        }
        let pairs = ours.samples.iter().zip(&peer.samples);
        let ratios: Vec<f64> = pairs
            .filter(|(_, peer)| **peer > 0.0)
            .map(|(ours, peer)| ours / peer)
            .collect();
        (!ratios.is_empty()).then_some(Self(ratios))
    }

    fn median(&self) -> f64 {
        quantile(&self.0, 0.5).unwrap_or(f64::INFINITY)
    }

    fn text(&self) -> String {
        let at = |share| quantile(&self.0, share).unwrap_or(f64::NAN);
        if self.0.len() == 1 {
            return format!("{:.2}", at(0.5));
        }
        format!("{:.2} ({:.2}..{:.2})", at(0.5), at(0.0), at(1.0))
    }
}

/// The sample that this share of all does not exceed.
#[must_use]
pub fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a short list"
    )]
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied()
}

/// Three digits that count.
fn round(value: f64) -> String {
    if value >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
