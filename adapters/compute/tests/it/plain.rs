//! The operations as plain loops, each row by itself: a batch and lone steps agree to the last bit. A ledger says what
//! was asked for and when, and can hold the worker up or make an operation fail.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::SeqCst},
    mpsc as blocking,
};

use corolla_checkpoint::{Heads, Stored, View};
use corolla_compute::{Arithmetic, Place, Use};
use corolla_domain::ports::{FaultKind, PortError};
use tokio::sync::mpsc;

use crate::WIDTH;

/// What the worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Looks up embeddings.
    Embed,
    /// Runs so many rows through the second half of a block.
    Block(usize),
    /// Takes derivatives of so many rows back into a block.
    Back(usize),
    /// Scores so many rows.
    Head(usize),
}

/// What an attention comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Success,
    Failure,
    Panic,
}

type Fates = Box<dyn Fn(Place) -> Fate + Send>;

/// What happened, and what shall happen.
#[derive(Default)]
pub(crate) struct Ledger {
    events: Mutex<Vec<Event>>,
    gate: Mutex<Option<(mpsc::Sender<Event>, blocking::Receiver<()>)>>,
    fates: Mutex<Option<Fates>>,
    caches: AtomicUsize,
}

impl Ledger {
    /// All events since the last time.
    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut locked(&self.events))
    }

    /// Caches that live, one a block and session.
    pub(crate) fn caches(&self) -> usize {
        self.caches.load(SeqCst)
    }

    /// From now on the worker stops at each event until it is let through.
    pub(crate) fn gate(&self) -> Gate {
        let ((stands, at), (go, going)) = (mpsc::channel(1), blocking::sync_channel(1));
        *locked(&self.gate) = Some((stands, going));
        Gate { at, go }
    }

    /// Decides over attentions to come.
    pub(crate) fn decide(&self, fates: impl Fn(Place) -> Fate + Send + 'static) {
        *locked(&self.fates) = Some(Box::new(fates));
    }

    fn record(&self, event: Event) {
        locked(&self.events).push(event);
        let mut gate = locked(&self.gate);
        let open =
            gate.as_ref().is_some_and(|(stands, going)| stands.blocking_send(event).is_err() || going.recv().is_err());
        if open {
            *gate = None;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops the worker at each event. Dropping it lets the worker run.
pub(crate) struct Gate {
    at: mpsc::Receiver<Event>,
    go: blocking::SyncSender<()>,
}

impl Gate {
    /// Waits until the worker stands at its next event.
    pub(crate) async fn stands(&mut self) -> Event {
        self.at.recv().await.expect("the worker lives")
    }

    /// Lets the worker go on, until it stands at the event after that.
    pub(crate) async fn next(&mut self) -> Event {
        self.go.send(()).expect("the worker stands at the gate");
        self.stands().await
    }
}

/// Plain loops.
pub(crate) struct Plain(pub(crate) Arc<Ledger>);

pub(crate) struct Rows {
    numbers: Vec<f32>,
    width: usize,
}

impl Rows {
    fn each(&self) -> std::slice::ChunksExact<'_, f32> {
        self.numbers.chunks_exact(self.width)
    }

    fn map(&self, of: impl FnMut(&[f32]) -> Vec<f32>) -> Self {
        let rows: Vec<Vec<f32>> = self.each().map(of).collect();
        Self { width: rows[0].len(), numbers: rows.concat() }
    }
}

/// Keys and values by row and position.
pub(crate) struct Cache {
    rows: Vec<Vec<[Vec<f32>; 2]>>,
    ledger: Arc<Ledger>,
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.ledger.caches.fetch_sub(1, SeqCst);
    }
}

pub(crate) struct Frame {
    place: Place,
    turns: Option<Vec<(f32, f32)>>,
    slopes: Option<Vec<f32>>,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// A matrix and the rows that it has.
pub(crate) struct Matrix {
    weights: Rows,
    scores: bool,
}

/// Rows of the tiny models' vocabulary.
const VOCAB: usize = 96;

impl Arithmetic for Plain {
    type Rows = Rows;
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Cache = Cache;
    type Frame = Frame;

    fn dtype(&self, _: Stored) -> String {
        "f32".to_owned()
    }

