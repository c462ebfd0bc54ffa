//! Sockets that systemd bound for us: `inbound` takes the place of -listen, and
//! `upstream-NAME` that of the listener of `-upstream NAME:…`.

use portcullis::proxy::{ListenAddress, inherit_tcp, inherit_unix};

use super::arguments::ProxyArgs;
use super::upstream::Upstream;
use crate::cli::failure::Failure;

/// The name of the inbound socket.
const INBOUND: &str = "inbound";

/// How the names of upstreams' sockets begin.
const UPSTREAM: &str = "upstream-";

/// Takes over the sockets that this process was started with, and lets `arguments` use them.
///
/// A proxy that is configured by its registration uses those that have the right address.
///
/// Fails when a socket cannot be used, or has a name that says nothing to us.
pub(crate) fn adopt(arguments: &mut ProxyArgs) -> Result<(), Failure> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut given = listenfd::ListenFd::from_env();
    let mut names = names.split(':');
    for index in 0..given.len() {
        let name = names.next().unwrap_or_default();
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::runtime(format_args!(
                "the socket `{}` that this process was started with cannot be used: {error}",
                name.escape_debug()
            ))
        };
        // Which of the two it is, its own family says.
        let address = match given.take_unix_listener(index) {
            Ok(Some(listener)) => inherit_unix(listener),
            _ => match given.take_tcp_listener(index) {
                Ok(Some(listener)) => inherit_tcp(listener),
                Ok(None) => continue,
                Err(error) => Err(error),
            },
        }
        .map_err(|error| wrong(&error))?;
        tracing::info!(name, listen = %address, "socket from the service manager");
        if !arguments.is_by_registration() {
            use_for(arguments, name, address).map_err(|error| wrong(&error))?;
        }
    }
    Ok(())
}

/// Puts the address where the name says.
fn use_for(arguments: &mut ProxyArgs, name: &str, address: ListenAddress) -> Result<(), String> {
    if name == INBOUND {
        arguments.listen = Some(address.to_string());
        return Ok(());
    }
    let Some(service) = name.strip_prefix(UPSTREAM).filter(|name| !name.is_empty()) else {
        return Err(
            "its name is neither `inbound` nor `upstream-` with a service; set FileDescriptorName= in the .socket unit".to_owned(),
        );
    };
    let known = arguments
        .upstream
        .iter_mut()
        .find(|upstream| upstream.service.as_str() == service);
    match known {
        Some(upstream) => upstream.listen = address,
        None => arguments.upstream.push(Upstream::at(service, address)?),
    }
    Ok(())
}
