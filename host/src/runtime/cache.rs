//! Compiled components on disk.
//!
//! What lies here is machine code that will run in this process, so the folder
//! must be ours alone: owned by us or by root, closed to writing by others, no symbolic link.
//! A file is read through the descriptor that was checked, its digest is compared,
//! and only the bytes in memory are used: swapping the file later changes nothing.
//! Anything that is not in order is left alone and the component compiled anew.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, openat, renameat, statat, unlinkat};
use sha2::{Digest as _, Sha256};

/// First line of every file; changes with the layout.
const MAGIC: &[u8; 16] = b"portcullis-aot 1";
/// Magic, key, digest.
const HEADER: usize = 16 + 32 + 32;
/// Larger than any component that we would compile.
const MAX_FILE: u64 = 512 << 20;

/// The user who may do everything.
const ROOT: u32 = 0;

/// So many files are kept; the oldest go first.
const KEPT: usize = 16;

/// Identifies one compiled form of one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) [u8; 32]);

/// Why the cache is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    /// There is no such folder, and it cannot be made; or reading and writing failed.
    #[error("{what} `{path}`: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: std::io::Error,
    },
    /// Somebody else could put files into the folder.
    #[error("`{path}` {why}")]
    Unsafe { path: PathBuf, why: &'static str },
}

/// A folder that has been checked. Files are reached through its descriptor only.
pub(super) struct Folder {
    path: PathBuf,
    descriptor: OwnedFd,
}

/// `$PORTCULLIS_CACHE_DIR`, `$XDG_CACHE_HOME/portcullis` or `~/.cache/portcullis`.
pub(super) fn default_folder() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    set("PORTCULLIS_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("portcullis")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/portcullis")))
}

impl Folder {
    /// Opens the folder, and makes it where it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, CacheError> {
        let io = |what, error| CacheError::Io {
            what,
            path: path.to_owned(),
            error,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| io("cannot make the cache folder", error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
            io(
                "cannot open the cache folder (a symbolic link is not followed)",
                error.into(),
            )
        })?;
        let stat = fstat(&descriptor)
            .map_err(|error| io("cannot look at the cache folder", error.into()))?;
        private(stat.st_uid, stat.st_mode).map_err(|why| CacheError::Unsafe {
            path: path.to_owned(),
            why,
        })?;
        Ok(Self {
            path: path.to_owned(),
            descriptor,
        })
    }

    /// The compiled form with this key; `None` if there is none that is in order.
    pub(super) fn read(&self, key: Key) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.descriptor, name(key), flags, Mode::empty()).ok()?);
        let stat = fstat(&file).ok()?;
        if !file.metadata().ok()?.is_file() || private(stat.st_uid, stat.st_mode).is_err() {
            tracing::warn!(folder = %self.path.display(), "a compiled component in the cache is not ours alone and is ignored");
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        let (header, body) = bytes.split_at_checked(HEADER)?;
        if header != header_for(key, body) {
            tracing::warn!(folder = %self.path.display(), "a compiled component in the cache is damaged and is compiled anew");
            return None;
        }
        bytes.drain(..HEADER);
        Some(bytes)
    }

    /// Keeps a compiled form. Readers see the whole file or none.
    pub(super) fn write(&self, key: Key, body: &[u8]) -> Result<(), CacheError> {
        let unique: [u8; 8] = rand::random();
        let temporary = format!(".{}.{}", name(key), hex(&unique));
        let written = self.write_as(&temporary, key, body).and_then(|()| {
            renameat(&self.descriptor, &temporary, &self.descriptor, name(key)).map_err(Into::into)
        });
        self.forget_old(key);
        written.map_err(|error| {
            // It may not even exist; the next attempt has another name anyway.
            let _ = unlinkat(&self.descriptor, &temporary, AtFlags::empty());
            CacheError::Io {
                what: "cannot keep the compiled component in",
                path: self.path.clone(),
                error,
            }
        })
    }

    /// Removes all but the newest [`KEPT`] of our files. What fails stays for the next time.
    fn forget_old(&self, written: Key) {
        let Ok(entries) = Dir::read_from(&self.descriptor) else {
            return;
        };
        let mut ours: Vec<_> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_owned())
            .filter(|file| file.to_bytes() != name(written).as_bytes())
            .filter(|file| file.to_string_lossy().contains(".cwasm"))
            .filter_map(|file| {
                let stat =
                    statat(&self.descriptor, file.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
                Some(((stat.st_mtime, stat.st_mtime_nsec), file))
            })
            .collect();
        ours.sort();
        let old = (ours.len() + 1).saturating_sub(KEPT);
        for (_, file) in ours.into_iter().take(old) {
            let _ = unlinkat(&self.descriptor, file.as_c_str(), AtFlags::empty());
        }
    }

    fn write_as(&self, name: &str, key: Key, body: &[u8]) -> std::io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(
            &self.descriptor,
            name,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        file.write_all(&header_for(key, body))?;
        file.write_all(body)?;
        file.sync_all()
    }
}

/// Ours or root's, who could exchange the program itself, and nobody else can write to it.
fn private(owner: u32, mode: u32) -> Result<(), &'static str> {
    if owner != rustix::process::geteuid().as_raw() && owner != ROOT {
        return Err("belongs to another user");
    }
    if mode & 0o022 != 0 {
        return Err("can be written by others; `chmod go-w` it");
    }
    Ok(())
}

