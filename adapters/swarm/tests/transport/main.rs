//! Hosts that talk to each other over loopback, well-behaved and otherwise.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

mod access;
mod hostile;
mod hosts;
mod streaming;
mod unary;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use corolla_domain::ports::{FaultKind, PortError};
use corolla_swarm::{
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig, PeerId, Stream},
    wire::frame::{UnaryDecoder, UnaryFrame, encode_unary_reply},
};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};

/// Long enough for anything that works, on a busy machine too.
const LONG: Duration = Duration::from_secs(60);

/// A host that listens on loopback.
async fn listener(transport: &str) -> Host {
    let listen = vec![format!("/ip4/127.0.0.1/{transport}").parse().unwrap()];
    Host::start(HostConfig { listen, ..HostConfig::default() }).await.unwrap()
}

/// A caller that knows the address of `server`.
async fn caller(server: &Host, config: HostConfig, limits: RpcLimits) -> Rpc {
    let host = Host::start(config).await.unwrap();
    host.add_address(server.peer_id(), server.listen_addresses()[0].clone()).await;
    Rpc::new(host, limits)
}

/// A server, and a caller with default settings that knows it.
async fn pair() -> (Host, PeerId, Rpc) {
    let server = listener("tcp/0").await;
    let rpc = caller(&server, HostConfig::default(), RpcLimits::default()).await;
    let peer = server.peer_id();
    (server, peer, rpc)
}

/// Gives every stream of `protocol` to `serve`, each in its own task.
async fn serve<F, R>(server: &Host, protocol: &str, serve: F)
where
    F: Fn(Stream) -> R + Send + Sync + 'static,
    R: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let mut incoming = server.accept(protocol).await.unwrap();
    let serve = Arc::new(serve);
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            let serve = serve.clone();
            tokio::spawn(async move { serve(stream).await });
        }
    });
}

/// A unary method that gives back what it got, or fails with the text behind `!`.
async fn echo(mut stream: Stream) -> std::io::Result<()> {
    let mut decoder = UnaryDecoder::new(4 << 20);
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        decoder.push(&chunk[..count]);
        if let Some(UnaryFrame::Request { call_id, data, .. }) = decoder.next().unwrap() {
            let text = String::from_utf8_lossy(&data).into_owned();
            let outcome = text.strip_prefix('!').map_or(Ok(data), Err);
            let reply = encode_unary_reply(Bytes::copy_from_slice(&call_id), outcome).unwrap();
            stream.write_all(&reply).await?;
            return stream.close().await;
        }
    }
}

#[track_caller]
fn assert_fault<T: std::fmt::Debug>(outcome: Result<T, PortError>, kind: FaultKind, text: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.context().contains(text), "{error}");
}