    fn matrix(&self, view: &View<'_>, _: Use) -> Result<Matrix, PortError> {
        Ok(Matrix { scores: view.shape[0] == VOCAB, weights: Rows { numbers: view.to_f32(), width: view.shape[1] } })
    }

    fn vector(&self, numbers: Vec<f32>) -> Result<Vec<f32>, PortError> {
        Ok(numbers)
    }

    fn rows(&self, numbers: Vec<f32>, width: usize) -> Result<Rows, PortError> {
        Ok(Rows { numbers, width })
    }

    fn numbers(&self, rows: Rows) -> Result<Vec<f32>, PortError> {
        Ok(rows.numbers)
    }

    fn select(&self, matrix: &Matrix, ids: &[u32]) -> Result<Rows, PortError> {
        self.0.record(Event::Embed);
        let rows: Vec<&[f32]> = matrix.weights.each().collect();
        let numbers = ids.iter().flat_map(|id| rows[*id as usize]).copied().collect();
        Ok(Rows { numbers, width: matrix.weights.width })
    }

    fn product(&self, x: &Rows, matrix: &Matrix, bias: Option<&Vec<f32>>) -> Result<Rows, PortError> {
        if matrix.scores {
            self.0.record(Event::Head(x.each().len()));
        }
        Ok(x.map(|x| {
            let product: Vec<f32> = matrix.weights.each().map(|row| dot(row, x)).collect();
            bias.map_or(product.clone(), |bias| sum(&product, bias))
        }))
    }

    fn product_gradient(&self, y: &Rows, matrix: &Matrix) -> Result<Rows, PortError> {
        // Only the last product of a block is with a matrix that is wider than hidden states: it comes first on the way back.
        if matrix.weights.width != WIDTH {
            self.0.record(Event::Back(y.each().len()));
        }
        Ok(y.map(|y| {
            let mut sums = vec![0.0; matrix.weights.width];
            for (y, row) in y.iter().zip(matrix.weights.each()) {
                sums.iter_mut().zip(row).for_each(|(sum, weight)| *sum += y * weight);
            }
            sums
        }))
    }

    fn add(&self, x: Rows, y: &Rows) -> Result<Rows, PortError> {
        Ok(Rows { numbers: sum(&x.numbers, &y.numbers), width: x.width })
    }

    fn columns(&self, x: &Rows, start: usize, end: usize) -> Result<Rows, PortError> {
        Ok(x.map(|row| row[start..end].to_vec()))
    }

    fn part(&self, x: &Rows, start: usize, end: usize) -> Result<Rows, PortError> {
        Ok(Rows { numbers: x.numbers[start * x.width..end * x.width].to_vec(), width: x.width })
    }

    fn join(&self, parts: Vec<Rows>) -> Result<Rows, PortError> {
        Ok(Rows { width: parts[0].width, numbers: parts.into_iter().flat_map(|part| part.numbers).collect() })
    }

    fn layer_norm(&self, x: &Rows, scale: &Vec<f32>, shift: &Vec<f32>, eps: f32) -> Result<Rows, PortError> {
        Ok(x.map(|row| {
            let mean = row.iter().sum::<f32>() / row.len() as f32;
            let centred: Vec<f32> = row.iter().map(|v| v - mean).collect();
            let by = (dot(&centred, &centred) / row.len() as f32 + eps).sqrt();
            let scaled: Vec<f32> = centred.iter().zip(scale).map(|(v, scale)| v / by * scale).collect();
            sum(&scaled, shift)
        }))
    }

    fn rms_norm(&self, x: &Rows, scale: &Vec<f32>, eps: f32) -> Result<Rows, PortError> {
        Ok(x.map(|row| {
            let by = (dot(row, row) / row.len() as f32 + eps).sqrt();
            row.iter().zip(scale).map(|(v, scale)| v / by * scale).collect()
        }))
    }

    fn gelu(&self, x: Rows) -> Result<Rows, PortError> {
        self.0.record(Event::Block(x.each().len()));
        let gelu = |x: &f32| 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh());
        Ok(x.map(|row| row.iter().map(gelu).collect()))
    }

