//! Contract of [`SessionStore`]: one function per promise, each on an empty store.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken promise is a failed test")]

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use corolla_domain::{
    model::{ModelId, TokenId},
    ports::{FaultKind, PortError, SessionRecord, SessionStore, Timestamp},
};
use futures_util::future::join_all;
use uuid::Uuid;

/// A store as the suite takes it.
pub type Store = Arc<dyn SessionStore>;

/// The time of all tests. Long ago: stores that mix in a clock of their own fail.
const NOW: Timestamp = Timestamp(1_000_000);

const NOBODY: [Uuid; 0] = [];

/// Every promise of the port; `empty` makes a new store.
pub async fn all(empty: impl AsyncFn() -> Store) {
    what_is_created_is_loaded(&empty().await).await;
    an_id_is_created_once(&empty().await).await;
    saving_counts_the_version(&empty().await).await;
    a_stale_save_conflicts(&empty().await).await;
    what_is_deleted_is_gone(&empty().await).await;
    the_limit_counts_live_sessions_only(&empty().await).await;
    a_refused_session_leaves_no_trace(&empty().await).await;
    a_save_can_prolong_a_session(&empty().await).await;
    expired_sessions_are_listed_up_to_the_limit(&empty().await).await;
    extreme_numbers_survive(&empty().await).await;
    racing_creates_respect_the_limit(&empty().await).await;
    racing_creates_of_one_id_have_one_winner(&empty().await).await;
    racing_saves_have_one_winner(&empty().await).await;
    racing_deletes_have_one_winner(&empty().await).await;
    dropped_calls_harm_nothing(&empty().await).await;
}

/// A session comes back as it was put in; nobody else's does.
pub async fn what_is_created_is_loaded(store: &Store) {
    let record = SessionRecord { tokens: vec![TokenId(0), TokenId(u32::MAX)], ..live() };
    assert_eq!(store.load(record.id).await.unwrap(), None, "before it was created");
    store.create(record.clone(), NOW, 10).await.unwrap();
    assert_eq!(store.load(record.id).await.unwrap(), Some(record));
    assert_eq!(store.load(Uuid::new_v4()).await.unwrap(), None, "somebody else's");
}

/// A second session of the same id is a conflict and changes nothing.
pub async fn an_id_is_created_once(store: &Store) {
    let record = live();
    store.create(record.clone(), NOW, 10).await.unwrap();
    let second = SessionRecord { tokens: vec![TokenId(9)], ..record.clone() };
    fails_as(FaultKind::Conflict, store.create(second, NOW, 10).await);
    assert_eq!(store.load(record.id).await.unwrap(), Some(record));
}

/// Every save gives the next version, which the next load shows.
pub async fn saving_counts_the_version(store: &Store) {
    let mut record = live();
    store.create(record.clone(), NOW, 10).await.unwrap();
    for token in 0..3 {
        record.tokens.push(TokenId(token));
        let version = store.save(record.clone()).await.unwrap();
        assert_eq!(version, record.version + 1);
        record.version = version;
        assert_eq!(store.load(record.id).await.unwrap(), Some(record.clone()));
    }
}

/// A save on top of an old version, or of one that never was, is a conflict and changes nothing.
pub async fn a_stale_save_conflicts(store: &Store) {
    let record = live();
    store.create(record.clone(), NOW, 10).await.unwrap();
    let ours = SessionRecord { tokens: vec![TokenId(1)], ..record.clone() };
    let version = store.save(ours.clone()).await.unwrap();
    let theirs = SessionRecord { tokens: vec![TokenId(2)], ..record.clone() };
    fails_as(FaultKind::Conflict, store.save(theirs).await);
    fails_as(FaultKind::Conflict, store.save(SessionRecord { version: version + 1, ..record.clone() }).await);
    assert_eq!(store.load(record.id).await.unwrap(), Some(SessionRecord { version, ..ours }));
}

/// A deleted session is gone: for loads, for saves, for the list of expired ones, and its place is free.
pub async fn what_is_deleted_is_gone(store: &Store) {
    let record = live();
    assert!(!store.delete(record.id).await.unwrap(), "there was none yet");
    store.create(record.clone(), NOW, 1).await.unwrap();
    assert!(store.delete(record.id).await.unwrap());
    assert!(!store.delete(record.id).await.unwrap(), "deleted twice");
    assert_eq!(store.load(record.id).await.unwrap(), None);
    fails_as(FaultKind::NotFound, store.save(record.clone()).await);
    assert_eq!(store.expired(Timestamp(u64::MAX), 10).await.unwrap(), NOBODY);
    store.create(live(), NOW, 1).await.unwrap();
}

