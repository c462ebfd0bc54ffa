//! Whether files have changed: first by what the file system says of them, then by
//! their content.
//!
//! Symbolic links are followed each time, so that a secret which Kubernetes exchanges
//! by its link is another file. Folders are looked at with what is directly in them.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Larger than anything that is read again.
const MAX_FILE: u64 = 64 << 20;

/// What the file system says: cheap to ask, and another one whenever the content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<[i128; 5]>>);

impl Stamp {
    /// What it says of `paths` now. What is missing has a stamp, too.
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let entries = paths.iter().flat_map(|path| with_entries(path));
        Self(
            entries
                .map(|path| fs::metadata(path).ok().as_ref().map(look))
                .collect(),
        )
    }
}

fn look(about: &Metadata) -> [i128; 5] {
    let nanoseconds =
        |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    [
        i128::from(about.dev()),
        i128::from(about.ino()),
        i128::from(about.len()),
        nanoseconds(about.mtime(), about.mtime_nsec()),
        nanoseconds(about.ctime(), about.ctime_nsec()),
    ]
}

/// SHA-256 over names and contents.
///
/// Fails when a file cannot be read.
pub(crate) fn digest(paths: &[PathBuf]) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(bytes);
    };
    for path in paths.iter().flat_map(|path| with_entries(path)) {
        let about = fs::metadata(&path)?;
        if !about.is_file() {
            continue;
        }
        if about.len() > MAX_FILE {
            return Err(io::Error::other(format!(
                "`{}` is larger than 64 MiB",
                path.display()
            )));
        }
        part(path.as_os_str().as_encoded_bytes());
        part(&fs::read(&path)?);
    }
    Ok(hash.finalize().into())
}

/// The path, and what is in it if it is a folder, sorted.
fn with_entries(path: &Path) -> Vec<PathBuf> {
    let mut paths = vec![path.to_owned()];
    if let Ok(entries) = fs::read_dir(path) {
        paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        paths.sort();
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn scratch() -> PathBuf {
        let unique: u64 = rand::random();
        let path = std::env::temp_dir().join(format!("portcullis-files-{unique:x}"));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn every_kind_of_change_is_seen() {
        let folder = scratch();
        let file = folder.join("file");
        let paths = [file.clone()];
        let mut seen = vec![Stamp::of(&paths)];
        let mut changed = |what: &str| {
            let stamp = Stamp::of(&paths);
            assert!(!seen.contains(&stamp), "{what}");
            assert_eq!(stamp, Stamp::of(&paths), "{what}");
            seen.push(stamp);
        };
        fs::write(&file, "one").unwrap();
        changed("made");
        fs::write(folder.join("other"), "two").unwrap();
        fs::rename(folder.join("other"), &file).unwrap();
        changed("replaced by one of the same length");
        fs::remove_file(&file).unwrap();
        // As Kubernetes does: file -> ..data/file, ..data -> ..1, then ..data -> ..2.
        for name in ["..1", "..2"] {
            fs::create_dir(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("file"), "abc").unwrap();
        }
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/file", &file).unwrap();
        changed("a link");
        symlink("..2", folder.join("..tmp")).unwrap();
        fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
        changed("the link leads elsewhere");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_changes_with_its_files() {
        let folder = scratch();
        let paths = [folder.clone()];
        fs::write(folder.join("a"), "1").unwrap();
        let before = (Stamp::of(&paths), digest(&paths).unwrap());
        assert_eq!(before.1, digest(&paths).unwrap());
        fs::write(folder.join("b"), "2").unwrap();
        assert_ne!(before.0, Stamp::of(&paths));
        assert_ne!(before.1, digest(&paths).unwrap());
        fs::remove_dir_all(&folder).unwrap();
        assert!(digest(&paths).is_err());
    }
}