    fn gated(&self, gate: Rows, up: &Rows) -> Result<Rows, PortError> {
        self.0.record(Event::Block(gate.each().len()));
        let numbers = gate.numbers.iter().zip(&up.numbers).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up);
        Ok(Rows { numbers: numbers.collect(), width: gate.width })
    }

    fn cache(&self, batch: usize, _: usize, _: Heads) -> Result<Cache, PortError> {
        self.0.caches.fetch_add(1, SeqCst);
        Ok(Cache { rows: vec![Vec::new(); batch], ledger: self.0.clone() })
    }

    fn reorder(&self, cache: &mut Cache, rows: &[usize], _: usize) -> Result<(), PortError> {
        cache.rows = rows.iter().map(|row| cache.rows[*row].clone()).collect();
        Ok(())
    }

    fn fork(&self, cache: &Cache, to: usize, _: usize) -> Result<Cache, PortError> {
        self.0.caches.fetch_add(1, SeqCst);
        let rows = cache.rows.iter().map(|row| row[..to].to_vec()).collect();
        Ok(Cache { rows, ledger: self.0.clone() })
    }

    fn frame(
        &self,
        place: Place,
        turns: Option<Vec<(f32, f32)>>,
        slopes: Option<&Vec<f32>>,
    ) -> Result<Frame, PortError> {
        Ok(Frame { place, turns, slopes: slopes.cloned() })
    }

    fn attend(
        &self,
        [queries, keys, values]: [Rows; 3],
        cache: &mut Cache,
        frame: &Frame,
        heads: Heads,
    ) -> Result<Rows, PortError> {
        let Place { batch, seq, position } = frame.place;
        match locked(&self.0.fates).as_ref().map_or(Fate::Success, |fate| fate(frame.place)) {
            Fate::Success => {}
            Fate::Failure => return Err(PortError::new(FaultKind::Capacity, "a made-up failure")),
            Fate::Panic => panic!("a made-up panic"),
        }
        assert_eq!(queries.each().len(), batch * seq, "rows of a place");
        let [queries, keys, values]: [Vec<&[f32]>; 3] = [&queries, &keys, &values].map(|rows| rows.each().collect());
        let mut mixed = Vec::new();
        for row in 0..batch {
            for at in 0..seq {
                let nth = row * seq + at;
                let past = &mut cache.rows[row];
                past.truncate(position + at);
                assert_eq!(past.len(), position + at, "positions in the cache");
                past.push([turned(keys[nth], frame, at, heads.dim), values[nth].to_vec()]);
                let query = turned(queries[nth], frame, at, heads.dim);
                for (head, query) in query.chunks_exact(heads.dim).enumerate() {
                    let slope = frame.slopes.as_ref().map_or(0.0, |slopes| slopes[head]);
                    mixed.extend(mix(query, past, head * heads.kv / heads.query * heads.dim, slope));
                }
            }
        }
        Ok(Rows { numbers: mixed, width: heads.query * heads.dim })
    }
}

/// One query over keys and values from number `first` on.
fn mix(query: &[f32], past: &[[Vec<f32>; 2]], first: usize, slope: f32) -> Vec<f32> {
    let scale = 1.0 / (query.len() as f32).sqrt();
    let score = |(at, [keys, _]): (usize, &[Vec<f32>; 2])| {
        dot(query, &keys[first..first + query.len()]) * scale - slope * (past.len() - 1 - at) as f32
    };
    let scores: Vec<f32> = past.iter().enumerate().map(score).collect();
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
    let all: f32 = weights.iter().sum();
    let mut mixed = vec![0.0; query.len()];
    for (weight, [_, values]) in weights.iter().zip(past) {
        mixed.iter_mut().zip(&values[first..]).for_each(|(mixed, value)| *mixed += weight / all * value);
    }
    mixed
}

/// A row of heads, each turned as the frame says.
fn turned(row: &[f32], frame: &Frame, at: usize, dim: usize) -> Vec<f32> {
    let Some(turns) = &frame.turns else { return row.to_vec() };
    let half = dim / 2;
    let mut row = row.to_vec();
    for head in row.chunks_exact_mut(dim) {
        for (pair, (cos, sin)) in turns[at * half..][..half].iter().enumerate() {
            let (a, b) = (head[pair], head[pair + half]);
            (head[pair], head[pair + half]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
    row
}
