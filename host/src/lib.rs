//! Portcullis.
pub mod agent_client;
pub mod clock;
pub mod runtime;
