//! What to measure and how often, from the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::rows;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often each contender has its turn.
    pub rounds: usize,
    /// Names of rows; all when empty.
    pub rows: Vec<String>,
    /// Peers that are wanted.
    pub peers: Vec<String>,
    /// Other builds of our command, and of the filter for Envoy, to be measured beside.
    pub beside: Vec<PathBuf>,
    /// Amounts of work are divided by this: above 1 to see only that the harness works.
    pub smaller: u32,
    /// Where to append the table as Markdown.
    pub markdown: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rounds: 9,
            rows: Vec::new(),
            peers: ["envoy", "consul"].map(str::to_owned).to_vec(),
            beside: Vec::new(),
            smaller: 1,
            markdown: None,
        }
    }
}

impl Settings {
    /// Reads names of rows and flags.
    ///
    /// # Errors
    /// When one is unknown.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut settings = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (flag, inline) = match argument.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || {
                inline
                    .clone()
                    .or_else(|| arguments.next())
                    .with_context(|| format!("`{flag}` needs a value"))
            };
            match flag.as_str() {
                // Cargo says so to every benchmark.
                "--bench" => {}
                "--rounds" => {
                    let text = value()?;
                    settings.rounds = text
                        .parse()
                        .ok()
                        .filter(|rounds| *rounds > 0)
                        .with_context(|| {
                            format!("`--rounds {text}`: give a number from 1 upwards")
                        })?;
                }
                "--peers" => {
                    let text = value()?;
                    settings.peers = text
                        .split(',')
                        .filter(|peer| !peer.is_empty() && *peer != "none")
                        .map(str::to_owned)
                        .collect();
                    if let Some(other) = settings
                        .peers
                        .iter()
                        .find(|peer| !matches!(peer.as_str(), "envoy" | "consul"))
                    {
                        bail!("unknown peer `{other}`; there are `envoy` and `consul`");
                    }
                }
                "--beside" => settings.beside.push(value()?.into()),
                "--markdown" => settings.markdown = Some(value()?.into()),
                "--small" => settings.smaller = 50,
                name if rows::ALL.iter().any(|row| row.name == name) => {
                    settings.rows.push(name.to_owned());
                }
                other => {
                    let names: Vec<&str> = rows::ALL.iter().map(|row| row.name).collect();
                    bail!(
                        "`{other}` is neither a flag nor a row; rows are {}",
                        names.join(", ")
                    );
                }
            }
        }
        Ok(settings)
    }

    /// Whether this peer is wanted.
    #[must_use]
    pub fn wants(&self, peer: &str) -> bool {
        self.peers.iter().any(|wanted| wanted == peer)
    }

    /// Other builds of our command.
    pub fn builds_beside(&self) -> impl Iterator<Item = &PathBuf> {
        self.beside.iter().filter(|path| !is_filter(path))
    }

    /// Other builds of the filter for Envoy.
    pub fn filters_beside(&self) -> impl Iterator<Item = &PathBuf> {
        self.beside.iter().filter(|path| is_filter(path))
    }

    /// Whether this row is wanted.
    #[must_use]
    pub fn has_row(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| row == name)
    }

    /// Whether only the harness is tried.
    #[must_use]
    pub fn small(&self) -> bool {
        self.smaller > 1
    }

    /// The number of the first round. Round 0 does not count; where only the harness is
    /// tried, it is left out.
    #[must_use]
    pub fn warm_up(&self) -> usize {
        usize::from(self.small())
    }

    /// That much work, or less where only the harness is tried.
    #[must_use]
    pub fn amount(&self, full: u32) -> u32 {
        (full / self.smaller).max(1)
    }
}

fn is_filter(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "wasm")
}
