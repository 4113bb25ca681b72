//! A contiguous, non-empty run of transformer blocks.

use std::fmt;

/// Blocks `start..end` of a model, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRange {
    start: usize,
    end: usize,
}

impl BlockRange {
    /// `start..end`, or `None` where that would be empty.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// The first `blocks` blocks. A model has at least one.
    #[must_use]
    pub fn first(blocks: usize) -> Self {
        Self { start: 0, end: blocks.max(1) }
    }

    /// Index of the first block.
    #[must_use]
    pub fn start(self) -> usize {
        self.start
    }

    /// Index after the last block.
    #[must_use]
    pub fn end(self) -> usize {
        self.end
    }

    /// How many blocks, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether every block of `other` is in here.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// Blocks, in order, as people list them: runs of three and more by their ends.
#[must_use]
pub fn blocks_in_words(blocks: &[usize]) -> String {
    let runs = blocks.chunk_by(|one, next| one + 1 == *next).flat_map(|run| match run {
        [first, .., last] if run.len() > 2 => vec![format!("{first} to {last}")],
        few => few.iter().map(ToString::to_string).collect(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_range_cannot_be_made() {
        assert_eq!(BlockRange::new(3, 3), None);
        assert_eq!(BlockRange::new(4, 3), None);
    }

    #[test]
    fn long_runs_are_told_by_their_ends() {
        assert_eq!(blocks_in_words(&[0, 2, 3, 5, 6, 7, 9]), "0, 2, 3, 5 to 7, 9");
        assert_eq!(blocks_in_words(&[]), "");
    }

    #[test]
    fn a_range_contains_itself_and_its_parts_only() {
        let whole = BlockRange::new(2, 6).unwrap();
        assert!(whole.contains(whole));
        assert!(whole.contains(BlockRange::new(3, 5).unwrap()));
        assert!(!whole.contains(BlockRange::new(1, 3).unwrap()));
        assert!(!whole.contains(BlockRange::new(5, 7).unwrap()));
    }
}
