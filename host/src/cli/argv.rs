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
    /// The same for each subcommand.
    subcommands: BTreeMap<String, Names>,
}

impl Names {
    fn of(command: &clap::Command, inherited: Option<&Names>) -> Self {
        let mut names = Self {
            valued: BTreeSet::new(),
            switches: BTreeSet::from(["help".to_owned()]),
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
            for alias in argument.get_all_aliases().unwrap_or_default() {
                set.insert(alias.to_owned());
            }
        }
        // Global flags are accepted after the subcommand, too.
        if let Some(outer) = inherited {
            names.valued.extend(outer.valued.iter().cloned());
            names.switches.extend(outer.switches.iter().cloned());
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

/// Rewrites `arguments` (the program's name first) for `command`.
///
/// `-name`, `-name=value` become `--name`, `--name=value`; `--switch=true`
/// becomes `--switch`, `--switch=false` disappears. Everything after `--`, the
/// value of a flag, and what is not valid UTF-8 stay as they are.
pub(crate) fn normalise(
    command: &clap::Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let root = Names::of(command, None);
    let mut names = &root;
    let mut arguments = arguments.into_iter();
    let mut out: Vec<OsString> = arguments.next().into_iter().collect();
    let mut value_expected = false;
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str().filter(|_| !value_expected) else {
            value_expected = false;
            out.push(argument);
            continue;
        };
        if text == "--" {
            out.push(argument);
            out.extend(arguments);
            break;
        }
        let Some(flag) = text.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            if let Some(inner) = names.subcommands.get(text) {
                names = inner;
            }
            out.push(argument);
            continue;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        let single_letter = name.chars().count() == 1;
        if names.valued.contains(name) && !single_letter {
            value_expected = value.is_none();
            out.push(format!("--{flag}").into());
        } else if names.switches.contains(name) && !single_letter {
            match value.map(go_bool) {
                None | Some(Some(true)) => out.push(format!("--{name}").into()),
                Some(Some(false)) => {}
                // clap says what is wrong with it.
                Some(None) => out.push(format!("--{flag}").into()),
            }
        } else {
            out.push(argument);
        }
    }
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
    fn what_is_not_known_stays_as_typed() {
        assert_eq!(
            normal(&["proxy", "-servize", "web"]),
            ["proxy", "-servize", "web"]
        );
        assert_eq!(
            normal(&["check", "-service", "web"]),
            ["check", "-service", "web"]
        );
        assert_eq!(normal(&["proxy", "-o", "json"]), ["proxy", "-o", "json"]);
        assert_eq!(normal(&["check", "-"]), ["check", "-"]);
    }

    #[test]
    fn values_and_the_rest_after_two_dashes_stay() {
        assert_eq!(
            normal(&["proxy", "-service", "-register", "-register"]),
            ["proxy", "--service", "-register", "--register"]
        );
        assert_eq!(
            normal(&["proxy", "--", "-service"]),
            ["proxy", "--", "-service"]
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
