//! A policy component, compiled and checked.

use std::fmt;
use std::hash::{Hash as _, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component as Compiled;

use super::bindings::PolicyPre;
use super::cache::{self, CacheError, Folder, Key, hex};
use super::compile::{compile, compile_portably, one_line};
use super::engine::{engine, portable_engine};
use super::imports::{self, State};

/// The component that was built with this library.
static EMBEDDED: &[u8] = include_bytes!(env!("PORTCULLIS_POLICY_COMPONENT"));

/// Its SHA-256. Most starts have it compiled in the cache, and never look at its bytes.
const EMBEDDED_SHA256: [u8; 32] = sha256_of(env!("PORTCULLIS_POLICY_SHA256"));

/// What a policy must export.
const DECISIONS: &str = "portcullis:mesh/decisions@0.1.0";

/// Larger than any policy.
const MAX_COMPONENT: u64 = 64 << 20;

/// Where and how a component is compiled.
#[derive(Clone, Debug)]
pub struct ComponentOptions {
    /// Folder for compiled components; `None` compiles every time. The default is
    /// `$PORTCULLIS_CACHE_DIR`, `$XDG_CACHE_HOME/portcullis` or `~/.cache/portcullis`.
    pub cache: Option<PathBuf>,
    /// A program that compiles when it is started with [`super::COMPILE_ARGUMENT`].
    /// By default this process does it itself.
    pub compiler: Option<PathBuf>,
    /// Compile for every processor of this kind, not only for this one, and always into
    /// the cache. What is used finds both forms there.
    pub portable: bool,
    /// Whether a cache that cannot be written to is an error.
    pub must_keep: bool,
}

impl Default for ComponentOptions {
    fn default() -> Self {
        Self {
            cache: cache::default_folder(),
            compiler: None,
            portable: false,
            must_keep: false,
        }
    }
}

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The file cannot be read.
    #[error("cannot read the policy component `{}`: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not WebAssembly.
    #[error("{name} is not a WebAssembly component: {what}")]
    NotAComponent {
        /// Which one.
        name: String,
        /// What it is instead.
        what: &'static str,
    },
    /// It is damaged, or uses what this engine has not.
    #[error("{name} cannot be compiled: {detail}")]
    Compile {
        /// Which one.
        name: String,
        /// What the engine says.
        detail: String,
    },
    /// Its compiled form cannot be kept, though it must be.
    #[error("the compiled form of {name} cannot be kept: {detail}")]
    Keep {
        /// Which one.
        name: String,
        /// Why.
        detail: String,
    },
    /// It implements another version of the WIT package.
    #[error("{name} implements `{found}`, and this host asks for `{DECISIONS}`")]
    Version {
        /// Which one.
        name: String,
        /// What it exports.
        found: String,
    },
    /// It is a component of another kind.
    #[error("{name} is not a policy: {detail}")]
    NotAPolicy {
        /// Which one.
        name: String,
        /// What is missing or different.
        detail: String,
    },
    /// It wants to reach the network.
    #[error(
        "{name} imports `{import}`, which decisions are not given; `mesh-policy` components need a host that lends them HTTP"
    )]
    WantsHttp {
        /// Which one.
        name: String,
        /// The import.
        import: String,
    },
    /// It fails at questions whose answers are known.
    #[error("{name} is not fit to decide: {detail}")]
    Trial {
        /// Which one.
        name: String,
        /// What it answers, and what is right.
        detail: String,
    },
    /// There is no engine on this machine.
    #[error("WebAssembly cannot run here: {0}")]
    Engine(&'static str),
}

/// A policy component: compiled, its exports checked, ready to be instantiated.
/// Clones share it.
#[derive(Clone)]
pub struct Component(Arc<Inner>);

struct Inner {
    name: String,
    sha256: [u8; 32],
    size: usize,
    imports: Vec<String>,
    pre: PolicyPre<State>,
}

impl Component {
    /// The component that this library carries.
    ///
    /// # Errors
    /// When it cannot be compiled or this machine has no engine.
    pub fn embedded(options: &ComponentOptions) -> Result<Self, ComponentError> {
        let name = "the built-in policy component";
        Self::with_digest(name, EMBEDDED, EMBEDDED_SHA256, options)
    }

