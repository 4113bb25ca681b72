//! Words that a key of the configuration may have, and what they mean.

use clap::ValueEnum;
use corolla_domain::{
    fit::{self, Kernels as KernelSet},
    session,
};
use serde::{Deserialize, Serialize};

use crate::backend;

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Access {
    /// Who has a key, where there are keys; there must be some where others reach the server.
    #[default]
    Auto,
    /// Everybody.
    Open,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How the states of a text become its embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The last of them.
    Last,
}

/// Whether others reach a server of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reach {
    /// They are asked.
    #[default]
    Ask,
    /// They do.
    Direct,
    /// They do not; it needs a relay.
    Relayed,
}

/// Who runs the transformer blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Blocks {
    /// This process.
    #[default]
    Local,
    /// A Petals swarm.
    Swarm,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// A card with room for the model, else the processor.
    #[default]
    Auto,
    /// This machine's processor.
    CandleCpu,
    /// An NVIDIA card.
    CandleCuda,
    /// libtorch, in f32.
    Tch,
}

/// What weights are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dtype {
    /// What suits the file, the processor and the memory.
    #[default]
    Auto,
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// Half precision.
    F16,
    /// 8 bits a number.
    #[value(name = "q8_0")]
    Q8_0,
    /// 5 bits a number.
    #[value(name = "q5_1")]
    Q5_1,
    /// 4 bits a number, with offsets.
    #[value(name = "q4_1")]
    Q4_1,
    /// 4 bits a number.
    #[value(name = "q4_0")]
    Q4_0,
}

/// Instructions that the processor's backend uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kernels {
    /// The fastest there are.
    #[default]
    Auto,
    /// AVX-512 with VNNI.
    #[serde(rename = "avx512-vnni")]
    Avx512Vnni,
    /// AVX-512.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// None in particular.
    Scalar,
}

/// What the processor multiplies weights with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Activations {
    /// Rounded where weights are and the processor is faster then.
    #[default]
    Auto,
    /// As they are.
    F32,
}

/// What finds the best tokens before the head is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Screen {
    /// Nothing: the head is computed in whole.
    #[default]
    Off,
    /// A copy of the head in 8 bits.
    Int8,
    /// A copy of the head in 4 bits.
    Int4,
}

/// What keys and values are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KvCache {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// 8 bits a number.
    Q8,
}

/// Where embeddings and head of a model on a card are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Head {
    /// On the card.
    Device,
    /// In the machine's memory.
    Cpu,
}

impl Backend {
    /// The one that is meant; `None` is left to the rule.
    pub(super) fn chosen(self) -> Option<backend::Backend> {
        match self {
            Self::Auto => None,
            Self::CandleCpu => Some(backend::Backend::CandleCpu),
            Self::CandleCuda => Some(backend::Backend::CandleCuda),
            Self::Tch => Some(backend::Backend::Tch),
        }
    }
}

impl Dtype {
    /// The one that is meant; `None` is left to the rule.
    pub(super) fn chosen(self) -> Option<fit::Dtype> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(fit::Dtype::F32),
            Self::Bf16 => Some(fit::Dtype::Bf16),
            Self::F16 => Some(fit::Dtype::F16),
            Self::Q8_0 => Some(fit::Dtype::Q8_0),
            Self::Q5_1 => Some(fit::Dtype::Q5_1),
            Self::Q4_1 => Some(fit::Dtype::Q4_1),
            Self::Q4_0 => Some(fit::Dtype::Q4_0),
        }
    }
}

impl Kernels {
    /// Those that are meant; `None` is left to the rule.
    pub(super) fn chosen(self) -> Option<KernelSet> {
        match self {
            Self::Auto => None,
            Self::Avx512Vnni => Some(KernelSet::Avx512Vnni),
            Self::Avx512 => Some(KernelSet::Avx512),
            Self::Avx2 => Some(KernelSet::Avx2),
            Self::Scalar => Some(KernelSet::Scalar),
        }
    }
}

impl Screen {
    /// The one that is meant, if any.
    pub(super) fn chosen(self) -> Option<fit::Screen> {
        match self {
            Self::Off => None,
            Self::Int8 => Some(fit::Screen::Int8),
            Self::Int4 => Some(fit::Screen::Int4),
        }
    }
}

impl KvCache {
    /// The one that is meant.
    pub(super) fn chosen(self) -> fit::KvType {
        match self {
            Self::F32 => fit::KvType::F32,
            Self::Bf16 => fit::KvType::Bf16,
            Self::Q8 => fit::KvType::Q8,
        }
    }
}

impl Pooling {
    /// The one that is meant.
    pub(super) fn chosen(self) -> session::Pooling {
        match self {
            Self::Mean => session::Pooling::Mean,
            Self::Last => session::Pooling::Last,
        }
    }
}
