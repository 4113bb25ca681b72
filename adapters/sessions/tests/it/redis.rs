//! The store in Redis.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use corolla_domain::{
    model::{ModelId, TokenId},
    ports::{FaultKind, SessionRecord, SessionStore, Timestamp},
};
use corolla_sessions::RedisSessions;
use redis::AsyncCommands;
use testkit::session_store::{self as suite, Store};
use uuid::Uuid;

use crate::redis_server::RedisServer;

const WEEK: i64 = 7 * 24 * 3600 * 1000;

fn record() -> SessionRecord {
    SessionRecord {
        id: Uuid::new_v4(),
        model: ModelId("model".to_owned()),
        max_length: 8,
        tokens: vec![TokenId(1)],
        expires: Timestamp(70_000),
        version: 0,
    }
}

async fn raw(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_every_promise() {
    let server = RedisServer::start();
    let stores = AtomicUsize::new(0);
    suite::all(async || {
        let prefix = format!("test-{}", stores.fetch_add(1, Ordering::Relaxed));
        Arc::new(RedisSessions::connect(&server.url(), &prefix).await.unwrap()) as Store
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_servers_share_one_limit() {
    let server = RedisServer::start();
    let mut creates = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let store = RedisSessions::connect(&server.url(), "shared").await.unwrap();
        for _ in 0..10 {
            let store = store.clone();
            creates.spawn(async move { store.create(record(), Timestamp(0), 10).await.is_ok() });
        }
    }
    let created = creates.join_all().await.into_iter().filter(|created| *created).count();
    assert_eq!(created, 10);
}

#[tokio::test]
async fn redis_forgets_what_nobody_deletes_well_after_it_expired() {
    let server = RedisServer::start();
    let store = RedisSessions::connect(&server.url(), "ttl").await.unwrap();
    let mut record = record();
    let (key, mut raw) = (format!("ttl:session:{}", record.id), raw(&server).await);
    let close = |ttl: i64, wanted: i64| (wanted - 10_000..=wanted).contains(&ttl);

    store.create(record.clone(), Timestamp(10_000), 1).await.unwrap();
    let (session, expiry): (i64, i64) = (raw.pttl(&key).await.unwrap(), raw.pttl("ttl:expiry").await.unwrap());
    assert!(close(session, WEEK + 60_000) && close(expiry, WEEK + 60_000), "{session} {expiry}");

    record.expires = record.expires.after(Duration::from_secs(3600));
    record.version = store.save(record.clone()).await.unwrap();
    let (session, expiry): (i64, i64) = (raw.pttl(&key).await.unwrap(), raw.pttl("ttl:expiry").await.unwrap());
    assert!(close(session, WEEK + 3_660_000) && close(expiry, WEEK + 3_660_000), "{session} {expiry}");

    record.expires = Timestamp(0);
    store.save(record).await.unwrap();
    let session: i64 = raw.pttl(&key).await.unwrap();
    assert!(close(session, WEEK), "{session}");
}

#[tokio::test]
async fn a_session_redis_forgot_can_still_be_swept() {
    let server = RedisServer::start();
    let store = RedisSessions::connect(&server.url(), "swept").await.unwrap();
    let record = record();
    store.create(record.clone(), Timestamp(0), 1).await.unwrap();
    let _: () = raw(&server).await.del(format!("swept:session:{}", record.id)).await.unwrap();

    assert_eq!(store.expired(record.expires, 10).await.unwrap(), [record.id]);
    assert!(!store.delete(record.id).await.unwrap());
    assert!(store.expired(record.expires, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_corrupt_record_is_named() {
    let server = RedisServer::start();
    let store = RedisSessions::connect(&server.url(), "corrupt").await.unwrap();
    let mut raw = raw(&server).await;
    let (cut, foreign, number) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let key = |id| format!("corrupt:session:{id}");
    let whole = serde_json::to_string(&serde_json::json!(record())).unwrap();
    let _: () = raw.hset(key(cut), "record", &whole[..whole.len() / 2]).await.unwrap();
    let _: () = raw.hset(key(foreign), "record", &whole).await.unwrap();
    let _: () = raw.set(key(number), 7).await.unwrap();
    for id in [cut, foreign, number] {
        let fault = store.load(id).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Internal, "{fault}");
        assert!(fault.context().contains(&key(id)), "{fault}");
    }
    let _: () = raw.zadd("corrupt:expiry", "nobody", 1).await.unwrap();
    let fault = store.expired(Timestamp(9), 9).await.unwrap_err();
    assert!(fault.kind() == FaultKind::Internal && fault.context().contains("corrupt:expiry"), "{fault}");
}

#[tokio::test]
async fn a_redis_that_is_down_is_unavailable() {
    let server = RedisServer::start();
    let url = server.url();
    let store = RedisSessions::connect(&url, "down").await.unwrap();
    drop(server);
    let record = record();
    for fault in [
        store.create(record.clone(), Timestamp(0), 1).await.unwrap_err(),
        store.load(record.id).await.unwrap_err(),
        store.save(record.clone()).await.unwrap_err(),
        store.delete(record.id).await.unwrap_err(),
        store.expired(Timestamp(0), 1).await.unwrap_err(),
        RedisSessions::connect(&url, "down").await.unwrap_err(),
    ] {
        assert_eq!(fault.kind(), FaultKind::Unavailable, "{fault}");
        assert!(fault.context().contains("127.0.0.1:"), "{fault}");
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_is_used_again() {
    let server = RedisServer::start();
    let store = RedisSessions::connect(&server.url(), "back").await.unwrap();
    store.create(record(), Timestamp(0), 1).await.unwrap();
    let _server = server.restart();
    let record = record();
    // The first call may be the one that finds the old connection broken.
    let _ = store.load(record.id).await;
    store.create(record.clone(), Timestamp(0), 1).await.unwrap();
    assert_eq!(store.load(record.id).await.unwrap(), Some(record));
}

#[tokio::test]
async fn a_malformed_url_is_refused_without_its_password() {
    for url in ["", "localhost", "http://u:secret@host", "redis://u:secret@host:port"] {
        let fault = RedisSessions::connect(url, "x").await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::InvalidInput, "{url}: {fault}");
        assert!(!fault.to_string().contains("secret"), "{fault}");
    }
}
