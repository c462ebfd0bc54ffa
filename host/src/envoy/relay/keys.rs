//! The keys of JWT providers for Envoy's filter, which reaches no server but this one.
//!
//! The filter names a provider, not an address: where its keys are, the agent's entry says, and
//! who may be asked our own allow-list. Each question is one fetch, because the filter asks by
//! its own clock, as often as the entry says, and lets what it gets age.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use portcullis_core::agent::{HttpReply, Query, providers};
use serde::Deserialize;
use tonic::body::Body;

use super::{Refused, Relay, plain};
use crate::jwks::{FetchError, Source, fetch, shown};

impl Relay {
    /// Answers with the keys of a provider, or says why not.
    pub(super) async fn answer_keys(&self, provider: &str) -> Response<Body> {
        match self.keys(provider).await {
            Ok(keys) => {
                let mut response = Response::new(Body::new(Full::new(keys)));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(Refused(status, text)) => {
                tracing::warn!(provider, problem = text, "keys cannot be had");
                plain(status, text)
            }
        }
    }

    /// The keys of a provider as they are now.
    async fn keys(&self, provider: &str) -> Result<Bytes, Refused> {
        let source = self.source(provider).await?;
        // Whoever asks does not choose how many are fetched at once.
        let place = self.fetches.acquire().await;
        let _place = place.map_err(|error| broken(error.to_string()))?;
        let fetched = fetch(&source, &self.jwks).await;
        fetched.map(Bytes::from).map_err(|error| {
            let status = match error {
                FetchError::NotAllowed(_) => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_GATEWAY,
            };
            Refused(status, format!("{}: {error}", shown(&source.place)))
        })
    }

    /// Where they are.
    async fn source(&self, provider: &str) -> Result<Source, Refused> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "Name")]
            name: String,
        }
        let request = providers::request(&Query::default());
        let request = request.map_err(|error| broken(error.to_string()))?;
        let reply = self.agent.execute(&request).await;
        let reply = reply.map_err(|error| broken(error.to_string()))?;
        let reply: HttpReply<'_> = reply.as_core();
        let entries = providers::decode(&reply).map_err(|error| broken(error.to_string()))?;
        let entry = entries.into_iter().find(|entry| {
            serde_json::from_str::<Named>(entry.get()).is_ok_and(|named| named.name == provider)
        });
        entry.and_then(Source::of).ok_or_else(|| {
            let text = format!("the agent has no provider `{provider}` whose keys are elsewhere");
            Refused(StatusCode::NOT_FOUND, crate::escape::visible(&text, 400))
        })
    }
}

fn broken(text: String) -> Refused {
    Refused(StatusCode::BAD_GATEWAY, text)
}
