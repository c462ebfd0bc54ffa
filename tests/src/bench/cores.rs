//! Who runs on which core: proxies on the first, load and applications on the second.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The core of the proxies that are measured, and the core of everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// For proxies.
    pub proxy: usize,
    /// For load, applications and agents.
    pub load: usize,
}

impl Cores {
    /// The first two cores that this process may use; the same one twice where there is no other.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn of_this_machine() -> Result<Self> {
        let status =
            fs::read_to_string("/proc/self/status").context("cannot read `/proc/self/status`")?;
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .context("the system does not say which cores there are")?;
        Self::first_two(list.trim())
            .with_context(|| format!("`{}` is no list of cores", list.trim()))
    }

    /// From a list such as `0-1,4`.
    fn first_two(list: &str) -> Option<Self> {
        let mut cores = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            cores.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
        }
        let proxy = *cores.first()?;
        Some(Self {
            proxy,
            load: cores.get(1).copied().unwrap_or(proxy),
        })
    }

    /// Whether the two are different.
    #[must_use]
    pub fn apart(self) -> bool {
        self.proxy != self.load
    }

    /// Pins this thread, and whatever it starts from now on, to the core of the load.
    ///
    /// # Errors
    /// When `taskset` is missing or refused.
    pub fn enter_load(self) -> Result<()> {
        let thread = fs::read_link("/proc/thread-self").context("cannot read `/proc`")?;
        let Some(thread) = thread.file_name() else {
            bail!("`/proc/thread-self` leads nowhere");
        };
        let output = Command::new("taskset")
            .args(["-cp", &self.load.to_string()])
            .arg(thread)
            .output()
            .context("`taskset` does not run: it is part of util-linux")?;
        ensure!(
            output.status.success(),
            "taskset: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// The same command on the core of the proxies; it ends with the thread that starts it,
    /// even where that is killed. Its process ID is the program's own.
    #[must_use]
    pub fn on_proxy(self, command: &Command) -> Command {
        let mut pinned = Command::new("taskset");
        pinned
            .args(["-c", &self.proxy.to_string()])
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => pinned.env(name, value),
                None => pinned.env_remove(name),
            };
        }
        pinned
    }
}

#[cfg(test)]
mod tests {
    use super::Cores;

    #[test]
    fn lists_of_cores_are_read() {
        let cores = |list| Cores::first_two(list).map(|cores| (cores.proxy, cores.load));
        assert_eq!(cores("0-1"), Some((0, 1)));
        assert_eq!(cores("3"), Some((3, 3)));
        assert_eq!(cores("2,5-7"), Some((2, 5)));
        assert_eq!(cores("none"), None);
    }
}
