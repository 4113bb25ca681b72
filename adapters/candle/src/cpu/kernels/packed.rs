//! Quantised matrices as the kernels want them: sixteen rows interleaved, so that a register holds the same four columns
//! of sixteen rows and each lane sums up a row of its own. Nothing is added across lanes, and one pass over the
//! activations serves sixteen rows. The numbers are those of the file, to the bit; only their places change.
//!
//! A tile is 16 rows x 32 columns. Its numbers stand in *quads*: lane `r` byte `t` of quad `j` is column `4 * j + t` of
//! row `r`. Line `j` of a tile holds quad `j` in the lower and quad `j + 4` in the upper four bits of its bytes; a fifth
//! line has the fifth bits (bit `j` for quad `j`), or a fifth and sixth the fifth and sixth bits of quads 0..4 and 4..8
//! (bits `2 * j` of quad `j`, `2 * (j - 4)`). Numbers of 8 bits have a line for each quad. All are unsigned; a
//! symmetric type's zero is [`Format::zero`].
//!
//! Source of the files' layouts: `ggml-common.h` of `ggml-org/ggml`.

#![allow(unsafe_code)]

use corolla_checkpoint::GgmlType;

use super::tiles;
use crate::cpu::pool::Pool;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Columns of a tile.
pub(crate) const COLS: usize = 32;
/// Row blocks that one task packs: a guess.
const TASK: usize = 4;

/// Four bytes of each of sixteen rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u32; ROWS]);

// SAFETY: zeros are numbers.
unsafe impl bytemuck::Zeroable for Line {}

/// Bytes as lines, where they begin and end as lines do.
pub(crate) fn lines(bytes: &[u8]) -> Option<&[Line]> {
    // SAFETY: a line is 64 bytes without a gap, of which every pattern is a value.
    let (before, lines, after) = unsafe { bytes.align_to::<Line>() };
    (before.is_empty() && after.is_empty()).then_some(lines)
}

/// Where the scales of a tile are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// An f16 for each row of a tile.
    Plain,
    /// An f16 and an f16 to be added.
    Offset,
    /// A byte and a byte to be taken away, in units of two f16 for each row of eight tiles.
    Super,
    /// A signed byte for each 16 columns, in units of an f16 for each row of eight tiles.
    Halves,
}

/// How numbers are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub bits: usize,
    pub scales: Scales,
}

impl Format {
    pub(crate) fn of(kind: GgmlType) -> Self {
        let (bits, scales) = match kind {
            GgmlType::Q4_0 => (4, Scales::Plain),
            GgmlType::Q4_1 => (4, Scales::Offset),
            GgmlType::Q5_0 => (5, Scales::Plain),
            GgmlType::Q5_1 => (5, Scales::Offset),
            GgmlType::Q8_0 => (8, Scales::Plain),
            GgmlType::Q4K => (4, Scales::Super),
            GgmlType::Q5K => (5, Scales::Super),
            GgmlType::Q6K => (6, Scales::Halves),
        };
        Self { bits, scales }
    }

    /// Lines of a tile.
    pub(crate) const fn lines(bits: usize) -> usize {
        bits
    }

    /// The number that stands for 0 where there are no offsets.
    pub(crate) const fn zero(bits: usize) -> u32 {
        1 << (bits - 1)
    }

    /// Rows of f16 and of bytes that `tiles` tiles side by side have.
    fn scale_rows(self, tiles: usize) -> (usize, usize) {
        match self.scales {
            Scales::Plain => (tiles, 0),
            Scales::Offset => (2 * tiles, 0),
            Scales::Super => (tiles / 8 * 2, 2 * tiles),
            Scales::Halves => (tiles / 8, 2 * tiles),
        }
    }
}

/// A packed matrix.
pub(crate) struct Packed {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    lines: Vec<Line>,
    halves: Vec<[u16; ROWS]>,
    bytes: Vec<[u8; ROWS]>,
}

/// Sixteen rows of a packed matrix.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<'a> {
    /// [`Format::lines`] for each tile.
    pub lines: &'a [Line],
    /// f16 bits, see [`Scales`].
    pub halves: &'a [[u16; ROWS]],
    /// Two for each tile where the format has bytes, else none.
    pub bytes: &'a [[u8; ROWS]],
    /// How many there are.
    pub count: usize,
}

