//! What is outside of the filter: shared data, what Envoy tells, and what the filter did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What workers share.
#[derive(Clone, Debug, Default)]
pub struct Shelf(pub(super) Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) values: BTreeMap<String, (Vec<u8>, u32)>,
    writes: u32,
}

impl Shelf {
    /// What stands under each key.
    ///
    /// # Panics
    /// When another test panicked while it wrote.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, Vec<u8>> {
        let shared = self.0.lock().expect("unpoisoned");
        let copy = |(key, (value, _)): (&String, &(Vec<u8>, u32))| (key.clone(), value.clone());
        shared.values.iter().map(copy).collect()
    }

    /// Writes, as another plugin with the same `vm_id` could.
    ///
    /// # Panics
    /// When another test panicked while it wrote.
    pub fn write(&self, key: &str, value: &[u8]) {
        let mut shared = self.0.lock().expect("unpoisoned");
        shared.writes += 1;
        let number = shared.writes;
        shared
            .values
            .insert(key.to_owned(), (value.to_vec(), number));
    }
}

/// A request of the filter.
#[derive(Clone, Debug)]
pub struct Call {
    /// The root context that sent it.
    pub root: u32,
    /// What its answer is found by.
    pub token: u32,
    /// Envoy's cluster.
    pub cluster: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Call {
    /// Its target.
    #[must_use]
    pub fn path(&self) -> &str {
        let path = self.headers.iter().find(|(name, _)| name == ":path");
        path.map_or("", |(_, path)| path)
    }
}

/// An answer to a [`Call`]: status, headers and body.
pub type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// Names and values.
pub type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// What the filter did in the last callback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Did {
    /// Status and response code details of a local reply.
    pub replied: Option<(u32, String)>,
    /// Streams that it closed.
    pub closed: Vec<u32>,
    /// Streams that it let go, with the context in effect.
    pub resumed: Vec<(u32, u32)>,
    /// Filter state that it wrote.
    pub state: BTreeMap<String, String>,
}

/// Everything outside of the filter.
#[derive(Debug, Default)]
pub struct World {
    pub(super) shelf: Shelf,
    pub(super) configuration: Vec<u8>,
    /// Nanoseconds of the clock that nobody sets.
    pub monotonic: u64,
    /// Nanoseconds since the epoch.
    pub wall: u64,
    /// Properties, the parts of their paths separated by NUL.
    pub properties: BTreeMap<String, Vec<u8>>,
    /// The request's headers.
    pub headers: Headers,
    pub(super) reply: Option<(Headers, Vec<u8>)>,
    /// Requests that wait for an answer.
    pub calls: Vec<Call>,
    pub(super) tokens: u32,
    pub(super) context: u32,
    /// What was done since it was looked at last.
    pub did: Did,
    /// The log.
    pub log: Vec<String>,
    pub(super) metrics: Vec<(String, i64)>,
    pub(super) entries: u64,
}
