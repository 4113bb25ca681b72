//! Read-only maps of model files: weights are read page by page as they are needed.
#![allow(unsafe_code)]

use std::{
    fs::File,
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::Arc,
};

use corolla_domain::ports::PortError;
use memmap2::Mmap;

use crate::fault::{bad_file, unreadable};

/// A file in memory. Clones share the map.
#[derive(Debug, Clone)]
pub struct Mapped {
    path: PathBuf,
    map: Arc<Mmap>,
}

/// Some bytes of a mapped file; the map lasts as long as they do.
#[derive(Debug, Clone)]
pub struct Piece {
    map: Arc<Mmap>,
    place: Range<usize>,
}

impl Mapped {
    /// Maps `path`, which must be a file that is not empty.
    ///
    /// # Errors
    /// `NotFound` where there is none, `InvalidInput` where it is empty or no file.
    pub fn open(path: &Path) -> Result<Self, PortError> {
        let file = File::open(path).map_err(|e| unreadable(path, e))?;
        let about = file.metadata().map_err(|e| unreadable(path, e))?;
        if !about.is_file() || about.len() == 0 {
            return Err(bad_file(path, "is empty or no file; fetch the model again"));
        }
        // SAFETY: the map is read-only and the slices it gives out borrow from it, so they end before it is unmapped.
        // What remains is that another process may change or shorten the file while it is mapped. Model files are
        // written once and replaced by renaming, which leaves the mapped one as it is, and most bytes are copied out
        // while the model loads; what is used in place is said where it is used.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| unreadable(path, e))?;
        Ok(Self { path: path.to_owned(), map: Arc::new(map) })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes at `place`; `None` where the file ends before.
    #[must_use]
    pub fn piece(&self, place: Range<usize>) -> Option<Piece> {
        self.map.get(place.clone())?;
        Some(Piece { map: Arc::clone(&self.map), place })
    }
}

impl Piece {
    /// Has the system read the bytes at `place` and map their pages now, and not some at a time when they are first used.
    /// It may decline: they are read later then, as they would have been.
    pub fn populate(&self, place: Range<usize>) {
        let here =
            self.place.start + place.start.min(self.place.len())..self.place.end.min(self.place.start + place.end);
        #[cfg(target_os = "linux")]
        if let Err(error) = self.map.advise_range(memmap2::Advice::PopulateRead, here.start, here.len()) {
            tracing::debug!(%error, "pages of a model file are not mapped ahead");
        }
        #[cfg(not(target_os = "linux"))]
        drop(here);
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.place.clone()]
    }
}
