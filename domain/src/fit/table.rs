//! Everything a model could be kept in, side by side.

use super::{Bytes, Demand, Dtype, Room};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// How weights would be kept.
    pub dtype: Dtype,
    /// What that takes; `None` where rows of this model cannot be cut into blocks of 32.
    pub bytes: Option<Bytes>,
    /// Whether the machine's memory has room for it.
    pub fits: bool,
    /// Whether the cards have room for it, by backend.
    pub fits_cards: Vec<(&'static str, Vec<bool>)>,
}

/// What `demand` takes in each dtype, and where that fits.
#[must_use]
pub fn table(demand: &Demand, room: &Room) -> Vec<Row> {
    let row = |dtype| {
        let bytes = demand.all(dtype);
        let fits = |free: u64| bytes.is_some_and(|bytes| bytes.total() <= free);
        let cards = room.cards.iter().map(|(name, free)| (*name, free.iter().map(|free| fits(*free)).collect()));
        Row { dtype, bytes, fits: fits(room.memory), fits_cards: cards.collect() }
    };
    Dtype::ALL.into_iter().map(row).collect()
}
