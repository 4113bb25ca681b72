//! What was measured before: how fast blocks and network are, in a file beside other caches.
//!
//! A file that cannot be read is as good as none, and one that cannot be written costs the next start some seconds: neither
//! keeps a server from starting.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use corolla_domain::placement::Pace;
use serde::{Deserialize, Serialize};

/// Changes with the meaning of what is in the file.
const VERSION: u32 = 1;
const FILE: &str = "throughput.json";
const LOCK: &str = "throughput.lock";
/// After that long a machine may have become another.
const OLD: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most bytes that are read, and most entries that are kept of each sort.
const MOST_BYTES: u64 = 1 << 20;
const MOST_ENTRIES: usize = 64;
/// How long somebody else who measures is waited for: two at a time would find half of what there is.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);

/// The folder for what can be had again: `COROLLA_CACHE`, else the system's; `None` where there is no home either.
pub(crate) fn folder() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let system = || of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    of("COROLLA_CACHE").or_else(|| Some(system()?.join("corolla")))
}

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Notes {
    version: u32,
    compute: BTreeMap<String, Compute>,
    network: BTreeMap<String, Network>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Compute {
    /// Steps of one position, one block, a second.
    inference: f64,
    /// Positions of a long pass, one block, a second.
    forward: f64,
    /// Seconds since 1970.
    at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Network {
    bits_per_s: f64,
    at: u64,
}

/// The file, as long as nobody else measures.
pub(crate) struct Measured {
    folder: Option<PathBuf>,
    notes: Notes,
    again: bool,
    now: u64,
    _alone: Option<File>,
}

impl Measured {
    /// Opens the file in `folder`, once nobody else measures; `again` takes nothing of what is in there as known.
    pub(crate) async fn open(folder: Option<PathBuf>, again: bool) -> Self {
        let alone = match &folder {
            Some(folder) => alone(folder, PATIENCE).await,
            None => None,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut notes = folder.as_ref().map(|folder| read(&folder.join(FILE))).unwrap_or_default();
        notes.compute.retain(|_, note| recent(note.at, now) && rates([note.inference, note.forward]));
        notes.network.retain(|_, note| recent(note.at, now) && rates([note.bits_per_s]));
        Self { folder, notes, again, now, _alone: alone }
    }

    /// How fast the blocks are that `key` describes.
    pub(crate) fn pace(&self, key: &str) -> Option<Pace> {
        let Compute { inference, forward, .. } = *self.notes.compute.get(key).filter(|_| !self.again)?;
        Some(Pace { inference, forward })
    }

    /// Bits a second into the swarm that `key` describes.
    pub(crate) fn bits(&self, key: &str) -> Option<f64> {
        self.notes.network.get(key).filter(|_| !self.again).map(|note| note.bits_per_s)
    }

    /// Notes how fast the blocks are.
    pub(crate) fn note_pace(&mut self, key: &str, pace: Pace) {
        let Pace { inference, forward } = pace;
        insert(&mut self.notes.compute, key, Compute { inference, forward, at: self.now }, |note| note.at);
        self.save();
    }

    /// Notes how fast the network is.
    pub(crate) fn note_bits(&mut self, key: &str, bits_per_s: f64) {
        insert(&mut self.notes.network, key, Network { bits_per_s, at: self.now }, |note| note.at);
        self.save();
    }

    fn save(&self) {
        let Some(folder) = &self.folder else { return };
        let notes = Notes { version: VERSION, ..self.notes.clone() };
        if let Err(error) = write(&folder.join(FILE), &notes) {
            tracing::warn!(folder = %folder.display(), %error, "what was measured could not be kept for the next time");
        }
    }
}

fn recent(at: u64, now: u64) -> bool {
    at <= now && now - at < OLD.as_secs()
}

fn rates<const N: usize>(rates: [f64; N]) -> bool {
    rates.into_iter().all(|rate| rate.is_finite() && rate > 0.0)
}

/// The oldest make room.
fn insert<T>(notes: &mut BTreeMap<String, T>, key: &str, note: T, at: impl Fn(&T) -> u64) {
    notes.insert(key.to_owned(), note);
    while notes.len() > MOST_ENTRIES {
        let others = notes.iter().filter(|(other, _)| *other != key);
        let Some(oldest) = others.min_by_key(|(_, note)| at(note)).map(|(other, _)| other.clone()) else { return };
        notes.remove(&oldest);
    }
}

fn read(file: &Path) -> Notes {
    let notes = || -> io::Result<Notes> {
        let mut text = String::new();
        File::open(file)?.take(MOST_BYTES).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    };
    match notes() {
        Ok(notes) if notes.version == VERSION => notes,
        Ok(_) => Notes::default(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "what was measured before cannot be read: measuring again");
            }
            Notes::default()
        }
    }
}

/// Puts the file in its place in one go: whoever reads sees the old one or the new one.
fn write(file: &Path, notes: &Notes) -> io::Result<()> {
    let scratch = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::write(&scratch, serde_json::to_vec_pretty(notes)?).and_then(|()| fs::rename(&scratch, file));
    if written.is_err() {
        let _ = fs::remove_file(&scratch); // there may be none
    }
    written
}

/// A lock that ends with its file; `None` where it cannot be had.
async fn alone(folder: &Path, patience: Duration) -> Option<File> {
    let open = || {
        fs::create_dir_all(folder)?;
        File::options().create(true).append(true).open(folder.join(LOCK))
    };
    let file = match open() {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "the cache folder cannot be used");
            return None;
        }
    };
    let begun = std::time::Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(fs::TryLockError::WouldBlock) if begun.elapsed() < patience => tokio::time::sleep(LOOK).await,
            Err(error) => {
                tracing::warn!(%error, "somebody else may be measuring at the same time");
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { inference: 10.5, forward: 2000.0 };

    async fn open(folder: &tempfile::TempDir, again: bool) -> Measured {
        Measured::open(Some(folder.path().to_owned()), again).await
    }

    #[tokio::test]
    async fn what_was_noted_is_known_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut measured = open(&folder, false).await;
        assert_eq!((measured.pace("a"), measured.bits("n")), (None, None));
        measured.note_pace("a", PACE);
        measured.note_bits("n", 5e7);
        drop(measured);
        let measured = open(&folder, false).await;
        assert_eq!((measured.pace("a"), measured.bits("n")), (Some(PACE), Some(5e7)));
        assert_eq!((measured.pace("b"), measured.bits("a")), (None, None));
        drop(measured);
        let mut again = open(&folder, true).await;
        assert_eq!((again.pace("a"), again.bits("n")), (None, None), "measured again on request");
        again.note_bits("n", 6e7);
        drop(again);
        let measured = open(&folder, false).await;
        assert_eq!((measured.pace("a"), measured.bits("n")), (Some(PACE), Some(6e7)), "what else is there stays");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[tokio::test]
    async fn what_is_damaged_old_or_of_another_version_is_measured_anew() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let file = |version: u32, rate: f64, at: u64| {
            let compute = BTreeMap::from([("a".to_owned(), Compute { inference: rate, forward: 1.0, at })]);
            serde_json::to_vec(&Notes { version, compute, network: BTreeMap::new() }).unwrap()
        };
        for (nth, (content, known)) in [
            (file(VERSION, 1.0, now), true),
            (file(VERSION + 1, 1.0, now), false),
            (file(VERSION, 0.0, now), false),
            (file(VERSION, -1.0, now), false),
            (file(VERSION, 1.0, now - OLD.as_secs() - 1), false),
            (file(VERSION, 1.0, now + 1000), false),
            (b"{\"version\":1,\"comp".to_vec(), false),
            (b"\xff\xfe".to_vec(), false),
            (Vec::new(), false),
            (vec![b' '; 2 << 20], false),
        ]
        .into_iter()
        .enumerate()
        {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(FILE), content).unwrap();
            let mut measured = open(&folder, false).await;
            assert_eq!(measured.pace("a").is_some(), known, "{nth}");
            measured.note_pace("a", PACE);
            drop(measured);
            assert_eq!(open(&folder, false).await.pace("a"), Some(PACE), "{nth}");
        }
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_used_keeps_nobody_from_measuring() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for folder in [Some(file), None] {
            let mut measured = Measured::open(folder, false).await;
            measured.note_pace("a", PACE);
            assert_eq!(measured.pace("a"), Some(PACE));
        }
    }

    #[tokio::test]
    async fn the_file_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let mut measured = open(&folder, false).await;
        for nth in 0..2 * MOST_ENTRIES {
            measured.now += 1;
            measured.note_bits(&nth.to_string(), 1.0);
        }
        assert_eq!(measured.notes.network.len(), MOST_ENTRIES);
        assert!(measured.bits("0").is_none() && measured.bits(&(2 * MOST_ENTRIES - 1).to_string()).is_some());
    }

    #[tokio::test]
    async fn one_measures_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(&folder, false).await;
        assert!(alone(folder.path(), Duration::ZERO).await.is_none());
        let (path, begun) = (folder.path().to_owned(), std::time::Instant::now());
        let second = tokio::spawn(async move { alone(&path, PATIENCE).await.is_some() });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap() && begun.elapsed() < PATIENCE / 2);
    }
}
