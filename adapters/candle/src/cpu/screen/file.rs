//! A screen kept beside its model: made once, and mapped from then on.
//!
//! A page of header, the lines as they stand in memory, three numbers a row, and with 4 bits one a column. The header says which weights it is of and
//! has checksums of itself and of all that follows. A file that is not whole, or of anything else, is never used: the
//! screen is made again and takes its place, by renaming, so that there is never half a one. What an interrupted process
//! has left of one is removed by the next: whoever writes holds a lock.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufWriter, Seek, Write},
    path::{Path, PathBuf},
    process,
    time::UNIX_EPOCH,
};

use corolla_checkpoint::{Mapped, View};
use corolla_domain::fit;
use crc32fast::Hasher;

use super::{Kept, Lines, bounds::Facts, compact::Shape, dithered::Dither};
use crate::cpu::kernels::{self, Line, ROWS};

/// What a file begins with; the number is that of the layout.
const MAGIC: [u8; 16] = *b"corolla screen 2";
/// What the names of files end with that are being written.
const PART: &str = "part";
/// Bytes of the header: what follows is mapped at the beginning of a page.
const HEADER: usize = 4096;
/// Bytes of the numbers that belong to sixteen rows.
const FACTS: usize = 3 * 4 * ROWS;
/// Rows of the model's file that the header has a checksum of.
const SAMPLES: usize = 256;

/// A screen's file and the weights it must be of.
pub(in crate::cpu) struct ScreenFile {
    path: PathBuf,
    /// Length and time of change of the model's file, how numbers are kept, and a checksum over some rows.
    identity: [u64; 5],
}

impl ScreenFile {
    /// Beside the file that `view` lies in. `kept` is the form that its rows were given, `screen` that of the screen; each has a
    /// file of its own.
    pub(in crate::cpu) fn beside(view: &View<'_>, kept: &str, screen: fit::Screen) -> io::Result<Self> {
        let mut name = OsString::from(view.file.file_name().unwrap_or_default());
        name.push(format!(".{kept}.{screen}.screen"));
        let about = fs::metadata(view.file)?;
        let changed = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let row = view.bytes.len() / view.shape[0].max(1);
        let step = (view.shape[0] / SAMPLES).max(1);
        let mut samples = Hasher::new();
        view.bytes.chunks_exact(row.max(1)).step_by(step).for_each(|row| samples.update(row));
        let mut form = Hasher::new();
        form.update(kept.as_bytes());
        let identity = [
            about.len(),
            changed.as_secs(),
            u64::from(changed.subsec_nanos()),
            u64::from(form.finalize()),
            u64::from(samples.finalize()),
        ];
        Ok(Self { path: view.file.with_file_name(name), identity })
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The screen that is there; `None` where there is none of these weights.
    pub(super) fn read(&self, shape: Shape) -> Option<Kept> {
        if !self.path.exists() {
            return None;
        }
        let found = self.open(shape);
        match &found {
            Ok(_) => tracing::info!(file = %self.path.display(), "screen of the head read"),
            Err(why) => {
                tracing::warn!(file = %self.path.display(), why, "the screen is not used, and replaced by a new one");
            }
        }
        found.ok()
    }

    fn open(&self, shape: Shape) -> Result<Kept, &'static str> {
        let map = Mapped::open(&self.path).map_err(|_| "it cannot be read")?;
        let (header, rest) = map.bytes().split_at_checked(HEADER).ok_or("it is too short")?;
        let lines = shape.blocks() * shape.lines() * size_of::<Line>();
        let facts = shape.blocks() * FACTS;
        if rest.len() != lines + facts + 4 * dithered(shape) {
            return Err("its length is not that of a screen of this head");
        }
        if *header != *self.header(shape, checksum(rest)) {
            return Err("it is damaged, or of other weights");
        }
        let (facts, words) = rest[lines..].split_at(facts);
        let facts = facts.as_chunks::<FACTS>().0.iter().map(read_facts).collect();
        let dither = Dither::of(words.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
        let piece = map.piece(HEADER..HEADER + lines).ok_or("it is too short")?;
        // A map begins at a page, so its lines are where they must be.
        kernels::lines(&piece).ok_or("its lines are misplaced")?;
        Ok(Kept { lines: Lines::File(piece), facts, dither })
    }

    /// Removes the screen: it turned out to be of other weights. Whoever has it mapped keeps it.
    pub(super) fn remove(&self) {
        match fs::remove_file(&self.path) {
            Ok(()) => {
                tracing::warn!(file = %self.path.display(), "the screen was removed, the next start makes a new one");
            }
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the screen cannot be removed; remove it");
            }
        }
    }

