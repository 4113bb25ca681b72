//! Read-only maps of model files: weights are read page by page as they are needed.
#![allow(unsafe_code)]

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use corolla_domain::ports::PortError;
use memmap2::Mmap;

use crate::fault::{bad_file, unreadable};

/// A file in memory.
#[derive(Debug)]
pub(crate) struct Mapped {
    path: PathBuf,
    map: Mmap,
}

impl Mapped {
    /// Maps `path`, which must be a file that is not empty.
    pub(crate) fn open(path: &Path) -> Result<Self, PortError> {
        let file = File::open(path).map_err(|e| unreadable(path, e))?;
        let about = file.metadata().map_err(|e| unreadable(path, e))?;
        if !about.is_file() || about.len() == 0 {
            return Err(bad_file(path, "is empty or no file; fetch the model again"));
        }
        // SAFETY: the map is read-only and the slices it gives out borrow from it, so they end before it is unmapped.
        // What remains is that another process may change or shorten the file while it is mapped; model files are
        // written once and replaced by renaming, and all bytes are copied out while the model loads, so the time in
        // which that could hurt is the loading itself.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| unreadable(path, e))?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
