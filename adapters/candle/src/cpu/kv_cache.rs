//! Keys and values of earlier positions.

use corolla_domain::ports::{FaultKind, PortError};
use memmap2::MmapMut;

/// Keys and values of one session in one block.
///
/// The address space for all positions is set aside at once, so that those of a head stand side by side, as the kernels
/// want them. Memory comes from the system page by page (4 KiB: 16 positions of a head of 64 numbers) when positions are
/// written, and goes back at once with the cache: no allocator holds on to it, and a page is never handed on unzeroed.
/// What all caches may take in the worst case is reserved before one is made, see [`corolla_compute::LoadConfig`].
pub(crate) struct BlockCache {
    /// Keys of shape `[batch, heads, length, dim]`, then values of the same shape.
    memory: MmapMut,
    heads: usize,
    length: usize,
    dim: usize,
}

impl BlockCache {
    /// Room for `length` positions of `batch` rows.
    pub(super) fn new(batch: usize, length: usize, heads: usize, dim: usize) -> Result<Self, PortError> {
        let bytes = [batch, heads, length, dim].iter().try_fold(2 * size_of::<f32>(), |n, side| n.checked_mul(*side));
        let memory = MmapMut::map_anon(bytes.unwrap_or(usize::MAX)).and_then(|memory| {
            // Huge pages would fill with one position each what is to be taken as it is needed.
            #[cfg(target_os = "linux")]
            memory.advise(memmap2::Advice::NoHugePage).or_else(ignore_unknown)?;
            Ok(memory)
        });
        let memory = memory.map_err(|e| {
            let text = format!("the system has no room for a KV cache of {length} positions; use a smaller max_length");
            PortError::new(FaultKind::Capacity, text).with_source(e)
        })?;
        Ok(Self { memory, heads, length, dim })
    }

    /// Writes keys and values of one position of one row, heads one after the other.
    pub(super) fn write(&mut self, row: usize, position: usize, keys: &[f32], values: &[f32]) {
        for head in 0..self.heads {
            let to = self.start(row, head) + position * self.dim;
            let (from, dim) = (head * self.dim..(head + 1) * self.dim, self.dim);
            let [all_keys, all_values] = self.both_mut();
            all_keys[to..to + dim].copy_from_slice(&keys[from.clone()]);
            all_values[to..to + dim].copy_from_slice(&values[from]);
        }
    }

    /// Keys and values of the first `length` positions of a head.
    pub(super) fn read(&self, row: usize, head: usize, length: usize) -> (&[f32], &[f32]) {
        let place = self.start(row, head)..self.start(row, head) + length * self.dim;
        let numbers: &[f32] = bytemuck::cast_slice(&self.memory);
        let (keys, values) = numbers.split_at(numbers.len() / 2);
        (&keys[place.clone()], &values[place])
    }

    /// Row `i` becomes what row `rows[i]` was, as far as `length` positions.
    pub(super) fn reorder(&mut self, rows: &[usize], length: usize) {
        let used = length * self.dim;
        for head in 0..self.heads {
            let starts: Vec<usize> = (0..rows.len()).map(|row| self.start(row, head)).collect();
            for numbers in self.both_mut() {
                let old: Vec<Vec<f32>> = starts.iter().map(|at| numbers[*at..at + used].to_vec()).collect();
                for (to, from) in starts.iter().zip(rows) {
                    numbers[*to..to + used].copy_from_slice(&old[*from]);
                }
            }
        }
    }

    /// All keys, and all values.
    fn both_mut(&mut self) -> [&mut [f32]; 2] {
        let numbers: &mut [f32] = bytemuck::cast_slice_mut(&mut self.memory);
        let (keys, values) = numbers.split_at_mut(numbers.len() / 2);
        [keys, values]
    }

    fn start(&self, row: usize, head: usize) -> usize {
        (row * self.heads + head) * self.length * self.dim
    }
}

/// Kernels without huge pages do not know the advice, and need none.
#[cfg(target_os = "linux")]
fn ignore_unknown(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::InvalidInput { Ok(()) } else { Err(error) }
}
