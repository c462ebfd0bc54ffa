//! A proxy that is configured by its registration, and listeners that come and go.

mod change;
mod consul;
mod dev;
mod files;
