//! Peers that speak the framing and mean ill: every call ends in time, with a typed fault.

use corolla_swarm::wire::{frame::encode_stream_message, proto::KadMessage};
use prost::Message as _;

use super::*;

/// A caller with small caps.
async fn wary(server: &Host) -> Rpc {
    let limits = RpcLimits { unary: 64 * 1024, record: 64 * 1024, write_timeout: Duration::from_millis(300) };
    caller(server, HostConfig::default(), limits).await
}

/// Answers every stream of `Test.rpc_bad` with `bytes`, then stays silent.
async fn answering(bytes: Vec<u8>) -> (Host, Rpc) {
    let server = listener("tcp/0").await;
    serve(&server, "Test.rpc_bad", move |mut stream| {
        let bytes = bytes.clone();
        async move {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            std::future::pending().await
        }
    })
    .await;
    let rpc = wary(&server).await;
    (server, rpc)
}

#[tokio::test]
async fn enormous_lengths_are_refused_before_the_bytes_come() {
    let enormous = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40].to_vec();
    let endless = vec![0xff; 64];
    for reply in [enormous, endless] {
        let (server, rpc) = answering(reply).await;
        let call = rpc.unary(server.peer_id(), "Test.rpc_bad", Bytes::new(), LONG).await;
        assert_fault(call, FaultKind::InvalidInput, "nonsense");
    }
    for length in [1u64 << 63, u64::MAX, 64 * 1024 + 1] {
        let (server, rpc) = answering([&[0], &length.to_be_bytes()[..]].concat()).await;
        let mut stream = rpc.stream(server.peer_id(), "Test.rpc_bad").await.unwrap();
        assert_fault(stream.next(LONG).await, FaultKind::InvalidInput, "nonsense");
        assert_fault(stream.next(LONG).await, FaultKind::Unavailable, "ended");
    }
}

#[tokio::test]
async fn an_unknown_marker_and_a_wrong_frame_are_nonsense() {
    let (server, rpc) = answering(vec![7; 32]).await;
    let mut stream = rpc.stream(server.peer_id(), "Test.rpc_bad").await.unwrap();
    assert_fault(stream.next(LONG).await, FaultKind::InvalidInput, "marker");
    let call = rpc.unary(server.peer_id(), "Test.rpc_bad", Bytes::new(), LONG).await;
    assert_fault(call, FaultKind::InvalidInput, "nonsense");
}

#[tokio::test]
async fn a_slow_drip_ends_with_the_time_limit() {
    let server = listener("tcp/0").await;
    serve(&server, "Test.rpc_bad", |mut stream| async move {
        let record = encode_stream_message(&[1; 10_000]);
        for byte in record {
            stream.write_all(&[byte]).await?;
            stream.flush().await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    })
    .await;
    let rpc = wary(&server).await;
    let mut stream = rpc.stream(server.peer_id(), "Test.rpc_bad").await.unwrap();
    assert_fault(stream.next(Duration::from_millis(300)).await, FaultKind::TimedOut, "longer");
    let limit = Duration::from_millis(300);
    let call = rpc.unary(server.peer_id(), "Test.rpc_bad", Bytes::new(), limit).await;
    assert!(matches!(call.unwrap_err().kind(), FaultKind::TimedOut | FaultKind::InvalidInput));
}

#[tokio::test]
async fn endless_messages_wait_in_the_peer_until_they_are_read() {
    let server = listener("tcp/0").await;
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = sent.clone();
    serve(&server, "Test.rpc_bad", move |mut stream| {
        let count = count.clone();
        async move {
            let record = encode_stream_message(&[1; 60_000]);
            loop {
                stream.write_all(&record).await?;
                count.fetch_add(record.len(), std::sync::atomic::Ordering::Relaxed);
            }
        }
    })
    .await;
    let rpc = wary(&server).await;
    let mut stream = rpc.stream(server.peer_id(), "Test.rpc_bad").await.unwrap();
    assert!(stream.next(LONG).await.unwrap().is_some());
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = sent.load(std::sync::atomic::Ordering::Relaxed);
        if now == before {
            break;
        }
        before = now;
    }
    assert!(before < 32 << 20, "{before} bytes were taken from a peer that nobody listens to");
    // Other streams of the connection are not held up.
    serve(&server, "Test.rpc_echo", echo).await;
    rpc.unary(server.peer_id(), "Test.rpc_echo", Bytes::from_static(b"still here"), LONG).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_reads_nothing_fails_the_send() {
    let (server, rpc) = answering(Vec::new()).await;
    let mut stream = rpc.stream(server.peer_id(), "Test.rpc_bad").await.unwrap();
    let outcome = async {
        for _ in 0..64 {
            stream.send(Bytes::from(vec![0; 4 << 20])).await?;
        }
        Ok::<(), PortError>(())
    };
    assert_fault(tokio::time::timeout(LONG, outcome).await.unwrap(), FaultKind::TimedOut, "longer");
}

#[tokio::test]
async fn a_question_has_one_limit_for_both_ways() {
    let (server, _) = answering(Vec::new()).await;
    let rpc = caller(&server, HostConfig::default(), RpcLimits::default()).await;
    let mut stream = rpc.stream(server.peer_id(), "Test.rpc_bad").await.unwrap();
    let start = std::time::Instant::now();
    let asked = stream.ask(Bytes::from(vec![0; 48 << 20]), 100, Duration::from_millis(300)).await;
    assert_fault(asked, FaultKind::TimedOut, "longer than 300ms");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_fault(stream.ask(Bytes::new(), 100, LONG).await, FaultKind::Unavailable, "ended");
}

#[tokio::test]
async fn an_answer_is_as_long_as_the_question_allows() {
    let server = listener("tcp/0").await;
    serve(&server, "Test.rpc_hundred", |mut stream| async move {
        stream.read_exact(&mut [0; 9]).await?;
        stream.write_all(&encode_stream_message(&[1; 100])).await?;
        stream.flush().await?;
        std::future::pending().await
    })
    .await;
    let rpc = wary(&server).await;
    let mut stream = rpc.stream(server.peer_id(), "Test.rpc_hundred").await.unwrap();
    assert_eq!(stream.ask(Bytes::new(), 100, LONG).await.unwrap().map(|answer| answer.len()), Some(100));
    let mut stream = rpc.stream(server.peer_id(), "Test.rpc_hundred").await.unwrap();
    assert_fault(stream.ask(Bytes::new(), 99, LONG).await, FaultKind::InvalidInput, "100 is over the limit of 99");
}

#[tokio::test]
async fn a_peer_with_many_questions_about_others_leaves_room_for_the_next() {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let server = Host::start(HostConfig { listen, guides: true, ..HostConfig::default() }).await.unwrap();
    let peer = server.peer_id();
    let question = KadMessage::find_node(peer.to_bytes()).encode_length_delimited_to_vec();
    let ask = async |caller: &Rpc| -> std::io::Result<Stream> {
        let mut stream = caller.host().open_stream(peer, "/ipfs/kad/1.0.0").await.map_err(std::io::Error::other)?;
        stream.write_all(&question).await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        Ok(stream)
    };
    let greedy = wary(&server).await;
    let mut held = Vec::new();
    while let Ok(stream) = ask(&greedy).await {
        held.push(stream);
        assert!(held.len() <= 100, "there is no end to it");
    }
    assert!(held.len() >= 8, "{} streams", held.len());
    ask(&wary(&server).await).await.unwrap();
    drop(held);
    let again = async { while ask(&greedy).await.is_err() {} };
    tokio::time::timeout(LONG, again).await.unwrap();
}
