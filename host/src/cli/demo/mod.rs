//! `portcullis demo` (parts).

pub(crate) mod service;