fn header_for(key: Key, body: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..48].copy_from_slice(&key.0);
    header[48..].copy_from_slice(&Sha256::digest(body));
    header
}

fn name(key: Key) -> String {
    format!("{}.cwasm", hex(&key.0))
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const KEY: Key = Key([7; 32]);

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let unique: [u8; 8] = rand::random();
            let path = std::env::temp_dir().join(format!("portcullis-cache-{}", hex(&unique)));
            Self(path)
        }
        fn file(&self) -> PathBuf {
            self.0.join(name(KEY))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_kept_comes_back_under_its_key_only() {
        let scratch = Scratch::new();
        let folder = Folder::open(&scratch.0).unwrap();
        assert_eq!(folder.read(KEY), None);
        folder.write(KEY, b"code").unwrap();
        assert_eq!(folder.read(KEY).as_deref(), Some(&b"code"[..]));
        assert_eq!(folder.read(Key([8; 32])), None);
        assert_eq!(
            fs::metadata(&scratch.0).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(
            fs::metadata(scratch.file()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::read_dir(&scratch.0).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn old_files_are_forgotten_and_others_left_alone() {
        let scratch = Scratch::new();
        let folder = Folder::open(&scratch.0).unwrap();
        fs::write(scratch.0.join("mine.txt"), "x").unwrap();
        for number in 0..30 {
            folder.write(Key([number; 32]), b"code").unwrap();
        }
        let kept = (0..30)
            .filter(|number| folder.read(Key([*number; 32])).is_some())
            .count();
        assert_eq!(kept, KEPT);
        assert!(folder.read(Key([29; 32])).is_some(), "the newest stays");
        assert!(scratch.0.join("mine.txt").exists());
    }

    #[test]
    fn a_file_of_another_key_is_not_taken() {
        let scratch = Scratch::new();
        let folder = Folder::open(&scratch.0).unwrap();
        folder.write(Key([8; 32]), b"code").unwrap();
        fs::rename(scratch.0.join(name(Key([8; 32]))), scratch.file()).unwrap();
        assert_eq!(folder.read(KEY), None);
    }

    #[test]
    fn damage_anywhere_is_seen() {
        let scratch = Scratch::new();
        let folder = Folder::open(&scratch.0).unwrap();
        folder.write(KEY, b"code").unwrap();
        let good = fs::read(scratch.file()).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            fs::write(scratch.file(), &bad).unwrap();
            assert_eq!(folder.read(KEY), None, "byte {place}");
        }
        for length in 0..good.len() {
            fs::write(scratch.file(), &good[..length]).unwrap();
            assert_eq!(folder.read(KEY), None, "length {length}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_not_taken() {
        let scratch = Scratch::new();
        let folder = Folder::open(&scratch.0).unwrap();
        folder.write(KEY, b"code").unwrap();
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(scratch.file(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(folder.read(KEY), None, "{mode:o}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let (scratch, other) = (Scratch::new(), Scratch::new());
        let folder = Folder::open(&scratch.0).unwrap();
        Folder::open(&other.0).unwrap().write(KEY, b"code").unwrap();
        symlink(other.file(), scratch.file()).unwrap();
        assert_eq!(folder.read(KEY), None);
        let link = Scratch::new();
        symlink(&other.0, &link.0).unwrap();
        let refused = Folder::open(&link.0);
        fs::remove_file(&link.0).unwrap();
        assert!(matches!(refused, Err(CacheError::Io { .. })));
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_used() {
        let scratch = Scratch::new();
        Folder::open(&scratch.0).unwrap();
        for mode in [0o770, 0o707, 0o777, 0o1777] {
            fs::set_permissions(&scratch.0, fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(Folder::open(&scratch.0), Err(CacheError::Unsafe { .. })),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn foreign_owners_are_not_trusted() {
        let us = rustix::process::geteuid().as_raw();
        assert!(private(us, 0o700).is_ok());
        assert!(private(ROOT, 0o755).is_ok(), "a cache in an image");
        assert!(private(ROOT, 0o775).is_err());
        assert!(private(us.wrapping_add(1), 0o700).is_err());
    }

    #[test]
    fn a_folder_swapped_after_the_check_changes_nothing() {
        let (scratch, other) = (Scratch::new(), Scratch::new());
        let folder = Folder::open(&scratch.0).unwrap();
        folder.write(KEY, b"ours").unwrap();
        Folder::open(&other.0)
            .unwrap()
            .write(KEY, b"theirs")
            .unwrap();
        let aside = Scratch::new();
        fs::rename(&scratch.0, &aside.0).unwrap();
        fs::rename(&other.0, &scratch.0).unwrap();
        assert_eq!(folder.read(KEY).as_deref(), Some(&b"ours"[..]));
    }

    #[test]
    fn a_pipe_in_place_of_the_file_does_not_hang() {
        let scratch = Scratch::new();
        let folder = Folder::open(&scratch.0).unwrap();
        rustix::fs::mkfifoat(&folder.descriptor, name(KEY), Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(folder.read(KEY), None);
    }
}
