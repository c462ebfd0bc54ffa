//! Roots and the authority's configuration.

use serde_json::Value;
use tokio::time::Instant;

use crate::ca::{BuiltinCa, roots};
use crate::core::{Core, Keep};
use crate::http::options::Options;
use crate::http::reply::{AGE, Outcome, Reply, X_CACHE};
use crate::http::{Request, json};

impl Core {
    /// `/v1/agent/connect/ca/roots`: as the agent's cache answers, without a
    /// deadline unless `wait` gives one.
    pub(super) async fn agent_roots(&self, options: &Options) -> Outcome {
        let deadline = options.wait.map(|wait| Instant::now() + wait);
        let token = if self.acl.enabled() {
            options.token.as_str()
        } else {
            ""
        };
        let cold = !token.is_empty() && !self.seen_before(format!("roots {token}"));
        let blocked =
            options.index != 0 && self.read(|state| state.ca.roots_index) <= options.index;
        let (index, body) = self
            .block_until(options.index, deadline, false, |state| {
                (state.ca.roots_index, state.ca.roots_json())
            })
            .await;
        let reply = Reply::json(body).query_meta(index);
        Ok(if cold || blocked {
            reply.with(X_CACHE, "MISS")
        } else {
            reply.with(X_CACHE, "HIT").with(AGE, "0")
        })
    }

    /// `/v1/connect/ca/roots`, with `?pem=true` as one text.
    pub(super) async fn connect_roots(&self, request: &Request, options: &Options) -> Outcome {
        let pem = match request.param("pem") {
            None => false,
            Some(text) => boolean(text).ok_or_else(|| {
                Reply::bad_request("The 'pem' query parameter must be a boolean value")
            })?,
        };
        let (index, (body, text)) = self
            .blocking(options, |state| {
                // The index is part of what is compared: a change of the
                // configuration wakes though the roots are the same.
                (
                    state.ca.roots_index,
                    (
                        (state.ca.roots_json(), state.ca.roots_index),
                        state.ca.roots_pem(),
                    ),
                )
            })
            .await;
        if pem {
            return Ok(Reply::text("application/pem-certificate-chain", text));
        }
        Ok(Reply::json(body.0).query_meta(index))
    }

    /// `GET /v1/connect/ca/configuration`.
    pub(super) fn ca_config(&self, options: &Options) -> Outcome {
        self.acl.resolve(&options.token)?.need_operator_write()?;
        Ok(Reply::json(self.read(|state| state.ca.config_json())))
    }

    /// `PUT /v1/connect/ca/configuration`: another key type rotates the root.
    pub(super) async fn set_ca_config(&self, request: &Request, options: &Options) -> Outcome {
        const KNOWN: [&str; 6] = [
            "Provider",
            "Config",
            "State",
            "ForceWithoutCrossSigning",
            "CreateIndex",
            "ModifyIndex",
        ];
        const GO_TYPE: &str = "struct { ForceWithoutCrossSigningSnake bool \"json:\\\"force_without_cross_signing\\\"\"; *structs.Alias }";
        self.acl.resolve(&options.token)?.need_operator_write()?;
        let refuse = |error: String| Reply::bad_request(format!("Request decode failed: {error}"));
        let body = json::parse(&request.body).map_err(refuse)?;
        let object = json::Object::new(&body, ".Alias", GO_TYPE, &KNOWN).map_err(refuse)?;
        let provider = object.text("Provider").map_err(refuse)?;
        let force = object.flag("ForceWithoutCrossSigning").map_err(refuse)?;
        let config = object.get("Config").cloned().unwrap_or(Value::Null);
        if provider != "consul" {
            let text = format!("could not initialize provider: unknown CA provider {provider:?}");
            return Err(Reply::server_error(text));
        }
        let own_root = |name: &str| {
            config
                .get(name)
                .and_then(Value::as_str)
                .is_some_and(|text| !text.is_empty())
        };
        if own_root("PrivateKey") || own_root("RootCert") {
            let text = "error configuring provider: this development agent makes its own keys";
            return Err(Reply::server_error(text));
        }
        let settings = roots::settings(&config, self.config.leaf_ttl)
            .map_err(|error| Reply::server_error(format!("error configuring provider: {error}")))?;
        self.reconfigure(config, settings, force, false).await?;
        Ok(Reply::empty())
    }

    /// Takes over a configuration; rotates when the key type changes or when told to.
    pub(crate) async fn reconfigure(
        &self,
        config: Value,
        settings: roots::Settings,
        force_without_cross_signing: bool,
        rotate: bool,
    ) -> Result<(), Reply> {
        let rotate = rotate || self.read(|state| state.ca.settings.key_type) != settings.key_type;
        let fail = |error: crate::ca::CaError| Reply::server_error(error.to_string());
        let now = self.clock.second();
        let validity = (now, now + settings.root_ttl);
        let authority = if rotate {
            let (domain, serial) = self.write(Keep::InMemory, |state, _| {
                Ok(((state.ca.trust_domain(), state.ca.serial()), true))
            })?;
            // RSA keys take their time: not under the lock, not on this thread.
            let make = move || {
                BuiltinCa::generate(settings.key_type, &domain, serial, validity.0, validity.1)
            };
            let made = tokio::task::spawn_blocking(make).await;
            let made = made.map_err(|_| Reply::server_error("making a key was interrupted"))?;
            Some((made.map_err(fail)?, serial))
        } else {
            None
        };
        self.write(Keep::OnDisk, |state, index| {
            let ca = &mut state.ca;
            if let Some((authority, serial)) = authority {
                ca.rotate(
                    authority,
                    serial,
                    validity,
                    force_without_cross_signing,
                    index,
                )
                .map_err(fail)?;
            }
            ca.config = config;
            ca.settings = settings;
            ca.force_without_cross_signing = force_without_cross_signing;
            ca.config_modify_index = index;
            ca.roots_index = index;
            Ok(((), true))
        })
    }
}

/// Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