    /// A component of the user's.
    ///
    /// # Errors
    /// When the file cannot be read, is not a component, or is not a policy of our version.
    pub fn from_file(
        path: impl AsRef<Path>,
        options: &ComponentOptions,
    ) -> Result<Self, ComponentError> {
        let path = path.as_ref();
        let wasm = read(path).map_err(|error| ComponentError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::from_bytes(&format!("`{}`", path.display()), &wasm, options)
    }

    /// A component in memory; `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`Component::from_file`], but for reading.
    pub fn from_bytes(
        name: &str,
        wasm: &[u8],
        options: &ComponentOptions,
    ) -> Result<Self, ComponentError> {
        Self::with_digest(name, wasm, Sha256::digest(wasm).into(), options)
    }

    fn with_digest(
        name: &str,
        wasm: &[u8],
        sha256: [u8; 32],
        options: &ComponentOptions,
    ) -> Result<Self, ComponentError> {
        let engine = engine().map_err(ComponentError::Engine)?;
        let compiled = compiled(engine, name, wasm, sha256, options)?;
        exports_decisions(engine, name, &compiled)?;
        let imports = imports::imports(engine, &compiled);
        if let Some(import) = imports
            .iter()
            .find(|import| import.starts_with("wasi:http/"))
        {
            return Err(ComponentError::WantsHttp {
                name: name.to_owned(),
                import: import.clone(),
            });
        }
        let pre = imports::linker(engine, &compiled)
            .and_then(|linker| linker.instantiate_pre(&compiled))
            .and_then(PolicyPre::new)
            .map_err(|error| ComponentError::NotAPolicy {
                name: name.to_owned(),
                detail: one_line(&error),
            })?;
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            sha256,
            size: wasm.len(),
            imports,
            pre,
        })))
    }

    /// The bytes of the component that this library carries.
    #[must_use]
    pub fn embedded_bytes() -> &'static [u8] {
        EMBEDDED
    }

    /// The SHA-256 of its bytes, in lower-case hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex(&self.0.sha256)
    }

    /// The same as bytes.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.0.sha256
    }

    /// Asks an instance of it questions whose answers are known and the same for every
    /// policy that follows Consul's documents.
    ///
    /// # Errors
    /// When it fails, or answers one of them otherwise; the text says which.
    pub fn try_out(&self, limits: &super::Limits) -> Result<(), ComponentError> {
        super::trial::passes(self, limits).map_err(|failure| ComponentError::Trial {
            name: self.name().to_owned(),
            detail: failure.to_string(),
        })
    }

    /// Whether this file holds it now. A file that cannot be read does not.
    pub(crate) fn is_in(&self, path: &Path) -> bool {
        read(path).is_ok_and(|wasm| <[u8; 32]>::from(Sha256::digest(&wasm)) == self.0.sha256)
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// What it is called in errors: its path, or that it is the built-in one.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it imports, one `interface#function` each, sorted. All but the seed trap.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.0.imports
    }

    pub(super) fn pre(&self) -> &PolicyPre<State> {
        &self.0.pre
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Component({}, sha256 {})",
            self.0.name,
            self.sha256()
        )
    }
}

/// Reads 64 hexadecimal digits when this is compiled.
const fn sha256_of(text: &str) -> [u8; 32] {
    let text = text.as_bytes();
    assert!(text.len() == 64, "a SHA-256 has 64 digits");
    let mut digest = [0; 32];
    let mut at = 0;
    while at < 32 {
        digest[at] = digit(text[2 * at]) << 4 | digit(text[2 * at + 1]);
        at += 1;
    }
    digest
}

const fn digit(text: u8) -> u8 {
    match text {
        b'0'..=b'9' => text - b'0',
        b'a'..=b'f' => text - b'a' + 10,
        _ => panic!("no hexadecimal digit"),
    }
}

pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::other("it is a folder"));
    }
    let mut wasm = Vec::new();
    file.take(MAX_COMPONENT + 1).read_to_end(&mut wasm)?;
    if u64::try_from(wasm.len()).unwrap_or(u64::MAX) > MAX_COMPONENT {
        return Err(std::io::Error::other("it is larger than 64 MiB"));
    }
    Ok(wasm)
}

