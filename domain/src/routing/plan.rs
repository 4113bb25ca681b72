//! The cheapest route through a swarm, as a pure function of its map.

use crate::model::{BlockRange, Hop, PeerId, ServerInfo, SwarmMap};

/// Assumed where a server has not been pinged yet.
const UNKNOWN_RTT_S: f64 = 0.05;
/// What a hop costs beyond its round trip: serialisation and queueing, as Petals reckons it. It also keeps a server from
/// being asked twice in a row for what it can do at once.
const HOP_S: f64 = 0.018;
/// Added for a server that says its cache has no room: the last resort before no route at all.
const NO_ROOM_S: f64 = 10.0;

/// There is no route: nobody (who is not banned) hosts these blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoute {
    /// The missing blocks, in order.
    pub missing: Vec<usize>,
}

/// The hops through `blocks` with the least expected time for one token: for each hop a round trip, plus the blocks
/// at the server's speed. Servers that `avoid` names are not used. Needs room for `tokens` positions where it can.
///
/// # Errors
/// [`NoRoute`] with the blocks nobody hosts.
pub fn plan(
    map: &SwarmMap,
    blocks: BlockRange,
    tokens: usize,
    avoid: impl Fn(&PeerId) -> bool,
) -> Result<Vec<Hop>, NoRoute> {
    let servers: Vec<&ServerInfo> = map.servers.iter().filter(|s| !avoid(&s.peer)).collect();
    // Dynamic programming from the end: best[b] is the cost from block start + b to the end, with the hop to take.
    let mut best: Vec<Option<(f64, Option<Hop>)>> = vec![None; blocks.len() + 1];
    best[blocks.len()] = Some((0.0, None));
    for from in (0..blocks.len()).rev() {
        for server in &servers {
            let block = blocks.start() + from;
            if block < server.blocks.start() || block >= server.blocks.end() {
                continue;
            }
            for end in block + 1..=server.blocks.end().min(blocks.end()) {
                let Some((rest, _)) = best[end - blocks.start()] else { continue };
                let cost = rest + hop_cost(server, end - block, tokens);
                if best[from].as_ref().is_none_or(|(known, _)| cost < *known)
                    && let Some(range) = BlockRange::new(block, end)
                {
                    best[from] = Some((cost, Some(Hop { peer: server.peer.clone(), blocks: range })));
                }
            }
        }
    }
    let mut hops = Vec::new();
    let mut at = 0;
    while let Some((_, Some(hop))) = &best[at] {
        at = hop.blocks.end() - blocks.start();
        hops.push(hop.clone());
    }
    if at == blocks.len() {
        return Ok(hops);
    }
    let reachable = SwarmMap { servers: servers.into_iter().cloned().collect() };
    Err(NoRoute { missing: reachable.missing(blocks) })
}

fn hop_cost(server: &ServerInfo, blocks: usize, tokens: usize) -> f64 {
    let rtt = server.rtt.map_or(UNKNOWN_RTT_S, |rtt| rtt.as_secs_f64());
    let speed = if server.rps.is_finite() && server.rps > 0.0 { server.rps } else { 1.0 };
    let full = server.free_tokens.is_some_and(|free| free < tokens);
    HOP_S + rtt + blocks as f64 / speed + if full { NO_ROOM_S } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::ServerFacts;

    fn server(peer: &str, start: usize, end: usize, rps: f64, rtt_ms: u64) -> ServerInfo {
        ServerInfo {
            peer: PeerId(peer.into()),
            blocks: BlockRange::new(start, end).unwrap(),
            rps,
            rtt: Some(Duration::from_millis(rtt_ms)),
            free_tokens: None,
            facts: ServerFacts::default(),
        }
    }

    fn route(servers: Vec<ServerInfo>, blocks: usize, banned: &[&str]) -> Result<String, NoRoute> {
        let hops = plan(&SwarmMap { servers }, BlockRange::first(blocks), 10, |p| banned.contains(&p.0.as_str()))?;
        Ok(hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn one_near_server_beats_two() {
        let servers = vec![server("a", 0, 4, 100.0, 5), server("b", 0, 2, 1000.0, 30), server("c", 2, 4, 1000.0, 30)];
        assert_eq!(route(servers.clone(), 4, &[]).unwrap(), "0:4@a");
        assert_eq!(route(servers, 4, &["a"]).unwrap(), "0:2@b 2:4@c");
    }

    #[test]
    fn a_server_is_asked_once_for_all_it_has() {
        assert_eq!(route(vec![server("here", 0, 9, 1000.0, 0)], 9, &[]).unwrap(), "0:9@here");
    }

    #[test]
    fn a_server_is_left_in_the_middle_for_a_faster_one() {
        let servers = vec![server("slow", 0, 4, 1.0, 1), server("fast", 1, 4, 1000.0, 1)];
        assert_eq!(route(servers, 4, &[]).unwrap(), "0:1@slow 1:4@fast");
    }

    #[test]
    fn a_full_server_is_the_last_resort() {
        let mut full = server("full", 0, 2, 1000.0, 1);
        full.free_tokens = Some(9);
        assert_eq!(route(vec![full.clone(), server("slow", 0, 2, 1.0, 500)], 2, &[]).unwrap(), "0:2@slow");
        assert_eq!(route(vec![full], 2, &[]).unwrap(), "0:2@full");
    }

    #[test]
    fn missing_blocks_are_named() {
        let servers = vec![server("a", 0, 2, 1.0, 1), server("b", 3, 4, f64::NAN, 1)];
        assert_eq!(route(servers, 5, &[]), Err(NoRoute { missing: vec![2, 4] }));
    }

    proptest! {
        #[test]
        fn a_route_is_gapless_and_there_is_one_whenever_all_blocks_are_hosted(
            spans in prop::collection::vec((0usize..8, 1usize..5, 1u32..1000, 0u64..200), 0..10),
        ) {
            let servers: Vec<ServerInfo> = spans
                .iter()
                .enumerate()
                .map(|(i, (start, len, rps, rtt))| server(&i.to_string(), *start, start + len, f64::from(*rps), *rtt))
                .collect();
            let map = SwarmMap { servers };
            let blocks = BlockRange::first(8);
            match plan(&map, blocks, 1, |_| false) {
                Ok(hops) => {
                    prop_assert_eq!(hops.first().map(|h| h.blocks.start()), Some(0));
                    prop_assert_eq!(hops.last().map(|h| h.blocks.end()), Some(8));
                    prop_assert!(hops.windows(2).all(|w| w[0].blocks.end() == w[1].blocks.start()));
                    for hop in hops {
                        prop_assert!(map.servers.iter().any(|s| s.peer == hop.peer && s.blocks.contains(hop.blocks)));
                    }
                }
                Err(no) => {
                    prop_assert!(!no.missing.is_empty());
                    prop_assert_eq!(no.missing, map.missing(blocks));
                }
            }
        }
    }
}
