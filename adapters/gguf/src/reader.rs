//! A cursor over the bytes of a file that never reads past their end.

use crate::GgufError;

/// Reads little-endian numbers and strings, front to back.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the next read begins.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], GgufError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.truncated(what));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of things to come, each at least `least` bytes long: refused where the rest of the file could not hold
    /// them, so that it is safe to reserve memory for them.
    pub(crate) fn count(&mut self, least: usize, what: &str) -> Result<usize, GgufError> {
        let count = self.u64(what)?;
        let room = (self.bytes.len() - self.at) / least;
        usize::try_from(count).ok().filter(|count| *count <= room).ok_or_else(|| self.truncated(what))
    }

    /// A length and so many bytes of UTF-8.
    pub(crate) fn string(&mut self, what: &str) -> Result<&'a str, GgufError> {
        let len = self.count(1, what)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::malformed(what, "a string is not UTF-8"))
    }

    fn truncated(&self, what: &str) -> GgufError {
        GgufError::Truncated { what: what.to_owned(), at: self.at }
    }
}
