//! Arguments as HashiCorp users type them: one dash before long names, and
//! switches with values (`-register=true`), turned into what clap reads.
//!
//! Only names that the command line knows are touched, so that a misspelt flag
//! is reported as it was typed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

/// Which long names exist, and which of them are switches, per subcommand.
struct Names {
    /// Long names that take a value.
    valued: BTreeSet<String>,
    /// Long names that are switches.
    switches: BTreeSet<String>,
    /// Single letters.
    letters: BTreeSet<char>,
    /// The same for each subcommand.
    subcommands: BTreeMap<String, Names>,
}

impl Names {
    fn of(command: &clap::Command, inherited: Option<&Names>) -> Self {
        let mut names = Self {
            valued: BTreeSet::new(),
            switches: BTreeSet::from(["help".to_owned()]),
            letters: BTreeSet::from(['h', 'V']),
            subcommands: BTreeMap::new(),
        };
        if command.get_version().is_some() {
            names.switches.insert("version".to_owned());
        }
        for argument in command.get_arguments() {
            let switch = !argument.get_action().takes_values();
            let set = if switch {
                &mut names.switches
            } else {
                &mut names.valued
            };
            set.extend(argument.get_long().map(str::to_owned));
            names.letters.extend(argument.get_short());
            for alias in argument.get_all_aliases().unwrap_or_default() {
                set.insert(alias.to_owned());
            }
        }
        // Global flags are accepted after the subcommand, too.
        if let Some(outer) = inherited {
            names.valued.extend(outer.valued.iter().cloned());
            names.switches.extend(outer.switches.iter().cloned());
            names.letters.extend(outer.letters.iter().copied());
        }
        for subcommand in command.get_subcommands() {
            let inner = Self::of(subcommand, Some(&names));
            names
                .subcommands
                .insert(subcommand.get_name().to_owned(), inner);
        }
        names
    }
}

/// What an argument that begins with a dash says.
struct Flag<'a> {
    /// Without dashes and value.
    name: &'a str,
    /// What follows `=`.
    value: Option<&'a str>,
    /// Without dashes.
    text: &'a str,
}

impl<'a> Flag<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix('-').filter(|rest| !rest.is_empty())?;
        let text = text.strip_prefix('-').unwrap_or(text);
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        Some(Self { name, value, text })
    }

    fn is_known(&self, names: &Names) -> bool {
        names.valued.contains(self.name) || names.switches.contains(self.name)
    }

    /// A long name that does not exist, and no group of letters either.
    fn is_misspelt(&self, names: &Names) -> bool {
        let mut letters = self.name.chars();
        let first = letters.next();
        letters.next().is_some()
            && first
                .is_some_and(|letter| letter.is_alphabetic() && !names.letters.contains(&letter))
    }
}

/// Rewrites `arguments` (the program's name first) for `command`.
///
/// `-name`, `-name=value` become `--name`, `--name=value`; `--switch=true`
/// becomes `--switch`, `--switch=false` disappears. What follows a flag with a
/// value is its value, even with a dash, unless it is itself a flag that exists.
/// Everything after `--` and what is not valid UTF-8 stays as it is.
pub(crate) fn normalise(
    command: &clap::Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let root = Names::of(command, None);
    let mut names = &root;
    let mut arguments = arguments.into_iter();
    let mut out: Vec<OsString> = arguments.next().into_iter().collect();
    let mut waiting: Option<String> = None;
    for argument in arguments.by_ref() {
        let flag = argument.to_str().and_then(Flag::read);
        if let Some(name) = waiting.take() {
            match &flag {
                Some(flag) if !flag.is_known(names) && argument != "--" => {
                    let mut joined = OsString::from(format!("{name}="));
                    joined.push(&argument);
                    out.push(joined);
                    continue;
                }
                Some(_) => out.push(name.into()),
                None => {
                    out.extend([name.into(), argument]);
                    continue;
                }
            }
        }
        if argument == "--" {
            out.push(argument);
            break;
        }
        let Some(flag) = flag else {
            if let Some(inner) = argument
                .to_str()
                .and_then(|text| names.subcommands.get(text))
            {
                names = inner;
            }
            out.push(argument);
            continue;
        };
        let Flag { name, value, text } = flag;
        if names.valued.contains(name) {
            match value {
                Some(_) => out.push(format!("--{text}").into()),
                None => waiting = Some(format!("--{name}")),
            }
        } else if names.switches.contains(name) {
            match value.map(go_bool) {
                None | Some(Some(true)) => out.push(format!("--{name}").into()),
                Some(Some(false)) => {}
                // clap says what is wrong with it.
                Some(None) => out.push(format!("--{text}").into()),
            }
        } else if flag.is_misspelt(names) {
            // clap would read its first letter only.
            out.push(format!("--{text}").into());
        } else {
            out.push(argument);
        }
    }
    out.extend(waiting.map(OsString::from));
    out.extend(arguments);
    out
}

