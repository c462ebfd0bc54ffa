//! Settings, checked.
use crate::bindings::exports::portcullis::mesh::agent as wit;

/// The longest wait for data that a caller may ask for.
const MAX_FETCH_TIMEOUT_MS: u32 = 60_000;

/// The defaults of `wit/agent.wit`.
pub(crate) fn default() -> wit::Settings {
    wit::Settings {
        authority: "127.0.0.1:8500".to_owned(),
        tls: false,
        datacenter: None,
        mode: wit::Mode::Intentions,
        default_policy: wit::DefaultPolicy::Auto,
        envoy_matching: false,
        max_stale: 24 * 60 * 60 * 1000,
        fetch_timeout: 2_000,
    }
}

/// Refuses what cannot work.
pub(crate) fn check(settings: &wit::Settings) -> Result<(), String> {
    let authority = settings.authority.as_str();
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if authority.is_empty() || authority.len() > 255 || !authority.chars().all(plain) {
        return Err("`authority` is not `host:port`".to_owned());
    }
    let port = authority
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) {
        return Err("`authority` has no port".to_owned());
    }
    if let Some(datacenter) = &settings.datacenter
        && (datacenter.is_empty()
            || !datacenter
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
    {
        return Err("`datacenter` is not the name of one".to_owned());
    }
    if settings.fetch_timeout == 0 || settings.fetch_timeout > MAX_FETCH_TIMEOUT_MS {
        return Err(format!(
            "`fetch-timeout` is not between 1 and {MAX_FETCH_TIMEOUT_MS} ms"
        ));
    }
    Ok(())
}
