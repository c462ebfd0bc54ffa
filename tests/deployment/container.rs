//! The proxy as a container runs it: a user without name or home, nothing to write to.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use portcullis_tests::program::{self, run};
use portcullis_tests::proxy::Proxy;
use tempfile::TempDir;

use crate::Agent;

/// The user of distroless images.
const NONROOT: u32 = 65_532;

/// A folder that holds nothing but the command and a cache, as an image does.
struct Image {
    folder: TempDir,
    root: bool,
}

impl Image {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        };
        open(folder.path());
        let program = folder.path().join("portcullis");
        // By another process: if we had it open for writing, a test beside us could hand it on to
        // its child, and nobody could run it meanwhile.
        let copied = Command::new("cp")
            .arg(program::path())
            .arg(&program)
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "a copy");
        open(&program);
        fs::create_dir(folder.path().join("cache")).expect("a folder");
        open(&folder.path().join("cache"));
        // Only root may become somebody else; whoever is not root is nobody in particular already.
        let root = fs::metadata("/proc/self").is_ok_and(|about| {
            use std::os::unix::fs::MetadataExt as _;
            about.uid() == 0
        });
        Self { folder, root }
    }

    /// The command in the image, in an empty environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("portcullis"));
        command.args(arguments).env_clear().current_dir("/proc");
        command.env("PORTCULLIS_CACHE_DIR", self.folder.path().join("cache"));
        command
    }

    /// The same as the user of the container, whoever that is.
    fn as_nonroot(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        if self.root {
            command.uid(NONROOT).gid(NONROOT);
        }
        command
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("cache")).expect("a folder");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut files: Vec<_> = entries.filter_map(Result::ok).map(name).collect();
        files.sort();
        files
    }
}

#[test]
fn a_component_compiled_into_the_image_is_used_by_every_user() {
    let image = Image::new();
    let compiled = run(&mut image.command(&["component", "compile", "-portable"]));
    assert_eq!(compiled.code, Some(0), "{}", compiled.err);
    assert!(
        compiled.out.contains("answers as it should"),
        "{}",
        compiled.out
    );
    let files = image.files();
    assert_eq!(files.len(), 1, "{files:?}");
    // As the recipe does: readable for all.
    let file = image.folder.path().join("cache").join(&files[0]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("it is ours");

    let version = |verbose: &str| run(&mut image.as_nonroot(&["version", verbose]));
    let said = version("-log-level=debug");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        !said.err.contains("compiled"),
        "it was compiled again: {}",
        said.err
    );
    assert_eq!(image.files(), files, "and nothing was written");

    // One that belongs to somebody else is not trusted.
    if image.root {
        chown(&file, Some(1), Some(1)).expect("root may");
        let said = version("-log-level=debug");
        assert!(said.err.contains("not ours alone"), "{}", said.err);
        assert_eq!(said.code, Some(0), "it is compiled in memory: {}", said.err);
    }
}

#[test]
fn without_home_cache_or_a_place_to_write_it_starts_and_stops() {
    let (agent, image) = (Agent::start(), Image::new());
    let address = agent.address().to_string();
    let mut command = image.as_nonroot(&["proxy", "-service=web", "-upstream=db:0"]);
    command
        .env_remove("PORTCULLIS_CACHE_DIR")
        .env("CONSUL_HTTP_ADDR", &address)
        .stdin(Stdio::null());
    let mut proxy = Proxy::spawn(command);
    proxy.logs("ready: connections are taken");
    assert_eq!(proxy.stop(), Some(0), "{}", proxy.log());
    agent.stop();
}

#[test]
fn a_cache_that_cannot_be_written_is_an_error_for_who_fills_it() {
    let image = Image::new();
    let nowhere = "-cache-dir=/proc/portcullis";
    let said = run(&mut image.as_nonroot(&["component", "compile", nowhere]));
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("cannot be kept"), "{}", said.err);
    let said = run(image
        .as_nonroot(&["component", "compile"])
        .env_remove("PORTCULLIS_CACHE_DIR"));
    assert!(
        said.code == Some(2) && said.err.contains("-cache-dir"),
        "{}",
        said.err
    );
    let file = image.folder.path().join("bad.wasm");
    fs::write(&file, "nothing").expect("a file");
    let file = file.display().to_string();
    let said = run(&mut image.as_nonroot(&["component", "compile", &file]));
    assert!(
        said.code == Some(1) && said.err.contains("bad.wasm"),
        "{}",
        said.err
    );
}
