//! How one reply travelled through a swarm, as clients see it.

use std::time::{Duration, Instant};

use corolla_domain::model::{Failover, Hop, HopReport, RouteReport};
use poem_openapi::Object;

/// How a reply travelled through a swarm. Left out where all blocks are on this machine.
#[derive(Debug, Object)]
pub(crate) struct ReplyRoute {
    /// The servers that wrote the end of the reply, in the order of the blocks.
    hops: Vec<ReplyHop>,
    /// Servers that were lost while it was written, oldest first, 32 at most.
    failovers: Vec<ReplyFailover>,
}

/// A server that took part in a reply.
#[derive(Debug, Object)]
pub(crate) struct ReplyHop {
    /// Id of the server; `in-process` for blocks of this process.
    peer: String,
    /// First block.
    start: u64,
    /// Block after the last one.
    end: u64,
    /// Milliseconds its latest step took, the way there and back included.
    latest_ms: f64,
}

/// A server that was lost in mid-reply. The reply went on with the same tokens.
#[derive(Debug, Object)]
pub(crate) struct ReplyFailover {
    /// Positions of the session that were known when it happened.
    position: u64,
    /// The server that was lost, with its blocks.
    lost: RouteHop,
    /// Why it was given up.
    why: String,
    /// Milliseconds that the reply paused.
    pause_ms: f64,
    /// Who took over.
    by: Vec<RouteHop>,
}

/// One leg of a route.
#[derive(Debug, Object)]
pub(crate) struct RouteHop {
    /// Id of the server; `in-process` for blocks of this process.
    peer: String,
    /// First block.
    start: u64,
    /// Block after the last one.
    end: u64,
}

impl From<Hop> for RouteHop {
    fn from(Hop { peer, blocks }: Hop) -> Self {
        Self { peer: peer.0, start: blocks.start() as u64, end: blocks.end() as u64 }
    }
}

impl ReplyRoute {
    /// `None` where no other machine took part.
    pub(crate) fn of(report: RouteReport) -> Option<Self> {
        if report.hops.is_empty() && report.failovers.is_empty() {
            return None;
        }
        let hops = report.hops.into_iter().map(ReplyHop::from).collect();
        Some(Self { hops, failovers: report.failovers.into_iter().map(ReplyFailover::from).collect() })
    }
}

/// How often a reply that is being written tells how it travels.
const EVERY: Duration = Duration::from_millis(250);

/// What was told of the route of a reply that is being written. Whoever stops it has heard no last word.
#[derive(Debug, Default)]
pub(crate) struct Told(Option<(Instant, usize)>);

impl Told {
    /// `route` where it is due: with the first words, after a server was lost, and every quarter of a second.
    pub(crate) fn due(&mut self, route: Option<ReplyRoute>, now: Instant) -> Option<ReplyRoute> {
        let route = route?;
        let lost = route.failovers.len();
        let due = self.0.is_none_or(|(then, known)| lost != known || now.duration_since(then) >= EVERY);
        due.then(|| {
            self.0 = Some((now, lost));
            route
        })
    }
}

impl From<HopReport> for ReplyHop {
    fn from(HopReport { hop, latest }: HopReport) -> Self {
        let RouteHop { peer, start, end } = hop.into();
        Self { peer, start, end, latest_ms: latest.as_secs_f64() * 1e3 }
    }
}

impl From<Failover> for ReplyFailover {
    fn from(it: Failover) -> Self {
        Self {
            position: it.position as u64,
            lost: it.lost.into(),
            why: it.why,
            pause_ms: it.pause.as_secs_f64() * 1e3,
            by: it.by.into_iter().map(RouteHop::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::stage::Stage;

    async fn post(stage: &Stage, path: &str, body: &Value) -> String {
        let response = stage.client().post(path).body_json(body).send().await.0;
        response.into_body().into_string().await.unwrap()
    }

    fn check(route: &Value) {
        assert_eq!(route["hops"].as_array().unwrap().len(), 1, "{route}");
        let hop = json!({"peer": "heir", "start": 0, "end": 2});
        assert_eq!((&route["hops"][0]["peer"], &route["hops"][0]["end"]), (&hop["peer"], &hop["end"]));
        let failover = &route["failovers"][0];
        assert_eq!(failover["lost"], json!({"peer": "mortal", "start": 0, "end": 2}));
        assert_eq!((&failover["why"], &failover["by"]), (&json!("it is gone"), &json!([hop])));
        assert!(failover["pause_ms"].as_f64().unwrap() >= 0.0);
    }

    #[tokio::test]
    async fn every_dialect_tells_what_happened_on_the_way() {
        let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 5});
        let whole: Value = serde_json::from_str(&post(&Stage::mortal(), "/v1/chat/completions", &chat).await).unwrap();
        assert_eq!(whole["choices"][0]["message"]["content"], "abcde");
        check(&whole["route"]);

        let mut streamed = chat.clone();
        streamed["stream"] = json!(true);
        let events = post(&Stage::mortal(), "/v1/chat/completions", &streamed).await;
        let pieces = events.split("\n\n").filter_map(|event| event.strip_prefix("data: {"));
        let pieces: Vec<Value> = pieces.map(|piece| serde_json::from_str(&format!("{{{piece}")).unwrap()).collect();
        assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], "length");
        check(&pieces.last().unwrap()["route"]);
        // Whoever stops it after its first word, or after a server was lost, knows the route too.
        let told = |at: usize| &pieces[at]["route"];
        assert_eq!(
            (told(0), &told(1)["hops"][0]["peer"], &told(1)["failovers"]),
            (&Value::Null, &json!("mortal"), &json!([]))
        );
        check(pieces[2..6].iter().map(|piece| &piece["route"]).find(|route| !route.is_null()).unwrap());

        let v1 = json!({"inputs": "a", "max_new_tokens": 5});
        let v1: Value = serde_json::from_str(&post(&Stage::mortal(), "/api/v1/generate", &v1).await).unwrap();
        assert_eq!(v1["outputs"], "bcdef");
        check(&v1["route"]);
    }

    #[test]
    fn a_route_is_told_when_it_is_due() {
        let route = |lost: usize| {
            let hop = || RouteHop { peer: "a".to_owned(), start: 0, end: 2 };
            let failover =
                |_| ReplyFailover { position: 1, lost: hop(), why: String::new(), pause_ms: 0.0, by: vec![hop()] };
            Some(ReplyRoute { hops: Vec::new(), failovers: (0..lost).map(failover).collect() })
        };
        let (mut told, begun) = (Told::default(), Instant::now());
        let mut due = |lost, ms| told.due(route(lost), begun + Duration::from_millis(ms)).is_some();
        assert_eq!([due(0, 0), due(0, 249), due(1, 249), due(1, 498), due(1, 499)], [true, false, true, false, true]);
        assert!(Told::default().due(None, begun).is_none());
    }

    #[tokio::test]
    async fn a_model_on_this_machine_has_no_route_to_tell() {
        let v1 = post(&Stage::new(), "/api/v1/generate", &json!({"inputs": "a", "max_new_tokens": 1})).await;
        assert_eq!(v1, "{\"ok\":true,\"outputs\":\"b\"}\n");
    }
}
