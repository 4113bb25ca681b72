//! A loaded model: [`LocalModel`] over its ends, [`BlockEngine`] over its blocks.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use candle_core::Device;
use corolla_domain::{
    model::{BlockRange, Hidden, Logits, ModelSpec, TokenId, Want},
    ports::{BlockEngine, BlockSession, LocalModel, PortError, SessionNeed},
};

use crate::{
    checkpoint::Checkpoint,
    config::{BlockChoice, CandleConfig, DeviceChoice, DtypeChoice},
    families::{self, Choice, Family},
    fault::unsupported,
    inspect::summary,
    kv_cache::{BlockCache, Budget},
    pick::pick,
    session::CandleSession,
    worker::{Waiting, Worker},
};

/// Rows scored at a time where only the best are wanted: bounds the memory for scores.
const SCORED_ROWS: usize = 16;

/// One model on one worker thread. Clones share it.
#[derive(Clone)]
pub struct CandleModel {
    local: Arc<Local>,
    engine: Option<Arc<Engine>>,
}

/// What is known of a model once it is loaded.
struct About {
    spec: ModelSpec,
    embeddings: usize,
    kv_heads: usize,
    head_dim: usize,
    hosted: Option<BlockRange>,
}

impl CandleModel {
    /// Loads a model, on a thread of its own.
    ///
    /// # Errors
    /// `NotFound` where there is no such model, `InvalidInput` where a file is damaged or does not fit the
    /// configuration, `Unsupported` for a family, a way of storing numbers or a device that this build does not know.
    pub async fn load(config: CandleConfig) -> Result<Self, PortError> {
        let (threads, cache_tokens) = (config.threads, config.cache_tokens);
        let (worker, about) = Worker::start(threads, move || read(&config)).await?;
        let spec = Arc::new(about.spec);
        let engine = about.hosted.map(|hosted| {
            Arc::new(Engine {
                worker: worker.clone(),
                hosted,
                hidden: spec.hidden,
                kv_heads: about.kv_heads,
                head_dim: about.head_dim,
                budget: Budget::new(cache_tokens, hosted.len()),
            })
        });
        Ok(Self { local: Arc::new(Local { worker, spec, embeddings: about.embeddings }), engine })
    }

    /// Its embeddings and LM head.
    #[must_use]
    pub fn local(&self) -> Arc<dyn LocalModel> {
        Arc::clone(&self.local) as Arc<dyn LocalModel>
    }

    /// Its blocks, where any were loaded.
    #[must_use]
    pub fn engine(&self) -> Option<Arc<dyn BlockEngine>> {
        self.engine.clone().map(|engine| engine as Arc<dyn BlockEngine>)
    }
}

fn read(config: &CandleConfig) -> Result<(Box<dyn Family>, About), PortError> {
    let device = device(config.device)?;
    let checkpoint = Checkpoint::open(&config.path)?;
    let settings = checkpoint.settings()?;
    let outline = families::outline(&settings, checkpoint.weights())?;
    let summary = summary(&checkpoint, &outline)?;
    let hosted = hosted(config.blocks, outline.blocks, &config.path)?;
    let blocks = hosted.map_or(0..0, |hosted| hosted.start()..hosted.end());
    let model = families::load(&settings, checkpoint.weights(), Choice { blocks, dtype: config.dtype, device })?;
    let dtype = match config.dtype {
        DtypeChoice::F32 => "f32".to_owned(),
        DtypeChoice::Bf16 => "bf16".to_owned(),
        DtypeChoice::Auto | DtypeChoice::File => summary.dtype,
    };
    let spec = ModelSpec {
        id: config.id.clone(),
        family: summary.family,
        hidden: summary.hidden,
        vocab: summary.vocab,
        blocks: summary.blocks,
        max_positions: summary.max_positions,
        eos: summary.eos,
        bos: summary.bos,
        dtype,
    };
    tracing::info!(
        model = %spec.id, family = spec.family, blocks = hosted.map_or(0, BlockRange::len), dtype = spec.dtype,
        kernels = crate::cpu::kernels().name, "model loaded"
    );
    let embeddings = model.embeddings();
    Ok((model, About { spec, embeddings, kv_heads: outline.kv_heads, head_dim: outline.head_dim, hosted }))
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

fn device(choice: DeviceChoice) -> Result<Device, PortError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda(nth) => Device::new_cuda(nth).map_err(|e| {
            PortError::new(corolla_domain::ports::FaultKind::Unavailable, format!("GPU {nth} cannot be used: {e}"))
                .with_source(e)
        }),
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Cuda(nth) => Err(unsupported(format!(
            "GPU {nth} was asked for, but this build has no CUDA: build with `--features cuda`"
        ))),
    }
}

