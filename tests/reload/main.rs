//! What is read again while a proxy runs: component, token, files for TLS.

mod component;
mod policy;
mod token;
mod trust;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Anything that takes longer has hung.
const SOON: Duration = Duration::from_secs(60);

/// The built-in component with a custom section at its end, which says nothing: another
/// file, and the same policy.
fn variant(number: u32) -> Vec<u8> {
    let mut wasm = portcullis::Component::embedded_bytes().to_vec();
    let content = [&[4][..], b"test", &number.to_le_bytes()].concat();
    wasm.push(0);
    wasm.push(u8::try_from(content.len()).expect("it is short"));
    wasm.extend(content);
    wasm
}

/// Puts `content` in the place of the file in one step.
fn replace(file: &Path, content: &[u8]) {
    let beside = file.with_extension("new");
    fs::write(&beside, content).expect("it can be written");
    fs::rename(beside, file).expect("it can be renamed");
}

/// Files as Kubernetes mounts a secret: `name` leads to `..data/name`, and `..data` to a
/// folder that is exchanged whole.
struct Secret {
    folder: PathBuf,
    version: u32,
}

impl Secret {
    fn new(folder: PathBuf, files: &[(&str, String)]) -> Self {
        fs::create_dir(&folder).expect("a folder");
        let mut secret = Self { folder, version: 0 };
        for (name, _) in files {
            let link = Path::new("..data").join(name);
            std::os::unix::fs::symlink(link, secret.path(name)).expect("a link");
        }
        secret.exchange(files);
        secret
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn exchange(&mut self, files: &[(&str, String)]) {
        self.version += 1;
        let version = format!("..{}", self.version);
        fs::create_dir(self.folder.join(&version)).expect("a folder");
        for (name, content) in files {
            fs::write(self.folder.join(&version).join(name), content).expect("a file");
        }
        let link = self.folder.join("..tmp");
        std::os::unix::fs::symlink(version, &link).expect("a link");
        fs::rename(link, self.folder.join("..data")).expect("the link is exchanged");
    }
}
