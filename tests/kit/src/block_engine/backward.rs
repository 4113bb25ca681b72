//! What [`BlockEngine::backward`](corolla_domain::ports::BlockEngine::backward) promises, of an engine that has gradients.

use std::time::Duration;

use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{BackwardInput, FaultKind, Gradients, SessionNeed},
};

use super::{Subject, step};
use crate::local_model::noise;

/// Rows, positions, rows of the prompts, their positions (0: no prompts).
const SHAPES: [(usize, usize, usize, usize); 4] = [(2, 7, 2, 3), (3, 5, 1, 5), (1, 1, 1, 1), (1, 17, 1, 0)];

impl Subject {
    /// A pass over `blocks`: its numbers differ with `seed`.
    fn pass(&self, blocks: usize, shape: (usize, usize, usize, usize), seed: u64) -> BackwardInput {
        let (batch, seq, rows, positions) = shape;
        let prompt = |nth: usize| self.states(rows, positions, seed + 10 + nth as u64);
        BackwardInput {
            hidden: self.states(batch, seq, seed),
            gradient: self.states(batch, seq, seed + 1),
            prompts: if positions == 0 { Vec::new() } else { (0..blocks).map(prompt).collect() },
        }
    }

    async fn gradients(&self, range: BlockRange, input: BackwardInput) -> Gradients {
        self.engine.backward(range, input).await.expect("gradients")
    }

    /// Hidden states that leave `range`, by way of a session of each block.
    async fn forward(&self, range: BlockRange, mut hidden: Hidden, prompts: &[Hidden]) -> Vec<f32> {
        for (nth, block) in (range.start()..range.end()).enumerate() {
            if let Some(prompt) = prompts.get(nth) {
                hidden = with_prompt(&hidden, prompt);
            }
            let need = SessionNeed { max_length: hidden.seq(), batch: hidden.batch() };
            let block = BlockRange::new(block, block + 1).expect("one block");
            let mut session = self.engine.open(block, need).await.expect("a session");
            hidden = step(&mut *session, &hidden).await;
        }
        hidden.to_f32()
    }

    /// The sum of all numbers that leave `range`, each times that of `input.gradient`, where what goes in is moved along
    /// `way` by `far`.
    async fn loss(&self, range: BlockRange, input: &BackwardInput, way: &Gradients, far: f32) -> f64 {
        let prompts: Vec<Hidden> =
            input.prompts.iter().zip(&way.prompts).map(|(prompt, way)| moved(prompt, way, far)).collect();
        let out = self.forward(range, moved(&input.hidden, &way.hidden, far), &prompts).await;
        product(&out, &input.gradient.to_f32())
    }

    /// The derivative of the loss along `way`, from four points of it.
    async fn slope(&self, range: BlockRange, input: &BackwardInput, way: &Gradients) -> f64 {
        let far = 0.65 * self.tolerance.powf(0.3);
        let mut between = Vec::new();
        for far in [far, 2.0 * far] {
            between.push(self.loss(range, input, way, far).await - self.loss(range, input, way, -far).await);
        }
        (8.0 * between[0] - between[1]) / (12.0 * f64::from(far))
    }
}

fn moved(hidden: &Hidden, way: &Hidden, far: f32) -> Hidden {
    let numbers: Vec<f32> = hidden.to_f32().iter().zip(way.to_f32()).map(|(x, way)| x + far * way).collect();
    Hidden::from_f32((hidden.batch(), hidden.seq(), hidden.width()), &numbers).expect("the same shape")
}

