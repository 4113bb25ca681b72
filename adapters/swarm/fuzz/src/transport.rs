//! The stream that respells names, between the local stack and a peer that says anything.

#[path = "../../src/transport/multistream.rs"]
mod multistream;
#[path = "../../src/transport/shim_stream.rs"]
mod shim_stream;

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use futures_util::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use multistream_select::{Version, dialer_select_proto, listener_select_proto};
use shim_stream::{ShimStream, Side};

/// A peer that has said all it will say, and takes everything. Not ready every other time.
struct Peer<'a> {
    said: &'a [u8],
    portion: usize,
    ready: bool,
    taken: usize,
}

impl Peer<'_> {
    fn turn(&mut self, cx: &Context<'_>) -> bool {
        self.ready = !self.ready;
        cx.waker().wake_by_ref();
        self.ready
    }
}

impl AsyncRead for Peer<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.turn(cx) {
            return Poll::Pending;
        }
        let (head, rest) = self.said.split_at(self.portion.min(buf.len()).min(self.said.len()));
        buf[..head.len()].copy_from_slice(head);
        self.said = rest;
        Poll::Ready(Ok(head.len()))
    }
}

impl AsyncWrite for Peer<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.turn(cx) {
            return Poll::Pending;
        }
        let count = self.portion.min(buf.len());
        self.taken += count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Negotiates as one side or the other with a peer that says `bytes`, in portions. Where that succeeds, what follows
/// comes through as the peer said it.
///
/// # Panics
/// Where it does not end, or what comes through is not what was said.
pub fn negotiate(bytes: &[u8], dialer: bool, portion: usize) {
    let peer = Peer { said: bytes, portion: portion.max(1), ready: false, taken: 0 };
    let stream = ShimStream::new(peer, if dialer { Side::Dialer } else { Side::Listener });
    let names = ["DHTProtocol.rpc_ping", "/ipfs/ping/1.0.0"].map(multistream::local_name);
    let work = async {
        let negotiated = if dialer {
            dialer_select_proto(stream, names.clone(), Version::V1).await
        } else {
            listener_select_proto(stream, names.clone()).await
        };
        let Ok((name, mut stream)) = negotiated else { return };
        assert!(names.contains(&name));
        let mut rest = Vec::new();
        if stream.read_to_end(&mut rest).await.is_ok() {
            assert!(bytes.ends_with(&rest), "what follows the negotiation was changed");
        }
    };
    let mut work = pin!(work);
    let mut cx = Context::from_waker(Waker::noop());
    let most = 100 * (bytes.len() + 100);
    assert!((0..most).any(|_| work.as_mut().poll(&mut cx).is_ready()), "it does not end");
}
