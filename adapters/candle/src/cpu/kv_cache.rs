//! Keys and values of earlier positions, in pages.

mod page;

use std::sync::Arc;

use corolla_compute::PAGE;
use corolla_domain::ports::PortError;

pub(super) use self::page::Layout;
use self::page::Page;
use super::kernels::Vectors;

/// Keys and values of one session in one block.
///
/// Pages are made when a position in them is first written. Caches that were forked, and rows that were put in another
/// order, share them, until one of them writes: that one gets a copy of its own. What all caches may take in the worst case
/// is reserved before one is made, see [`corolla_compute::LoadConfig`].
pub(crate) struct BlockCache {
    /// Pages of each row, in the order of positions.
    rows: Vec<Vec<Arc<Page>>>,
    layout: Layout,
}

impl BlockCache {
    /// An empty cache of `batch` rows.
    pub(super) fn new(batch: usize, layout: Layout) -> Self {
        Self { rows: vec![Vec::new(); batch], layout }
    }

    /// Writes keys and values of a row's positions from `position` on, each all heads one after the other; what comes after
    /// them is forgotten.
    pub(super) fn write<'a>(
        &mut self,
        row: usize,
        position: usize,
        new: impl Iterator<Item = (&'a [f32], &'a [f32])>,
    ) -> Result<(), PortError> {
        let mut end = position;
        for (keys, values) in new {
            self.page(row, end)?.write(end % PAGE, keys, values);
            end += 1;
        }
        self.rows[row].truncate(end.div_ceil(PAGE));
        Ok(())
    }

    /// The page of a position that is written next, with nobody else to see it.
    fn page(&mut self, row: usize, position: usize) -> Result<&mut Page, PortError> {
        let (nth, used) = (position / PAGE, position % PAGE);
        let pages = &mut self.rows[row];
        if pages.len() == nth {
            pages.push(Arc::new(Page::new(self.layout)?));
        }
        let skipped =
            || PortError::internal(format!("position {position} of a KV cache is written before earlier ones"));
        let page = pages.get_mut(nth).ok_or_else(skipped)?;
        if Arc::get_mut(page).is_none() {
            *page = Arc::new(page.copy(used)?);
        }
        Arc::get_mut(page).ok_or_else(|| PortError::internal("a new page of a KV cache has two owners"))
    }

    /// Keys of one head at a row's first `length` positions, page by page.
    pub(super) fn keys(&self, row: usize, head: usize, length: usize) -> impl Iterator<Item = Vectors<'_>> {
        self.pages(row, length).map(move |(page, used)| page.keys(head, used))
    }

    /// Values likewise.
    pub(super) fn values(&self, row: usize, head: usize, length: usize) -> impl Iterator<Item = Vectors<'_>> {
        self.pages(row, length).map(move |(page, used)| page.values(head, used))
    }

    /// Pages and how many positions of each are among the first `length`.
    fn pages(&self, row: usize, length: usize) -> impl Iterator<Item = (&Page, usize)> {
        let pages = self.rows[row].iter().enumerate().take(length.div_ceil(PAGE));
        pages.map(move |(nth, page)| (&**page, PAGE.min(length - nth * PAGE)))
    }

    /// Row `i` becomes what row `rows[i]` was.
    pub(super) fn reorder(&mut self, rows: &[usize]) {
        self.rows = rows.iter().map(|row| self.rows[*row].clone()).collect();
    }

    /// A cache that begins with the first `to` positions of this one.
    pub(super) fn fork(&self, to: usize) -> Self {
        let first = |pages: &Vec<Arc<Page>>| pages.iter().take(to.div_ceil(PAGE)).cloned().collect();
        Self { rows: self.rows.iter().map(first).collect(), layout: self.layout }
    }
}

#[cfg(test)]
mod tests;
