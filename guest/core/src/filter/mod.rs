//! What a filter in a proxy with several workers needs beside the policy: its settings, the
//! way in which workers share what one of them fetches, and who a connection's peer is.
//!
//! Still no I/O and no clock. The filter lends its store ([`Shelf`]), sends the requests that
//! [`Supply::tick`] gives, and hands back the replies. Times are milliseconds of a clock that
//! does not run backwards and that all workers share; only decisions know the wall clock.

mod head;
mod leader;
mod onward;
mod peer;
mod presented;
mod request;
mod settings;
mod supply;
mod topic;

pub use onward::{Onward, token_ends};
pub use peer::{Peer, PeerError};
pub use presented::presented;
pub use request::{EnvoyRequest, RequestError, forwarded_client, read_reply};
pub use settings::{
    AgentSettings, DefaultPolicySetting, FilterState, KeyServer, Mode, PeerVerification, Settings,
    SettingsError,
};
pub use supply::{Asks, Layer, Reply, Route, Supply, Ticked};

/// A store that all workers see, with the conditional writes of proxy-wasm's shared data.
pub trait Shelf {
    /// The value under a key, and the number of its last write.
    fn read(&self, key: &str) -> Option<(Vec<u8>, u32)>;

    /// Writes a value; with a number only if that is still the one of the last write. Whether
    /// it was written.
    fn write(&self, key: &str, value: &[u8], unless_newer_than: Option<u32>) -> bool;
}

#[cfg(test)]
mod testing {
    //! A shelf for tests.
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::Shelf;

    #[derive(Default)]
    pub(super) struct FakeShelf {
        values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
        writes: Cell<u32>,
    }

    impl FakeShelf {
        pub(super) fn keys(&self) -> Vec<String> {
            self.values.borrow().keys().cloned().collect()
        }

        pub(super) fn key_with(&self, end: &str) -> String {
            let mut keys = self.keys();
            keys.retain(|key| key.ends_with(end));
            assert_eq!(keys.len(), 1, "{keys:?}");
            keys.remove(0)
        }

        pub(super) fn text(&self, key: &str) -> Option<String> {
            let (value, _) = self.read(key)?;
            Some(String::from_utf8(value).unwrap())
        }
    }

    impl Shelf for FakeShelf {
        fn read(&self, key: &str) -> Option<(Vec<u8>, u32)> {
            self.values.borrow().get(key).cloned()
        }

        fn write(&self, key: &str, value: &[u8], unless_newer_than: Option<u32>) -> bool {
            let mut values = self.values.borrow_mut();
            if let Some((_, cas)) = values.get(key)
                && unless_newer_than.is_some_and(|expected| expected != *cas)
            {
                return false;
            }
            self.writes.set(self.writes.get() + 1);
            values.insert(key.to_owned(), (value.to_vec(), self.writes.get()));
            true
        }
    }
}
