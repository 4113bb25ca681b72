//! Caches against plain lists of what was written.

use corolla_domain::fit::KvType;
use proptest::prelude::*;
use testkit::local_model::noise;

use super::*;

const HEADS: usize = 2;
const DIM: usize = 5;
const WIDTH: usize = HEADS * DIM;

fn empty(rows: usize, kv_type: KvType) -> BlockCache {
    BlockCache::new(rows, Layout { heads: HEADS, dim: DIM, kv_type })
}

/// Writes `count` positions of a row from `position` on, and returns their keys and values.
fn write(cache: &mut BlockCache, row: usize, position: usize, count: usize, seed: u64) -> Vec<[Vec<f32>; 2]> {
    let vectors: Vec<[Vec<f32>; 2]> =
        (0..count as u64).map(|nth| [0, 1].map(|side| noise(WIDTH, seed + 2 * nth + side))).collect();
    cache.write(row, position, vectors.iter().map(|[keys, values]| (&keys[..], &values[..]))).unwrap();
    vectors
}

/// All that a row has at its first `length` positions, as it was written.
fn read(cache: &BlockCache, row: usize, length: usize) -> Vec<[Vec<f32>; 2]> {
    let mut found = vec![[vec![0.0; WIDTH], vec![0.0; WIDTH]]; length];
    for head in 0..HEADS {
        for (side, at) in [0, 1].into_iter().flat_map(|side| (0..length).map(move |at| (side, at))) {
            let mut room = Vec::new();
            let page = if side == 0 {
                cache.keys(row, head, length).nth(at / PAGE)
            } else {
                cache.values(row, head, length).nth(at / PAGE)
            };
            page.unwrap().widen(&mut room);
            found[at][side][head * DIM..][..DIM].copy_from_slice(&room[at % PAGE * DIM..][..DIM]);
        }
    }
    found
}

/// What is left of a vector.
fn rounded(vector: &[f32], kv_type: KvType) -> Vec<f32> {
    let of_head = |head: &[f32]| -> Vec<f32> {
        let scale = head.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
        let round = |x: &f32| match kv_type {
            KvType::F32 => *x,
            KvType::Bf16 => half::bf16::from_f32(*x).to_f32(),
            KvType::Q8 => (x * (1.0 / scale)).round_ties_even() * scale,
        };
        head.iter().map(round).collect()
    };
    vector.chunks(DIM).flat_map(of_head).collect()
}

#[test]
fn what_is_read_is_what_was_written_as_far_as_the_type_goes() {
    for (kv_type, off) in [(KvType::F32, 0.0), (KvType::Bf16, 1.0 / 256.0), (KvType::Q8, 0.5 / 127.0 + 1e-6)] {
        let mut cache = empty(2, kv_type);
        let written = write(&mut cache, 1, 0, 2 * PAGE + 3, 7);
        for (found, written) in read(&cache, 1, written.len()).iter().zip(&written) {
            for side in 0..2 {
                assert_eq!(found[side], rounded(&written[side], kv_type), "{kv_type}");
                let most = written[side].iter().fold(0f32, |most, x| most.max(x.abs()));
                for (found, written) in found[side].iter().zip(&written[side]) {
                    assert!((found - written).abs() <= off * most, "{kv_type}: {found} {written}");
                }
            }
        }
        assert!(cache.rows[0].is_empty(), "nothing was written there");
    }
}

#[test]
fn odd_vectors_in_8_bits_stay_what_they_are() {
    let mut cache = empty(1, KvType::Q8);
    let zeros = [0.0; WIDTH];
    let mut odd = [[1e-40; WIDTH], zeros, zeros];
    odd[1][0] = f32::MAX / 2.0;
    odd[2][WIDTH - 1] = f32::INFINITY;
    cache.write(0, 0, odd.iter().map(|odd| (&odd[..], &zeros[..]))).unwrap();
    let found = read(&cache, 0, 3);
    assert!(found[0][0].iter().all(|number| number.abs() <= 1e-40));
    assert_eq!(found[1][0][1..], [0.0; WIDTH - 1]);
    assert!((found[1][0][0] / odd[1][0] - 1.0).abs() < 1e-6);
    assert_eq!(found[2][0][..DIM], [0.0; DIM], "another head");
    assert!(found[2][0][DIM..].iter().all(|number| number.is_nan()), "what is not finite is seen");
    assert!(found.iter().all(|[_, values]| values == &zeros));
}

