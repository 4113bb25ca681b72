//! Routes through small swarms.

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
        next: Vec::new(),
        pushes: false,
        free_tokens: None,
        facts: ServerFacts::default(),
    }
}

fn route(servers: Vec<ServerInfo>, blocks: usize, banned: &[&str]) -> Result<String, NoRoute> {
    let hops = plan(&servers.into(), BlockRange::first(blocks), 10, |p| banned.contains(&p.0.as_str()))?;
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
fn servers_that_push_are_chosen_where_that_is_shorter() {
    let pair = |pushes: bool| {
        let mut below = server("below", 0, 2, 1000.0, 100);
        below.next = vec![(PeerId("near".into()), Duration::from_millis(2))];
        let mut near = server("near", 2, 4, 1000.0, 100);
        (below.pushes, near.pushes) = (pushes, pushes);
        vec![below, near, server("far", 2, 4, 1000.0, 60)]
    };
    assert_eq!(route(pair(true), 4, &[]).unwrap(), "0:2@below 2:4@near");
    assert_eq!(route(pair(false), 4, &[]).unwrap(), "0:2@below 2:4@far");
}

#[test]
fn a_server_with_two_runs_of_blocks_is_used_for_both() {
    let servers = vec![server("a", 0, 1, 10.0, 1), server("b", 1, 2, 10.0, 1), server("a", 2, 3, 10.0, 1)];
    assert_eq!(route(servers, 3, &[]).unwrap(), "0:1@a 1:2@b 2:3@a");
}

#[test]
fn blocks_of_this_process_are_used_unless_others_are_better() {
    let here = |start, end| server("here", start, end, 1000.0, 0);
    for (own, others, taken) in [
        (here(0, 4), vec![server("a", 0, 4, 1000.0, 0)], "0:4@here"),
        (here(0, 2), vec![server("a", 0, 4, 900.0, 1)], "0:2@here 2:4@a"),
        (here(0, 2), vec![server("a", 0, 4, 1000.0, 1)], "0:2@here 2:4@a"),
        (here(2, 4), vec![server("a", 0, 4, 1000.0, 1)], "0:2@a 2:4@here"),
        (here(0, 4), vec![server("a", 0, 8, 300.0, 20), server("b", 4, 8, 10.0, 20)], "0:4@here 4:8@a"),
        (here(1, 3), vec![server("a", 0, 2, 300.0, 5), server("b", 2, 4, 300.0, 5)], "0:1@a 1:3@here 3:4@b"),
        // In the middle of what another has anyway they save less than a second way there costs.
        (here(1, 3), vec![server("a", 0, 4, 300.0, 5)], "0:4@a"),
        (here(1, 3), vec![server("a", 0, 4, 10.0, 5)], "0:1@a 1:3@here 3:4@a"),
    ] {
        let servers = [vec![own], others].concat();
        assert_eq!(route(servers, if taken.contains(":8") { 8 } else { 4 }, &[]).unwrap(), taken);
    }
}

#[test]
fn nobody_pushes_into_this_process() {
    let pushing = |mut server: ServerInfo, to: &str| {
        server.next = vec![(to.into(), Duration::from_micros(1))];
        server.pushes = true;
        server
    };
    let far = |peer: &str, start, end, to| pushing(server(peer, start, end, 100.0, 400), to);
    let here = ServerInfo { pushes: false, ..server("here", 1, 2, 1000.0, 0) };
    let servers = vec![here, far("a", 0, 1, "here"), far("b", 2, 3, "here"), server("c", 0, 3, 100.0, 500)];
    // Each of the three hops is a way there and back: more than all blocks at another.
    assert_eq!(route(servers, 3, &[]).unwrap(), "0:3@c");
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
        let map = SwarmMap::from(servers);
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
