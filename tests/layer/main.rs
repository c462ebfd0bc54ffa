//! L7 intentions inside applications: the examples as processes, and applications that get
//! it wrong.

#[path = "../http/client.rs"]
#[allow(
    dead_code,
    reason = "the clients of tests/http, of which some are for it alone"
)]
mod client;
mod consul;
mod live;
mod mistakes;
mod page;
mod requests;
mod scene;
mod told;
mod upgrade;