impl Packed {
    /// Packs the rows of `cols` numbers, a multiple of the type's block, that `stored` consists of.
    pub(crate) fn new(kind: GgmlType, stored: &[u8], cols: usize, pool: &Pool) -> Self {
        let format = Format::of(kind);
        let row = kind.bytes(cols);
        let (rows, count) = (stored.len() / row.max(1), cols / COLS);
        let blocks = rows.div_ceil(ROWS);
        let ((halves_row, bytes_row), lines_row) = (format.scale_rows(count), count * Format::lines(format.bits));
        let mut packed = Self {
            format,
            rows,
            cols,
            lines: bytemuck::zeroed_vec(blocks * lines_row),
            halves: vec![[0; ROWS]; blocks * halves_row],
            bytes: vec![[0; ROWS]; blocks * bytes_row],
        };
        // A chunk of no bytes is not a chunk: types without bytes get empty ones.
        let mut bytes = packed.bytes.chunks_mut((TASK * bytes_row).max(1));
        let lines = packed.lines.chunks_mut((TASK * lines_row).max(1));
        let halves = packed.halves.chunks_mut((TASK * halves_row).max(1));
        let tasks = lines.zip(halves).map(|(lines, halves)| (lines, halves, bytes.next().unwrap_or_default()));
        pool.each(tasks, |task, (lines, halves, bytes)| {
            for nth in 0..lines.len() / lines_row {
                let from = (task * TASK + nth) * ROWS;
                for lane in 0..ROWS.min(rows - from) {
                    let mut into = Into {
                        lane,
                        lines: &mut lines[nth * lines_row..][..lines_row],
                        halves: &mut halves[nth * halves_row..][..halves_row],
                        bytes: &mut bytes[nth * bytes_row..][..bytes_row],
                    };
                    into.row(kind, &stored[(from + lane) * row..][..row]);
                }
            }
        });
        packed
    }

    /// Row blocks of sixteen.
    pub(crate) fn blocks(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Row `row`, widened; `numbers` has a place for each column.
    pub(crate) fn widen(&self, row: usize, numbers: &mut [f32]) {
        tiles::widen(self.format, self.tiles(row / ROWS), row % ROWS, numbers);
    }

    /// Row block `nth`.
    pub(crate) fn tiles(&self, nth: usize) -> Tiles<'_> {
        let count = self.cols / COLS;
        let ((halves, bytes), lines) = (self.format.scale_rows(count), count * Format::lines(self.format.bits));
        Tiles {
            lines: &self.lines[nth * lines..][..lines],
            halves: &self.halves[nth * halves..][..halves],
            bytes: &self.bytes[nth * bytes..][..bytes],
            count,
        }
    }
}

/// A place for one row.
struct Into<'a> {
    lane: usize,
    lines: &'a mut [Line],
    halves: &'a mut [[u16; ROWS]],
    bytes: &'a mut [[u8; ROWS]],
}

const NIBBLES: u32 = 0x0f0f_0f0f;
const PAIRS: u32 = 0x0303_0303;
const ONES: u32 = 0x0101_0101;

