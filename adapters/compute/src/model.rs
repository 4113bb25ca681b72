//! A loaded model: [`LocalModel`] over its ends, [`BlockEngine`] over its blocks.

mod backward;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use corolla_checkpoint::Checkpoint;
use corolla_domain::{
    model::{BlockRange, Hidden, Logits, ModelId, ModelSpec, TokenId, Want},
    ports::{BackwardInput, BlockEngine, BlockSession, Gradients, LocalModel, PortError, SessionNeed},
};

use crate::{
    arithmetic::Arithmetic,
    budget::{Budget, Share},
    families::{Blocks, Ends},
    scoring::Score,
    session::{KvCache, Session},
    worker::Worker,
};

/// Which transformer blocks to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockChoice {
    /// All of them.
    #[default]
    All,
    /// Only these.
    Range(BlockRange),
    /// None.
    None,
}

/// What to load of a model.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// The name by which clients ask for it.
    pub id: ModelId,
    /// A GGUF file, or a folder with `config.json` and safetensors or `pytorch_model.bin` weights.
    pub path: PathBuf,
    /// Whether to load embeddings and LM head.
    pub ends: bool,
    /// Blocks to load.
    pub blocks: BlockChoice,
    /// Positions that all open sessions together may reserve, each over all loaded blocks: at most so many times the
    /// bytes of a position's keys and values are ever taken.
    pub cache_tokens: usize,
}

/// Some or all of one model, on one worker thread. Clones share it.
#[derive(Clone)]
pub struct Model {
    local: Option<Arc<dyn LocalModel>>,
    engine: Option<Arc<dyn BlockEngine>>,
}

impl Model {
    /// Loads what `config` says on a thread of its own, with the arithmetic that `make` makes there.
    ///
    /// # Errors
    /// `NotFound` where there is no such model, `InvalidInput` where a file is damaged or does not fit the
    /// configuration, `Unsupported` for a family or a way of storing numbers that is not known, `Capacity` where the
    /// device has no room, and what `make` says.
    pub async fn load<B: Arithmetic>(
        config: LoadConfig,
        make: impl FnOnce() -> Result<B, PortError> + Send + 'static,
    ) -> Result<Self, PortError> {
        let (ends, cache_tokens) = (config.ends, config.cache_tokens);
        let (worker, about) = Worker::start(move || Loaded::read(&config, make()?)).await?;
        let About { spec, hosted, position_bytes } = about;
        let spec = Arc::new(spec);
        let engine = hosted.map(|hosted| {
            let budget = Budget::new(cache_tokens, hosted.len());
            let engine = Engine { worker: worker.clone(), hosted, hidden: spec.hidden, position_bytes, budget };
            Arc::new(engine) as Arc<dyn BlockEngine>
        });
        let local = ends.then(|| Arc::new(Local { worker, spec }) as Arc<dyn LocalModel>);
        Ok(Self { local, engine })
    }

    /// Its embeddings and LM head, where they were loaded.
    #[must_use]
    pub fn local(&self) -> Option<Arc<dyn LocalModel>> {
        self.local.clone()
    }

    /// Its blocks, where any were loaded.
    #[must_use]
    pub fn engine(&self) -> Option<Arc<dyn BlockEngine>> {
        self.engine.clone()
    }
}

/// What the worker thread owns.
pub(crate) struct Loaded<B: Arithmetic> {
    arithmetic: B,
    ends: Option<Ends<B>>,
    blocks: Option<Blocks<B>>,
}

/// What the worker says of it.
struct About {
    spec: ModelSpec,
    hosted: Option<BlockRange>,
    /// Bytes that a position takes in the KV cache of one block.
    position_bytes: usize,
}

