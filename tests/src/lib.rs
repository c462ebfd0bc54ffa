//! Portcullis.

pub mod program;
