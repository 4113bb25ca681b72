//! Blocks that one server is to run, and nobody else.

use std::{collections::BTreeSet, fmt, str::FromStr};

use corolla_domain::{
    model::{BlockRange, ServerInfo, SwarmMap},
    ports::PortError,
};

use crate::transport::PeerId;

/// Pins of one model at most.
const MOST_PINS: usize = 1024;

/// These blocks at that server only; written `0:2@<peer id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The blocks.
    pub blocks: BlockRange,
    /// The only server that may run them.
    pub peer: String,
}

impl FromStr for Pin {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let wrong = |why: &str| PortError::invalid(format!("\"{text}\" {why}"));
        let form = || wrong("is no pin; write \"first block:block after the last@peer id\", such as \"0:2@Qm...\"");
        let (range, peer) = text.split_once('@').ok_or_else(form)?;
        let (start, end) = range.split_once(':').ok_or_else(form)?;
        let [start, end] = [start, end].map(|side| side.trim().parse::<usize>());
        let (Ok(start), Ok(end)) = (start, end) else { return Err(form()) };
        let blocks = BlockRange::new(start, end)
            .ok_or_else(|| wrong("pins no block; the second number is the block after the last, such as in \"0:2\""))?;
        let peer = peer.trim();
        PeerId::from_str(peer).map_err(|_| wrong("does not end in a peer id, such as Qm... or 12D3..."))?;
        Ok(Self { blocks, peer: peer.to_owned() })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.blocks, self.peer)
    }
}

/// Refuses pins that contradict each other.
///
/// # Errors
/// `InvalidInput` that names two pins which share a block.
pub fn check_pins(pins: &[Pin]) -> Result<(), PortError> {
    if pins.len() > MOST_PINS {
        return Err(PortError::invalid(format!("{} pins are more than {MOST_PINS}", pins.len())));
    }
    let mut sorted: Vec<&Pin> = pins.iter().collect();
    sorted.sort_by_key(|pin| pin.blocks);
    for pair in sorted.windows(2) {
        if pair[1].blocks.start() < pair[0].blocks.end() {
            let (a, b, shared) = (pair[0], pair[1], pair[1].blocks.start());
            let text = format!("\"{a}\" and \"{b}\" both pin block {shared}; pin each block once");
            return Err(PortError::invalid(text));
        }
    }
    Ok(())
}

/// The map in which a pinned block is offered by its own server only. Where that one does not host it, nobody does.
pub(super) fn pinned(servers: impl IntoIterator<Item = ServerInfo>, pins: &[Pin]) -> SwarmMap {
    let offers = |server: ServerInfo| {
        let foreign = |pin: &&Pin| pin.peer != server.peer.0;
        let taken: BTreeSet<BlockRange> = pins.iter().filter(foreign).map(|pin| pin.blocks).collect();
        without(server.blocks, &taken).into_iter().map(move |blocks| ServerInfo { blocks, ..server.clone() })
    };
    servers.into_iter().flat_map(offers).collect::<Vec<_>>().into()
}

/// The runs of `blocks` that are left without those of `taken`, which do not overlap.
fn without(blocks: BlockRange, taken: &BTreeSet<BlockRange>) -> Vec<BlockRange> {
    let mut runs = Vec::new();
    let mut from = blocks.start();
    for hole in taken {
        runs.extend(BlockRange::new(from, hole.start().min(blocks.end())));
        from = from.max(hole.end());
    }
    runs.extend(BlockRange::new(from, blocks.end()));
    runs
}

#[cfg(test)]
mod tests {
    use corolla_domain::model::ServerFacts;

    use super::*;

    const A: &str = "QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY";
    const B: &str = "QmQGTqmM7NKjV6ggU1ZCap8zWiyKR89RViDXiqehSiCpY5";

    fn pin(range: &str, peer: &str) -> Pin {
        format!("{range}@{peer}").parse().unwrap()
    }

