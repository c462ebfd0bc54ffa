//! What is counted of the decision log and of a candidate in the shadow, where there are.

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::connections::Labels;
use crate::decisions::{DecisionLog, Decisions};
use crate::shadow::{EFFECTS, KINDS, Shadow};

type Done = Result<(), std::fmt::Error>;

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, decisions: &Decisions) -> Done {
    if let Some(log) = &decisions.log {
        encode_log(encoder, log)?;
    }
    match &decisions.shadow {
        Some(shadow) => encode_shadow(encoder, shadow),
        None => Ok(()),
    }
}

fn encode_log(encoder: &mut DescriptorEncoder<'_>, log: &DecisionLog) -> Done {
    let mut lines = encoder.encode_descriptor(
        "decision_log_lines",
        "Decisions for the decision log: written, or dropped for want of room",
        None,
        MetricType::Counter,
    )?;
    for (result, count) in [("written", log.written()), ("dropped", log.dropped())] {
        let labels: Labels = vec![("result", result.to_owned())];
        ConstCounter::new(count).encode(lines.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_shadow(encoder: &mut DescriptorEncoder<'_>, shadow: &Shadow) -> Done {
    let ready = encoder.encode_descriptor(
        "shadow_ready",
        "Whether there is a candidate to compare with",
        None,
        MetricType::Gauge,
    )?;
    ConstGauge::new(i64::from(shadow.is_ready())).encode(ready)?;
    let counts = shadow.counts();
    let differences = |kind: usize| {
        let pairs = EFFECTS
            .iter()
            .flat_map(|live| EFFECTS.iter().map(move |candidate| (*live, *candidate)));
        pairs.map(move |(live, candidate)| {
            (
                live,
                candidate,
                counts.differences(kind == 1, live, candidate),
            )
        })
    };
    let mut compared = encoder.encode_descriptor(
        "shadow_decisions",
        "Decisions about which a candidate was to be asked beside",
        None,
        MetricType::Counter,
    )?;
    for (at, kind) in KINDS.iter().enumerate() {
        let of = |numbers: [u64; 2]| numbers.get(at).copied().unwrap_or_default();
        for (result, count) in [
            ("same", of(counts.same_of())),
            (
                "different",
                differences(at).map(|(_, _, count)| count).sum(),
            ),
            ("skipped", of(counts.skipped_of())),
        ] {
            let labels: Labels = vec![("kind", (*kind).to_owned()), ("result", result.to_owned())];
            ConstCounter::new(count).encode(compared.encode_family(&labels)?)?;
        }
    }
    let mut different = encoder.encode_descriptor(
        "shadow_differences",
        "Decisions for which the candidate has another answer",
        None,
        MetricType::Counter,
    )?;
    for (at, kind) in KINDS.iter().enumerate() {
        for (live, candidate, count) in differences(at).filter(|(_, _, count)| *count > 0) {
            let labels: Labels = vec![
                ("kind", (*kind).to_owned()),
                ("live", live.code().to_owned()),
                ("candidate", candidate.code().to_owned()),
            ];
            ConstCounter::new(count).encode(different.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
