//! A peer below our own transport: TCP, noise and yamux of libp2p, and whatever it likes on the streams.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
};

use corolla_swarm::transport::{Multiaddr, PeerId};
use futures_util::{StreamExt as _, io::AsyncWriteExt as _};
use libp2p::{
    Transport as _,
    core::{
        muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox},
        transport::{ListenerId, TransportEvent},
        upgrade::Version,
    },
    identity::Keypair,
    noise, tcp, yamux,
};

use crate::act::Act;

/// What the peer does with the streams of each connection.
#[derive(Clone)]
pub(crate) enum Manner {
    /// This on every stream that is opened to it.
    Answer(Act),
    /// Opens streams as fast as it can and writes this on each.
    Flood(Arc<[u8]>),
}

pub(crate) struct Raw {
    pub(crate) peer: PeerId,
    pub(crate) address: Multiaddr,
    /// Streams it has opened itself.
    pub(crate) opened: Arc<AtomicUsize>,
}

impl Raw {
    pub(crate) async fn start(manner: Manner) -> Self {
        let key = Keypair::generate_ed25519();
        let mut transport = tcp::tokio::Transport::default()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&key).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = match transport.next().await.unwrap() {
            TransportEvent::NewAddress { listen_addr, .. } => listen_addr,
            other => panic!("no address but {other:?}"),
        };
        let opened = Arc::new(AtomicUsize::new(0));
        let count = opened.clone();
        tokio::spawn(async move {
            while let Some(event) = transport.next().await {
                if let TransportEvent::Incoming { upgrade, .. } = event {
                    let (manner, count) = (manner.clone(), count.clone());
                    tokio::spawn(async move {
                        if let Ok((_, muxer)) = upgrade.await {
                            // The connection ends when the client has had enough.
                            let _ = connection(muxer, manner, count).await;
                        }
                    });
                }
            }
        });
        Self { peer: key.public().to_peer_id(), address, opened }
    }
}

async fn connection(mut muxer: StreamMuxerBox, manner: Manner, opened: Arc<AtomicUsize>) -> io::Result<()> {
    loop {
        let stream = poll_fn(|cx| {
            if let Poll::Ready(stream) = muxer.poll_inbound_unpin(cx)? {
                return Poll::Ready(Ok::<_, io::Error>((stream, true)));
            }
            if let Manner::Flood(_) = manner
                && let Poll::Ready(stream) = muxer.poll_outbound_unpin(cx)?
            {
                return Poll::Ready(Ok((stream, false)));
            }
            match muxer.poll_unpin(cx)? {
                Poll::Ready(_) => cx.waker().wake_by_ref(),
                Poll::Pending => {}
            }
            Poll::Pending
        });
        let (stream, inbound) = stream.await?;
        match &manner {
            Manner::Answer(act) if inbound => tokio::spawn(answer(stream, act.clone())),
            Manner::Flood(bytes) if !inbound => {
                opened.fetch_add(1, SeqCst);
                tokio::spawn(flood(stream, bytes.clone()))
            }
            _ => continue,
        };
    }
}

async fn answer(mut stream: SubstreamBox, act: Act) {
    let _ = act.perform(&mut stream).await;
}

/// Writes it all, as far as it is taken, and keeps the stream.
async fn flood(mut stream: SubstreamBox, bytes: Arc<[u8]>) {
    let _ = stream.write_all(&bytes).await;
    std::future::pending::<()>().await;
}