    /// What is offered of servers `start:end` when those pins hold: A hosts everything, then B.
    fn offered(a: (usize, usize), b: (usize, usize), pins: &[Pin]) -> (String, Vec<usize>) {
        let server = |peer: &str, (start, end): (usize, usize)| ServerInfo {
            peer: peer.into(),
            blocks: BlockRange::new(start, end).unwrap(),
            rps: 1.0,
            rtt: None,
            next: Vec::new(),
            pushes: false,
            free_tokens: None,
            facts: ServerFacts::default(),
        };
        let map = pinned([server(A, a), server(B, b)], pins);
        let name = |peer: &str| if peer == A { "a" } else { "b" };
        let offers: Vec<String> = map.servers.iter().map(|s| format!("{}{}", name(&s.peer.0), s.blocks)).collect();
        (offers.join(" "), map.missing(BlockRange::first(8)))
    }

    #[test]
    fn others_offer_what_is_left() {
        let all = (0, 8);
        for (pins, offers) in [
            (vec![], "a0:8 b0:8"),
            (vec![pin("0:2", A)], "a0:8 b2:8"),
            (vec![pin("6:8", A)], "a0:8 b0:6"),
            (vec![pin("2:4", A)], "a0:8 b0:2 b4:8"),
            (vec![pin("4:6", A), pin("1:3", A)], "a0:8 b0:1 b3:4 b6:8"),
            (vec![pin("2:4", A), pin("4:6", A)], "a0:8 b0:2 b6:8"),
            (vec![pin("0:8", A)], "a0:8"),
            (vec![pin("0:4", A), pin("4:8", B)], "a0:4 b4:8"),
        ] {
            assert_eq!(offered(all, all, &pins), (offers.to_owned(), vec![]), "{pins:?}");
        }
        assert_eq!(offered((0, 4), (3, 8), &[pin("0:5", A)]).0, "a0:4 b5:8");
        assert_eq!(offered((5, 8), (0, 4), &[pin("4:6", B)]).0, "a6:8 b0:4", "a pin beside what a server has");
    }

    #[test]
    fn blocks_of_a_pinned_server_that_is_absent_are_missing() {
        let absent = pin("1:3", &libp2p::PeerId::random().to_base58());
        assert_eq!(offered((0, 8), (2, 8), &[absent]), ("a0:1 a3:8 b3:8".to_owned(), vec![1, 2]));
        assert_eq!(offered((0, 4), (0, 8), &[pin("3:5", A)]).1, [4], "nor does it host all of them");
    }

    #[test]
    fn a_block_is_pinned_once() {
        check_pins(&[pin("2:4", A), pin("0:2", B), pin("4:5", B)]).unwrap();
        for pins in [[pin("0:2", A), pin("1:3", B)], [pin("3:4", A), pin("0:8", A)], [pin("0:2", A), pin("0:2", A)]] {
            let text = check_pins(&pins).unwrap_err().to_string();
            assert!(pins.iter().all(|pin| text.contains(&pin.to_string())), "{text}");
        }
        check_pins(&vec![pin("0:1", A); MOST_PINS + 1]).unwrap_err();
    }

    #[test]
    fn a_pin_is_read_and_what_is_none_is_named() {
        assert_eq!(pin("0:2", A), Pin { blocks: BlockRange::first(2), peer: A.into() });
        assert_eq!(pin("0:2", A).to_string(), format!("0:2@{A}"));
        let long = "9".repeat(30);
        for text in [
            "",
            "0:2",
            &format!("2@{A}"),
            &format!("a:2@{A}"),
            &format!("0:{long}@{A}"),
            "0:2@nobody",
            &format!("2:2@{A}"),
        ] {
            let fault = text.parse::<Pin>().unwrap_err().to_string();
            assert!(fault.contains(&format!("\"{text}\"")) && fault.contains("such as"), "{fault}");
        }
    }
}
