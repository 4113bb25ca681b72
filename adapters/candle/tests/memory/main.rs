//! What KV caches take of the system's memory. A program of its own, with one test: others would be measured too.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![cfg(target_os = "linux")]

use corolla_candle::Target;
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::{
    model::{Hidden, TokenId},
    ports::{BlockSession, SessionNeed},
};
use tempfile::TempDir;
use testkit::{
    local_model::noise,
    tiny::{Dtype, Size, Tiny},
};

const SIZE: Size = Size { hidden: 48, inner: 80, heads: 6, kv: 2, blocks: 3 };
/// Keys and values of one position, over all blocks.
const POSITION: usize = 2 * 4 * 2 * (48 / 6) * 3;
const ROWS: usize = 128;
/// Positions that are written of each row, and how many a session may write.
const WRITTEN: usize = 128;
const LENGTH: usize = 2048;
const MIB: usize = 1 << 20;

/// Memory of this program that is there, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// How many mappings this program has.
fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// Eight sessions that begin as this one, which has all that may be reserved.
async fn forks_take_nothing(session: &mut dyn BlockSession) {
    let before = resident();
    let mut forks = Vec::new();
    for _ in 0..8 {
        let need = SessionNeed { max_length: WRITTEN, batch: ROWS };
        forks.push(session.fork(WRITTEN, need).await.unwrap());
    }
    let forked = resident();
    assert!(forked < before + MIB, "eight forks take {} KiB", (forked - before) >> 10);
}

#[tokio::test]
async fn a_session_takes_what_it_has_written_and_gives_it_back_at_once() {
    let folder = TempDir::new().unwrap();
    Tiny::llama(SIZE).write_folder(folder.path(), Dtype::F32, 1);
    let config = LoadConfig {
        id: "tiny".into(),
        path: folder.path().to_owned(),
        ends: true,
        blocks: BlockChoice::All,
        cache_tokens: ROWS * LENGTH,
    };
    let model = corolla_candle::load(config, Target::cpu()).await.unwrap();
    let (local, engine) = (model.local().unwrap(), model.engine().unwrap());
    let piece = Hidden::from_f32((ROWS, 8, SIZE.hidden), &noise(ROWS * 8 * SIZE.hidden, 1)).unwrap();
    let written = ROWS * WRITTEN * POSITION;
    let mut first = None;
    for round in 0..5 {
        let need = SessionNeed { max_length: LENGTH, batch: ROWS };
        let mut session = engine.open(engine.hosted(), need).await.unwrap();
        assert_eq!(engine.free_tokens(), 0, "all of {} MiB is reserved", ROWS * LENGTH * POSITION / MIB);
        let before = mappings();
        session.step(piece.clone().into()).await.unwrap();
        let opened = resident();
        let first = *first.get_or_insert(opened);
        for _ in 1..WRITTEN / 8 {
            session.step(piece.clone().into()).await.unwrap();
        }
        let used = resident();
        assert!(mappings() < before + 64, "pages beside each other are one to the system: {} mappings", mappings());
        forks_take_nothing(&mut *session).await;
        assert!(used < first + 2 * written, "round {round}: {} KiB for {} KiB", (used - first) >> 10, written >> 10);
        drop(session);
        local.embed(vec![vec![TokenId(1)]]).await.unwrap();
        let left = resident();
        assert!(
            left + written / 2 < used,
            "round {round}: {} of {} KiB are given back",
            (used - left) >> 10,
            written >> 10
        );
        assert_eq!(engine.free_tokens(), ROWS * LENGTH);
    }
}
