//! Connections: identities, addresses, deaths, limits.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn an_identity_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let config = HostConfig { identity: Some(folder.path().join("key")), ..HostConfig::default() };
    let first = Host::start(config.clone()).await.unwrap().peer_id();
    assert_eq!(Host::start(config.clone()).await.unwrap().peer_id(), first);
    std::fs::write(folder.path().join("key"), "garbage").unwrap();
    assert_fault(Host::start(config).await, FaultKind::InvalidInput, "holds no libp2p private key");
}

#[tokio::test]
async fn a_dead_peer_fails_its_calls_and_can_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Some(folder.path().join("key"));
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let config = HostConfig { identity, listen, ..HostConfig::default() };
    let server = Host::start(config.clone()).await.unwrap();
    let peer = server.peer_id();
    let rpc = caller(&server, HostConfig::default(), RpcLimits::default()).await;
    let mut accepted = server.accept("Test.rpc_wait").await.unwrap();
    let mut stream = rpc.stream(peer, "Test.rpc_wait").await.unwrap();
    let kept = accepted.next().await.unwrap();
    let waiting = rpc.clone();
    let unary = tokio::spawn(async move { waiting.unary(peer, "Test.rpc_wait", Bytes::new(), LONG).await });
    let kept_too = accepted.next().await.unwrap();

    drop(accepted);
    drop(server);
    let ended = stream.next(LONG).await;
    assert!(ended.as_ref().map_or_else(|fault| fault.kind() == FaultKind::Unavailable, Option::is_none), "{ended:?}");
    assert_fault(unary.await.unwrap(), FaultKind::Unavailable, "rpc_wait");
    drop((kept, kept_too));
    while !rpc.host().connected().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_fault(rpc.unary(peer, "Test.rpc_echo", Bytes::new(), LONG).await, FaultKind::Unavailable, "connection");

    let server = Host::start(config).await.unwrap();
    serve(&server, "Test.rpc_echo", echo).await;
    rpc.host().add_address(peer, server.listen_addresses()[0].clone()).await;
    rpc.unary(peer, "Test.rpc_echo", Bytes::new(), LONG).await.unwrap();
}

#[tokio::test]
async fn connecting_ends_within_the_dial_timeout() {
    // A listener that accepts and says nothing.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", mute.local_addr().unwrap().port()).parse().unwrap();
    let config = HostConfig { dial_timeout: Duration::from_secs(1), ..HostConfig::default() };
    let host = Host::start(config).await.unwrap();
    let peer = PeerId::random();
    assert_fault(host.connect(peer).await, FaultKind::Unavailable, "nobody knows an address");
    host.add_address(peer, address).await;
    let start = Instant::now();
    assert!(matches!(host.connect(peer).await.unwrap_err().kind(), FaultKind::TimedOut | FaultKind::Unavailable));
    assert!(start.elapsed() < HostConfig::default().dial_timeout, "{:?}", start.elapsed());
    assert_fault(host.connect(host.peer_id()).await, FaultKind::InvalidInput, "itself");
}

#[tokio::test]
async fn an_address_of_another_peer_does_not_connect() {
    let server = listener("tcp/0").await;
    let host = Host::start(HostConfig::default()).await.unwrap();
    let other = PeerId::random();
    host.add_address(other, server.listen_addresses()[0].clone()).await;
    assert_fault(host.connect(other).await, FaultKind::Unavailable, "no connection");
}

#[tokio::test]
async fn many_callers_share_one_dial() {
    let (server, peer, rpc) = pair().await;
    let dials = (0..100).map(|_| rpc.host().connect(peer));
    for outcome in futures_util::future::join_all(dials).await {
        outcome.unwrap();
    }
    assert_eq!(rpc.host().connected(), [(peer, false)]);
    rpc.host().disconnect(peer).await;
    drop(server);
}

#[tokio::test]
async fn a_connection_that_has_just_ended_is_made_anew() {
    let (server, peer, rpc) = pair().await;
    serve(&server, "Test.rpc_echo", echo).await;
    for _ in 0..20 {
        rpc.unary(peer, "Test.rpc_echo", Bytes::new(), LONG).await.unwrap();
        rpc.host().disconnect(peer).await;
    }
}

#[tokio::test]
async fn a_peer_that_says_too_much_of_itself_is_talked_to_all_the_same() {
    // `identify` takes 4096 bytes; a busy server with many addresses has more to say.
    let server = listener("tcp/0").await;
    let mut many = Vec::new();
    for i in 0..200 {
        many.push(server.accept(&format!("/a/protocol/with/a/rather/long/name/{i}")).await.unwrap());
    }
    serve(&server, "Test.rpc_echo", echo).await;
    let rpc = caller(&server, HostConfig::default(), RpcLimits::default()).await;
    for _ in 0..10 {
        rpc.unary(server.peer_id(), "Test.rpc_echo", Bytes::new(), LONG).await.unwrap();
    }
    assert_eq!(rpc.host().connected(), [(server.peer_id(), false)]);
}

#[tokio::test]
async fn a_protocol_is_taken_once_until_it_is_dropped() {
    let host = Host::start(HostConfig::default()).await.unwrap();
    let incoming = host.accept("Test.rpc_echo").await.unwrap();
    assert_fault(host.accept("Test.rpc_echo").await, FaultKind::Conflict, "already");
    drop(incoming);
    host.accept("Test.rpc_echo").await.unwrap();
}

#[tokio::test]
async fn bad_settings_are_named() {
    let initial_peers = vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()];
    let outcome = Host::start(HostConfig { initial_peers, ..HostConfig::default() }).await;
    assert_fault(outcome, FaultKind::InvalidInput, "/p2p/");
    let listen = vec!["/dns/localhost/sctp/1".parse().unwrap()];
    assert_fault(Host::start(HostConfig { listen, ..HostConfig::default() }).await, FaultKind::InvalidInput, "listen");
}
