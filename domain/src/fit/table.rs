//! Everything a model could be kept in, side by side.

use super::{Bytes, Demand, Dtype, Room, Screen};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// How weights would be kept.
    pub dtype: Dtype,
    /// What that takes in the machine's memory; `None` where rows of this model cannot be cut into blocks of 32.
    pub bytes: Option<Bytes>,
    /// Whether the machine's memory has room for it.
    pub fits: bool,
    /// Whether the cards have room for it, by backend.
    pub fits_cards: Vec<(&'static str, Vec<bool>)>,
}

/// What `demand` takes in each dtype, and where that fits. On the processor [it widens](Dtype::kept) or not, and there may be
/// a screen over the head.
#[must_use]
pub fn table(demand: &Demand, (widens, screen): (bool, Option<Screen>), room: &Room) -> Vec<Row> {
    let row = |dtype: Dtype| {
        let kept = dtype.kept(demand.stored(), widens);
        let bytes = demand.screened_ends(kept, screen).and_then(|ends| Some(ends + demand.blocks(kept)?));
        let fits = |bytes: Option<Bytes>, free: u64| bytes.is_some_and(|bytes| bytes.total() <= free);
        let fits_card = |free: &u64| fits(demand.all(dtype), *free);
        let cards = room.cards.iter().map(|(name, free)| (*name, free.iter().map(fits_card).collect()));
        Row { dtype, bytes, fits: fits(bytes, room.memory), fits_cards: cards.collect() }
    };
    Dtype::ALL.into_iter().map(row).collect()
}
