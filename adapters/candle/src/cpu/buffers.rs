//! Memory for results, used again and again by the thread that computes.
//!
//! The system's allocator gives large pieces back as soon as they are free, and fresh ones cost a page fault for every
//! 4 KB, which long prompts feel.

use std::cell::RefCell;

/// Numbers from which on a piece is worth keeping: several pages. A guess, as the two below.
const LARGE: usize = 1 << 14;
/// Numbers up to which a piece is kept: what is larger is needed rarely, and would be held on to for ever.
const LARGEST: usize = 1 << 23;
/// Pieces that are kept: about as many as are in use at a time within a block.
const MOST: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Place for `len` numbers, whatever they are now.
pub(super) fn place(len: usize) -> Vec<f32> {
    let kept = (len >= LARGE).then(|| FREE.with_borrow_mut(|free| take(free, len))).flatten();
    let mut numbers = kept.unwrap_or_default();
    if numbers.is_empty() {
        return vec![0.0; len];
    }
    numbers.resize(len, 0.0);
    numbers
}

/// Keeps `numbers`, which nobody needs any more, for [`place`].
pub(super) fn free(numbers: Vec<f32>) {
    if !(LARGE..=LARGEST).contains(&numbers.capacity()) {
        return;
    }
    // A thread that ends has no shelf any more.
    let _ = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        free.push(numbers);
        if free.len() > MOST
            && let Some(least) = (0..free.len()).min_by_key(|nth| free[*nth].capacity())
        {
            free.swap_remove(least);
        }
    });
}

/// The smallest piece that has room for `len` numbers and is not four times too large.
fn take(free: &mut Vec<Vec<f32>>, len: usize) -> Option<Vec<f32>> {
    let fits = |nth: &usize| (len..=4 * len).contains(&free[*nth].capacity());
    let nth = (0..free.len()).filter(fits).min_by_key(|nth| free[*nth].capacity())?;
    Some(free.swap_remove(nth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_used_again_where_it_fits() {
        let piece = place(LARGE + 5);
        let address = piece.as_ptr();
        free(piece);
        let larger = place(8 * LARGE);
        assert_ne!(larger.as_ptr(), address);
        let again = place(LARGE);
        assert_eq!((again.as_ptr(), again.len()), (address, LARGE));
        free(again);
        let longer = place(LARGE + 5);
        assert_eq!((longer.as_ptr(), longer.len()), (address, LARGE + 5));
    }

    #[test]
    fn few_pieces_are_kept_and_neither_small_nor_huge_ones() {
        (0..3 * MOST).map(|_| vec![0.0; LARGE]).collect::<Vec<_>>().into_iter().for_each(free);
        free(vec![0.0; LARGE - 1]);
        free(vec![0.0; LARGEST + 1]);
        assert_eq!(FREE.with_borrow(Vec::len), MOST);
        let capacities: Vec<usize> = FREE.with_borrow(|free| free.iter().map(Vec::capacity).collect());
        assert_eq!(capacities, [LARGE; MOST]);
    }
}
