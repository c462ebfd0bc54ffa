//! What failures below HTTP, or of HTTP itself, mean.

use super::address::AgentAddress;
use super::config::AgentConfig;
use super::connect::ConnectError;
use super::error::AgentError;
use crate::escape::visible;

/// How much of another library's words is repeated.
const MAX_DETAIL: usize = 400;

impl AgentError {
    /// What a failure below HTTP, or of HTTP itself, means.
    pub(super) fn from_client(
        config: &AgentConfig,
        error: &hyper_util::client::legacy::Error,
    ) -> Self {
        let address = config.address.to_string();
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(inner) = source {
            if let Some(connect) = inner.downcast_ref::<ConnectError>() {
                return match connect {
                    ConnectError::UnknownHost => Self::UnknownHost {
                        address,
                        host: host(&config.address),
                    },
                    ConnectError::Refused(error) => Self::Refused {
                        address,
                        detail: error.to_string(),
                    },
                    ConnectError::Tls(error) => Self::Tls {
                        address,
                        detail: tls_detail(error),
                    },
                    ConnectError::Timeout => Self::Refused {
                        address,
                        detail: connect.to_string(),
                    },
                };
            }
            if let Some(http) = inner.downcast_ref::<hyper::Error>()
                && http.is_parse()
            {
                return Self::NotConsul {
                    address,
                    detail: format!("it does not speak HTTP ({http})"),
                };
            }
            source = inner.source();
        }
        Self::Broken {
            address,
            detail: visible(&innermost(error), MAX_DETAIL),
        }
    }
}

fn host(address: &AgentAddress) -> String {
    match address {
        AgentAddress::Tcp { host, .. } | AgentAddress::Tls { host, .. } => host.clone(),
        AgentAddress::Unix(path) => path.display().to_string(),
    }
}

fn tls_detail(error: &std::io::Error) -> String {
    let text = error.to_string();
    if text.contains("InvalidContentType") || text.contains("corrupt") {
        return "it does not speak TLS; should the address start with http://?".to_owned();
    }
    visible(&text, MAX_DETAIL)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
