//! Products of packed matrices, shared among the threads.

use std::cell::OnceCell;

use super::{
    Kernels,
    packed::{Packed, ROWS},
    parts,
    rounded::{CHUNK, Rounded},
    tiles::Lanes,
};
use crate::cpu::{buffers, pool::Pool};

/// Bytes of weights that are worth a task of their own: a guess.
const TASK_BYTES: usize = 24 << 10;

/// Rows of activations rounded on first use.
#[derive(Default)]
pub(crate) struct RoundedRows {
    /// To 8 bits, in chunks of at most [`CHUNK`].
    bytes: OnceCell<Vec<Rounded>>,
    /// To bf16, in the groups of [`narrow_product`](super::narrow_product).
    pub(super) groups: OnceCell<Vec<f32>>,
}

impl RoundedRows {
    fn of(&self, kernels: &Kernels, pool: &Pool, x: &[f32], cols: usize) -> &[Rounded] {
        self.bytes.get_or_init(|| {
            let rows = x.len() / cols;
            let chunk = rows.div_ceil(rows.div_ceil(CHUNK).max(1)).max(1);
            let mut chunks: Vec<Option<Rounded>> = Vec::new();
            chunks.resize_with(rows.div_ceil(chunk), || None);
            let round = |_, (to, x): (&mut Option<Rounded>, &[f32])| *to = Some((kernels.round)(x, cols));
            let both = chunks.iter_mut().zip(x.chunks(chunk * cols));
            pool.each_of(x.len(), both, round);
            chunks.into_iter().flatten().collect()
        })
    }
}

impl Drop for RoundedRows {
    fn drop(&mut self) {
        self.groups.take().into_iter().for_each(buffers::free);
    }
}

/// `x` of shape `[m, cols]` times the transpose of `weight`, with activations rounded to 8 bits: `[m, rows]`.
pub(crate) fn rounded_product(
    (kernels, pool): (&Kernels, &Pool),
    x: &[f32],
    rounded: &RoundedRows,
    weight: &Packed,
) -> Vec<f32> {
    let (many, rows) = (x.len() / weight.cols, weight.rows);
    let chunks = rounded.of(kernels, pool, x, weight.cols);
    // Each chunk by itself, where there are enough of them to keep all threads busy: results go where they belong.
    if chunks.len() >= 2 * pool.threads() {
        let mut products = buffers::place(many * rows);
        let step = chunks.first().map_or(1, |chunk| chunk.rows);
        pool.each(products.chunks_mut(step * rows), |nth, products| {
            let mut sums = [[0f32; ROWS]; CHUNK];
            let sums = &mut sums[..chunks[nth].rows];
            for block in 0..weight.blocks() {
                (kernels.tiles)(weight.format, weight.tiles(block), &chunks[nth], sums);
                scatter(sums, block, products, rows);
            }
        });
        return products;
    }
    by_blocks(pool, weight, many, |block, mut lanes| {
        for chunk in chunks {
            let (own, others) = lanes.split_at_mut(chunk.rows);
            (kernels.tiles)(weight.format, weight.tiles(block), chunk, own);
            lanes = others;
        }
    })
}

/// The same with activations as they are; for few rows.
pub(crate) fn exact_product((kernels, pool): (&Kernels, &Pool), x: &[f32], weight: &Packed) -> Vec<f32> {
    by_blocks(pool, weight, x.len() / weight.cols, |block, lanes| {
        for (lanes, x) in lanes.iter_mut().zip(x.chunks_exact(weight.cols)) {
            *lanes = (kernels.exact_tiles)(weight.format, weight.tiles(block), x);
        }
    })
}

/// `many` rows of products, of which `one` sets those with a block of weight rows.
fn by_blocks(pool: &Pool, weight: &Packed, many: usize, one: impl Fn(usize, &mut [Lanes]) + Sync) -> Vec<f32> {
    let step = (TASK_BYTES / (ROWS * weight.cols * weight.format.bits / 8).max(1)).max(1);
    let mut products = parts::place((many, weight.rows), ROWS);
    pool.each(products.as_chunks_mut().0.chunks_mut(step * many), |task, lanes| {
        for (nth, lanes) in lanes.chunks_exact_mut(many).enumerate() {
            one(task * step + nth, lanes);
        }
    });
    parts::together(pool, products, (many, weight.rows), ROWS)
}

/// Writes the sums of row block `block` to their places in rows of `rows` numbers.
fn scatter(sums: &[Lanes], block: usize, products: &mut [f32], rows: usize) {
    let here = block * ROWS..rows.min((block + 1) * ROWS);
    for (sums, products) in sums.iter().zip(products.chunks_exact_mut(rows)) {
        products[here.clone()].copy_from_slice(&sums[..here.len()]);
    }
}
