//! Admin, metrics and health of `portcullis proxy` as a process of its own.

mod admin;
mod dashboard;
mod exposition;
mod health;
mod metrics;
mod operated;