impl<B: Arithmetic> Loaded<B> {
    fn read(config: &LoadConfig, arithmetic: B) -> Result<(Self, About), PortError> {
        let checkpoint = Checkpoint::open(&config.path)?;
        let model = checkpoint.description()?;
        let summary = checkpoint.summary(&model)?;
        let hosted = hosted(config.blocks, model.blocks, &config.path)?;
        let spec = summary.spec(config.id.clone(), arithmetic.dtype(summary.stored));
        let tensors = checkpoint.tensors();
        let b = &arithmetic;
        let ends = config.ends.then(|| within(b, || Ends::load(b, &model, tensors))).transpose()?;
        let range = hosted.map(|hosted| hosted.start()..hosted.end());
        let blocks = range.map(|range| within(b, || Blocks::load(b, &model, tensors, range))).transpose()?;
        tracing::info!(
            model = %spec.id, family = spec.family, blocks = hosted.map_or(0, BlockRange::len), dtype = spec.dtype,
            "model loaded"
        );
        let about = About { spec, hosted, position_bytes: arithmetic.position_bytes(model.heads) };
        Ok((Self { arithmetic, ends, blocks }, about))
    }

    pub(crate) fn arithmetic(&self) -> &B {
        &self.arithmetic
    }

    pub(crate) fn ends(&self) -> Result<&Ends<B>, PortError> {
        self.ends.as_ref().ok_or_else(|| PortError::internal("embeddings and head were not loaded"))
    }

    pub(crate) fn blocks(&self) -> Result<&Blocks<B>, PortError> {
        self.blocks.as_ref().ok_or_else(|| PortError::internal("no blocks were loaded"))
    }

    /// Runs `job` in the surroundings that the arithmetic wants.
    pub(crate) fn within(&self, job: impl FnOnce() + Send) {
        let mut job = Some(job);
        self.arithmetic.within(&mut || job.take().into_iter().for_each(|job| job()));
    }

    /// Puts the rows of caches in another order, see [`Arithmetic::reorder`].
    pub(crate) fn reorder(&self, caches: &mut [B::Cache], rows: &[usize], length: usize) -> Result<(), PortError> {
        caches.iter_mut().try_for_each(|cache| self.arithmetic.reorder(cache, rows, length))
    }

    /// Caches for `length` positions that begin with the first `to` of `caches`, see [`Arithmetic::fork`].
    pub(crate) fn fork(&self, caches: &[B::Cache], to: usize, length: usize) -> Result<Vec<B::Cache>, PortError> {
        caches.iter().map(|cache| self.arithmetic.fork(cache, to, length)).collect()
    }
}

/// Runs `job`, which reads weights, in the surroundings that `b` wants.
fn within<B: Arithmetic, T: Send>(b: &B, job: impl FnOnce() -> Result<T, PortError> + Send) -> Result<T, PortError> {
    let (mut job, mut result) = (Some(job), None);
    b.within(&mut || result = job.take().map(|job| job()));
    result.unwrap_or_else(|| Err(PortError::internal("the arithmetic did not run its job")))
}

fn hosted(choice: BlockChoice, blocks: usize, path: &Path) -> Result<Option<BlockRange>, PortError> {
    let all = BlockRange::first(blocks);
    match choice {
        BlockChoice::None => Ok(None),
        BlockChoice::All => Ok(Some(all)),
        BlockChoice::Range(range) if all.contains(range) => Ok(Some(range)),
        BlockChoice::Range(range) => {
            let path = path.display();
            Err(PortError::invalid(format!("blocks {range} were asked for, but {path} has blocks {all}")))
        }
    }
}

/// Embeddings and LM head.
struct Local<B: Arithmetic> {
    worker: Worker<B>,
    spec: Arc<ModelSpec>,
}

#[async_trait]
impl<B: Arithmetic> LocalModel for Local<B> {
    fn spec(&self) -> Arc<ModelSpec> {
        Arc::clone(&self.spec)
    }

