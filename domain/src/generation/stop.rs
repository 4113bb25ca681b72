//! Finds stop sequences in a stream of text, wherever they end, and never shows the beginning of one too early.

/// Watches one reply for its stop sequences.
#[derive(Debug)]
pub struct StopMatcher {
    sequences: Vec<String>,
    include: bool,
    /// Text that may be the beginning of a stop sequence; always shorter than the longest of them.
    held: String,
}

/// A stop sequence was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Text to show, up to the stop (or with it, as asked for).
    pub text: String,
    /// Which sequence.
    pub sequence: String,
}

impl StopMatcher {
    /// Watches for `sequences`; empty ones are passed over. `include` shows the stop text itself.
    #[must_use]
    pub fn new(sequences: Vec<String>, include: bool) -> Self {
        let sequences = sequences.into_iter().filter(|s| !s.is_empty()).collect();
        Self { sequences, include, held: String::new() }
    }

    /// Takes the next piece of text. `Ok` is text that is safe to show; `Err` tells that a stop sequence ended in it.
    ///
    /// # Errors
    /// [`Found`] is the end of the reply, not a fault.
    pub fn push(&mut self, text: &str) -> Result<String, Found> {
        self.held.push_str(text);
        if let Some((start, sequence)) = self.first_match() {
            let end = if self.include { start + sequence.len() } else { start };
            return Err(Found { text: self.held[..end].to_owned(), sequence });
        }
        let safe = self.held.len() - self.longest_beginning();
        Ok(self.held.drain(..safe).collect())
    }

    /// The text still held back, when no more is coming.
    #[must_use]
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start and text of the match that ends first; of those that end together the longest.
    fn first_match(&self) -> Option<(usize, String)> {
        self.sequences
            .iter()
            .filter_map(|s| self.held.find(s.as_str()).map(|start| (start + s.len(), start, s)))
            .min_by_key(|(end, start, _)| (*end, *start))
            .map(|(_, start, s)| (start, s.clone()))
    }

    /// Length of the longest end of the held text that begins a stop sequence.
    fn longest_beginning(&self) -> usize {
        self.sequences
            .iter()
            .flat_map(|s| s.char_indices().map(move |(at, _)| &s[..at]))
            .filter(|beginning| self.held.ends_with(beginning))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(sequences: &[&str], include: bool) -> StopMatcher {
        StopMatcher::new(sequences.iter().map(|s| (*s).to_owned()).collect(), include)
    }

    #[test]
    fn a_stop_that_ends_inside_a_piece_is_found() {
        let mut stops = matcher(&["\n\n"], false);
        assert_eq!(stops.push("yes.\n"), Ok("yes.".to_owned()));
        assert_eq!(stops.push("\nHuman"), Err(Found { text: String::new(), sequence: "\n\n".to_owned() }));
    }

    #[test]
    fn a_false_alarm_is_shown_after_all() {
        let mut stops = matcher(&["END"], false);
        assert_eq!(stops.push("weEN"), Ok("we".to_owned()));
        assert_eq!(stops.push("d"), Ok("ENd".to_owned()));
        assert_eq!(stops.push("E"), Ok(String::new()));
        assert_eq!(stops.finish(), "E");
    }

    #[test]
    fn the_match_that_ends_first_wins_and_can_be_included() {
        let mut stops = matcher(&["abcd", "bc"], true);
        assert_eq!(stops.push("xabcd"), Err(Found { text: "xabc".to_owned(), sequence: "bc".to_owned() }));
    }

    proptest! {
        #[test]
        fn any_cut_of_the_text_gives_the_same_reply(
            text in "[abé]{0,24}",
            sequences in prop::collection::vec("[abé]{1,4}", 1..4),
            cuts in prop::collection::vec(0usize..25, 0..6),
        ) {
            let run = |pieces: &[&str]| {
                let mut stops = StopMatcher::new(sequences.clone(), false);
                let mut shown = String::new();
                for piece in pieces {
                    match stops.push(piece) {
                        Ok(text) => shown += &text,
                        Err(found) => return (shown + &found.text, Some(found.sequence)),
                    }
                }
                let rest = stops.finish();
                (shown + &rest, None)
            };
            let mut at: Vec<usize> = cuts.into_iter().filter(|c| text.is_char_boundary(*c)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let pieces: Vec<&str> = at.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let letters: Vec<&str> = text.char_indices().map(|(i, c)| &text[i..i + c.len_utf8()]).collect();
            prop_assert_eq!(run(&pieces), run(&letters));
        }
    }
}
