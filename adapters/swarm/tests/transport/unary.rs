//! Unary calls.

use std::time::Instant;

use corolla_swarm::rpc::RemoteFault;
use tokio::task::JoinSet;

use super::*;

#[tokio::test]
async fn a_call_is_answered_over_tcp_and_quic() {
    for transport in ["tcp/0", "udp/0/quic-v1"] {
        let server = listener(transport).await;
        serve(&server, "Test.rpc_echo", echo).await;
        let rpc = caller(&server, HostConfig::default(), RpcLimits::default()).await;
        for size in [0, 1, 100_000, 4_000_000] {
            let request = Bytes::from(vec![7; size]);
            let reply = rpc.unary(server.peer_id(), "Test.rpc_echo", request.clone(), LONG).await.unwrap();
            assert_eq!(reply, request, "{transport}");
        }
        assert_eq!(rpc.host().connected(), [(server.peer_id(), false)]);
        assert!(rpc.host().ping(server.peer_id()).await.unwrap() < LONG);
    }
}

#[tokio::test]
async fn a_remote_failure_carries_the_remote_text() {
    let (server, peer, rpc) = pair().await;
    serve(&server, "Test.rpc_echo", echo).await;
    let error = rpc.unary(peer, "Test.rpc_echo", Bytes::from_static(b"!ValueError('boom')"), LONG).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::Unavailable);
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<RemoteFault>());
    assert_eq!(source.map(|fault| fault.text.as_str()), Some("ValueError('boom')"));
}

#[tokio::test]
async fn a_refused_protocol_is_told_at_once() {
    let (_server, peer, rpc) = pair().await;
    assert_fault(rpc.unary(peer, "Test.rpc_nothing", Bytes::new(), LONG).await, FaultKind::Unavailable, "protocol");
}

#[tokio::test]
async fn a_silent_close_is_unavailable_and_silence_times_out() {
    let (server, peer, rpc) = pair().await;
    serve(&server, "Test.rpc_close", |mut stream| async move { stream.close().await }).await;
    serve(&server, "Test.rpc_reset", |stream| async move {
        drop(stream);
        Ok(())
    })
    .await;
    serve(&server, "Test.rpc_silent", |stream| async move {
        let _kept = stream;
        std::future::pending().await
    })
    .await;
    assert_fault(rpc.unary(peer, "Test.rpc_close", Bytes::new(), LONG).await, FaultKind::Unavailable, "rpc_close");
    assert_fault(rpc.unary(peer, "Test.rpc_reset", Bytes::new(), LONG).await, FaultKind::Unavailable, "rpc_reset");
    let limit = Duration::from_millis(200);
    assert_fault(rpc.unary(peer, "Test.rpc_silent", Bytes::new(), limit).await, FaultKind::TimedOut, "rpc_silent");
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_at_the_callee() {
    let (server, peer, rpc) = pair().await;
    let (seen, mut cancelled) = tokio::sync::mpsc::channel(1);
    serve(&server, "Test.rpc_wait", move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut chunk = [0; 256];
            while stream.read(&mut chunk).await.is_ok_and(|count| count > 0) {}
            seen.send(()).await.map_err(std::io::Error::other)
        }
    })
    .await;
    let limit = Duration::from_millis(300);
    assert_fault(rpc.unary(peer, "Test.rpc_wait", Bytes::from_static(b"x"), limit).await, FaultKind::TimedOut, "wait");
    tokio::time::timeout(LONG, cancelled.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn hundreds_of_calls_share_one_connection() {
    let (server, peer, rpc) = pair().await;
    serve(&server, "Test.rpc_echo", echo).await;
    let start = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0..800u32 {
        let rpc = rpc.clone();
        calls.spawn(async move {
            let request = Bytes::from(number.to_string().repeat(500));
            let reply = rpc.unary(peer, "Test.rpc_echo", request.clone(), LONG).await;
            reply.map(|reply| assert_eq!(reply, request))
        });
    }
    for outcome in calls.join_all().await {
        outcome.unwrap();
    }
    println!("800 calls in {:?}", start.elapsed());
    assert_eq!(rpc.host().connected().len(), 1);
}

#[tokio::test]
async fn too_long_a_request_is_not_sent() {
    let (_server, peer, rpc) = pair().await;
    let request = Bytes::from(vec![0; 5 << 20]);
    assert_fault(rpc.unary(peer, "Test.rpc_echo", request, LONG).await, FaultKind::InvalidInput, "limit");
}