/// From the cache where possible.
pub(super) fn compiled(
    engine: &Engine,
    name: &str,
    wasm: &[u8],
    sha256: [u8; 32],
    options: &ComponentOptions,
) -> Result<Compiled, ComponentError> {
    is_component(name, wasm)?;
    let not_kept = |error: CacheError| {
        if options.must_keep {
            return Err(ComponentError::Keep {
                name: name.to_owned(),
                detail: error.to_string(),
            });
        }
        tracing::warn!(%error, "the compiled component is not kept");
        Ok(())
    };
    let mut folder = None;
    if let Some(path) = options.cache.as_deref() {
        match Folder::open(path) {
            Ok(opened) => folder = Some(opened),
            Err(error) => not_kept(error)?,
        }
    }
    let ours = key(engine, &sha256);
    let portable = || {
        portable_engine()
            .map(|engine| key(&engine, &sha256))
            .map_err(|detail| ComponentError::Compile {
                name: name.to_owned(),
                detail,
            })
    };
    if let Some(folder) = &folder {
        if !options.portable
            && let Some(compiled) = kept(engine, folder, ours)
        {
            return Ok(compiled);
        }
        if let Some(compiled) = kept(engine, folder, portable()?) {
            return Ok(compiled);
        }
    }
    let (code, key) = if options.portable {
        (compile_portably(wasm), portable()?)
    } else {
        (compile(wasm, options.compiler.as_deref()), ours)
    };
    let code = code.map_err(|detail| ComponentError::Compile {
        name: name.to_owned(),
        detail,
    })?;
    let compiled = load(engine, &code).map_err(|error| ComponentError::Compile {
        name: name.to_owned(),
        detail: one_line(&error),
    })?;
    if let Some(Err(error)) = folder.map(|folder| folder.write(key, &code)) {
        not_kept(error)?;
    }
    Ok(compiled)
}

/// The compiled form under `key`, if there is one that fits.
fn kept(engine: &Engine, folder: &Folder, key: Key) -> Option<Compiled> {
    let code = folder.read(key)?;
    load(engine, &code)
        .inspect_err(|error| {
            tracing::warn!(
                error = one_line(error),
                "a compiled component in the cache does not fit and is compiled anew"
            );
        })
        .ok()
}

#[expect(unsafe_code, reason = "machine code is taken over")]
fn load(engine: &Engine, code: &[u8]) -> wasmtime::Result<Compiled> {
    // SAFETY: `code` was compiled by wasmtime, by us or by our own program a moment ago, or
    // it lay in a folder and a file that only we can write, under a digest that fits. It is
    // in our memory, so nobody can change it now. wasmtime checks version and configuration.
    unsafe { Compiled::deserialize(engine, code) }
}

fn is_component(name: &str, wasm: &[u8]) -> Result<(), ComponentError> {
    let what = match (wasm.get(..4), wasm.get(4..8)) {
        (Some(b"\0asm"), Some([0x0d, 0, 1, 0])) => return Ok(()),
        (Some(b"\0asm"), Some([1, 0, 0, 0])) => "it is a core module; build it for wasm32-wasip2",
        (Some(b"\0asm"), _) => "its version of the format is not known",
        (Some(b"\x7fELF"), _) => "it is machine code; give the .wasm itself",
        (None, _) => "it is empty or cut off",
        _ => "it does not begin like WebAssembly",
    };
    Err(ComponentError::NotAComponent {
        name: name.to_owned(),
        what,
    })
}

/// Looks for the interface by its name, to say what is there instead.
fn exports_decisions(
    engine: &Engine,
    name: &str,
    compiled: &Compiled,
) -> Result<(), ComponentError> {
    let ty = compiled.component_type();
    let exports: Vec<&str> = ty.exports(engine).map(|(export, _)| export).collect();
    if exports.contains(&DECISIONS) {
        return Ok(());
    }
    let ours = |export: &&&str| export.starts_with("portcullis:mesh/decisions@");
    if let Some(found) = exports.iter().find(ours) {
        return Err(ComponentError::Version {
            name: name.to_owned(),
            found: (*found).to_owned(),
        });
    }
    let detail = match exports.as_slice() {
        [] => format!("it exports nothing, `{DECISIONS}` is asked for"),
        [first, ..] => format!("it exports `{first}`, not `{DECISIONS}`"),
    };
    Err(ComponentError::NotAPolicy {
        name: name.to_owned(),
        detail,
    })
}

/// Content and everything that the compiled form depends on: version of the engine,
/// its configuration, the processor and its features.
fn key(engine: &Engine, sha256: &[u8; 32]) -> Key {
    struct Digest(Sha256);
    impl Hasher for Digest {
        fn write(&mut self, bytes: &[u8]) {
            self.0
                .update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut digest = Digest(Sha256::new());
    digest.write(sha256);
    engine.precompile_compatibility_hash().hash(&mut digest);
    Key(digest.0.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_found_when_this_was_built_is_that_of_the_bytes() {
        assert_eq!(EMBEDDED_SHA256, <[u8; 32]>::from(Sha256::digest(EMBEDDED)));
    }
}
