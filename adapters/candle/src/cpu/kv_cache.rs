//! Keys and values of earlier positions.

/// Keys and values of one session in one block, set aside in full. The system provides pages as they are written.
pub(crate) struct BlockCache {
    /// Shape `[batch, heads, length, dim]`.
    pub keys: Vec<f32>,
    /// Shape `[batch, heads, length, dim]`.
    pub values: Vec<f32>,
    heads: usize,
    length: usize,
    dim: usize,
}

impl BlockCache {
    /// Room for `length` positions of `batch` rows.
    pub(super) fn new(batch: usize, length: usize, heads: usize, dim: usize) -> Self {
        let numbers = batch * heads * length * dim;
        Self { keys: vec![0.0; numbers], values: vec![0.0; numbers], heads, length, dim }
    }

    /// Writes keys and values of one position of one row, heads one after the other.
    pub(super) fn write(&mut self, row: usize, position: usize, keys: &[f32], values: &[f32]) {
        for head in 0..self.heads {
            let to = self.start(row, head) + position * self.dim;
            let from = head * self.dim..(head + 1) * self.dim;
            self.keys[to..to + self.dim].copy_from_slice(&keys[from.clone()]);
            self.values[to..to + self.dim].copy_from_slice(&values[from]);
        }
    }

    /// Keys and values of the first `length` positions of a head.
    pub(super) fn read(&self, row: usize, head: usize, length: usize) -> (&[f32], &[f32]) {
        let place = self.start(row, head)..self.start(row, head) + length * self.dim;
        (&self.keys[place.clone()], &self.values[place])
    }

    /// Row `i` becomes what row `rows[i]` was, as far as `length` positions.
    pub(super) fn reorder(&mut self, rows: &[usize], length: usize) {
        let used = length * self.dim;
        for head in 0..self.heads {
            let starts: Vec<usize> = (0..rows.len()).map(|row| self.start(row, head)).collect();
            for numbers in [&mut self.keys, &mut self.values] {
                let old: Vec<Vec<f32>> = starts.iter().map(|at| numbers[*at..at + used].to_vec()).collect();
                for (to, from) in starts.iter().zip(rows) {
                    numbers[*to..to + used].copy_from_slice(&old[*from]);
                }
            }
        }
    }

    fn start(&self, row: usize, head: usize) -> usize {
        (row * self.heads + head) * self.length * self.dim
    }
}
