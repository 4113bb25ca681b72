//! The part of a row of scores that a caller wants.

use corolla_domain::model::{LogitRow, TokenId, Want};

/// What `want` names of `scores`, one for each token. Of equals, those of lower number are the best.
#[must_use]
pub fn pick(scores: &[f32], want: &Want) -> LogitRow {
    let (k, also) = match want {
        Want::Top { k, also } if *k < scores.len() => (*k, also),
        Want::All | Want::Top { .. } | Want::Drawn(_) => return LogitRow::Dense(scores.to_vec()),
    };
    let mut order: Vec<u32> = (0u32..).take(scores.len()).collect();
    let descending = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    order.select_nth_unstable_by(k - 1, descending);
    order.truncate(k);
    order.extend(also.iter().map(|token| token.0));
    order.sort_unstable();
    order.dedup();
    LogitRow::Sparse(order.into_iter().map(|id| (TokenId(id), scores[id as usize])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_and_the_named_come_once_each() {
        let scores = [0.0, 5.0, -1.0, 4.0, 3.0];
        let row = pick(&scores, &Want::Top { k: 2, also: vec![TokenId(2), TokenId(1), TokenId(2)] });
        assert_eq!(row, LogitRow::Sparse(vec![(TokenId(1), 5.0), (TokenId(2), -1.0), (TokenId(3), 4.0)]));
    }

    #[test]
    fn of_equals_the_first_are_the_best() {
        let scores: Vec<f32> = (0..1000).map(|i| (i % 7) as f32).collect();
        let row = pick(&scores, &Want::Top { k: 3, also: Vec::new() });
        assert_eq!(row, LogitRow::Sparse([6, 13, 20].map(|id| (TokenId(id), 6.0)).to_vec()));
    }

    #[test]
    fn wanting_as_many_as_there_are_is_wanting_all() {
        let scores = [1.0, 2.0];
        assert_eq!(pick(&scores, &Want::Top { k: 2, also: Vec::new() }), pick(&scores, &Want::All));
    }
}
