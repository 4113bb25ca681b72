//! Rows of the head in 4 bits, rounded so that what is lost has nothing to do with any hidden state.
//!
//! Before a number is rounded, a random one is added, which is taken away again from what was rounded (subtractive dither:
//! Schuchman, *Dither Signals and Their Effect on Quantization Noise*, 1964). What is lost is then uniform between minus a half and
//! a half step, whatever the number was, and independent from column to column. All rows share the random numbers: what
//! they add to a product is the same for all rows of a scale, and is computed once.

use corolla_domain::ports::PortError;

use super::bounds::{Facts, up};
use crate::cpu::kernels::{GROUP, GROUP_LINES, Line, NibbleGroup, SPAN};

/// Steps of a random number between 0 and 1.
pub(super) const STEPS: u32 = 1 << 20;
/// The largest number of 4 bits.
const MOST: f64 = 15.0;
/// So many units of 4 bits are numbers away from 0 at most: with half a unit of dither they still fit.
const REACH: f64 = 7.5;
/// The largest scale.
const SCALES: f64 = 255.0;
/// Added to a number between -2^51 and 2^51, leaves its nearest integer when it is taken away.
const SHIFT: f64 = (3u64 << 51) as f64;
/// Sums side by side, so that no addition waits for the one before.
const LANES: usize = 8;

/// What is added to each column: `7 + steps / STEPS`, the mean of which is the middle of 4 bits. In other words, the number that
/// stands for 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Dither(Vec<u32>);

impl Dither {
    /// New random numbers of the system's, which nobody else knows.
    ///
    /// # Errors
    /// `Internal` where the system has none.
    pub(super) fn new(cols: usize) -> Result<Self, PortError> {
        let mut bytes = vec![0; 4 * cols];
        let none = |error| PortError::internal(format!("the system gives no random numbers for a screen: {error}"));
        getrandom::fill(&mut bytes).map_err(none)?;
        Ok(Self::of(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word))))
    }

    /// Made of random words.
    pub(super) fn of(words: impl Iterator<Item = u32>) -> Self {
        Self(words.map(|word| word % STEPS).collect())
    }

    /// What they are made of.
    pub(super) fn words(&self) -> &[u32] {
        &self.0
    }

    /// What stands for 0 in each column.
    fn zeros(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|steps| 7.0 + f64::from(*steps) / f64::from(STEPS))
    }

    /// What activations add to all rows, `whole` being one for each column.
    pub(super) fn groups(&self, whole: &[i16]) -> Vec<NibbleGroup> {
        let of_group = |(whole, steps): (&[i16], &[u32])| {
            let both = || whole.iter().map(|number| i64::from(*number)).zip(steps);
            let less: i64 = both().map(|(number, steps)| number * i64::from(7 * STEPS + steps)).sum();
            let square: i64 = both().map(|(number, _)| number * number).sum();
            // Whole numbers below 2^53.
            NibbleGroup { less: (less as f64 / f64::from(STEPS)) as f32, square: up(square as f64) }
        };
        whole.chunks(GROUP).zip(self.0.chunks(GROUP)).map(of_group).collect()
    }
}

/// Writes `row` as row `lane` of sixteen. `false` where it has something else than finite numbers.
///
/// The scale of a group is the smallest with which its numbers are kept, a multiple of one that the row has.
pub(super) fn write(row: &[f32], lane: usize, lines: &mut [Line], facts: &mut Facts, dither: &Dither) -> bool {
    let most = |numbers: &[f32]| f64::from(numbers.iter().fold(0f32, |most, w| most.max(w.abs())));
    let unit = up(most(row) / (REACH * SCALES));
    let (mut errors, mut norms) = ([0f64; LANES], [0f64; LANES]);
    let zeros: Vec<f64> = dither.zeros().collect();
    let spans = lines.chunks_mut(1 + SPAN * GROUP_LINES).zip(row.chunks(SPAN * GROUP)).zip(zeros.chunks(SPAN * GROUP));
    for ((lines, row), zeros) in spans {
        let Some((scales, lines)) = lines.split_first_mut() else { break };
        scales.0[lane] = 0;
        let groups = lines.chunks_mut(GROUP_LINES).zip(row.chunks(GROUP)).zip(zeros.chunks(GROUP));
        for (nth, ((lines, row), zeros)) in groups.enumerate() {
            let scale = (most(row) / (REACH * f64::from(unit))).ceil().min(SCALES);
            scales.0[lane] |= (scale as u32) << (8 * nth);
            let step = scale * f64::from(unit);
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            for ((line, row), zeros) in lines.iter_mut().zip(row.chunks(LANES)).zip(zeros.chunks(LANES)) {
                let mut quads = 0;
                for (at, (w, zero)) in row.iter().zip(zeros).enumerate() {
                    let w = f64::from(*w);
                    let whole = (((w * inverse + zero) + SHIFT) - SHIFT).clamp(0.0, MOST);
                    quads |= (whole as u32) << (8 * (at % 4) + 4 * (at / 4));
                    let lost = w - step * (whole - zero);
                    errors[at] += lost * lost;
                    norms[at] += w * w;
                }
                line.0[lane] = quads;
            }
        }
    }
    let length = |squares: [f64; LANES]| squares.iter().sum::<f64>().sqrt();
    (facts.scale[lane], facts.error[lane], facts.norm[lane]) = (unit, up(length(errors)), up(length(norms)));
    // `max` passes NaN over; the sum of squares does not.
    norms.iter().all(|norm| norm.is_finite())
}