    async fn embed(&self, tokens: Vec<Vec<TokenId>>) -> Result<Hidden, PortError> {
        let (batch, seq) = (tokens.len(), tokens.first().map_or(0, Vec::len));
        if seq == 0 || tokens.iter().any(|row| row.len() != seq) {
            return Err(PortError::invalid("rows of tokens must be of one length, and neither none nor empty"));
        }
        let (shape, vocab) = ((batch, seq, self.spec.hidden), self.spec.vocab);
        let work = move |model: &Loaded<B>| {
            let ends = model.ends()?;
            let vocab = ends.embeddings.min(vocab);
            let ids: Vec<u32> = tokens.iter().flatten().map(|token| token.0).collect();
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
                return Err(PortError::invalid(format!("token {id} is not below {vocab}, the size of the vocabulary")));
            }
            Hidden::from_f32(shape, &ends.embed(&model.arithmetic, &ids)?)
        };
        self.worker.call("embedding tokens", work).await
    }

    async fn logits(&self, hidden: Hidden, want: Want) -> Result<Logits, PortError> {
        let width = self.spec.hidden;
        if hidden.width() != width {
            return Err(PortError::invalid(format!("hidden states are {} wide, the model {width}", hidden.width())));
        }
        check(&want, self.spec.vocab)?;
        let numbers = hidden.to_f32();
        self.worker.score(|reply| Score { numbers, width, want, done: Vec::new(), reply }).await
    }

    async fn normed(&self, hidden: Hidden) -> Result<Hidden, PortError> {
        let shape = (hidden.batch(), hidden.seq(), hidden.width());
        if shape.2 != self.spec.hidden {
            let width = self.spec.hidden;
            return Err(PortError::invalid(format!("hidden states are {} wide, the model {width}", shape.2)));
        }
        let work = move |model: &Loaded<B>| {
            Hidden::from_f32(shape, &model.ends()?.normed(&model.arithmetic, hidden.to_f32())?)
        };
        self.worker.call("the last norm", work).await
    }
}

/// Whether a vocabulary of that size has what is wanted.
fn check(want: &Want, vocab: usize) -> Result<(), PortError> {
    let outside = |token: &&TokenId| token.0 as usize >= vocab;
    let outside = match want {
        Want::All => None,
        Want::Top { k: 0, .. } => return Err(PortError::invalid("the best 0 tokens were asked for")),
        Want::Top { also, .. } => also.iter().find(outside),
        Want::Drawn(draw) if draw.temperature.is_nan() || draw.temperature <= 0.0 => {
            let text = format!("a token is drawn at a temperature above 0, not {}", draw.temperature);
            return Err(PortError::invalid(text));
        }
        Want::Drawn(draw) => draw.penalties.seen.keys().chain(draw.penalties.bias.keys()).find(outside),
    };
    match outside {
        Some(token) => Err(PortError::invalid(format!("token {token} is not below {vocab}, the vocabulary's size"))),
        None => Ok(()),
    }
}

/// Blocks and the budget of their sessions.
struct Engine<B: Arithmetic> {
    worker: Worker<B>,
    hosted: BlockRange,
    hidden: usize,
    /// Bytes that a position takes in the cache of one block.
    position_bytes: usize,
    budget: Budget,
}

impl<B: Arithmetic> Engine<B> {
    fn hosts(&self, range: BlockRange) -> Result<(), PortError> {
        if self.hosted.contains(range) {
            return Ok(());
        }
        Err(PortError::invalid(format!("blocks {range} are not hosted here, {} are", self.hosted)))
    }
}

#[async_trait]
impl<B: Arithmetic> BlockEngine for Engine<B> {
    fn hosted(&self) -> BlockRange {
        self.hosted
    }

    fn free_tokens(&self) -> usize {
        self.budget.free_tokens()
    }

    async fn open(&self, range: BlockRange, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        self.hosts(range)?;
        if need.max_length == 0 || need.batch == 0 {
            return Err(PortError::invalid("a session needs at least one row and one position"));
        }
        let share = Share::new(&self.budget, need, range.len())?;
        let set_aside = move |model: &Loaded<B>| {
            let (b, blocks) = (&model.arithmetic, model.blocks()?);
            let caches = (0..range.len()).map(|_| blocks.cache(b, need.batch, need.max_length));
            Ok(KvCache::<B>::new(caches.collect::<Result<_, _>>()?, share))
        };
        let cache = self.worker.call("setting the KV cache aside", set_aside).await?;
        let first = range.start() - self.hosted.start();
        Ok(Box::new(Session {
            worker: self.worker.clone(),
            cache: Arc::new(cache),
            blocks: range,
            loaded: first..first + range.len(),
            need,
            width: self.hidden,
            position: 0,
        }))
    }

    async fn backward(&self, range: BlockRange, input: BackwardInput) -> Result<Gradients, PortError> {
        self.gradients(range, input).await
    }
}
