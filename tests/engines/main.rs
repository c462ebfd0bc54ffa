//! One set of questions, four engines: the native core, `policy.wasm` in wasmtime by our host
//! library, in Node by jco, and in Python by wasmtime's package. Every answer must be the
//! expected one, and all four the same in every field and every text.

mod adapter;
mod cluster_peers;
mod cost;
mod filter;
mod host_calls;
mod lifetimes;
mod mesh;
mod plan;
mod rust;
mod shared_data;
mod tokens;

use std::collections::BTreeSet;

use portcullis_core::intention::Reason;
use serde_json::Value;

use plan::{Expected, Plan};

/// What differs from the expected answers, one line each.
fn wrong(plans: &[Plan], answers: &[Vec<Value>]) -> Vec<String> {
    assert_eq!(plans.len(), answers.len(), "as many answers as questions");
    let mut wrong = Vec::new();
    for (plan, answers) in plans.iter().zip(answers) {
        assert_eq!(plan.calls.len(), answers.len(), "{}", plan.id);
        for ((call, expected), answer) in plan.calls.iter().zip(&plan.expected).zip(answers) {
            if let Some(problem) = expected.problem(answer) {
                wrong.push(format!("{}: {}: {problem}", plan.id, call[0]));
            }
        }
    }
    wrong
}

/// Where two engines differ, one line each.
fn differences(plans: &[Plan], one: &[Vec<Value>], other: &[Vec<Value>]) -> Vec<String> {
    let calls: usize = other.iter().map(Vec::len).sum();
    println!("{} questions, {calls} calls", plans.len());
    assert_eq!(one.len(), other.len(), "as many answers as the native core");
    let mut different = Vec::new();
    for (plan, (one, other)) in plans.iter().zip(one.iter().zip(other)) {
        if one != other {
            let place = one.iter().zip(other).position(|(one, other)| one != other);
            let call = place.unwrap_or(one.len().min(other.len()));
            different.push(format!(
                "{}: call {call}: {:?} and {:?}",
                plan.id,
                one.get(call),
                other.get(call)
            ));
        }
    }
    different
}

fn assert_none(problems: &[String], what: &str) {
    assert!(
        problems.is_empty(),
        "{} {what}:\n{}",
        problems.len(),
        problems[..problems.len().min(20)].join("\n")
    );
}

#[test]
fn the_native_core_answers_as_expected() {
    let plans = plan::all();
    let answers: Vec<_> = plans.iter().map(rust::native).collect();
    assert_none(&wrong(&plans, &answers), "unexpected answers");
}

#[test]
fn every_reason_is_asked_for_and_every_function_called() {
    let plans = plan::all();
    let codes: BTreeSet<_> = plans
        .iter()
        .flat_map(|plan| &plan.expected)
        .filter_map(Expected::reason)
        .collect();
    let never: Vec<_> = Reason::all()
        .iter()
        .filter(|reason| !codes.contains(reason.code()))
        .collect();
    assert_eq!(
        never,
        NEVER.iter().collect::<Vec<_>>(),
        "the reasons without a question"
    );
    let called: BTreeSet<_> = plans
        .iter()
        .flat_map(|plan| &plan.calls)
        .filter_map(|call| call[0].as_str())
        .collect();
    let all = [
        "authorize",
        "describe",
        "explain",
        "load",
        "needed-headers",
        "parse-id",
        "touch",
        "verify-peer",
    ];
    assert_eq!(called.into_iter().collect::<Vec<_>>(), all);
}

/// Reasons that no question of the policy has: simple mode alone does not judge requests
/// (`tests/mesh_policy`), and that a policy failed is said by the host alone.
const NEVER: [Reason; 2] = [Reason::RequestNotJudged, Reason::PolicyFailed];

#[test]
fn the_component_in_our_host_answers_like_the_native_core() {
    let plans = plan::all();
    let native: Vec<_> = plans.iter().map(rust::native).collect();
    let wasmtime: Vec<_> = plans.iter().map(rust::wasmtime).collect();
    assert_none(&wrong(&plans, &wasmtime), "unexpected answers");
    assert_none(&differences(&plans, &native, &wasmtime), "differences");
}

#[test]
fn the_component_in_node_answers_like_the_native_core() {
    let plans = plan::all();
    let Some(node) = adapter::node("the_component_in_node_answers_like_the_native_core", &plans)
    else {
        return;
    };
    let native: Vec<_> = plans.iter().map(rust::native).collect();
    assert_none(&differences(&plans, &native, &node), "differences");
}

#[test]
fn the_component_in_python_answers_like_the_native_core() {
    let plans = plan::all();
    let Some(python) = adapter::python(
        "the_component_in_python_answers_like_the_native_core",
        &plans,
    ) else {
        return;
    };
    let native: Vec<_> = plans.iter().map(rust::native).collect();
    assert_none(&differences(&plans, &native, &python), "differences");
}
