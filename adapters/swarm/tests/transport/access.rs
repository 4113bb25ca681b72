//! Who may enter: secrets and lists, on both sides of a connection.

use std::time::Instant;

use corolla_swarm::transport::{Access, SwarmSecret};

use super::*;

fn secret(fill: u8) -> Access {
    Access { secret: Some(SwarmSecret::new([fill; 32])), allowed: None }
}

fn list(allowed: &[PeerId]) -> Access {
    Access { secret: None, allowed: Some(allowed.to_vec()) }
}

/// A host that serves `Test.rpc_echo`.
async fn echoing(access: Access) -> Host {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let dial_timeout = Duration::from_secs(4);
    let server = Host::start(HostConfig { listen, access, dial_timeout, ..HostConfig::default() }).await.unwrap();
    serve(&server, "Test.rpc_echo", echo).await;
    server
}

async fn call(server: &Host, access: Access) -> Result<Bytes, PortError> {
    let config = HostConfig { access, dial_timeout: Duration::from_secs(4), ..HostConfig::default() };
    let rpc = caller(server, config, RpcLimits::default()).await;
    rpc.unary(server.peer_id(), "Test.rpc_echo", Bytes::from_static(b"hello"), LONG).await
}

#[tokio::test]
async fn those_who_share_a_secret_talk() {
    let server = echoing(secret(7)).await;
    for _ in 0..3 {
        assert_eq!(call(&server, secret(7)).await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn another_secret_or_none_ends_in_a_fault_that_says_so() {
    let (private, open) = (echoing(secret(7)).await, echoing(Access::default()).await);
    for (server, access) in [(&private, secret(8)), (&private, Access::default()), (&open, secret(7))] {
        let (start, with) = (Instant::now(), access.secret.is_some());
        let error = call(server, access).await.unwrap_err();
        assert!(matches!(error.kind(), FaultKind::Unavailable | FaultKind::TimedOut), "{error}");
        let reason = if with { "another swarm secret, or none" } else { "secret is missing here" };
        assert!(error.context().contains(reason), "{error}");
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    }
    assert_eq!(call(&private, secret(7)).await.unwrap(), "hello");
}

/// What a stranger can learn from a private host: 24 random bytes.
#[tokio::test]
async fn a_private_host_says_nothing_to_strangers() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = echoing(secret(7)).await;
    let address = server.listen_addresses()[0].to_string();
    let port: u16 = address.rsplit('/').next().unwrap().parse().unwrap();
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    socket.write_all(&[0x55; 24]).await.unwrap();
    socket.write_all(b"\x13/multistream/1.0.0\n\x07/noise\n").await.unwrap();
    let mut heard = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut heard)).await;
    assert!(read.is_ok(), "the host did not hang up");
    assert_eq!(heard.len(), 24, "only the nonce: {heard:?}");
}

#[tokio::test]
async fn who_hangs_up_instead_of_greeting_may_have_another_secret() {
    let rude = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", rude.local_addr().unwrap().port()).parse().unwrap();
    tokio::spawn(async move { while rude.accept().await.is_ok() {} });
    let host = Host::start(HostConfig { access: secret(7), ..HostConfig::default() }).await.unwrap();
    let peer = PeerId::random();
    host.add_address(peer, address).await;
    assert_fault(host.connect(peer).await, FaultKind::Unavailable, "another swarm secret, or none");
}

#[tokio::test]
async fn quic_is_refused_where_there_is_a_secret() {
    let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()];
    let outcome = Host::start(HostConfig { listen, access: secret(7), ..HostConfig::default() }).await;
    assert_fault(outcome, FaultKind::InvalidInput, "QUIC");
    let peer = PeerId::random();
    let initial_peers = vec![format!("/ip4/127.0.0.1/udp/1/quic-v1/p2p/{peer}").parse().unwrap()];
    let outcome = Host::start(HostConfig { initial_peers, access: secret(7), ..HostConfig::default() }).await;
    assert_fault(outcome, FaultKind::InvalidInput, "QUIC");
    // One that somebody else named is not dialled.
    let server = listener("udp/0/quic-v1").await;
    let outcome = call(&server, secret(7)).await;
    assert_fault(outcome, FaultKind::Unavailable, "nobody knows an address");
}

#[tokio::test]
async fn only_those_on_the_list_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Some(folder.path().join("friend"));
    let friend =
        Host::start(HostConfig { identity: identity.clone(), ..HostConfig::default() }).await.unwrap().peer_id();
    let server = echoing(list(&[friend])).await;
    let hello = Bytes::from_static(b"hello");

    let known = caller(&server, HostConfig { identity, ..HostConfig::default() }, RpcLimits::default()).await;
    assert_eq!(known.unary(server.peer_id(), "Test.rpc_echo", hello.clone(), LONG).await.unwrap(), "hello");

    let start = Instant::now();
    let stranger = caller(&server, HostConfig::default(), RpcLimits::default()).await;
    let outcome = stranger.unary(server.peer_id(), "Test.rpc_echo", hello.clone(), LONG).await;
    assert_fault(outcome, FaultKind::Unavailable, "may admit listed peers only");
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    assert_eq!(known.unary(server.peer_id(), "Test.rpc_echo", hello, LONG).await.unwrap(), "hello");
    assert_eq!(server.connected(), [(friend, false)]);
}

#[tokio::test]
async fn a_caller_with_a_list_calls_nobody_else() {
    let server = echoing(Access::default()).await;
    assert_eq!(call(&server, list(&[server.peer_id()])).await.unwrap(), "hello");
    assert_fault(call(&server, list(&[PeerId::random()])).await, FaultKind::Unavailable, "list of allowed peers");
    let initial_peers = vec![format!("/ip4/127.0.0.1/tcp/1/p2p/{}", server.peer_id()).parse().unwrap()];
    let config = HostConfig { initial_peers, access: list(&[PeerId::random()]), ..HostConfig::default() };
    assert_fault(Host::start(config).await, FaultKind::InvalidInput, "list of allowed peers");
}
