//! The engines in this process: the core itself, and the component through the host library.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::{Component, ComponentOptions, Policy, PolicyOptions};
use portcullis_core::chain::{self, Usage, VerifiedPeer, VerifyErrorKind};
use portcullis_core::identity::{Kind, SpiffeId};
use portcullis_core::intention::{Decision, Effect, HeaderChange, Reason};
use portcullis_core::policy::{
    self, Client, Document, HeaderNeeds, HttpVersion, LoadProblem, LoadReport, Request, Trace,
};
use portcullis_core::time::Timestamp;
use serde_json::{Value, json};

use crate::plan::Plan;

/// The functions of the WIT, on either engine.
trait Decisions {
    fn load(&mut self, generation: u64, changes: Vec<Document>) -> LoadReport;
    fn touch(&mut self, names: &[String], at: Timestamp);
    fn authorize(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Decision;
    fn explain(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Trace;
    fn verify(
        &mut self,
        chain: &[Vec<u8>],
        usage: Usage,
        expected: Option<&str>,
        now: Timestamp,
    ) -> Value;
    fn needed_headers(&mut self, target: &str) -> HeaderNeeds;
    fn describe(&mut self, target: &str, decision: &Decision) -> String;
    fn parse_id(&mut self, uri: &str) -> Value;
}

impl Decisions for policy::Policy {
    fn load(&mut self, generation: u64, changes: Vec<Document>) -> LoadReport {
        Self::load(self, generation, changes)
    }
    fn touch(&mut self, names: &[String], at: Timestamp) {
        Self::touch(self, names, at);
    }
    fn authorize(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Decision {
        Self::authorize(self, target, client, request, now)
    }
    fn explain(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Trace {
        Self::explain(self, target, client, request, now)
    }
    fn verify(
        &mut self,
        chain: &[Vec<u8>],
        usage: Usage,
        expected: Option<&str>,
        now: Timestamp,
    ) -> Value {
        verified(
            self.verify_peer(chain, usage, expected, now)
                .map_err(|error| (error.kind(), error.code().to_owned(), error.to_string())),
        )
    }
    fn needed_headers(&mut self, target: &str) -> HeaderNeeds {
        Self::needed_headers(self, target)
    }
    fn describe(&mut self, target: &str, decision: &Decision) -> String {
        Self::describe(self, target, decision)
    }
    fn parse_id(&mut self, uri: &str) -> Value {
        parsed(policy::parse_id(uri).map_err(|error| (error.code().to_owned(), error.to_string())))
    }
}

impl Decisions for Policy {
    fn load(&mut self, generation: u64, changes: Vec<Document>) -> LoadReport {
        let report = Self::load(self, changes).expect("the component does not fail");
        assert_eq!(
            self.generation(),
            generation,
            "the vectors count as the host does"
        );
        report
    }
    fn touch(&mut self, names: &[String], at: Timestamp) {
        Self::touch(self, names, at);
    }
    fn authorize(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Decision {
        Self::authorize(self, target, client, request, now)
    }
    fn explain(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Trace {
        Self::explain(self, target, client, request, now).expect("the component does not fail")
    }
    fn verify(
        &mut self,
        chain: &[Vec<u8>],
        usage: Usage,
        expected: Option<&str>,
        now: Timestamp,
    ) -> Value {
        verified(
            self.verify_peer(chain, usage, expected, now)
                .map_err(|error| (error.kind(), error.code().to_owned(), error.to_string())),
        )
    }
    fn needed_headers(&mut self, target: &str) -> HeaderNeeds {
        Self::needed_headers(self, target)
    }
    fn describe(&mut self, target: &str, decision: &Decision) -> String {
        Self::describe(self, target, decision)
    }
    fn parse_id(&mut self, uri: &str) -> Value {
        parsed(
            Self::parse_id(self, uri).map_err(|error| (error.code().to_owned(), error.to_string())),
        )
    }
}

/// The core without WebAssembly.
pub(crate) fn native(plan: &Plan) -> Vec<Value> {
    answers(plan, &mut policy::Policy::new(chain::rustcrypto()))
}

/// The component through the host library.
pub(crate) fn wasmtime(plan: &Plan) -> Vec<Value> {
    static COMPONENT: OnceLock<Component> = OnceLock::new();
    let component = COMPONENT
        .get_or_init(|| Component::embedded(&ComponentOptions::default()).expect("it compiles"));
    let options = PolicyOptions {
        instances: 1,
        ..PolicyOptions::default()
    };
    answers(
        plan,
        &mut Policy::new(component, options).expect("an instance"),
    )
}

fn answers(plan: &Plan, engine: &mut impl Decisions) -> Vec<Value> {
    plan.calls.iter().map(|call| answer(call, engine)).collect()
}

fn answer(call: &Value, engine: &mut impl Decisions) -> Value {
    let text = |index: usize| call[index].as_str().expect("text");
    match text(0) {
        "load" => {
            let changes = call[2]
                .as_array()
                .expect("a list")
                .iter()
                .map(document)
                .collect();
            load_report(&engine.load(number(&call[1]), changes))
        }
        "touch" => {
            let names = call[1].as_array().expect("a list").iter();
            let names: Vec<String> = names
                .map(|name| name.as_str().expect("text").to_owned())
                .collect();
            engine.touch(&names, time(&call[2]));
            Value::Null
        }
        "authorize" => decision(&engine.authorize(
            text(1),
            &client(&call[2]),
            request(&call[3]).as_ref(),
            time(&call[4]),
        )),
        "explain" => trace(&engine.explain(
            text(1),
            &client(&call[2]),
            request(&call[3]).as_ref(),
            time(&call[4]),
        )),
        "verify-peer" => {
            let chain: Vec<Vec<u8>> = call[1]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(bytes)
                .collect();
            let usage = if text(2) == "client" {
                Usage::Client
            } else {
                Usage::Server
            };
            engine.verify(&chain, usage, call[3].as_str(), time(&call[4]))
        }
        "needed-headers" => match engine.needed_headers(text(1)) {
            HeaderNeeds::None => json!({ "none": null }),
            HeaderNeeds::Named(names) => json!({ "named": names }),
            HeaderNeeds::All => json!({ "all": null }),
        },
        "describe" => json!(engine.describe(text(1), &decision_from(&call[2]))),
        "parse-id" => engine.parse_id(text(1)),
        other => panic!("{other}"),
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().expect("text").parse().expect("a number")
}

fn time(value: &Value) -> Timestamp {
    Timestamp::from_millis(number(value))
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    Some(STANDARD.decode(value.as_str()?).expect("base64"))
}

fn document(value: &Value) -> Document {
    Document {
        name: value["name"].as_str().expect("text").to_owned(),
        body: bytes(&value["body"]),
        confirmed_at: time(&value["confirmed-at"]),
    }
}

fn client(value: &Value) -> Client {
    let uris = value["uris"].as_array().expect("a list").iter();
    Client {
        uris: uris
            .map(|uri| uri.as_str().expect("text").to_owned())
            .collect(),
        via_gateway: bytes(&value["via-gateway"]),
    }
}

fn request(value: &Value) -> Option<Request> {
    (!value.is_null()).then(|| Request {
        version: if value["version"] == json!("http2") {
            HttpVersion::Http2
        } else {
            HttpVersion::Http1
        },
        method: bytes(&value["method"]).expect("bytes"),
        path: bytes(&value["path"]).expect("bytes"),
        authority: bytes(&value["authority"]),
        scheme: value["scheme"].as_str().map(str::to_owned),
        headers: bytes(&value["headers"]).expect("bytes"),
    })
}

fn decision_from(value: &Value) -> Decision {
    let effects = [
        Effect::Allow,
        Effect::Deny,
        Effect::BadRequest,
        Effect::Redirect,
    ];
    let index = |name: &str| {
        value[name]
            .as_str()
            .map(|text| text.parse().expect("a number"))
    };
    Decision {
        effect: *effects
            .iter()
            .find(|effect| value["effect"] == json!(effect.code()))
            .expect("an effect"),
        code: Reason::from_code(value["code"].as_str().expect("text")).expect("a reason"),
        intention: index("intention"),
        permission: index("permission"),
        generation: number(&value["generation"]),
        path: bytes(&value["path"]),
        headers: value["headers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|change| HeaderChange {
                name: change["name"].as_str().expect("text").to_owned(),
                value: bytes(&change["value"]),
            })
            .collect(),
    }
}

fn decision(decision: &Decision) -> Value {
    json!({
        "effect": decision.effect.code(),
        "code": decision.code.code(),
        "intention": decision.intention.map(|index| index.to_string()),
        "permission": decision.permission.map(|index| index.to_string()),
        "generation": decision.generation.to_string(),
        "path": decision.path.as_ref().map(|path| STANDARD.encode(path)),
        "headers": decision.headers.iter().map(|change| json!({
            "name": change.name,
            "value": change.value.as_ref().map(|value| STANDARD.encode(value)),
        })).collect::<Vec<_>>(),
    })
}

fn trace(trace: &Trace) -> Value {
    let steps: Vec<_> = trace
        .steps
        .iter()
        .map(|step| {
            json!({
                "intention": step.intention.to_string(),
                "precedence": step.precedence.to_string(),
                "rule": step.rule,
                "matched": step.matched,
                "failed": step.failed,
            })
        })
        .collect();
    json!({
        "decision": decision(&trace.decision),
        "text": trace.text,
        "source": trace.source.as_ref().map(identity),
        "steps": steps,
        "default-policy": trace.default_policy,
        "notes": trace.notes,
    })
}

fn load_report(report: &LoadReport) -> Value {
    let problem = |problem: &LoadProblem| json!({ "document": problem.document, "pointer": problem.pointer, "text": problem.text });
    json!({
        "refused": report.refused.iter().map(problem).collect::<Vec<_>>(),
        "warnings": report.warnings.iter().map(problem).collect::<Vec<_>>(),
    })
}

fn verified(answer: Result<VerifiedPeer, (VerifyErrorKind, String, String)>) -> Value {
    match answer {
        Ok(peer) => json!({ "ok": {
            "identity": identity(&peer.id),
            "peer-name": peer.peer.map(|name| name.to_string()),
            "serial": peer.serial,
            "not-after": peer.not_after.as_millis().to_string(),
        }}),
        Err((kind, code, text)) => {
            let kind = match kind {
                VerifyErrorKind::Malformed => "malformed",
                VerifyErrorKind::Untrusted => "untrusted",
                VerifyErrorKind::Identity => "identity",
                VerifyErrorKind::Expired => "expired",
                VerifyErrorKind::NotReady => "not-ready",
            };
            json!({ "err": { "kind": kind, "code": code, "text": text } })
        }
    }
}

fn parsed(answer: Result<SpiffeId, (String, String)>) -> Value {
    match answer {
        Ok(id) => json!({ "ok": identity(&id) }),
        Err((code, text)) => json!({ "err": { "code": code, "text": text } }),
    }
}

fn identity(id: &SpiffeId) -> Value {
    let mut parts = json!({
        "uri": id.to_string(), "kind": id.kind().name(), "trust-domain": id.trust_domain().to_string(),
        "partition": null, "namespace": null, "datacenter": null, "service": null, "agent": null,
    });
    let mut set = |name: &str, part: String| parts[name] = json!(part);
    match id.kind() {
        Kind::Service(path) => {
            set("partition", path.partition.to_string());
            set("namespace", path.namespace.to_string());
            set("datacenter", path.datacenter.to_string());
            set("service", path.service.to_string());
        }
        Kind::Agent {
            partition,
            datacenter,
            node,
        } => {
            set("partition", partition.to_string());
            set("datacenter", datacenter.to_string());
            set("agent", node.to_string());
        }
        Kind::Server { datacenter } => set("datacenter", datacenter.to_string()),
        Kind::MeshGateway {
            partition,
            datacenter,
        } => {
            set("partition", partition.to_string());
            set("datacenter", datacenter.to_string());
        }
        Kind::Signing | Kind::Other { .. } => {}
    }
    parts
}
