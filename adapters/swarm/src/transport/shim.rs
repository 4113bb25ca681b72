//! A stream muxer that respells protocol names while a stream is being negotiated, and then stays out of the way.
//!
//! It sits between the muxer and the swarm, so that stock libp2p, which insists on a leading slash, can talk to
//! hivemind, which has none (see `multistream`).

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};

use super::shim_stream::{ShimStream, Side};

/// A muxer (or the upgrade that makes one) whose streams respell.
#[derive(Debug, Clone)]
pub(super) struct Shim<M>(pub(super) M);

impl<M: StreamMuxer + Unpin> StreamMuxer for Shim<M>
where
    M::Substream: Unpin,
{
    type Substream = ShimStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        Pin::new(&mut self.get_mut().0).poll_inbound(cx).map_ok(|io| ShimStream::new(io, Side::Listener))
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        Pin::new(&mut self.get_mut().0).poll_outbound(cx).map_ok(|io| ShimStream::new(io, Side::Dialer))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().0).poll_close(cx)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.get_mut().0).poll(cx)
    }
}

impl<U: UpgradeInfo> UpgradeInfo for Shim<U> {
    type Info = U::Info;
    type InfoIter = U::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C, U: InboundConnectionUpgrade<C>> InboundConnectionUpgrade<C> for Shim<U> {
    type Output = Shim<U::Output>;
    type Error = U::Error;
    type Future = Wrapped<U::Future>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        Wrapped(Box::pin(self.0.upgrade_inbound(socket, info)))
    }
}

impl<C, U: OutboundConnectionUpgrade<C>> OutboundConnectionUpgrade<C> for Shim<U> {
    type Output = Shim<U::Output>;
    type Error = U::Error;
    type Future = Wrapped<U::Future>;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        Wrapped(Box::pin(self.0.upgrade_outbound(socket, info)))
    }
}

/// An upgrade under way.
pub(super) struct Wrapped<F>(Pin<Box<F>>);

impl<F: Future<Output = Result<M, E>>, M, E> Future for Wrapped<F> {
    type Output = Result<Shim<M>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.as_mut().poll(cx).map_ok(Shim)
    }
}