    /// Writes a screen.
    pub(super) fn write(&self, shape: Shape, kept: &Kept) -> io::Result<()> {
        self.sweep();
        let mut part = self.path.clone().into_os_string();
        part.push(format!(".{}.{PART}", process::id()));
        let written = self.write_to(Path::new(&part), shape, kept).and_then(|()| fs::rename(&part, &self.path));
        if written.is_err() {
            // There may be nothing to remove.
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// Removes parts of this screen that nobody is writing any more.
    fn sweep(&self) {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let of_this = |path: &Path| path.file_stem().is_some_and(|stem| Path::new(stem).file_stem() == Some(name));
        let is_part = |path: &PathBuf| path.extension() == Some(OsStr::new(PART)) && of_this(path);
        for part in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_part) {
            // The lock of a process ends with it.
            if File::open(&part).is_ok_and(|file| file.try_lock().is_ok()) && fs::remove_file(&part).is_ok() {
                tracing::info!(file = %part.display(), "a screen that was never finished was removed");
            }
        }
    }

    fn write_to(&self, part: &Path, shape: Shape, kept: &Kept) -> io::Result<()> {
        let file = File::create(part)?;
        if let Err(error) = file.try_lock() {
            tracing::debug!(%error, "files cannot be locked here");
        }
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&[0; HEADER])?;
        let mut sum = Hasher::new();
        let mut both = |bytes: &[u8]| {
            sum.update(bytes);
            file.write_all(bytes)
        };
        for lines in kept.lines.all().chunks(1 << 10) {
            let numbers = lines.iter().flat_map(|line| line.0);
            both(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())?;
        }
        kept.facts.iter().try_for_each(|facts| both(&write_facts(facts)))?;
        kept.dither.words().iter().try_for_each(|word| both(&word.to_le_bytes()))?;
        file.rewind()?;
        file.write_all(&*self.header(shape, sum.finalize()))?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    /// The header of a file in which `sum` is the checksum of all that follows.
    fn header(&self, shape: Shape, sum: u32) -> Box<[u8; HEADER]> {
        let mut header = Box::new([0; HEADER]);
        header[..MAGIC.len()].copy_from_slice(&MAGIC);
        let form = match shape.form {
            fit::Screen::Int8 => 8,
            fit::Screen::Int4 => 4,
        };
        let words = [form, shape.rows as u64, shape.cols as u64, u64::from(sum)].into_iter().chain(self.identity);
        for (to, word) in header[MAGIC.len()..].as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        header
    }
}

/// Random numbers that a screen has.
fn dithered(shape: Shape) -> usize {
    match shape.form {
        fit::Screen::Int8 => 0,
        fit::Screen::Int4 => shape.cols,
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = Hasher::new();
    sum.update(bytes);
    sum.finalize()
}

fn write_facts(facts: &Facts) -> Vec<u8> {
    [facts.scale, facts.error, facts.norm].as_flattened().iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn read_facts(bytes: &[u8; FACTS]) -> Facts {
    let all = bytes.as_chunks::<4>().0;
    let of = |from: usize| std::array::from_fn(|r| f32::from_le_bytes(all[from * ROWS + r]));
    Facts { scale: of(0), error: of(1), norm: of(2) }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const SHAPE: Shape = Shape { rows: 35, cols: 7, form: fit::Screen::Int8 };
    const SHAPES: [Shape; 2] = [SHAPE, Shape { form: fit::Screen::Int4, ..SHAPE }];

    fn screen(folder: &TempDir) -> ScreenFile {
        ScreenFile { path: folder.path().join("m.screen"), identity: [1, 2, 3, 4, 5] }
    }

    fn content(shape: Shape) -> Kept {
        let line = |nth: usize| Line(std::array::from_fn(|r| (nth * 1000 + r) as u32));
        let number = |nth: usize, part: usize| std::array::from_fn(|r| (nth * 100 + part * 10 + r) as f32);
        let facts = |nth| Facts { scale: number(nth, 0), error: number(nth, 1), norm: number(nth, 2) };
        let lines = Lines::Own((0..shape.blocks() * shape.lines()).map(line).collect());
        let dither = Dither::of((0..dithered(shape) as u32).map(|at| 1000 * at));
        Kept { lines, facts: (0..shape.blocks()).map(facts).collect(), dither }
    }

    #[test]
    fn what_was_written_is_read() {
        for shape in SHAPES {
            let (folder, kept) = (TempDir::new().unwrap(), content(shape));
            let file = screen(&folder);
            assert!(file.read(shape).is_none());
            file.write(shape, &kept).unwrap();
            let found = file.read(shape).unwrap();
            assert_eq!(found.lines.all(), kept.lines.all());
            assert_eq!((found.facts, found.dither), (kept.facts, kept.dither));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        }
    }

    #[test]
    fn what_is_damaged_or_of_other_weights_is_not_used() {
        let (folder, kept) = (TempDir::new().unwrap(), content(SHAPE));
        let file = screen(&folder);
        file.write(SHAPE, &kept).unwrap();
        let whole = fs::read(file.path()).unwrap();
        for at in [0, 20, 60, HEADER - 1, HEADER, HEADER + 500, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(file.path(), bytes).unwrap();
            assert!(file.read(SHAPE).is_none(), "byte {at} is another one");
        }
        for length in [0, 100, HEADER, whole.len() - 1] {
            fs::write(file.path(), &whole[..length]).unwrap();
            assert!(file.read(SHAPE).is_none(), "only {length} bytes");
        }
        fs::write(file.path(), &whole).unwrap();
        assert!(file.read(SHAPE).is_some());
        assert!(file.read(Shape { rows: 36, ..SHAPE }).is_none() && file.read(SHAPES[1]).is_none());
        for nth in 0..5 {
            let mut other = ScreenFile { identity: file.identity, path: file.path.clone() };
            other.identity[nth] += 1;
            assert!(other.read(SHAPE).is_none());
        }
    }

    #[test]
    fn what_an_interrupted_process_left_is_removed() {
        let (folder, kept) = (TempDir::new().unwrap(), content(SHAPE));
        let file = screen(&folder);
        let [left, locked, other, foreign] = ["m.screen.1.part", "m.screen.2.part", "n.screen.1.part", "m.screen.md"]
            .map(|name| folder.path().join(name));
        for path in [&left, &locked, &other, &foreign] {
            fs::write(path, "half a screen").unwrap();
        }
        let held = File::open(&locked).unwrap();
        held.try_lock().unwrap();
        file.write(SHAPE, &kept).unwrap();
        assert!(!left.exists(), "nobody writes it");
        assert!(locked.exists(), "somebody writes it");
        assert!(other.exists() && foreign.exists(), "these are no parts of this screen");
        drop(held);
        file.write(SHAPE, &kept).unwrap();
        assert!(!locked.exists());
        file.remove();
        assert!(file.read(SHAPE).is_none() && !file.path().exists());
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_left() {
        let (folder, kept) = (TempDir::new().unwrap(), content(SHAPE));
        let file = ScreenFile { path: folder.path().join("none").join("m.screen"), identity: [0; 5] };
        assert!(file.write(SHAPE, &kept).is_err());
        // A folder in its place cannot be renamed over.
        let file = screen(&folder);
        fs::create_dir_all(file.path().join("full")).unwrap();
        assert!(file.write(SHAPE, &kept).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