/// A session counts against the limit until the moment it expires.
pub async fn the_limit_counts_live_sessions_only(store: &Store) {
    let short = SessionRecord { expires: NOW.after(Duration::from_millis(1)), ..live() };
    store.create(short.clone(), NOW, 1).await.unwrap();
    let full = fails_as(FaultKind::Capacity, store.create(live(), NOW, 1).await);
    assert!(!full.context().is_empty());
    store.create(live(), short.expires, 1).await.unwrap();
    assert_eq!(store.load(short.id).await.unwrap(), Some(short), "an expired session is kept until it is deleted");
    fails_as(FaultKind::Capacity, store.create(live(), NOW.after(Duration::from_millis(1)), 0).await);
}

/// Nothing is left of a session that found no room.
pub async fn a_refused_session_leaves_no_trace(store: &Store) {
    let refused = live();
    fails_as(FaultKind::Capacity, store.create(refused.clone(), NOW, 0).await);
    assert_eq!(store.load(refused.id).await.unwrap(), None);
    assert_eq!(store.expired(Timestamp(u64::MAX), 10).await.unwrap(), NOBODY);
    store.create(refused, NOW, 1).await.unwrap();
}

/// A save moves the time of expiry, for the list and for the limit.
pub async fn a_save_can_prolong_a_session(store: &Store) {
    let record = live();
    store.create(record.clone(), NOW, 1).await.unwrap();
    let later = record.expires.after(Duration::from_secs(60));
    let version = store.save(SessionRecord { expires: later, ..record.clone() }).await.unwrap();
    assert_eq!(store.expired(record.expires, 10).await.unwrap(), NOBODY);
    fails_as(FaultKind::Capacity, store.create(live(), record.expires, 1).await);
    store.save(SessionRecord { expires: NOW, version, ..record.clone() }).await.unwrap();
    assert_eq!(store.expired(NOW, 10).await.unwrap(), [record.id]);
    store.create(live(), NOW, 1).await.unwrap();
}

/// The list of expired sessions holds those at or before the time, each once, and no more than asked for.
pub async fn expired_sessions_are_listed_up_to_the_limit(store: &Store) {
    let mut expired = BTreeSet::new();
    for age in 0..5 {
        let record = SessionRecord { expires: Timestamp(NOW.0 - age), ..live() };
        expired.insert(record.id);
        store.create(record, NOW, 10).await.unwrap();
    }
    store.create(SessionRecord { expires: Timestamp(NOW.0 + 1), ..live() }, NOW, 10).await.unwrap();
    for limit in [5, 100, usize::MAX] {
        let listed = store.expired(NOW, limit).await.unwrap();
        assert_eq!(listed.len(), 5, "limit {limit}");
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expired, "limit {limit}");
    }
    let some: BTreeSet<_> = store.expired(NOW, 3).await.unwrap().into_iter().collect();
    assert!(some.len() == 3 && some.is_subset(&expired));
    assert_eq!(store.expired(NOW, 0).await.unwrap(), NOBODY);
    assert_eq!(store.expired(Timestamp(NOW.0 - 5), 10).await.unwrap(), NOBODY);
}

/// Any time, version and length survive.
pub async fn extreme_numbers_survive(store: &Store) {
    let record = SessionRecord {
        model: ModelId("org/\"model\" \n名".to_owned()),
        max_length: usize::MAX,
        tokens: (0..100_000).map(TokenId).collect(),
        expires: Timestamp(u64::MAX),
        version: u64::MAX - 1,
        ..live()
    };
    store.create(record.clone(), NOW, usize::MAX).await.unwrap();
    assert_eq!(store.load(record.id).await.unwrap(), Some(record.clone()));
    fails_as(FaultKind::Conflict, store.save(SessionRecord { version: u64::MAX - 2, ..record.clone() }).await);
    assert_eq!(store.save(record.clone()).await.unwrap(), u64::MAX);
    let old = SessionRecord { expires: Timestamp(0), ..live() };
    store.create(old.clone(), NOW, usize::MAX).await.unwrap();
    assert_eq!(store.expired(Timestamp(0), 10).await.unwrap(), [old.id]);
}

