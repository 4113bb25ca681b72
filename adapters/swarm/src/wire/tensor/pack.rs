//! Codecs as they are written (§5.2), one function each. The 8-bit ones carry their codebook, so that any reader takes
//! them, whichever values it would have chosen itself.

use bytes::Bytes;
use half::f16;

use super::codec::BLOCK;

/// Least deviation of a row.
const LEAST_DEVIATION: f32 = 1.192_092_9e-7;
/// Entries of a codebook.
const LEVELS: usize = 256;

/// MEANSTD_16BIT: halves of `(x - mean) / deviation` of each row, then all means, then all deviations.
pub(super) fn mean_std(numbers: &[f32], row: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(numbers.len() * 2 + numbers.len() / row.max(1) * 8);
    let (mut means, mut deviations) = (Vec::new(), Vec::new());
    for row in numbers.chunks(row.max(1)) {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        let square: f64 = row.iter().map(|x| f64::from(x - mean).powi(2)).sum();
        let deviation = (square.sqrt() as f32 / (row.len() as f32).sqrt()).max(LEAST_DEVIATION);
        bytes.extend(row.iter().flat_map(|x| f16::from_f32((x - mean) / deviation).to_le_bytes()));
        means.push(mean);
        deviations.push(deviation);
    }
    bytes.extend(means.iter().chain(&deviations).flat_map(|x| x.to_le_bytes()));
    bytes.into()
}

/// QUANTILE_8BIT: as many numbers at each entry of the codebook.
pub(super) fn quantile(numbers: &[f32]) -> Bytes {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f32::total_cmp);
    let at = |level: usize| sorted.get((2 * level + 1) * sorted.len() / (2 * LEVELS)).copied().unwrap_or_default();
    let book: Vec<f32> = (0..LEVELS).map(at).collect();
    let nearest = |x: f32| {
        let above = book.partition_point(|entry| *entry < x).min(LEVELS - 1);
        let below = above.saturating_sub(1);
        if (x - book[below]).abs() < (book[above] - x).abs() { below } else { above }
    };
    with_book(&book, numbers.iter().map(|x| nearest(*x) as u8))
}

/// UNIFORM_8BIT: equal steps over three deviations to either side of the mean; each entry of the codebook is the mean of
/// the numbers in its step.
pub(super) fn uniform(numbers: &[f32]) -> Bytes {
    let count = numbers.len().max(2) as f32;
    let mean = numbers.iter().sum::<f32>() / count;
    let square: f32 = numbers.iter().map(|x| (x - mean) * (x - mean)).sum();
    let step = (6.0 * (square / (count - 1.0)).sqrt() / LEVELS as f32).max(f32::MIN_POSITIVE);
    let level = |x: f32| (((x - mean) / step).round_ties_even() + 128.0).clamp(0.0, 255.0) as u8;
    let indices: Vec<u8> = numbers.iter().map(|x| level(*x)).collect();
    let (mut sums, mut counts) = ([0f64; LEVELS], [0u32; LEVELS]);
    for (x, index) in numbers.iter().zip(&indices) {
        sums[usize::from(*index)] += f64::from(*x);
        counts[usize::from(*index)] += 1;
    }
    let book: Vec<f32> = sums.iter().zip(counts).map(|(sum, n)| (sum / f64::from(n.max(1))) as f32).collect();
    with_book(&book, indices.into_iter())
}

/// BLOCKWISE_8BIT: a scale for each 4096 numbers, and equal steps from one end of it to the other.
pub(super) fn blockwise(numbers: &[f32]) -> Bytes {
    let blocks = || numbers.chunks(BLOCK);
    let scales: Vec<f32> = blocks().map(|block| block.iter().fold(0.0, |most: f32, x| most.max(x.abs()))).collect();
    let mut bytes = Vec::with_capacity(16 + 4 * (scales.len() + LEVELS) + numbers.len());
    bytes.extend((scales.len() as i64).to_le_bytes());
    bytes.extend((LEVELS as i64).to_le_bytes());
    bytes.extend(scales.iter().flat_map(|x| x.to_le_bytes()));
    bytes.extend((0..LEVELS).flat_map(|level| ((level as f32 - 128.0) / 127.0).max(-1.0).to_le_bytes()));
    for (block, scale) in blocks().zip(&scales) {
        let scale = scale.max(f32::MIN_POSITIVE);
        bytes.extend(block.iter().map(|x| ((x / scale * 127.0).round() + 128.0).clamp(0.0, 255.0) as u8));
    }
    bytes.into()
}

fn with_book(book: &[f32], indices: impl Iterator<Item = u8>) -> Bytes {
    let mut bytes: Vec<u8> = (book.len() as i64).to_le_bytes().to_vec();
    bytes.extend(book.iter().flat_map(|x| x.to_le_bytes()));
    bytes.extend(indices);
    bytes.into()
}
