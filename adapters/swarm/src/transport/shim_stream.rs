//! A stream on which protocol names are respelled until it is negotiated (see `multistream`). What either side may leave
//! lying here in that time is bounded: one frame of at most 16 KiB that is not whole, one that is not yet read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use futures_util::{AsyncRead, AsyncWrite};

use super::multistream::{Kind, Spelling, translate};

/// How much is read at once while negotiating.
const READ_CHUNK: usize = 512;
/// How much may wait for the peer to take it while negotiating.
const MAX_PENDING: usize = 32 * 1024;
/// Frames of the peer in one negotiation. Stock peers need two, and one for each name that is refused.
const MAX_FRAMES: usize = 128;

/// Who proposes names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The local stack proposes.
    Dialer,
    /// The peer proposes.
    Listener,
}

/// How one direction of a stream is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Handshake frames are respelled.
    Frames,
    /// A proposal went this way; what follows it depends on the answer.
    Proposed,
    /// Negotiated: bytes pass.
    Open,
}

/// A stream that respells names until it is negotiated.
#[derive(Debug)]
pub(super) struct ShimStream<S> {
    inner: S,
    side: Side,
    reading: Phase,
    writing: Phase,
    /// Read from the peer, not yet looked at.
    arrived: Vec<u8>,
    /// Respelled, waiting for the local stack.
    readable: Vec<u8>,
    /// Written by the local stack, not yet a whole frame.
    partial: Vec<u8>,
    /// Respelled, waiting for the peer.
    pending: Vec<u8>,
    /// The reader that waits for the local answer to a proposal.
    waiting: Option<Waker>,
    /// Frames of the peer so far.
    frames: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ShimStream<S> {
    /// A fresh stream of which nothing has been read or written.
    pub(super) fn new(inner: S, side: Side) -> Self {
        Self {
            inner,
            side,
            reading: Phase::Frames,
            writing: Phase::Frames,
            arrived: Vec::new(),
            readable: Vec::new(),
            partial: Vec::new(),
            pending: Vec::new(),
            waiting: None,
            frames: 0,
        }
    }

    /// A frame of the peer goes to the local stack: where does that leave both directions?
    fn frame_read(&mut self, kind: Kind) {
        match (self.side, kind) {
            (_, Kind::Header) => {}
            (Side::Dialer, Kind::Refusal | Kind::List | Kind::ListRequest) => {
                if self.writing == Phase::Proposed {
                    self.writing = Phase::Frames;
                }
            }
            (Side::Dialer, Kind::Name) => {
                self.reading = Phase::Open;
                self.writing = Phase::Open;
            }
            (Side::Listener, _) => self.reading = Phase::Proposed,
        }
    }

    /// A frame of the local stack goes to the peer: where does that leave both directions?
    fn frame_written(&mut self, kind: Kind) {
        match (self.side, kind) {
            (_, Kind::Header) => {}
            (Side::Dialer, _) => self.writing = Phase::Proposed,
            (Side::Listener, Kind::Refusal | Kind::List | Kind::ListRequest) => self.resume_reading(Phase::Frames),
            (Side::Listener, Kind::Name) => {
                self.writing = Phase::Open;
                self.resume_reading(Phase::Open);
            }
        }
    }

    fn resume_reading(&mut self, phase: Phase) {
        self.reading = phase;
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Takes bytes of the local stack up to the end of a frame; returns how many.
    fn take_frame(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.partial.len();
        self.partial.extend_from_slice(bytes);
        let Some((kind, frame, taken)) = translate(&self.partial, Spelling::Wire)? else { return Ok(bytes.len()) };
        self.partial.clear();
        self.pending.extend_from_slice(&frame);
        self.frame_written(kind);
        Ok(taken - before)
    }

    /// Hands respelled frames to the peer.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// Moves the head of `from` into `to`.
fn hand_over(from: &mut Vec<u8>, to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    if count == from.len() {
        *from = Vec::new();
    } else {
        from.drain(..count);
    }
    count
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ShimStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if !this.readable.is_empty() {
                return Poll::Ready(Ok(hand_over(&mut this.readable, buf)));
            }
            match this.reading {
                Phase::Open if this.arrived.is_empty() => return Pin::new(&mut this.inner).poll_read(cx, buf),
                Phase::Open => return Poll::Ready(Ok(hand_over(&mut this.arrived, buf))),
                Phase::Proposed => {
                    this.waiting = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Phase::Frames => {}
            }
            if let Some((kind, frame, taken)) = translate(&this.arrived, Spelling::Local)? {
                this.frames += 1;
                if this.frames > MAX_FRAMES {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake without an end")));
                }
                this.arrived.drain(..taken);
                this.readable = frame;
                this.frame_read(kind);
                continue;
            }
            let mut chunk = [0; READ_CHUNK];
            let count = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            this.arrived.extend_from_slice(&chunk[..count]);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ShimStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.writing == Phase::Frames && !buf.is_empty() {
            if this.pending.len() + this.partial.len() > MAX_PENDING {
                ready!(this.poll_drain(cx))?;
            }
            return Poll::Ready(this.take_frame(buf));
        }
        // After a proposal the local stack writes before it has read an answer only when it sends data ahead.
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_close(cx)
    }
}

#[cfg(test)]
#[path = "shim_tests.rs"]
mod tests;
