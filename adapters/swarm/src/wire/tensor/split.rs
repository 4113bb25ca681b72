//! Tensors in pieces, for the streaming forms of forward and backward (§5.4).

use bytes::BytesMut;

use super::WHAT;
use crate::wire::{WireError, proto::Tensor};

/// Bytes of one piece.
pub const CHUNK: usize = 4 << 20;

/// Cuts a tensor into pieces of up to `chunk` bytes, which share its memory. The first carries everything else.
#[must_use]
pub fn split(tensor: &Tensor, chunk: usize) -> Vec<Tensor> {
    let chunk = chunk.max(1);
    let pieces = tensor.buffer.len().div_ceil(chunk);
    let piece = |i: usize| tensor.buffer.slice(i * chunk..tensor.buffer.len().min((i + 1) * chunk));
    let buffer = if pieces == 0 { tensor.buffer.clone() } else { piece(0) };
    let first = Tensor { buffer, chunks: pieces as i32, ..tensor.clone() };
    let others = (1..pieces).map(|i| Tensor { buffer: piece(i), ..Tensor::default() });
    std::iter::once(first).chain(others).collect()
}

/// Joins pieces as they arrive. A piece with a type begins a tensor.
#[derive(Debug)]
pub struct Joiner {
    done: Vec<Tensor>,
    open: Option<(Tensor, BytesMut)>,
    tensors: usize,
    bytes_left: usize,
}

impl Joiner {
    /// Takes up to `tensors` tensors of up to `bytes` bytes together.
    #[must_use]
    pub fn new(tensors: usize, bytes: usize) -> Self {
        Self { done: Vec::new(), open: None, tensors, bytes_left: bytes }
    }

    /// Adds the next piece.
    ///
    /// # Errors
    /// Where a limit is passed, or the first piece begins no tensor.
    pub fn push(&mut self, piece: Tensor) -> Result<(), WireError> {
        WireError::cap("tensor in pieces", piece.buffer.len(), self.bytes_left)?;
        self.bytes_left -= piece.buffer.len();
        if piece.dtype.is_empty() {
            let Some((_, buffer)) = &mut self.open else {
                return Err(WireError::malformed(WHAT, "a piece that follows no tensor"));
            };
            buffer.extend_from_slice(&piece.buffer);
            return Ok(());
        }
        self.close();
        WireError::cap("tensors in pieces", self.done.len() + 1, self.tensors)?;
        let buffer = BytesMut::from(piece.buffer);
        self.open = Some((Tensor { buffer: bytes::Bytes::new(), chunks: 0, ..piece }, buffer));
        Ok(())
    }

    /// The whole tensors, once the last piece is in.
    #[must_use]
    pub fn finish(mut self) -> Vec<Tensor> {
        self.close();
        self.done
    }

    fn close(&mut self) {
        if let Some((tensor, buffer)) = self.open.take() {
            self.done.push(Tensor { buffer: buffer.freeze(), ..tensor });
        }
    }
}