#[test]
fn forks_share_pages_until_one_writes() {
    let mut cache = empty(1, KvType::Bf16);
    write(&mut cache, 0, 0, 3 * PAGE, 1);
    let before = read(&cache, 0, 3 * PAGE);
    let mut fork = cache.fork(PAGE + 5);
    let shared = |a: &BlockCache, b: &BlockCache| {
        let both = a.rows[0].iter().zip(&b.rows[0]);
        both.map(|(a, b)| Arc::ptr_eq(a, b)).collect::<Vec<bool>>()
    };
    assert_eq!(shared(&cache, &fork), [true, true]);
    write(&mut fork, 0, PAGE + 5, 2, 2);
    assert_eq!(shared(&cache, &fork), [true, false]);
    assert_eq!(read(&cache, 0, 3 * PAGE), before);
    assert_eq!(read(&fork, 0, PAGE + 5), before[..PAGE + 5]);
    let again = fork.fork(PAGE);
    write(&mut cache, 0, 3, 1, 3);
    assert_eq!(
        (cache.rows[0].len(), fork.rows[0].len()),
        (1, 2),
        "what comes after a position that is written is forgotten"
    );
    assert_eq!(read(&fork, 0, PAGE), before[..PAGE]);
    let page = Arc::as_ptr(&fork.rows[0][0]);
    drop(again);
    write(&mut fork, 0, 3, 1, 4);
    assert_eq!(Arc::as_ptr(&fork.rows[0][0]), page, "nobody else has it any more");
}

#[test]
fn a_position_that_was_skipped_is_an_error() {
    let mut cache = empty(1, KvType::F32);
    let numbers = [0.0; WIDTH];
    let error = cache.write(0, PAGE, [(&numbers[..], &numbers[..])].into_iter()).unwrap_err();
    assert!(error.to_string().contains("before earlier ones"), "{error}");
}

/// What happens to one of several caches.
#[derive(Debug, Clone)]
enum Deed {
    Write { back: usize, count: usize },
    Fork { back: usize },
    Reorder { rows: [usize; 2] },
    Drop,
}

fn deeds() -> impl Strategy<Value = Vec<(usize, Deed)>> {
    let back = || prop_oneof![3 => Just(0), 1 => 1usize..2 * PAGE];
    let deed = prop_oneof![
        4 => (back(), 1usize..PAGE + 9).prop_map(|(back, count)| Deed::Write { back, count }),
        2 => back().prop_map(|back| Deed::Fork { back }),
        1 => [0usize..2, 0usize..2].prop_map(|rows| Deed::Reorder { rows }),
        1 => Just(Deed::Drop),
    ];
    proptest::collection::vec((0usize..4, deed), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_cache_has_what_was_written_to_it_and_nothing_else(deeds in deeds()) {
        for kv_type in KvType::ALL {
            let mut caches = vec![(empty(2, kv_type), [Vec::new(), Vec::new()])];
            for (seed, (which, deed)) in deeds.iter().enumerate() {
                let which = which % caches.len();
                let (cache, rows) = &mut caches[which];
                let length = rows[0].len();
                match deed {
                    Deed::Write { back, count } => {
                        let position = length.saturating_sub(*back);
                        for (row, known) in rows.iter_mut().enumerate() {
                            known.truncate(position);
                            known.extend(write(cache, row, position, *count, 1000 * seed as u64 + row as u64));
                        }
                    }
                    Deed::Fork { back } => {
                        let to = length.saturating_sub(*back);
                        let fork = (cache.fork(to), [0, 1].map(|row| rows[row][..to].to_vec()));
                        caches.push(fork);
                    }
                    Deed::Reorder { rows: order } => {
                        cache.reorder(order);
                        *rows = order.map(|row| rows[row].clone());
                    }
                    Deed::Drop if caches.len() > 1 => drop(caches.remove(which)),
                    Deed::Drop => {}
                }
                for (cache, rows) in &caches {
                    for (row, known) in rows.iter().enumerate() {
                        let wanted: Vec<_> = known.iter().map(|both| [0, 1].map(|side| rounded(&both[side], kv_type))).collect();
                        prop_assert_eq!(read(cache, row, known.len()), wanted);
                    }
                }
            }
        }
    }
}