/// Of 50 sessions created at once with room for 10, exactly 10 are.
pub async fn racing_creates_respect_the_limit(store: &Store) {
    let records: Vec<_> = (0..50).map(|_| live()).collect();
    let outcomes =
        race(records.clone(), store, |store, record| async move { store.create(record, NOW, 10).await }).await;
    assert_eq!(winners(FaultKind::Capacity, outcomes), 10);
    let mut found = 0;
    for record in records {
        found += usize::from(store.load(record.id).await.unwrap().is_some());
    }
    assert_eq!(found, 10);
}

/// Of 50 sessions with one id created at once, one is.
pub async fn racing_creates_of_one_id_have_one_winner(store: &Store) {
    let record = live();
    let outcomes = race(vec![record; 50], store, |store, record| async move { store.create(record, NOW, 100).await });
    assert_eq!(winners(FaultKind::Conflict, outcomes.await), 1);
}

/// Of 50 saves of one version at once, one wins, and its words are what is kept.
pub async fn racing_saves_have_one_winner(store: &Store) {
    let record = live();
    store.create(record.clone(), NOW, 1).await.unwrap();
    for round in 0..5 {
        let saves = (0..50).map(|i| SessionRecord { tokens: vec![TokenId(i)], version: round, ..record.clone() });
        let outcomes = race(saves.collect(), store, |store, record| async move {
            store.save(record.clone()).await.map(|version| (version, record.tokens))
        });
        let outcomes = outcomes.await;
        let won: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).cloned().collect();
        assert_eq!(winners(FaultKind::Conflict, outcomes), 1);
        let kept = store.load(record.id).await.unwrap().unwrap();
        assert_eq!(won, [(round + 1, kept.tokens)]);
        assert_eq!(kept.version, round + 1);
    }
}

/// Of 20 deletions at once, one finds the session.
pub async fn racing_deletes_have_one_winner(store: &Store) {
    let record = live();
    store.create(record.clone(), NOW, 1).await.unwrap();
    let found = race(vec![record.id; 20], store, |store, id| async move { store.delete(id).await }).await;
    assert_eq!(found.into_iter().filter(|found| *found.as_ref().unwrap()).count(), 1);
}

/// A call that is dropped half-way has happened or has not, and the store works on.
pub async fn dropped_calls_harm_nothing(store: &Store) {
    let record = live();
    store.create(record.clone(), NOW, 1).await.unwrap();
    for _ in 0..20 {
        let mut save = std::pin::pin!(store.save(record.clone()));
        let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(save.as_mut().poll(cx))).await;
    }
    let kept = store.load(record.id).await.unwrap().unwrap();
    assert!(kept.version <= record.version + 1, "one version was saved twice");
    assert_eq!(store.save(kept.clone()).await.unwrap(), kept.version + 1);
}

fn live() -> SessionRecord {
    SessionRecord {
        id: Uuid::new_v4(),
        model: ModelId("model".to_owned()),
        max_length: 512,
        tokens: vec![],
        expires: NOW.after(Duration::from_secs(60)),
        version: 0,
    }
}

fn fails_as<T: Debug>(kind: FaultKind, outcome: Result<T, PortError>) -> PortError {
    let fault = outcome.expect_err("a refusal");
    assert_eq!(fault.kind(), kind, "{fault}");
    fault
}

async fn race<I, F, T>(inputs: Vec<I>, store: &Store, call: impl Fn(Store, I) -> F) -> Vec<Result<T, PortError>>
where
    F: Future<Output = Result<T, PortError>> + Send + 'static,
    T: Send + 'static,
{
    let calls = inputs.into_iter().map(|input| tokio::spawn(call(Arc::clone(store), input)));
    join_all(calls).await.into_iter().map(|done| done.expect("a call panicked")).collect()
}

/// How many succeeded; all others must have failed as `kind`.
fn winners<T: Debug>(kind: FaultKind, outcomes: Vec<Result<T, PortError>>) -> usize {
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    for outcome in lost {
        fails_as(kind, outcome);
    }
    won.len()
}