fn with_prompt(hidden: &Hidden, prompt: &Hidden) -> Hidden {
    let length = prompt.seq() * prompt.width();
    let (mut numbers, prompts) = (hidden.to_f32(), prompt.to_f32());
    for (row, states) in numbers.chunks_mut(hidden.seq() * hidden.width()).enumerate() {
        let prompt = &prompts[row % prompt.batch() * length..][..length];
        states.iter_mut().zip(prompt).for_each(|(state, add)| *state += add);
    }
    Hidden::from_f32((hidden.batch(), hidden.seq(), hidden.width()), &numbers).expect("the same shape")
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The derivatives by a prompt, those of all rows that share it added up.
fn summed(gradient: &Hidden, prompt: &Hidden) -> Hidden {
    if prompt.batch() == gradient.batch() {
        return gradient.clone();
    }
    let mut sum = vec![0.0; prompt.seq() * prompt.width()];
    for row in gradient.to_f32().chunks(sum.len()) {
        sum.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
    }
    Hidden::from_f32((1, prompt.seq(), prompt.width()), &sum).expect("the shape of the prompt")
}

/// All numbers of `like` times 0, or where `kept` says so of its index, in -1..1.
fn some(like: &Hidden, seed: u64, kept: impl Fn(usize) -> bool) -> Hidden {
    let numbers = noise(like.data().len() / like.dtype().size(), seed);
    let numbers: Vec<f32> = numbers.into_iter().enumerate().map(|(i, v)| if kept(i) { v } else { 0.0 }).collect();
    Hidden::from_f32((like.batch(), like.seq(), like.width()), &numbers).expect("the same shape")
}

/// Ways to go: everywhere at once, each position of the last row, the prompt of each block, and the steepest.
fn ways(input: &BackwardInput, steepest: &Gradients, width: usize) -> Vec<Gradients> {
    let way = |hidden: Hidden, prompt: &dyn Fn(usize) -> bool| Gradients {
        hidden,
        prompts: (0..).zip(&input.prompts).map(|(nth, p)| some(p, 50 + nth, |_| prompt(nth as usize))).collect(),
    };
    let (batch, seq) = (input.hidden.batch(), input.hidden.seq());
    let mut ways = vec![way(some(&input.hidden, 40, |_| true), &|_| true)];
    for position in [0, seq / 2, seq - 1] {
        let here = move |i: usize| i / width == (batch - 1) * seq + position;
        ways.push(way(some(&input.hidden, 41, here), &|_| false));
    }
    for block in 0..input.prompts.len() {
        ways.push(way(some(&input.hidden, 0, |_| false), &|nth| nth == block));
    }
    let largest = steepest.hidden.to_f32().iter().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
    let unit = |hidden: &Hidden| moved(hidden, hidden, 1.0 / largest - 1.0);
    ways.push(Gradients { hidden: unit(&steepest.hidden), prompts: steepest.prompts.iter().map(unit).collect() });
    ways
}

/// Derivatives are those of the numbers that sessions give.
pub async fn gradients_equal_numerical_differences(subject: &Subject) {
    let range = subject.engine.hosted();
    for (nth, shape) in SHAPES.into_iter().enumerate() {
        let input = subject.pass(range.len(), shape, 30 + nth as u64);
        let found = subject.gradients(range, input.clone()).await;
        let (batch, seq, _, positions) = shape;
        let shape_of = |hidden: &Hidden| (hidden.batch(), hidden.seq(), hidden.width());
        assert_eq!(shape_of(&found.hidden), (batch, seq, subject.width));
        assert_eq!(found.prompts.len(), input.prompts.len());
        assert!(found.prompts.iter().all(|prompt| shape_of(prompt) == (batch, positions, subject.width)));

        let prompts = found.prompts.iter().zip(&input.prompts).map(|(found, prompt)| summed(found, prompt)).collect();
        let found = Gradients { prompts, ..found };
        let parts = |of: &Gradients| -> Vec<f32> {
            std::iter::once(&of.hidden).chain(&of.prompts).flat_map(Hidden::to_f32).collect()
        };
        let numbers = parts(&found);
        for (way, direction) in ways(&input, &found, subject.width).iter().enumerate() {
            let wanted = subject.slope(range, &input, direction).await;
            let direction = parts(direction);
            let slope = product(&numbers, &direction);
            // The slope of a way of that length that has no bearing on the gradient.
            let length = |numbers: &[f32]| product(numbers, numbers).sqrt();
            let moving = direction.iter().filter(|v| **v != 0.0).count() as f64;
            let usual = length(&numbers) * length(&direction) / moving.sqrt();
            let usual = usual.max(wanted.abs());
            let off = (slope - wanted).abs() / usual;
            // A difference of numbers that are `tolerance` off, over a distance that grows more slowly than it: 4e-4 for
            // f32 throughout, where the worst that was seen is 7e-5.
            let most = 4.0 * f64::from(subject.tolerance).powf(0.8);
            assert!(off <= most, "shape {shape:?}, way {way}: {slope} instead of {wanted}, off by {off:e} of {usual}");
        }
    }
}

/// What comes back from the upper blocks and goes on into the lower ones is what comes back from all of them.
pub async fn gradients_go_from_part_to_part(subject: &Subject) {
    let all = subject.engine.hosted();
    let input = subject.pass(all.len(), (2, 6, 2, 2), 60);
    let wanted = subject.gradients(all, input.clone()).await;
    for cut in all.start() + 1..all.end() {
        let part = |start, end| BlockRange::new(start, end).expect("a run of blocks");
        let (lower, upper) = (part(all.start(), cut), part(cut, all.end()));
        let (below, above) = input.prompts.split_at(lower.len());
        let between = subject.forward(lower, input.hidden.clone(), below).await;
        let between = Hidden::from_f32((2, 6, subject.width), &between).expect("the same shape");
        let given = BackwardInput { hidden: between, prompts: above.to_vec(), ..input.clone() };
        let from_above = subject.gradients(upper, given).await;
        let given = BackwardInput { gradient: from_above.hidden, prompts: below.to_vec(), ..input.clone() };
        let from_below = subject.gradients(lower, given).await;
        subject.near(&from_below.hidden, &wanted.hidden, "derivatives in two parts");
        let prompts = from_below.prompts.iter().chain(&from_above.prompts);
        for (found, wanted) in prompts.zip(&wanted.prompts) {
            subject.near(found, wanted, "derivatives by prompts in two parts");
        }
    }
}

/// Shapes that do not fit each other, the blocks or the model are `InvalidInput`.
pub async fn gradients_of_what_does_not_fit_are_refused(subject: &Subject) {
    let all = subject.engine.hosted();
    let good = subject.pass(all.len(), (2, 4, 2, 2), 70);
    subject.gradients(all, good.clone()).await;
    let wide = Hidden::from_f32((2, 4, subject.width + 1), &vec![0.5; 8 * (subject.width + 1)]).expect("a shape");
    let prompts = |rows, positions| (0..all.len()).map(|_| subject.states(rows, positions, 71)).collect::<Vec<_>>();
    let beyond = BlockRange::new(all.start(), all.end() + 1).expect("a run of blocks");
    for (range, bad) in [
        (beyond, BackwardInput { prompts: Vec::new(), ..good.clone() }),
        (all, BackwardInput { hidden: wide.clone(), gradient: wide, prompts: Vec::new() }),
        (all, BackwardInput { gradient: subject.states(2, 3, 72), ..good.clone() }),
        (all, BackwardInput { gradient: subject.states(1, 4, 72), ..good.clone() }),
        (all, BackwardInput { prompts: prompts(2, 2).split_off(1), ..good.clone() }),
        (all, BackwardInput { prompts: prompts(2, 5), ..good.clone() }),
        (all, BackwardInput { prompts: prompts(3, 2), ..good.clone() }),
    ] {
        let error = subject.engine.backward(range, bad).await.expect_err("the pass is refused");
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
    }
}

/// A pass, dropped or not, leaves sessions and the free cache as they were.
pub async fn gradients_leave_sessions_alone(subject: &Subject) {
    let all = subject.engine.hosted();
    let input = subject.pass(all.len(), (2, 9, 1, 3), 80);
    let (begin, rest) = (subject.states(1, 5, 81), subject.states(1, 4, 82));
    let mut straight = subject.lone().await;
    step(&mut *straight, &begin).await;
    let wanted = step(&mut *straight, &rest).await;

    let mut session = subject.lone().await;
    step(&mut *session, &begin).await;
    let free = subject.engine.free_tokens();
    let first = subject.gradients(all, input.clone()).await;
    for nth in 0..10u64 {
        let pass = subject.engine.backward(all, input.clone());
        if nth == 0 {
            drop(pass);
        } else {
            // One that is faster is none the worse.
            let _ = tokio::time::timeout(Duration::from_micros(100 * nth), pass).await;
        }
        assert_eq!(subject.engine.free_tokens(), free);
    }
    let again = subject.gradients(all, input).await;
    subject.near(&again.hidden, &first.hidden, "derivatives after dropped passes");
    subject.near(&step(&mut *session, &rest).await, &wanted, "a step after passes");
}
