//! The cheapest route through a swarm, as a pure function of its map.

use std::{cmp::Ordering, collections::HashMap, time::Duration};

use crate::model::{BlockRange, Hop, PeerId, ServerInfo, SwarmMap};

/// Assumed one way where a server has not been pinged yet.
const UNKNOWN_WAY_S: f64 = 0.15;
/// The most that is reckoned for one way.
const LONGEST_WAY_S: f64 = 5.0;
/// What a hop costs beyond its way: serialisation and queueing, as Petals reckons it. It also keeps a server from being
/// asked twice in a row for what it can do at once. Blocks of this process cost none of that: there is no way to them.
const HOP_S: f64 = 0.018;
/// Added for a server that says its cache has no room: the last resort before no route at all.
const NO_ROOM_S: f64 = 10.0;

/// There is no route: nobody (who is not banned) hosts these blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoute {
    /// The missing blocks, in order.
    pub missing: Vec<usize>,
}

/// The hops through `blocks` with the least expected time for one token; of equal ones those over servers that the map
/// names first. Servers that `avoid` names are not used. Needs
/// room for `tokens` positions where it can.
///
/// The time is that of a shortest path: half a round trip to the first server, the blocks at each server's speed, then
/// from server to server (back through this machine, or straight to the next one where both push and the way was
/// measured), and half a round trip back.
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
    let graph = Graph::new(&servers, tokens);
    // Block by block: where the state can be before a block, at which cost, and how it came there.
    let mut home = Some(Place { cost: 0.0, trail: None });
    let mut trails: Vec<Trail> = Vec::new();
    let mut at: Vec<Option<Place>> = vec![None; servers.len()];
    for block in blocks.start()..blocks.end() {
        at = graph.through(block, home, &at, &mut trails);
        home = graph.home(&at);
    }
    if let Some(home) = home {
        return Ok(hops(&servers, &trails, home.trail, blocks.end()));
    }
    let reachable = SwarmMap::from(servers.into_iter().cloned().collect::<Vec<_>>());
    Err(NoRoute { missing: reachable.missing(blocks) })
}

/// A state somewhere, with the cheapest way there.
#[derive(Debug, Clone, Copy)]
struct Place {
    cost: f64,
    /// The last hop of the way, as an index of the trails.
    trail: Option<usize>,
}

/// A hop that was begun, and what came before it.
#[derive(Debug)]
struct Trail {
    server: usize,
    start: usize,
    before: Option<usize>,
}

struct Graph<'a> {
    servers: &'a [&'a ServerInfo],
    tokens: usize,
    /// For each server, who can push to it and how long that takes.
    pushers: Vec<Vec<(usize, f64)>>,
}

impl<'a> Graph<'a> {
    fn new(servers: &'a [&'a ServerInfo], tokens: usize) -> Self {
        let mut pushers = vec![Vec::new(); servers.len()];
        let mut places: HashMap<&PeerId, Vec<usize>> = HashMap::new();
        for (nth, server) in servers.iter().enumerate() {
            places.entry(&server.peer).or_default().push(nth);
        }
        for (from, server) in servers.iter().enumerate().filter(|(_, s)| s.pushes) {
            for (peer, rtt) in &server.next {
                for to in places.get(peer).into_iter().flatten().filter(|to| servers[**to].pushes && **to != from) {
                    pushers[*to].push((from, way(Some(*rtt))));
                }
            }
        }
        Self { servers, tokens, pushers }
    }

    /// Where the state can be after `block`.
    fn through(
        &self,
        block: usize,
        home: Option<Place>,
        at: &[Option<Place>],
        trails: &mut Vec<Trail>,
    ) -> Vec<Option<Place>> {
        let step = |(to, server): (usize, &&ServerInfo)| {
            if block < server.blocks.start() || block >= server.blocks.end() {
                return None;
            }
            let enter = hop(server.rtt) + if self.full(server) { NO_ROOM_S } else { 0.0 };
            let sent = home.map(|h| Place { cost: h.cost + way(server.rtt) + enter, ..h });
            let pushed = self.pushers[to]
                .iter()
                .filter_map(|(from, way)| at[*from].map(|p| Place { cost: p.cost + way + enter, ..p }));
            let entered = pushed.chain(sent).min_by(cheaper);
            let mut place = match (at[to], entered) {
                (Some(stay), Some(enter)) if stay.cost <= enter.cost => stay,
                (Some(stay), None) => stay,
                (_, Some(enter)) => {
                    trails.push(Trail { server: to, start: block, before: enter.trail });
                    Place { trail: Some(trails.len() - 1), ..enter }
                }
                (None, None) => return None,
            };
            place.cost += 1.0 / speed(server);
            Some(place)
        };
        self.servers.iter().enumerate().map(step).collect()
    }

    /// The state back on this machine.
    fn home(&self, at: &[Option<Place>]) -> Option<Place> {
        let back = |(nth, place): (usize, &Option<Place>)| {
            place.map(|p| Place { cost: p.cost + way(self.servers[nth].rtt), ..p })
        };
        at.iter().enumerate().filter_map(back).min_by(cheaper)
    }

    fn full(&self, server: &ServerInfo) -> bool {
        server.free_tokens.is_some_and(|free| free < self.tokens)
    }
}

fn cheaper(a: &Place, b: &Place) -> Ordering {
    a.cost.total_cmp(&b.cost)
}

/// Seconds one way of a round trip.
fn way(rtt: Option<Duration>) -> f64 {
    rtt.map_or(UNKNOWN_WAY_S, |rtt| (rtt.as_secs_f64() / 2.0).min(LONGEST_WAY_S))
}

/// Seconds that a hop costs beyond its way.
fn hop(rtt: Option<Duration>) -> f64 {
    if rtt == Some(Duration::ZERO) { 0.0 } else { HOP_S }
}

/// Blocks a second.
fn speed(server: &ServerInfo) -> f64 {
    if server.rps.is_finite() && server.rps > 0.0 { server.rps } else { 1.0 }
}

/// A trail as hops, first to last.
fn hops(servers: &[&ServerInfo], trails: &[Trail], last: Option<usize>, mut end: usize) -> Vec<Hop> {
    let mut hops = Vec::new();
    let mut at = last;
    while let Some(trail) = at.map(|at| &trails[at]) {
        hops.extend(
            BlockRange::new(trail.start, end).map(|blocks| Hop { peer: servers[trail.server].peer.clone(), blocks }),
        );
        end = trail.start;
        at = trail.before;
    }
    hops.reverse();
    hops
}

#[cfg(test)]
mod tests;