impl Into<'_> {
    fn row(&mut self, kind: GgmlType, stored: &[u8]) {
        for (nth, block) in stored.chunks_exact(kind.bytes(kind.block())).enumerate() {
            match kind {
                GgmlType::Q4_0 => {
                    self.half(nth, block, 0);
                    self.four(nth, quads(&block[2..18]));
                }
                GgmlType::Q4_1 => {
                    self.half(2 * nth, block, 0);
                    self.half(2 * nth + 1, block, 2);
                    self.four(nth, quads(&block[4..20]));
                }
                GgmlType::Q5_0 => {
                    self.half(nth, block, 0);
                    self.five(nth, quads(&block[6..22]), fifths(&block[2..6]));
                }
                GgmlType::Q5_1 => {
                    self.half(2 * nth, block, 0);
                    self.half(2 * nth + 1, block, 2);
                    self.five(nth, quads(&block[8..24]), fifths(&block[4..8]));
                }
                GgmlType::Q8_0 => {
                    self.half(nth, block, 0);
                    for (j, quad) in quads::<8>(&block[2..34]).into_iter().enumerate() {
                        self.lines[8 * nth + j].0[self.lane] = quad ^ 0x8080_8080;
                    }
                }
                GgmlType::Q4K => {
                    self.of_super(nth, block);
                    for group in 0..8 {
                        self.four(8 * nth + group, nibbles_of(&block[16..144], group));
                    }
                }
                GgmlType::Q5K => {
                    self.of_super(nth, block);
                    let high = quads::<8>(&block[16..48]);
                    for group in 0..8 {
                        let fifths = (0..8).fold(0, |all, j| all | (high[j] >> group & ONES) << j);
                        self.five(8 * nth + group, nibbles_of(&block[48..176], group), fifths);
                    }
                }
                GgmlType::Q6K => {
                    self.half(nth, block, 208);
                    for group in 0..8 {
                        let (part, within) = (group / 4, group % 4);
                        let low = quads::<8>(&block[part * 64 + within % 2 * 32..][..32]);
                        let low = low.map(|quad| quad >> (within / 2 * 4) & NIBBLES);
                        let high = quads::<8>(&block[128 + part * 32..][..32]);
                        let pairs = |four: usize| {
                            (0..4).fold(0, |all, j| all | (high[four + j] >> (2 * within) & PAIRS) << (2 * j))
                        };
                        self.six(8 * nth + group, together(low), [pairs(0), pairs(4)]);
                        for half in 0..2 {
                            self.bytes[2 * (8 * nth + group) + half][self.lane] = block[192 + 2 * group + half];
                        }
                    }
                }
            }
        }
    }

    fn half(&mut self, place: usize, block: &[u8], at: usize) {
        self.halves[place][self.lane] = u16::from_le_bytes([block[at], block[at + 1]]);
    }

    /// Scales of 256 numbers with offsets: two f16, then eight times six bits each.
    fn of_super(&mut self, nth: usize, block: &[u8]) {
        self.half(2 * nth, block, 0);
        self.half(2 * nth + 1, block, 2);
        let packed = &block[4..16];
        for group in 0..8 {
            let (scale, offset) = if group < 4 {
                (packed[group] & 63, packed[group + 4] & 63)
            } else {
                let both = packed[group + 4];
                ((both & 15) | packed[group - 4] >> 6 << 4, (both >> 4) | packed[group] >> 6 << 4)
            };
            self.bytes[2 * (8 * nth + group)][self.lane] = scale;
            self.bytes[2 * (8 * nth + group) + 1][self.lane] = offset;
        }
    }

    fn four(&mut self, tile: usize, low: [u32; 4]) {
        self.of::<4>(tile, &low);
    }

    fn five(&mut self, tile: usize, [a, b, c, d]: [u32; 4], fifths: u32) {
        self.of::<5>(tile, &[a, b, c, d, fifths]);
    }

    fn six(&mut self, tile: usize, [a, b, c, d]: [u32; 4], [e, f]: [u32; 2]) {
        self.of::<6>(tile, &[a, b, c, d, e, f]);
    }

    fn of<const LINES: usize>(&mut self, tile: usize, quads: &[u32; LINES]) {
        for (line, quad) in self.lines[LINES * tile..][..LINES].iter_mut().zip(quads) {
            line.0[self.lane] = *quad;
        }
    }
}

fn quads<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut quads = [0; N];
    for (quad, four) in quads.iter_mut().zip(bytes.as_chunks().0) {
        *quad = u32::from_le_bytes(*four);
    }
    quads
}

/// Quads 0..4 in the lower and 4..8 in the upper bits.
fn together(low: [u32; 8]) -> [u32; 4] {
    std::array::from_fn(|j| low[j] | low[j + 4] << 4)
}

/// Of eight groups of 32, two after each other share 32 bytes, the first of them in the lower four bits.
fn nibbles_of(low: &[u8], group: usize) -> [u32; 4] {
    let quads = quads::<8>(&low[group / 2 * 32..][..32]);
    together(quads.map(|quad| quad >> (group % 2 * 4) & NIBBLES))
}

/// Bit `4 * j + t` of a number to bit `j` of byte `t`.
fn fifths(bytes: &[u8]) -> u32 {
    let [bits] = quads::<1>(bytes);
    (0..8).fold(0, |all, j| all | ((bits >> (4 * j) & 15).wrapping_mul(0x0020_4081) & ONES) << j)
}