/// A boolean as Go's `strconv.ParseBool` reads it.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, ArgAction, Command};

    fn command() -> Command {
        Command::new("portcullis")
            .version("0")
            .arg(Arg::new("log-level").long("log-level").global(true))
            .subcommand(
                Command::new("proxy")
                    .arg(Arg::new("service").long("service"))
                    .arg(
                        Arg::new("register")
                            .long("register")
                            .action(ArgAction::SetTrue),
                    )
                    .arg(Arg::new("output").short('o').long("output").alias("format")),
            )
            .subcommand(Command::new("check").arg(Arg::new("source")))
    }

    fn normal(arguments: &[&str]) -> Vec<String> {
        let all = std::iter::once("portcullis").chain(arguments.iter().copied());
        normalise(&command(), all.map(OsString::from))
            .into_iter()
            .skip(1)
            .map(|argument| argument.into_string().unwrap())
            .collect()
    }

    #[test]
    fn one_dash_or_two() {
        for dash in ["-", "--"] {
            let service = format!("{dash}service");
            assert_eq!(
                normal(&["proxy", &service, "web"]),
                ["proxy", "--service", "web"]
            );
            let service = format!("{dash}service=web");
            assert_eq!(normal(&["proxy", &service]), ["proxy", "--service=web"]);
        }
        assert_eq!(normal(&["-version"]), ["--version"]);
        assert_eq!(normal(&["proxy", "-help"]), ["proxy", "--help"]);
        assert_eq!(
            normal(&["proxy", "-format=json"]),
            ["proxy", "--format=json"]
        );
        assert_eq!(
            normal(&["proxy", "-log-level", "warn"]),
            ["proxy", "--log-level", "warn"]
        );
        assert_eq!(
            normal(&["-log-level=warn", "proxy"]),
            ["--log-level=warn", "proxy"]
        );
    }

    #[test]
    fn switches_take_go_booleans() {
        assert_eq!(
            normal(&["proxy", "-register=true"]),
            ["proxy", "--register"]
        );
        assert_eq!(normal(&["proxy", "--register=1"]), ["proxy", "--register"]);
        assert_eq!(normal(&["proxy", "-register=F"]), ["proxy"]);
        assert_eq!(
            normal(&["proxy", "-register=maybe"]),
            ["proxy", "--register=maybe"]
        );
    }

    #[test]
    fn what_is_not_known_is_left_for_clap_to_name() {
        assert_eq!(
            normal(&["proxy", "-servize", "web"]),
            ["proxy", "--servize", "web"]
        );
        assert_eq!(
            normal(&["check", "-service", "web"]),
            ["check", "--service", "web"]
        );
        assert_eq!(normal(&["proxy", "-o", "json"]), ["proxy", "-o", "json"]);
        assert_eq!(normal(&["proxy", "-ojson"]), ["proxy", "-ojson"]);
        assert_eq!(normal(&["check", "-"]), ["check", "-"]);
        assert_eq!(normal(&["check", "-5"]), ["check", "-5"]);
    }

    #[test]
    fn what_follows_a_flag_is_its_value_unless_it_is_a_flag() {
        assert_eq!(
            normal(&["proxy", "-service", "-5s"]),
            ["proxy", "--service=-5s"]
        );
        assert_eq!(
            normal(&["proxy", "-service", "-x=y"]),
            ["proxy", "--service=-x=y"]
        );
        assert_eq!(
            normal(&["proxy", "-service", "-"]),
            ["proxy", "--service", "-"]
        );
        assert_eq!(
            normal(&["proxy", "-service", "-register"]),
            ["proxy", "--service", "--register"]
        );
        assert_eq!(normal(&["proxy", "-service"]), ["proxy", "--service"]);
        assert_eq!(
            normal(&["proxy", "-service", "proxy"]),
            ["proxy", "--service", "proxy"]
        );
    }

    #[test]
    fn what_follows_two_dashes_stays() {
        assert_eq!(
            normal(&["proxy", "--", "-service"]),
            ["proxy", "--", "-service"]
        );
        assert_eq!(
            normal(&["proxy", "-service", "--", "-x"]),
            ["proxy", "--service", "--", "-x"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_not_text_pass() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'-', 0xff]);
        let arguments = ["portcullis".into(), "check".into(), odd.clone()];
        assert_eq!(normalise(&command(), arguments).last(), Some(&odd));
    }
}
