//! `portcullis completions`: what a shell needs to complete our command lines.
//!
//! The scripts are clap's, with each long flag by one dash beside the one by two.

use std::process::ExitCode;

use clap_complete::Shell;

use super::failure::Failure;
use super::output;

/// Print the completion script of a shell
///
/// Long flags are completed by one dash and by two.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis completions bash > /etc/bash_completion.d/portcullis
  portcullis completions zsh > \"${fpath[1]}/_portcullis\"
  portcullis completions fish > ~/.config/fish/completions/portcullis.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(
    arguments: &CompletionsArgs,
    command: &clap::Command,
) -> Result<ExitCode, Failure> {
    let mut command = visible(command).version(env!("CARGO_PKG_VERSION"));
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    let script = String::from_utf8(script)
        .map_err(|error| Failure::while_doing("the script is no text", &error))?;
    let script = match arguments.shell {
        Shell::Bash => bash(&script),
        Shell::Fish => fish(&script),
        Shell::Zsh => zsh(&script),
        _ => script,
    };
    output::line(script.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// The same command without what is hidden, which clap would offer.
fn visible(command: &clap::Command) -> clap::Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let arguments = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set());
    let subcommands = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    clap::Command::new(command.get_name().to_owned())
        .about(about)
        .disable_help_subcommand(true)
        .args(arguments.cloned())
        .subcommands(subcommands.map(visible))
}

/// In bash flags are the words of `opts`, and what is before a value in `case`.
fn bash(script: &str) -> String {
    let line = |line: &str| {
        let bare = line.trim_start();
        if let Some(words) = bare.strip_prefix("opts=\"") {
            let both = words.split(' ').map(|word| match word.strip_prefix("--") {
                Some(name) => format!("--{name} -{name}"),
                None => word.to_owned(),
            });
            // The last one has the quotation mark, which its double has as well.
            let both = both.collect::<Vec<_>>().join(" ");
            return format!("opts=\"{}\"", both.replace('"', ""));
        }
        match bare
            .strip_prefix("--")
            .and_then(|rest| rest.strip_suffix(')'))
        {
            Some(name) => format!("--{name}|-{name})"),
            None => line.to_owned(),
        }
    };
    script.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// In fish `-l` is a long flag by two dashes and `-o` one by one dash.
fn fish(script: &str) -> String {
    let word = |line: &str| -> String {
        match line.split_once(" -l ") {
            Some((before, after)) => {
                let name = after.split(' ').next().unwrap_or_default();
                format!("{before} -l {name} -o {after}")
            }
            None => line.to_owned(),
        }
    };
    script.lines().map(word).collect::<Vec<_>>().join("\n")
}

/// In zsh each flag is an argument of `_arguments`, some over several lines.
fn zsh(script: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut flag: Vec<String> = Vec::new();
    for line in script.lines() {
        // Letters are not stacked: `-service` is no `-s`.
        let line = line
            .replace("(-s -S -C)", "(-S -C)")
            .replace("(-s -C)", "(-C)");
        if flag.is_empty() && !is_flag(&line) {
            out.push(line);
            continue;
        }
        let ends = line.ends_with("' \\");
        flag.push(line);
        if ends {
            let whole = flag.join("\n");
            flag.clear();
            out.push(whole.replacen("--", "-", dashes(&whole)));
            out.push(whole);
        }
    }
    out.extend(flag);
    out.join("\n")
}

/// How many names with two dashes stand before the explanation.
fn dashes(flag: &str) -> usize {
    let names = flag.split_once('[').map_or(flag, |(names, _)| names);
    names.matches("--").count()
}

fn is_flag(line: &str) -> bool {
    let Some(rest) = line.strip_prefix('\'') else {
        return false;
    };
    let names = match rest.strip_prefix('(') {
        Some(excluded) => excluded.split_once(')').map_or("", |(_, names)| names),
        None => rest,
    };
    names.trim_start_matches('*').starts_with("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_is_there_by_one_dash_and_by_two() {
        assert_eq!(
            bash("    opts=\"-o --output --help\"\n    --output)\n    *)"),
            "opts=\"-o --output -output --help -help\"\n--output|-output)\n    *)"
        );
        assert_eq!(
            fish("complete -c p -n \"x\" -s o -l output -d 'a -l b' -r"),
            "complete -c p -n \"x\" -s o -l output -o output -d 'a -l b' -r"
        );
        assert_eq!(
            zsh("'*--up=[a --b]:UP:_default' \\\n'(--a)--b=[c]:P:((x\\:\"y\"\nz))' \\\n'-h[x]' \\"),
            "'*-up=[a --b]:UP:_default' \\\n'*--up=[a --b]:UP:_default' \\\n'(-a)-b=[c]:P:((x\\:\"y\"\nz))' \\\n'(--a)--b=[c]:P:((x\\:\"y\"\nz))' \\\n'-h[x]' \\"
        );
    }
}
