//! From records of the DHT to servers: which blocks each has, and what a route planner should think of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use corolla_domain::model::{BlockRange, PeerId, ServerFacts, ServerInfo};

use super::terms::pushes;
use crate::wire::{
    key::peer_bytes,
    record::Dictionary,
    server::{ServerRecord, ServerState, block_key},
};

/// Steps a second of one block where a server does not say (wire protocol §7.3).
const UNKNOWN_RPS: f64 = 300.0;
/// What is left of the network's speed behind a relay (§8.3).
const RELAYED: f64 = 0.2;
/// Round trip that is assumed of a server that did not answer a ping: the most the reference counts, there and back.
const UNREACHABLE: Duration = Duration::from_secs(10);

/// Round trips to others that are kept of one server; a stock server measures a handful.
const MOST_NEXT: usize = 64;

/// One server as it announces itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) peer: PeerId,
    /// Its latest record.
    pub(crate) record: ServerRecord,
    /// Runs of blocks it has, or loads; more than one only where it does not say from where to where.
    pub(crate) spans: Vec<BlockRange>,
}

/// Whether bytes are a server's record; what is not must not displace one that is.
pub(crate) fn is_record(value: &[u8]) -> bool {
    ServerRecord::decode(value).is_ok()
}

/// The servers that the records of blocks `0..blocks` speak of, in the order of their names.
///
/// A server publishes the same record under each of its blocks. The one that expires last is believed (of several the
/// one with the highest state); it names the span. Older servers name none: theirs is where their records are.
pub(crate) fn servers(found: &BTreeMap<String, Dictionary>, prefix: &str, blocks: usize) -> Vec<Seen> {
    struct Latest {
        record: ServerRecord,
        expiration: f64,
        at: BTreeSet<(ServerState, usize)>,
    }
    let mut peers: BTreeMap<&str, Latest> = BTreeMap::new();
    for block in 0..blocks {
        let Some(dictionary) = found.get(&block_key(prefix, block)) else { continue };
        for (peer, entry) in &dictionary.entries {
            let Ok(record) = ServerRecord::decode(&entry.value) else { continue };
            if peer_bytes(peer).is_err() || !covers(&record, block) {
                continue;
            }
            let (expiration, state) = (entry.expiration, record.state);
            let rank = |expiration: f64, record: &ServerRecord| (expiration, record.state);
            let fresh = || Latest { record: record.clone(), expiration, at: BTreeSet::new() };
            let latest = peers.entry(peer).or_insert_with(fresh);
            if rank(expiration, &record) > rank(latest.expiration, &latest.record) {
                (latest.record, latest.expiration) = (record, expiration);
            }
            latest.at.insert((state, block));
        }
    }
    let seen = |(peer, latest): (&str, Latest)| {
        let announced = latest.record.start_block.zip(latest.record.end_block);
        let spans = match announced {
            Some((start, end)) => BlockRange::new(start, end.min(blocks)).into_iter().collect(),
            None => runs(latest.at.iter().filter(|(state, _)| *state == latest.record.state).map(|(_, block)| *block)),
        };
        Seen { peer: PeerId(peer.to_owned()), record: latest.record, spans }
    };
    peers.into_iter().map(seen).collect()
}

/// Whether a record may stand under this block.
fn covers(record: &ServerRecord, block: usize) -> bool {
    record.start_block.zip(record.end_block).is_none_or(|(start, end)| start <= block && block < end)
}

/// The gapless runs of blocks in order.
fn runs(blocks: impl Iterator<Item = usize>) -> Vec<BlockRange> {
    let mut runs: Vec<BlockRange> = Vec::new();
    for block in blocks {
        let start = match runs.last() {
            Some(run) if run.end() == block => {
                let start = run.start();
                runs.pop();
                start
            }
            _ => block,
        };
        runs.extend(BlockRange::new(start, block + 1));
    }
    runs
}

