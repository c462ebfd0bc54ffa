//! Disks that are full or cannot be written: the cache, the agent's folder, the log.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use portcullis_tests::api::Api;
use portcullis_tests::load::Load;
use portcullis_tests::pair::Pair;
use portcullis_tests::peers;
use portcullis_tests::process::eventually;

use crate::scene::{Dev, Embedded, SOON, counted, deny};

/// `command` in a mount namespace of its own, after `mount` was run there by a shell.
/// The mounts end with the process.
pub(crate) fn mounted(mount: &str, command: &Command) -> Command {
    let mut unshare = Command::new("unshare");
    let own = own_user();
    unshare.args(if own == 0 {
        &["--mount"][..]
    } else {
        &["--user", "--map-root-user", "--mount"]
    });
    unshare
        .args(["sh", "-c", &format!("{mount} && exec \"$0\" \"$@\"")])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => unshare.env(name, value),
            None => unshare.env_remove(name),
        };
    }
    unshare
}

/// Whether this machine lets us mount; where it does not, the test says so and is counted
/// as skipped.
pub(crate) fn can_mount(test: &str) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let mount = format!(
        "mount -t tmpfs -o size=4k tmpfs {}",
        folder.path().display()
    );
    let works = mounted(&mount, &Command::new("true"))
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        peers::skipped(
            test,
            "the right to mount a tmpfs (root, or user namespaces)",
        );
    }
    works
}

fn own_user() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").map_or(u32::MAX, |own| own.uid())
}

/// Starts two proxies whose cache folder `cache` is mounted so, and asks them under load.
fn with_cache(name: &str, options: &str, expected: &str) {
    let embedded = Embedded::start();
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    fs::create_dir(&cache).expect("a folder");
    let mount = format!(
        "mount -t tmpfs -o mode=0700,{options} tmpfs {}",
        cache.display()
    );
    let pair = Pair::prepared(embedded.address(), |command| {
        command.env("PORTCULLIS_CACHE_DIR", &cache);
        let program = mounted(&mount, command);
        *command = program;
    });
    let load = Load::start(pair.door);
    pair.passes(&load);
    let counts = load.next(100);
    counted(name, &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    pair.db.logs(expected);
    pair.web.logs(expected);
}

#[test]
fn a_full_disk_for_the_cache_costs_the_compilation_at_each_start() {
    if can_mount("a_full_disk_for_the_cache") {
        with_cache(
            "cache on a full disk",
            "size=64k",
            "cannot keep the compiled component",
        );
    }
}

#[test]
fn a_read_only_disk_for_the_cache_costs_the_compilation_at_each_start() {
    if can_mount("a_read_only_disk_for_the_cache") {
        with_cache(
            "cache on a read-only disk",
            "ro",
            "cannot keep the compiled component",
        );
    }
}

/// The agent's folder as the agent sees it.
fn inside(dev: &Dev, path: &Path) -> std::path::PathBuf {
    Path::new("/proc")
        .join(dev.id().to_string())
        .join("root")
        .join(path.strip_prefix("/").unwrap_or(path))
}

#[test]
fn a_development_agent_whose_disk_is_full_says_so_and_changes_nothing() {
    if !can_mount("a_development_agent_whose_disk_is_full") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mount = format!(
        "mount -t tmpfs -o size=256k,mode=0700 tmpfs {}",
        folder.path().display()
    );
    let data = folder.path().join("data");
    let dev = Dev::by(|command| mounted(&mount, &command), &data);
    let pair = Pair::start(dev.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    // Fill it to the last byte.
    let filler = inside(&dev, &folder.path().join("filler"));
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    let refused = eventually("the disk is full", SOON, || {
        let reply = try_deny(&dev.api());
        (reply.0 == 500).then_some(reply.1)
    });
    assert!(
        refused.contains("the change was not made") && refused.contains("No space left"),
        "{refused}"
    );
    let counts = load.next(200);
    counted("development agent's disk full", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    // With room, what was refused can be said again.
    fs::remove_file(&filler).expect("the filler goes");
    deny(&dev.api());
    pair.refuses(&load);
    assert_eq!(load.next(50).passed, 0);
}

#[test]
fn a_development_agent_whose_disk_turns_read_only_says_so_and_changes_nothing() {
    if !can_mount("a_development_agent_whose_disk_turns_read_only") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mount = format!(
        "mount -t tmpfs -o mode=0700 tmpfs {}",
        folder.path().display()
    );
    let data = folder.path().join("data");
    let dev = Dev::by(|command| mounted(&mount, &command), &data);
    let pair = Pair::start(dev.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    // The agent holds its lock open, so the disk itself stays as it is; what is mounted over
    // its folder is what it writes to by name.
    let in_its_namespace = |command: &[&str]| {
        let status = Command::new("nsenter")
            .arg(format!("--target={}", dev.id()))
            .args(if own_user() == 0 {
                &["--mount"][..]
            } else {
                &["--user", "--preserve-credentials", "--mount"]
            })
            .args(command)
            .arg(&data)
            .status()
            .expect("nsenter runs");
        assert!(status.success(), "{command:?}");
    };
    in_its_namespace(&["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs"]);
    let (status, text) = try_deny(&dev.api());
    assert!(
        status == 500 && text.contains("the change was not made") && text.contains("Read-only"),
        "{status} {text}"
    );
    let counts = load.next(200);
    counted("development agent's disk read-only", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    in_its_namespace(&["umount"]);
    deny(&dev.api());
    pair.refuses(&load);
    assert_eq!(load.next(50).passed, 0);
}

/// Tries to deny `web`; the status and text of the answer.
fn try_deny(api: &Api) -> (u16, String) {
    let path = "/v1/connect/intentions/exact?source=web&destination=db";
    let body = serde_json::json!({ "Action": "deny" }).to_string();
    let reply = api
        .send("PUT", path, Some(&body))
        .expect("the agent answers");
    (reply.status, reply.body)
}

#[test]
fn a_log_on_a_full_disk_costs_no_connection() {
    let embedded = Embedded::start();
    let pair = Pair::prepared(embedded.address(), |command| {
        // Whatever is written there fails as on a full disk.
        let program = redirected("exec \"$0\" \"$@\" >/dev/full 2>&1", command);
        *command = program;
    });
    let load = Load::start(pair.door);
    pair.passes(&load);
    let counts = load.next(300);
    counted("log on a full disk", &counts);
    assert_eq!(counts.failed(), 0, "{counts}");
    assert_eq!(pair.db.log(), "");
    embedded.agent().deny("web", "db").expect("a change");
    pair.refuses(&load);
    assert_eq!(load.next(50).passed, 0);
}

#[test]
fn a_log_that_nobody_reads_costs_no_connection() {
    let embedded = Embedded::start();
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("log");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()));
    // Open for reading, so that writing begins, and never read: 64 KiB are full soon.
    let reader = fs::File::options().read(true).write(true).open(&pipe);
    let pair = Pair::prepared(embedded.address(), |command| {
        let program = redirected("exec \"$0\" \"$@\" 2>\"$PIPE\"", command);
        *command = program;
        command.env("PIPE", &pipe);
    });
    let load = Load::start(pair.door);
    pair.passes(&load);
    let counts = load.next(1500);
    counted("log into a pipe that nobody reads", &counts);
    assert_eq!(counts.failed(), 0, "{counts}");
    drop(reader);
}

/// `command` by a shell that redirects its output.
fn redirected(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}
