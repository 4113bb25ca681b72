//! Measurements for Prometheus: hears what happens in the domain and at the door, and writes it as text.

use std::{
    collections::HashSet,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use corolla_domain::{
    model::{ModelId, PeerId},
    ports::{Event, Observer},
    session::MeterReading,
};
use poem::http::{Method, StatusCode};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Metric, Registry},
};

/// What the text is.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Servers with measurements of their own; all further ones share those of `other`.
const MAX_PEERS: usize = 64;
const OTHER: &str = "other";

/// From half a millisecond to a minute.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

type Labels<const N: usize> = [(&'static str, String); N];

/// What was measured since the start. Cheap to write to from many replies at once.
pub struct Metrics {
    registry: Registry,
    waited: Family<Labels<1>, Histogram>,
    first_token: Family<Labels<1>, Histogram>,
    next_token: Family<Labels<1>, Histogram>,
    step: Family<Labels<2>, Histogram>,
    failovers: Family<Labels<1>, Counter>,
    failover_pause: Family<Labels<1>, Histogram>,
    ended: Family<Labels<2>, Counter>,
    requests: Family<Labels<3>, Counter>,
    cache_free: Family<Labels<1>, Gauge>,
    cache_room: Family<Labels<1>, Gauge>,
    peers: Mutex<HashSet<PeerId>>,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("corolla");
        let timed = || Family::new_with_constructor(seconds as fn() -> Histogram);
        let new = Self {
            waited: add(&mut registry, "turn_wait_seconds", "From a request to its turn", timed()),
            first_token: add(&mut registry, "first_token_seconds", "From a request to the first token", timed()),
            next_token: add(
                &mut registry,
                "inter_token_seconds",
                "Between two tokens of a reply, the time left out that a slow reader takes",
                timed(),
            ),
            step: add(
                &mut registry,
                "hop_step_seconds",
                "From a step's input to its output, at each server of blocks",
                Family::new_with_constructor(seconds as fn() -> Histogram),
            ),
            failovers: add(&mut registry, "failovers", "Servers of blocks lost under a reply", Family::default()),
            failover_pause: add(&mut registry, "failover_pause_seconds", "How long replies paused for these", timed()),
            ended: add(&mut registry, "turns_ended", "Replies that ended, finished or broken off", Family::default()),
            requests: add(&mut registry, "http_requests", "Requests answered", Family::default()),
            cache_free: add(&mut registry, "kv_cache_free_tokens", "Positions free in the KV cache", Family::default()),
            cache_room: add(&mut registry, "kv_cache_tokens", "Positions that the KV cache holds", Family::default()),
            peers: Mutex::default(),
            registry: Registry::default(),
        };
        Self { registry, ..new }
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn of(model: &ModelId) -> Labels<1> {
    [("model", model.0.clone())]
}

impl Observer for Metrics {
    fn observe(&self, event: &Event<'_>) {
        let note = |family: &Family<Labels<1>, Histogram>, model: &ModelId, took: Duration| {
            family.get_or_create(&of(model)).observe(took.as_secs_f64());
        };
        match event {
            Event::Started { model, waited } => note(&self.waited, model, *waited),
            Event::Token { model, first: true, took } => note(&self.first_token, model, *took),
            Event::Token { model, first: false, took } => note(&self.next_token, model, *took),
            Event::Step { model, hop, took } => {
                let labels = [("model", model.0.clone()), ("peer", self.name(&hop.peer))];
                self.step.get_or_create(&labels).observe(took.as_secs_f64());
            }
            Event::FailedOver { model, failover } => {
                self.failovers.get_or_create(&of(model)).inc();
                note(&self.failover_pause, model, failover.pause);
            }
            Event::Ended { model, finished, .. } => {
                let how = if *finished { "finished" } else { "broken_off" };
                self.ended.get_or_create(&[("model", model.0.clone()), ("how", how.to_owned())]).inc();
            }
        }
    }
}

impl Metrics {
    /// Tells how many positions a model's KV cache holds in this process.
    pub fn set_cache_room(&self, model: &ModelId, tokens: usize) {
        self.cache_room.get_or_create(&of(model)).set(i64::try_from(tokens).unwrap_or(i64::MAX));
    }

    /// Tells how many of them are free now.
    pub(crate) fn set_cache_free(&self, model: &ModelId, tokens: usize) {
        self.cache_free.get_or_create(&of(model)).set(i64::try_from(tokens).unwrap_or(i64::MAX));
    }

    /// Counts an answer. `path` is one of those that are described, or nothing: strangers invent as many as they like.
    pub(crate) fn answered(&self, path: Option<&str>, method: &Method, status: StatusCode) {
        let method = match *method {
            Method::GET | Method::HEAD | Method::POST | Method::OPTIONS => method.as_str(),
            _ => OTHER,
        };
        let labels = [
            ("path", path.unwrap_or(OTHER).to_owned()),
            ("method", method.to_owned()),
            ("status", status.as_u16().to_string()),
        ];
        self.requests.get_or_create(&labels).inc();
    }

    /// Everything, with the domain's own counts.
    pub(crate) fn write(&self, now: &MeterReading) -> Result<String, fmt::Error> {
        let mut counts = Registry::with_prefix("corolla");
        let mut gauge = |name, help, value: u64| {
            counts.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
        };
        gauge("turns_running", "Replies being written", now.turns_running);
        gauge("turns_waiting", "Requests waiting for their turn", now.turns_waiting);
        gauge("sessions_live", "Sessions open in this process", now.sessions_live);
        gauge("prefixes_kept", "Conversations without a session that are kept for others", now.prefixes_kept);
        let mut counter = |name, help, value: u64| counts.register(name, help, ConstCounter::new(value));
        counter("turns_started", "Replies begun", now.turns_started);
        counter("prompt_tokens_cached", "Prompt tokens found computed already", now.prompt_tokens_cached);
        counter("prefix_hits", "Replies without a session that went on from a kept one", now.prefix_hits);
        counter("prefix_tokens", "Prompt tokens that these found computed already", now.prefix_tokens);
        counter("tokens_computed", "Positions run through the blocks", now.tokens_computed);
        counter("tokens_generated", "Tokens produced", now.tokens_generated);
        let mut out = String::new();
        encode_registry(&mut out, &counts)?;
        encode_registry(&mut out, &self.registry)?;
        encode_eof(&mut out)?;
        Ok(out)
    }

    /// A server's name in the text: a swarm has more servers than a table should have rows.
    fn name(&self, peer: &PeerId) -> String {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.contains(peer) || peers.len() < MAX_PEERS && peers.insert(peer.clone()) {
            return peer.0.clone();
        }
        OTHER.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use corolla_domain::model::{BlockRange, Hop};

    use super::*;

    #[test]
    fn what_strangers_choose_makes_no_more_rows() {
        let metrics = Metrics::default();
        let model = ModelId::from("m");
        for nth in 0..200 {
            let hop = Hop { peer: format!("peer{nth}").as_str().into(), blocks: BlockRange::first(1) };
            metrics.observe(&Event::Step { model: &model, hop: &hop, took: Duration::from_millis(3) });
            let method = Method::from_bytes(format!("M{nth}").as_bytes()).unwrap();
            metrics.answered(None, &method, StatusCode::NOT_FOUND);
        }
        let text = metrics.write(&MeterReading::default()).unwrap();
        assert_eq!(text.matches("corolla_hop_step_seconds_count{").count(), MAX_PEERS + 1);
        assert!(text.contains("corolla_hop_step_seconds_count{model=\"m\",peer=\"other\"} 136"), "{text}");
        assert!(
            text.contains("corolla_http_requests_total{path=\"other\",method=\"other\",status=\"404\"} 200"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_models_name_cannot_break_a_line() {
        let metrics = Metrics::default();
        let model = ModelId::from("a\"b\nc");
        metrics.observe(&Event::Started { model: &model, waited: Duration::ZERO });
        let text = metrics.write(&MeterReading::default()).unwrap();
        assert!(text.contains("model=\"a\\\"b\\nc\""), "{text}");
    }
}