/// Embeddings and LM head.
struct Local {
    worker: Worker<dyn Family>,
    spec: Arc<ModelSpec>,
    /// Rows of the embeddings.
    embeddings: usize,
}

#[async_trait]
impl LocalModel for Local {
    fn spec(&self) -> Arc<ModelSpec> {
        Arc::clone(&self.spec)
    }

    async fn embed(&self, tokens: Vec<Vec<TokenId>>) -> Result<Hidden, PortError> {
        let (batch, seq) = (tokens.len(), tokens.first().map_or(0, Vec::len));
        if seq == 0 || tokens.iter().any(|row| row.len() != seq) {
            return Err(PortError::invalid("rows of tokens must be of one length, and neither none nor empty"));
        }
        let vocab = self.embeddings.min(self.spec.vocab);
        if let Some(token) = tokens.iter().flatten().find(|token| token.0 as usize >= vocab) {
            return Err(PortError::invalid(format!("token {token} is not below {vocab}, the size of the vocabulary")));
        }
        let shape = (batch, seq, self.spec.hidden);
        let work = move |model: &(dyn Family + 'static), _: Waiting<'_>| {
            let ids: Vec<u32> = tokens.iter().flatten().map(|token| token.0).collect();
            Hidden::from_f32(shape, &model.embed(&ids)?)
        };
        self.worker.run("embedding tokens", work).await
    }

    async fn logits(&self, hidden: Hidden, want: Want) -> Result<Logits, PortError> {
        let width = self.spec.hidden;
        if hidden.width() != width {
            return Err(PortError::invalid(format!("hidden states are {} wide, the model {width}", hidden.width())));
        }
        if let Want::Top { k, also } = &want {
            let vocab = self.spec.vocab;
            if *k == 0 {
                return Err(PortError::invalid("the best 0 tokens were asked for"));
            }
            if let Some(token) = also.iter().find(|token| token.0 as usize >= vocab) {
                return Err(PortError::invalid(format!("token {token} is not below {vocab}, the vocabulary's size")));
            }
        }
        let work = move |model: &(dyn Family + 'static), waiting: Waiting<'_>| {
            let mut rows = Vec::with_capacity(hidden.batch() * hidden.seq());
            for some in hidden.to_f32().chunks(SCORED_ROWS * width) {
                waiting.check()?;
                let scores = model.logits(some)?;
                rows.extend(scores.chunks_exact(scores.len() / (some.len() / width)).map(|row| pick(row, &want)));
            }
            Ok(Logits { rows })
        };
        self.worker.run("scoring the vocabulary", work).await
    }
}

/// Blocks and the budget of their sessions.
struct Engine {
    worker: Worker<dyn Family>,
    hosted: BlockRange,
    hidden: usize,
    kv_heads: usize,
    head_dim: usize,
    budget: Budget,
}

#[async_trait]
impl BlockEngine for Engine {
    fn hosted(&self) -> BlockRange {
        self.hosted
    }

    fn free_tokens(&self) -> usize {
        self.budget.free_tokens()
    }

    async fn open(&self, range: BlockRange, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        if !self.hosted.contains(range) {
            return Err(PortError::invalid(format!("blocks {range} are not hosted here, {} are", self.hosted)));
        }
        if need.max_length == 0 || need.batch == 0 {
            return Err(PortError::invalid("a session needs at least one row and one position"));
        }
        let reservation = self.budget.reserve(need.max_length.checked_mul(need.batch), range.len())?;
        let cache = |_| BlockCache::new(need.batch, need.max_length, self.kv_heads, self.head_dim);
        let caches = (range.start()..range.end()).map(cache).collect();
        Ok(Box::new(CandleSession {
            worker: self.worker.clone(),
            caches: Arc::new(Mutex::new(caches)),
            blocks: range,
            first: range.start() - self.hosted.start(),
            need,
            width: self.hidden,
            position: 0,
            _reservation: reservation,
        }))
    }
}
