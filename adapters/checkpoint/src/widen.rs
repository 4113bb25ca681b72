//! Numbers of any stored form, widened to f32: the plain reference that faster code is checked against.
//!
//! Source: `ggml-common.h` and `dequantize_row_*` of `ggml-org/ggml` for the layouts.

use half::{bf16, f16};

use crate::stored::{GgmlType, Stored};

/// Widens the numbers of `bytes` to `numbers`; both are as long as the other says.
pub fn widen(stored: Stored, bytes: &[u8], numbers: &mut [f32]) {
    match stored {
        Stored::F32 => each::<4, 1>(bytes, numbers, |b, place| place[0] = f32::from_le_bytes(*b)),
        Stored::F16 => each::<2, 1>(bytes, numbers, |b, place| place[0] = f16::from_le_bytes(*b).to_f32()),
        Stored::Bf16 => each::<2, 1>(bytes, numbers, |b, place| place[0] = bf16::from_le_bytes(*b).to_f32()),
        Stored::Quantised(kind) => match kind {
            GgmlType::Q4_0 => each::<18, 32>(bytes, numbers, q4_0),
            GgmlType::Q4_1 => each::<20, 32>(bytes, numbers, q4_1),
            GgmlType::Q5_0 => each::<22, 32>(bytes, numbers, q5_0),
            GgmlType::Q5_1 => each::<24, 32>(bytes, numbers, q5_1),
            GgmlType::Q8_0 => each::<34, 32>(bytes, numbers, q8_0),
            GgmlType::Q4K => each::<144, 256>(bytes, numbers, q4_k),
            GgmlType::Q5K => each::<176, 256>(bytes, numbers, q5_k),
            GgmlType::Q6K => each::<210, 256>(bytes, numbers, q6_k),
        },
    }
}

fn each<const BYTES: usize, const NUMBERS: usize>(
    bytes: &[u8],
    numbers: &mut [f32],
    one: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (places, _) = numbers.as_chunks_mut::<NUMBERS>();
    blocks.iter().zip(places).for_each(|(block, place)| one(block, place));
}

fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// Number `i` of 32: the first 16 are the lower four bits of each byte, the others the upper four.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 }
}

fn q4_0(block: &[u8; 18], place: &mut [f32; 32]) {
    let scale = half(block[0], block[1]);
    for (i, number) in place.iter_mut().enumerate() {
        *number = (f32::from(nibble(&block[2..], i)) - 8.0) * scale;
    }
}

fn q4_1(block: &[u8; 20], place: &mut [f32; 32]) {
    let (scale, offset) = (half(block[0], block[1]), half(block[2], block[3]));
    for (i, number) in place.iter_mut().enumerate() {
        *number = f32::from(nibble(&block[4..], i)) * scale + offset;
    }
}

/// The fifth bits of 32 numbers stand together, number 0's lowest.
fn five_bits(fifth: &[u8], low: &[u8], i: usize) -> f32 {
    f32::from(nibble(low, i) | (fifth[i / 8] >> (i % 8) & 1) << 4)
}

fn q5_0(block: &[u8; 22], place: &mut [f32; 32]) {
    let scale = half(block[0], block[1]);
    for (i, number) in place.iter_mut().enumerate() {
        *number = (five_bits(&block[2..6], &block[6..], i) - 16.0) * scale;
    }
}

fn q5_1(block: &[u8; 24], place: &mut [f32; 32]) {
    let (scale, offset) = (half(block[0], block[1]), half(block[2], block[3]));
    for (i, number) in place.iter_mut().enumerate() {
        *number = five_bits(&block[4..8], &block[8..], i) * scale + offset;
    }
}

fn q8_0(block: &[u8; 34], place: &mut [f32; 32]) {
    let scale = half(block[0], block[1]);
    for (number, byte) in place.iter_mut().zip(&block[2..]) {
        *number = f32::from(byte.cast_signed()) * scale;
    }
}

/// Scale and offset, 6 bits each, of the `nth` of eight groups.
fn scale_and_offset(packed: &[u8], nth: usize) -> (f32, f32) {
    let (scale, offset) = if nth < 4 {
        (packed[nth] & 63, packed[nth + 4] & 63)
    } else {
        let both = packed[nth + 4];
        ((both & 15) | packed[nth - 4] >> 6 << 4, (both >> 4) | packed[nth] >> 6 << 4)
    };
    (f32::from(scale), f32::from(offset))
}

/// Eight groups of 32: two after each other share 32 bytes, the first of them in the lower four bits. `fifth` gives the
/// fifth bit of a number in a group.
fn k_groups(block: &[u8], scales: &[u8], low: &[u8], place: &mut [f32; 256], fifth: impl Fn(usize, usize) -> u8) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    for (group, place) in place.chunks_exact_mut(32).enumerate() {
        let (scale, offset) = scale_and_offset(scales, group);
        let (scale, offset) = (d * scale, m * offset);
        for (i, number) in place.iter_mut().enumerate() {
            let bits = low[group / 2 * 32 + i] >> (group % 2 * 4) & 15;
            *number = scale * f32::from(bits | fifth(group, i) << 4) - offset;
        }
    }
}

fn q4_k(block: &[u8; 144], place: &mut [f32; 256]) {
    k_groups(block, &block[4..16], &block[16..], place, |_, _| 0);
}

fn q5_k(block: &[u8; 176], place: &mut [f32; 256]) {
    k_groups(block, &block[4..16], &block[48..], place, |group, i| block[16 + i] >> group & 1);
}

fn q6_k(block: &[u8; 210], place: &mut [f32; 256]) {
    let d = half(block[208], block[209]);
    for (i, number) in place.iter_mut().enumerate() {
        // Two halves of 128, in each four groups of 32: the first two in the lower four bits of 64 bytes.
        let (part, group, at) = (i / 128, i % 128 / 32, i % 32);
        let low = block[part * 64 + group % 2 * 32 + at] >> (group / 2 * 4) & 15;
        let high = block[128 + part * 32 + at] >> (2 * group) & 3;
        let scale = f32::from(block[192 + i / 16].cast_signed());
        *number = d * scale * (f32::from(low | high << 4) - 32.0);
    }
}
