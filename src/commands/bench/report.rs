//! What was found, as JSON and as a table.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{course::Round, peer::Speeds};

/// All rounds.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) dtype: String,
    pub(super) backend: String,
    pub(super) kernels: String,
    pub(super) threads: usize,
    pub(super) prompt_tokens: usize,
    pub(super) new_tokens: usize,
    pub(super) sessions: usize,
    pub(super) load_s: f64,
    /// By what was measured; the order of the rounds.
    pub(super) measures: BTreeMap<&'static str, Measure>,
    /// Whether the first reply was the same beside others as alone; `None` where there were no others.
    pub(super) same_tokens_in_batch: Option<bool>,
    /// Milliseconds of a step at each server of the swarm, means of the last round.
    pub(super) hops_ms: Vec<(String, f64)>,
    /// The most memory that this process had.
    pub(super) peak_resident_bytes: Option<u64>,
}

/// One thing that was measured, a second.
#[derive(Serialize, Default)]
pub(super) struct Measure {
    pub(super) median: f64,
    pub(super) rounds: Vec<f64>,
    /// The peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer_median: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) peer_rounds: Vec<f64>,
    /// The median of this program's over the peer's, round by round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<f64>,
}

/// The measures of some rounds.
pub(super) fn measures(rounds: &[(Round, Option<Speeds>)]) -> BTreeMap<&'static str, Measure> {
    type Ours = fn(&Round) -> Option<f64>;
    type Theirs = fn(&Speeds) -> Option<f64>;
    let all: [(&str, Ours, Theirs); 4] = [
        ("prefill_tokens_per_s", |it| Some(it.prefill), |it| it.prefill_tokens_per_s),
        ("decode_tokens_per_s", |it| Some(it.decode), |it| it.decode_tokens_per_s),
        ("head_rows_per_s", |it| Some(it.head), |it| it.head_rows_per_s),
        ("batch_tokens_per_s", |it| it.batch, |it| it.batch_tokens_per_s),
    ];
    let measure = |(name, ours, theirs): (&'static str, Ours, Theirs)| {
        let own: Vec<f64> = rounds.iter().filter_map(|(round, _)| ours(round)).collect();
        let pairs = rounds.iter().filter_map(|(round, peer)| Some((ours(round)?, theirs(peer.as_ref()?)?)));
        let (ratios, peer): (Vec<f64>, Vec<f64>) = pairs.map(|(ours, theirs)| (ours / theirs, theirs)).unzip();
        let median = median(&own)?;
        let (peer_median, ratio) = (self::median(&peer), self::median(&ratios));
        Some((name, Measure { median, rounds: own, peer_median, peer_rounds: peer, ratio }))
    };
    all.into_iter().filter_map(measure).collect()
}

fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) } else { upper })
}

impl Report {
    /// For people.
    pub(super) fn table(&self) -> String {
        let Self { model, dtype, backend, kernels, threads, prompt_tokens, new_tokens, sessions, .. } = self;
        let mut text =
            format!("{model} in {dtype} on {backend} ({kernels}), {threads} threads, loaded in {:.1} s\n", self.load_s);
        let _ =
            writeln!(text, "{prompt_tokens} tokens of prompt, {new_tokens} new ones, {sessions} sessions in a batch\n");
        let _ = writeln!(text, "{:<24} {:>10} {:>21} {:>10} {:>7}", "", "median", "least .. most", "peer", "ratio");
        for (name, unit) in [("prefill", "tokens"), ("decode", "tokens"), ("head", "rows"), ("batch", "tokens")] {
            let Some(measure) = self.measures.get(format!("{name}_{unit}_per_s").as_str()) else { continue };
            let bounds =
                measure.rounds.iter().fold((f64::MAX, 0f64), |(least, most), it| (least.min(*it), most.max(*it)));
            let range = format!("{:.1} .. {:.1}", bounds.0, bounds.1);
            let or_none = |number: Option<f64>, digits| number.map_or("-".to_owned(), |it| format!("{it:.digits$}"));
            let (peer, ratio) = (or_none(measure.peer_median, 1), or_none(measure.ratio, 2));
            let _ = writeln!(
                text,
                "{:<24} {:>10.1} {range:>21} {peer:>10} {ratio:>7}",
                format!("{name}, {unit}/s"),
                measure.median
            );
        }
        for (hop, ms) in &self.hops_ms {
            let _ = writeln!(text, "a step at {hop}: {ms:.1} ms");
        }
        if self.same_tokens_in_batch == Some(false) {
            text += "the first reply was another one beside others than alone: sums were rounded in another order\n";
        }
        if let Some(bytes) = self.peak_resident_bytes {
            let _ = writeln!(text, "at most {} of memory", corolla_domain::fit::bytes(bytes));
        }
        text
    }
}

/// Milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_rounds_and_what_a_peer_does_not_say_has_none() {
        let round = |decode, peer| {
            let speeds = Speeds { decode_tokens_per_s: Some(peer), ..Speeds::default() };
            (Round { decode, prefill: 1.0, ..Round::default() }, Some(speeds))
        };
        let found = measures(&[round(10.0, 5.0), round(30.0, 10.0), round(8.0, 8.0), round(12.0, 3.0)]);
        let decode = &found["decode_tokens_per_s"];
        assert_eq!((decode.median, decode.peer_median, decode.ratio), (11.0, Some(6.5), Some(2.5)));
        assert_eq!((found["prefill_tokens_per_s"].ratio, found.contains_key("batch_tokens_per_s")), (None, false));
        let alone = measures(&[(Round { decode: 7.0, ..Round::default() }, None)]);
        assert_eq!((alone["decode_tokens_per_s"].median, alone["decode_tokens_per_s"].peer_median), (7.0, None));
    }
}
