//! The data directory: what outlives a run, readable by its owner only.
//!
//! Every write goes to a new file that is then renamed, so a full disk or a
//! power cut leaves the old state. A key's file is named after its root and
//! is there before the state that refers to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

mod stored;

use crate::ca::BuiltinCa;
use crate::ca::roots::{CaState, Root, Settings};
use crate::core::State;
use crate::entry::{Entries, Entry};
use stored::{Stored, StoredEntry, catalog, root, stored_check, stored_entry, stored_root};

const STATE: &str = "state.json";
const VERSION: u32 = 1;
/// Numbers that leafs and reports used up since the last write are
/// skipped: none is given twice.
const SKIP: u64 = 1 << 20;

/// Why a data directory cannot be used, or a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file operation failed.
    #[error("data directory: {action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something is not as safe as it must be, or not what it should be.
    #[error("data directory: `{path}` {problem}")]
    Unsafe {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, with the remedy.
        problem: String,
    },
}

/// An open data directory. Nobody else can open it meanwhile.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// A state that was read back, with the node that it belongs to.
pub(crate) struct Restored {
    pub(crate) state: State,
    pub(crate) node_id: String,
    pub(crate) datacenter: String,
}

impl DataDir {
    /// Opens a directory, making it when it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(io_error("create", path, source)),
        }
        let about = fs::symlink_metadata(path).map_err(|error| io_error("look at", path, error))?;
        if !about.is_dir() {
            return Err(unsafe_path(
                path,
                "is not a directory (symbolic links are not followed)",
            ));
        }
        owned_and_closed(path, &about)?;
        let lock_path = path.join("lock");
        refuse_symlink(&lock_path)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| io_error("open", &lock_path, error))?;
        if lock.try_lock().is_err() {
            return Err(unsafe_path(path, "is in use by another development agent"));
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The stored state; `None` in a new directory.
    pub(crate) fn load(&self) -> Result<Option<Restored>, DataDirError> {
        let path = self.path.join(STATE);
        let Some(text) = self.read(&path)? else {
            return Ok(None);
        };
        let wrong = |reason: String| unsafe_path(&path, &format!("cannot be read: {reason}"));
        let stored: Stored =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if stored.version != VERSION {
            return Err(wrong(format!(
                "it has version {}, this program writes {VERSION}",
                stored.version
            )));
        }
        let mut entries = Entries::default();
        for StoredEntry {
            kind,
            name,
            fields,
            create_index,
            modify_index,
        } in stored.entries
        {
            entries.restore(Entry {
                kind,
                name,
                fields,
                create_index,
                modify_index,
            });
        }
        entries.index = stored.entries_index;
        let roots: Result<Vec<Root>, String> = stored.roots.into_iter().map(root).collect();
        let roots = roots.map_err(wrong)?;
        let active = roots.iter().find(|root| root.rotated_out.is_none());
        let active = active.ok_or_else(|| wrong("it has no active root".to_owned()))?;
        let key_path = self.key_path(&active.id);
        let key = self.read(&key_path)?;
        let key = key.ok_or_else(|| unsafe_path(&key_path, "is missing: the active root's key"))?;
        let authority = BuiltinCa::restore(&key, active.key_type, active.der.clone());
        let authority = authority.map_err(|error| unsafe_path(&key_path, &error.to_string()))?;
        let settings = Settings {
            leaf_ttl: std::time::Duration::from_secs(stored.leaf_ttl_seconds),
            root_ttl: std::time::Duration::from_secs(stored.root_ttl_seconds),
            key_type: active.key_type,
        };
        let ca = CaState {
            cluster_id: stored.cluster_id,
            authority: std::sync::Arc::new(authority),
            roots,
            roots_index: stored.roots_index,
            next_serial: stored.next_serial.saturating_add(SKIP),
            config: stored.ca_config,
            force_without_cross_signing: stored.force_without_cross_signing,
            config_create_index: stored.ca_config_create_index,
            config_modify_index: stored.ca_config_modify_index,
            settings,
            leafs: std::collections::BTreeMap::new(),
        };
        let index = stored.index.saturating_add(SKIP);
        let state = State {
            index,
            entries,
            catalog: catalog(stored.services, stored.checks, index),
            ca,
            peerings: Default::default(),
        };
        Ok(Some(Restored {
            state,
            node_id: stored.node_id,
            datacenter: stored.datacenter,
        }))
    }

    /// Stores a state, replacing the one before as a whole or not at all.
    pub(crate) fn save(
        &self,
        state: &State,
        node: &crate::catalog::Node,
    ) -> Result<(), DataDirError> {
        let ca = &state.ca;
        if let (Some(active), Some(key)) = (ca.active(), ca.authority.export_key()) {
            let path = self.key_path(&active.id);
            if self.read(&path)?.as_deref() != Some(&key) {
                self.replace(&path, key.as_bytes())?;
            }
        }
        let stored = Stored {
            version: VERSION,
            datacenter: node.datacenter.clone(),
            node_id: node.id.clone(),
            cluster_id: ca.cluster_id.clone(),
            index: state.index,
            next_serial: ca.next_serial,
            entries_index: state.entries.index,
            entries: state.entries.all().map(stored_entry).collect(),
            roots: ca.roots.iter().map(stored_root).collect(),
            roots_index: ca.roots_index,
            ca_config: ca.config.clone(),
            ca_config_create_index: ca.config_create_index,
            ca_config_modify_index: ca.config_modify_index,
            force_without_cross_signing: ca.force_without_cross_signing,
            leaf_ttl_seconds: ca.settings.leaf_ttl.as_secs(),
            root_ttl_seconds: ca.settings.root_ttl.as_secs(),
            services: state.catalog.services.values().cloned().collect(),
            checks: state.catalog.checks.values().map(stored_check).collect(),
        };
        let path = self.path.join(STATE);
        let text = serde_json::to_vec_pretty(&stored)
            .map_err(|error| io_error("encode", &path, io::Error::other(error)))?;
        self.replace(&path, &text)?;
        self.remove_other_keys(ca);
        Ok(())
    }

    fn key_path(&self, root_id: &str) -> PathBuf {
        self.path
            .join(format!("ca-key-{}.pem", root_id.replace(':', "")))
    }

    /// Keys of roots that no longer sign are of no use to anybody.
    fn remove_other_keys(&self, ca: &CaState) {
        let keep = ca.active().map(|root| self.key_path(&root.id));
        let Ok(files) = fs::read_dir(&self.path) else {
            return;
        };
        for file in files.flatten() {
            let name = file.file_name();
            let is_key = name
                .to_str()
                .is_some_and(|name| name.starts_with("ca-key-"));
            if is_key
                && Some(file.path()) != keep
                && let Err(error) = fs::remove_file(file.path())
            {
                tracing::warn!(%error, "cannot remove the key of a replaced root");
            }
        }
    }

    fn read(&self, path: &Path) -> Result<Option<String>, DataDirError> {
        let about = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            about => about.map_err(|error| io_error("look at", path, error))?,
        };
        if !about.is_file() {
            return Err(unsafe_path(
                path,
                "is not a plain file (symbolic links are not followed)",
            ));
        }
        owned_and_closed(path, &about)?;
        fs::read_to_string(path)
            .map(Some)
            .map_err(|error| io_error("read", path, error))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
        let new = self.path.join(format!(".new-{}", uuid::Uuid::new_v4()));
        let written = write_new(&new, bytes)
            .map_err(|error| io_error("write", path, error))
            .and_then(|()| {
                fs::rename(&new, path).map_err(|error| io_error("replace", path, error))
            });
        if written.is_err() {
            // Whether that works or not: the file is of no further use.
            let _gone = fs::remove_file(&new);
            return written;
        }
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| io_error("write", &self.path, error))
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn refuse_symlink(path: &Path) -> Result<(), DataDirError> {
    match fs::symlink_metadata(path) {
        Ok(about) if !about.is_file() => Err(unsafe_path(
            path,
            "is not a plain file (symbolic links are not followed)",
        )),
        _ => Ok(()),
    }
}

/// Refuses what somebody else owns or may look into.
fn owned_and_closed(path: &Path, about: &fs::Metadata) -> Result<(), DataDirError> {
    let ours = fs::metadata("/proc/self").map(|own| own.uid());
    if ours.is_ok_and(|ours| ours != about.uid()) {
        return Err(unsafe_path(path, "belongs to another user"));
    }
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        let remedy = if about.is_dir() { "700" } else { "600" };
        let problem = format!("is open to other users (mode {mode:o}): chmod {remedy} it");
        return Err(unsafe_path(path, &problem));
    }
    Ok(())
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> DataDirError {
    DataDirError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn unsafe_path(path: &Path, problem: &str) -> DataDirError {
    DataDirError::Unsafe {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}
