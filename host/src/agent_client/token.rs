//! The ACL token: kept out of every message, read again when its file changes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use http::HeaderValue;

use super::ConfigError;

/// A secret text. `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<redacted>")
    }
}

/// Where the ACL token comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// No token: the agent's default or the anonymous one.
    #[default]
    None,
    /// A given value.
    Value(Secret),
    /// A file; its content without surrounding white space. Read again when it
    /// changes and after each refusal.
    File(PathBuf),
}

/// The token as a header, current.
pub(super) struct TokenHeader {
    source: TokenSource,
    cached: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    header: Option<HeaderValue>,
    changed: Option<SystemTime>,
    /// The header when [`TokenHeader::reread`] last said whether it is another one.
    told: Option<HeaderValue>,
}

impl Cached {
    fn take(&mut self, fresh: Self) {
        (self.header, self.changed) = (fresh.header, fresh.changed);
    }
}

impl TokenHeader {
    /// Reads the token for the first time.
    pub(super) fn new(source: TokenSource) -> Result<Self, ConfigError> {
        let cached = match &source {
            TokenSource::None => Cached::default(),
            TokenSource::Value(secret) => Cached {
                header: header(secret.expose(), "the token")?,
                ..Cached::default()
            },
            TokenSource::File(path) => {
                let read = read(path)?;
                Cached {
                    told: read.header.clone(),
                    ..read
                }
            }
        };
        Ok(Self {
            source,
            cached: Mutex::new(cached),
        })
    }

    /// The header to send, if there is a token. A file that cannot be read any
    /// more leaves the last one in use.
    pub(super) fn current(&self) -> Option<HeaderValue> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let TokenSource::File(path) = &self.source
            && (cached.changed.is_none() || modified(path) != cached.changed)
        {
            refresh(path, &mut cached);
        }
        cached.header.clone()
    }

    /// Reads the file again, whatever its time says. Tells whether the token is another
    /// one than when this was asked last.
    ///
    /// Fails when the file cannot be read or used; the last token stays in use.
    pub(super) fn reread(&self) -> Result<bool, ConfigError> {
        let TokenSource::File(path) = &self.source else {
            return Ok(false);
        };
        let fresh = read(path)?;
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.take(fresh);
        let changed = cached.told != cached.header;
        cached.told = cached.header.clone();
        Ok(changed)
    }

    /// The agent refused what came with `sent`. Tells whether there is another token by
    /// now, with which to ask again.
    pub(super) fn refused(&self, sent: Option<&HeaderValue>) -> bool {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let TokenSource::File(path) = &self.source {
            refresh(path, &mut cached);
        }
        cached.header.as_ref() != sent
    }

    /// The file, where there is one.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.source {
            TokenSource::File(path) => Some(path),
            _ => None,
        }
    }

    /// Whether requests carry a token, in words.
    pub(super) fn describe(&self) -> String {
        let present = self
            .cached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .header
            .is_some();
        match &self.source {
            TokenSource::File(path) if present => format!("the token of `{}`", path.display()),
            TokenSource::File(path) => format!("no token (`{}` is empty)", path.display()),
            _ if present => "the given token".to_owned(),
            _ => "no token".to_owned(),
        }
    }
}

fn refresh(path: &Path, cached: &mut Cached) {
    match read(path) {
        Ok(read) => cached.take(read),
        Err(error) => {
            // Said once per change: the time of the last good read is not kept.
            cached.changed = modified(path);
            tracing::warn!(%error, "the last token stays in use");
        }
    }
}

fn read(path: &Path) -> Result<Cached, ConfigError> {
    let changed = modified(path);
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
        what: "token file",
        path: path.to_owned(),
        source,
    })?;
    let header = header(text.trim(), "the content of the token file")?;
    Ok(Cached {
        header,
        changed,
        told: None,
    })
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|about| about.modified())
        .ok()
}

/// An empty token is none, as for Consul's own client.
fn header(text: &str, what: &'static str) -> Result<Option<HeaderValue>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| ConfigError::Token { what })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

impl fmt::Debug for TokenHeader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let source = TokenSource::Value(Secret::new("canary-1"));
        let header = TokenHeader::new(source.clone()).unwrap();
        assert!(!format!("{source:?} {header:?} {:?}", header.current()).contains("canary-1"));
        assert_eq!(header.current().unwrap(), "canary-1");
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_lost_one_is_not_fatal() {
        let path = std::env::temp_dir().join(format!("portcullis-token-{}", std::process::id()));
        std::fs::write(&path, " one \n").unwrap();
        let header = TokenHeader::new(TokenSource::File(path.clone())).unwrap();
        assert_eq!(header.current().unwrap(), "one");
        let sent = header.current();
        assert!(!header.refused(sent.as_ref()), "there is no other");
        std::fs::write(&path, "two").unwrap();
        assert!(header.refused(sent.as_ref()));
        assert_eq!(header.current().unwrap(), "two");
        std::fs::write(&path, "three").unwrap();
        assert!(header.reread().unwrap());
        assert!(!header.reread().unwrap());
        std::fs::write(&path, "a\nb").unwrap();
        assert!(header.reread().is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(header.reread().is_err());
        assert!(!header.refused(header.current().as_ref()));
        assert_eq!(header.current().unwrap(), "three");
    }

    #[test]
    fn what_no_header_can_carry_is_refused() {
        assert!(TokenHeader::new(TokenSource::Value(Secret::new("a\nb"))).is_err());
        assert!(TokenHeader::new(TokenSource::File("/nonexistent/token".into())).is_err());
        assert!(
            TokenHeader::new(TokenSource::Value(Secret::new("")))
                .unwrap()
                .current()
                .is_none()
        );
    }
}
