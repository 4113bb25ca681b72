//! The token that the screen draws is the one that drawing from all rows gives.

use std::collections::HashSet;

use corolla_domain::{
    generation::{Sampler, Sampling},
    model::{LogitRow, TokenId},
};

use super::*;

/// How a token is drawn in a case.
fn sampling() -> impl Strategy<Value = Sampling> {
    let some = |values: [f32; 4]| prop::sample::select(values.to_vec());
    let filter = |values: [f32; 4]| prop::option::of(prop::sample::select(values.to_vec()));
    let numbers = (some([1.0, 0.7, 0.01, 40.0]), filter([0.9, 0.3, 0.999, 1e-6]), filter([0.05, 0.5, 1.0, 0.0]));
    (numbers, some([1.0, 1.3, 1.0, 0.8]), some([0.0, 0.0, 0.7, -0.5]), any::<u64>()).prop_map(
        |((temperature, top_p, min_p), repetition_penalty, presence_penalty, seed)| Sampling {
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            seed: Some(seed),
            ..Sampling::at_temperature(temperature)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_token_drawn_is_the_one_that_all_rows_give(
        kind in prop::sample::select(&KINDS[..]), form in form(), rows in 1usize..300, cols in 1usize..90, seed: u64,
        size in -6i32..6, sampling in sampling(), prompt in prop::collection::vec(0u32..300, 0..5)
    ) {
        let mut case = Case::new(kind, [rows, cols], seed);
        case.x.iter_mut().for_each(|x| *x = (*x * (size as f32).exp2()).clamp(f32::MIN, f32::MAX));
        let (set, pool) = (sets()[0], Pool::new(Some(1)).unwrap());
        let screen = case.screen(&pool, form);
        let prompt: Vec<TokenId> = prompt.into_iter().map(|token| TokenId(token % rows as u32)).collect();
        let [mut of_all, mut of_few] = [(); 2].map(|()| Sampler::new(sampling.clone(), &prompt, 0));
        let scores: Vec<f32> = (0..rows as u32).map(|row| case.score(&set, row)).collect();
        for _ in 0..6 {
            let Want::Drawn(draw) = of_few.want() else { return Err(TestCaseError::fail("no draw")) };
            let all = screen.bounds((&set, &pool), &[screen.activations(&case.x).unwrap()]);
            let exact = |rows: &[u32]| rows.iter().map(|row| scores[*row as usize]).collect();
            let row = match drawn(RowBounds::new(&all, (0, 1), rows), &draw, rows, exact) {
                Ok(found) => {
                    prop_assert!(found.visited <= rows);
                    LogitRow::Sparse(found.best.iter().map(|(row, score)| (TokenId(*row), *score)).collect())
                }
                // As near to the share as rounding is.
                Err(Doubt::TooMany(count)) if draw.share().is_some() && count == rows => LogitRow::Dense(scores.clone()),
                Err(doubt) => return Err(TestCaseError::fail(format!("{kind:?}: {doubt:?}"))),
            };
            let wanted = of_all.pick(LogitRow::Dense(scores.clone()));
            let found = of_few.pick(row);
            match (wanted, found) {
                (Ok(wanted), Ok(found)) => prop_assert_eq!(wanted, found, "{:?} {:?}", kind, draw),
                (wanted, found) => prop_assert!(wanted.is_err() && found.is_err(), "{:?}", kind),
            }
        }
    }
}

#[test]
fn few_rows_are_computed_for_a_draw() {
    let (set, pool) = (sets()[0], Pool::new(Some(2)).unwrap());
    let mut case = clear(1234);
    // Scores of about 0 but one of 12: at temperature 1 both it and others are drawn.
    case.x.iter_mut().for_each(|x| *x *= 12.0 / 21.0);
    let screen = case.screen(&pool, fit::Screen::Int8);
    let scores: Vec<f32> = (0..case.rows() as u32).map(|row| case.score(&set, row)).collect();
    let exact = |_: usize, rows: &[u32]| rows.iter().map(|row| scores[*row as usize]).collect();
    for (filter, at_most) in
        [(Sampling::at_temperature(1.0), 60), (Sampling { top_p: Some(0.6), ..Sampling::at_temperature(1.0) }, 60)]
    {
        let [mut of_all, mut of_few] = [(); 2].map(|()| Sampler::new(filter.clone(), &[], 9));
        let (before, mut drawn) = (screen.counted(), HashSet::new());
        for _ in 0..50 {
            let found = screen.best((&set, &pool), &case.x, &[&of_few.want()], exact).unwrap().remove(0).unwrap();
            let row = LogitRow::Sparse(found.into_iter().map(|(row, score)| (TokenId(row), score)).collect());
            let token = of_few.pick(row).unwrap();
            assert_eq!(token, of_all.pick(LogitRow::Dense(scores.clone())).unwrap());
            drawn.insert(token);
        }
        let [positions, visited, given_up] = std::array::from_fn(|nth| screen.counted()[nth] - before[nth]);
        assert_eq!((positions, given_up), (50, 0));
        assert!(visited / 50 < at_most, "{visited}");
        assert!(drawn.contains(&TokenId(1234)) && (drawn.len() > 1) == filter.top_p.is_none(), "{drawn:?}");
    }
}