impl Seen {
    /// What a route planner needs to know, a line for each run of blocks; nothing where the server does not serve.
    /// `relayed` tells of the connection to it, where there is one.
    pub(super) fn infos(&self, rtt: Option<Ping>, relayed: Option<bool>) -> Vec<ServerInfo> {
        if self.record.state != ServerState::Online {
            return Vec::new();
        }
        let info = |blocks: &BlockRange| ServerInfo {
            peer: self.peer.clone(),
            blocks: *blocks,
            rps: rps(&self.record, blocks.len()),
            rtt: rtt.map(|ping| ping.unwrap_or(UNREACHABLE)),
            next: next(&self.record),
            pushes: pushes(self.record.version.as_deref()),
            free_tokens: self.free_tokens(),
            facts: ServerFacts {
                version: self.record.version.clone(),
                dtype: self.record.torch_dtype.clone(),
                relayed: relayed.or(self.record.using_relay),
                name: self.record.public_name.clone(),
            },
        };
        self.spans.iter().map(info).collect()
    }

    /// Positions its cache can take: it announces room for K and V of each of its blocks apart (§8.4).
    pub(super) fn free_tokens(&self) -> Option<usize> {
        let halves = 2 * self.spans.iter().map(|span| span.len()).sum::<usize>().max(1);
        self.record.cache_tokens_left.map(|left| usize::try_from(left).unwrap_or(usize::MAX) / halves)
    }
}

/// The shortest round trips that a server has measured to others; what cannot be one is left out.
fn next(record: &ServerRecord) -> Vec<(PeerId, Duration)> {
    let longest = UNREACHABLE.as_secs_f64();
    let sane = record.next_pings.iter().filter(|(_, seconds)| (0.0..=longest).contains(*seconds));
    let named = sane.filter(|(peer, _)| peer_bytes(peer).is_ok());
    let mut next: Vec<_> = named.map(|(peer, s)| (PeerId(peer.clone()), Duration::from_secs_f64(*s))).collect();
    next.sort_by_key(|(_, trip)| *trip);
    next.truncate(MOST_NEXT);
    next
}

/// A measured round trip; `None` where there was no answer.
pub(super) type Ping = Option<Duration>;

