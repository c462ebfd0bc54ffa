//! Our answers: the core, with both kinds of matching, fed with Consul's replies.

use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_core::chain;
use portcullis_core::intention::{Decision, Effect};
use portcullis_core::policy::{Client, Document, Policy};
use portcullis_core::time::Timestamp;
use serde_json::{Value, json};

use crate::question::{Answer, Arrived, Question};
use crate::scene::{Scene, TARGET};

/// What the mesh is like besides its intentions.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) protocol: &'static str,
    pub(crate) normalization: Value,
}

/// Two policies with the same documents.
pub(crate) struct Ours {
    envoy: Policy,
    strict: Policy,
    generation: u64,
}

impl Ours {
    pub(crate) fn new() -> Self {
        Self {
            envoy: Policy::new(chain::rustcrypto()),
            strict: Policy::new(chain::rustcrypto()),
            generation: 0,
        }
    }

    /// Takes over what Consul says.
    pub(crate) fn load(&mut self, scene: &Scene, setting: &Setting, list: &Value) {
        self.generation += 1;
        let providers = scene
            .consul
            .api()
            .get("/v1/config/jwt-provider")
            .good()
            .json();
        for (policy, matching) in [(&mut self.envoy, "envoy"), (&mut self.strict, "strict")] {
            let mesh = json!({
                "trust_domain": scene.trust_domain, "roots": [], "default_policy": scene.default,
                "max_stale_ms": 0, "matching": matching, "jwt_providers": providers,
                "request_normalization": setting.normalization,
            });
            let service = json!({ "protocol": setting.protocol, "intentions": list });
            let document = |name: &str, body: &Value| Document {
                name: name.to_owned(),
                body: Some(body.to_string().into_bytes()),
                confirmed_at: now(),
            };
            let report = policy.load(
                self.generation,
                vec![
                    document("mesh", &mesh),
                    document(&format!("service/default/default/{TARGET}"), &service),
                ],
            );
            assert!(report.refused.is_empty(), "{:?}", report.refused);
        }
    }

    /// What both kinds of matching say.
    pub(crate) fn ask(&mut self, uris: &[String], question: &Question) -> [Decision; 2] {
        let client = Client {
            uris: uris.to_vec(),
            via_gateway: None,
        };
        let request = question.request();
        [&mut self.envoy, &mut self.strict]
            .map(|policy| policy.authorize(TARGET, &client, Some(&request), now()))
    }
}

/// A decision in the form of what goes over the wire.
pub(crate) fn answer(decision: &Decision, question: &Question) -> Answer {
    match decision.effect {
        Effect::Allow => {
            let target = decision
                .path
                .clone()
                .unwrap_or_else(|| question.target.clone());
            let sent = question
                .headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(b"authorization"));
            let taken = decision
                .headers
                .iter()
                .any(|change| change.name == "authorization" && change.value.is_none());
            Answer::Allow(Arrived {
                target,
                has_authorization: sent && !taken,
            })
        }
        Effect::Deny => Answer::Deny {
            grpc: question.is_grpc(),
        },
        Effect::BadRequest => Answer::BadRequest,
        Effect::Redirect => Answer::Redirect(decision.path.clone().unwrap_or_default()),
    }
}

fn now() -> Timestamp {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    Timestamp::from_millis(u64::try_from(now.as_millis()).expect("a time"))
}
