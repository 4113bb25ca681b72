//! Streaming calls.

use corolla_swarm::wire::frame::{StreamDecoder, StreamFrame, encode_stream_error, encode_stream_message};
use tokio::task::JoinSet;

use super::*;

/// A streaming method that gives each message back; after the caller's end it says goodbye and closes. A message
/// `fail` makes it fail.
async fn echo_all(mut stream: Stream) -> std::io::Result<()> {
    let mut decoder = StreamDecoder::new(64 << 20);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        decoder.push(&chunk[..count]);
        while let Some(record) = decoder.next().unwrap() {
            match record {
                StreamFrame::Message(message) if message == "fail" => {
                    stream.write_all(&encode_stream_error("no more memory")).await?;
                    return stream.close().await;
                }
                StreamFrame::Message(message) => {
                    stream.write_all(&encode_stream_message(&message)).await?;
                    stream.flush().await?;
                }
                StreamFrame::Error(_) => {
                    stream.write_all(&encode_stream_message(b"bye")).await?;
                    return stream.close().await;
                }
            }
        }
    }
}

#[tokio::test]
async fn messages_go_both_ways_until_the_end() {
    let (server, peer, rpc) = pair().await;
    serve(&server, "Test.rpc_stream", echo_all).await;
    let mut stream = rpc.stream(peer, "Test.rpc_stream").await.unwrap();
    for size in [0, 5, 3_000_000] {
        let message = Bytes::from(vec![9; size]);
        stream.send(message.clone()).await.unwrap();
        assert_eq!(stream.next(LONG).await.unwrap(), Some(message));
    }
    stream.finish().await.unwrap();
    assert_eq!(stream.next(LONG).await.unwrap(), Some(Bytes::from_static(b"bye")));
    assert_eq!(stream.next(LONG).await.unwrap(), None);
    assert_fault(stream.next(LONG).await, FaultKind::Unavailable, "ended");
    assert_fault(stream.send(Bytes::new()).await, FaultKind::Unavailable, "ended");
}

#[tokio::test]
async fn an_error_record_carries_the_remote_text() {
    let (server, peer, rpc) = pair().await;
    serve(&server, "Test.rpc_stream", echo_all).await;
    let mut stream = rpc.stream(peer, "Test.rpc_stream").await.unwrap();
    stream.send(Bytes::from_static(b"fail")).await.unwrap();
    assert_fault(stream.next(LONG).await, FaultKind::Unavailable, "no more memory");
}

#[tokio::test]
async fn waiting_may_time_out_and_go_on() {
    let (server, peer, rpc) = pair().await;
    serve(&server, "Test.rpc_stream", echo_all).await;
    let mut stream = rpc.stream(peer, "Test.rpc_stream").await.unwrap();
    assert_fault(stream.next(Duration::from_millis(50)).await, FaultKind::TimedOut, "longer");
    stream.send(Bytes::from_static(b"late")).await.unwrap();
    assert_eq!(stream.next(LONG).await.unwrap(), Some(Bytes::from_static(b"late")));
}

#[tokio::test]
async fn dropping_a_stream_resets_it_at_once() {
    let (server, peer, rpc) = pair().await;
    let (seen, mut ended) = tokio::sync::mpsc::channel(1);
    serve(&server, "Test.rpc_stream", move |stream| {
        let seen = seen.clone();
        async move {
            let _ = echo_all(stream).await;
            seen.send(()).await.map_err(std::io::Error::other)
        }
    })
    .await;
    let mut stream = rpc.stream(peer, "Test.rpc_stream").await.unwrap();
    stream.send(Bytes::from_static(b"one")).await.unwrap();
    assert!(stream.next(LONG).await.unwrap().is_some());
    drop(stream);
    tokio::time::timeout(Duration::from_secs(5), ended.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn hundreds_of_streams_live_at_once() {
    let (server, peer, rpc) = pair().await;
    serve(&server, "Test.rpc_stream", echo_all).await;
    let mut opening = JoinSet::new();
    for _ in 0..400 {
        let rpc = rpc.clone();
        opening.spawn(async move { rpc.stream(peer, "Test.rpc_stream").await });
    }
    let mut streams: Vec<_> = opening.join_all().await.into_iter().map(Result::unwrap).collect();
    for round in 0..3u8 {
        for stream in &mut streams {
            stream.send(Bytes::from(vec![round; 1000])).await.unwrap();
        }
        for stream in &mut streams {
            assert_eq!(stream.next(LONG).await.unwrap(), Some(Bytes::from(vec![round; 1000])));
        }
    }
    assert_eq!(rpc.host().connected().len(), 1);
}