/// Blocks a second of one token: the announced speed of computing, and the network's share spread over the blocks.
fn rps(record: &ServerRecord, blocks: usize) -> f64 {
    let positive = |rate: Option<f64>| rate.filter(|rate| *rate > 0.0);
    let compute = positive(record.inference_rps).unwrap_or(UNKNOWN_RPS);
    let Some(network) = positive(record.network_rps) else { return compute };
    let network = if record.using_relay == Some(true) { network * RELAYED } else { network };
    1.0 / (1.0 / compute + 1.0 / (network * blocks as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::Entry;

    const PEER: &str = "QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY";

    fn record(state: ServerState, span: Option<(usize, usize)>) -> ServerRecord {
        let (start_block, end_block) = span.unzip();
        ServerRecord { start_block, end_block, ..ServerRecord::new(state, 1.0) }
    }

    fn seen(entries: &[(usize, &str, f64, ServerRecord)]) -> Vec<Seen> {
        let mut found: BTreeMap<String, Dictionary> = BTreeMap::new();
        for (block, peer, expiration, record) in entries {
            let entry = Entry { value: record.encode().into(), expiration: *expiration };
            found.entry(block_key("m", *block)).or_default().entries.insert((*peer).to_owned(), entry);
        }
        servers(&found, "m", 4)
    }

    fn spans(entries: &[(usize, &str, f64, ServerRecord)]) -> String {
        seen(entries).iter().flat_map(|s| &s.spans).map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    use ServerState::{Joining, Offline, Online};

    #[test]
    fn an_announced_span_is_believed_and_clamped() {
        assert_eq!(spans(&[(1, PEER, 9.0, record(Online, Some((1, 9))))]), "1:4");
        assert_eq!(spans(&[(0, PEER, 9.0, record(Online, Some((1, 9))))]), "", "not under a block it does not have");
    }

    #[test]
    fn a_span_without_an_announcement_grows_block_by_block() {
        let online = || record(Online, None);
        let entries = [(0, PEER, 9.0, online()), (1, PEER, 9.0, online()), (3, PEER, 9.0, online())];
        assert_eq!(spans(&entries), "0:2 3:4");
    }

    #[test]
    fn a_server_that_loads_has_a_span_and_serves_nobody() {
        let joining = || record(Joining, None);
        let entries = [(1, PEER, 9.0, joining()), (2, PEER, 9.0, joining())];
        assert_eq!(spans(&entries), "1:3");
        assert_eq!(seen(&entries)[0].infos(None, None), []);
        // It serves one block already, and is loading another: what it serves counts.
        let entries = [(1, PEER, 9.0, joining()), (2, PEER, 9.0, record(Online, None))];
        assert_eq!(spans(&entries), "2:3");
    }

    #[test]
    fn the_record_that_expires_last_counts_then_the_higher_state() {
        let moved = [(0, PEER, 8.0, record(Online, Some((0, 2)))), (2, PEER, 9.0, record(Online, Some((2, 4))))];
        assert_eq!(spans(&moved), "2:4");
        let gone = [(0, PEER, 8.0, record(Online, Some((0, 2)))), (1, PEER, 9.0, record(Offline, Some((0, 2))))];
        assert_eq!(seen(&gone)[0].infos(None, None), []);
        let tie = [(0, PEER, 9.0, record(Online, Some((0, 2)))), (1, PEER, 9.0, record(Joining, Some((0, 2))))];
        assert_eq!(seen(&tie)[0].infos(None, None).len(), 1);
    }

    #[test]
    fn a_subkey_that_is_no_peer_is_left_out() {
        assert_eq!(seen(&[(0, "nobody", 9.0, record(Online, None))]), []);
    }

    #[test]
    fn a_planner_hears_speed_round_trip_and_room() {
        let mut server = record(Online, Some((0, 4)));
        let info = |server: &ServerRecord, rtt| seen(&[(0, PEER, 9.0, server.clone())])[0].infos(rtt, None).remove(0);
        assert_eq!((info(&server, None).rps, info(&server, None).rtt), (300.0, None));
        assert_eq!(info(&server, Some(None)).rtt, Some(UNREACHABLE));
        server.cache_tokens_left = Some(800);
        server.inference_rps = Some(100.0);
        assert_eq!((info(&server, None).rps, info(&server, None).free_tokens), (100.0, Some(100)));
        server.network_rps = Some(25.0);
        assert_eq!(info(&server, None).rps, 50.0);
        server.using_relay = Some(true);
        assert!((info(&server, None).rps - 100.0 / 6.0).abs() < 1e-9);
    }
    #[test]
    fn a_planner_hears_of_pushes_and_of_the_ways_between_servers() {
        const NEXT: &str = "QmQGTqmM7NKjV6ggU1ZCap8zWiyKR89RViDXiqehSiCpY5";
        let mut server = record(Online, Some((0, 4)));
        server.version = Some("2.3.0.dev2".into());
        server.next_pings =
            [(NEXT, 0.02), ("nobody", 0.01), (PEER, f64::INFINITY)].map(|(p, s)| (p.to_owned(), s)).into();
        let info = |server: &ServerRecord| seen(&[(0, PEER, 9.0, server.clone())])[0].infos(None, None).remove(0);
        assert_eq!(info(&server).next, [(PeerId(NEXT.into()), Duration::from_millis(20))]);
        assert!(info(&server).pushes);
        server.version = Some("2.2.0.post1".into());
        server.next_pings = (1..200)
            .map(|n| (libp2p::PeerId::random().to_base58(), f64::from(n) / 100.0))
            .chain([(NEXT.to_owned(), 0.0), (PEER.to_owned(), 1e300)])
            .collect();
        let next = info(&server).next;
        assert_eq!((next.len(), &next[0].0.0[..], info(&server).pushes), (MOST_NEXT, NEXT, false));
        assert!(next.iter().all(|(_, trip)| *trip < Duration::from_secs(1)), "the shortest are kept");
    }

    #[test]
    fn the_connection_knows_better_than_the_record_whether_there_is_a_relay() {
        let mut server = record(Online, Some((0, 4)));
        server.using_relay = Some(true);
        let relayed =
            |connected| seen(&[(0, PEER, 9.0, server.clone())])[0].infos(None, connected).remove(0).facts.relayed;
        assert_eq!((relayed(None), relayed(Some(false)), relayed(Some(true))), (Some(true), Some(false), Some(true)));
    }
}
