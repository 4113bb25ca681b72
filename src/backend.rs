//! The backends this program knows by name, whether they were built in or not.

use clap::ValueEnum;
use corolla_domain::fit::{Dtype, KvType, Place};
use serde::{Deserialize, Serialize};

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// candle on an NVIDIA card.
    CandleCuda,
    /// Our kernels on this machine's processor.
    CandleCpu,
    /// libtorch in f32.
    Tch,
}

impl Backend {
    /// All of them, in the order in which `auto` prefers them.
    pub(crate) const ALL: [Self; 3] = [Self::CandleCuda, Self::CandleCpu, Self::Tch];

    /// What the configuration calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CandleCpu => "candle-cpu",
            Self::CandleCuda => "candle-cuda",
            Self::Tch => "tch",
        }
    }

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }

    /// Where it computes.
    pub(crate) fn place(self) -> Place {
        match self {
            Self::CandleCpu | Self::Tch => Place::Processor,
            Self::CandleCuda => Place::Card,
        }
    }

    /// What it can keep weights in.
    pub(crate) fn dtypes(self) -> &'static [Dtype] {
        match self {
            Self::CandleCpu => &Dtype::ALL,
            Self::CandleCuda => &Dtype::ALL,
            Self::Tch => &[Dtype::F32],
        }
    }

    /// What it can keep keys and values in, as far as that is left to the configuration.
    pub(crate) fn kv_types(self) -> &'static [KvType] {
        match self {
            Self::CandleCpu => &KvType::ALL,
            Self::CandleCuda | Self::Tch => &[KvType::F32],
        }
    }

    /// Whether `auto` may choose it.
    pub(crate) fn automatic(self) -> bool {
        match self {
            Self::CandleCpu | Self::CandleCuda => true,
            Self::Tch => false,
        }
    }

    /// Whether it can have a screen over the LM head.
    pub(crate) fn screens(self) -> bool {
        match self {
            Self::CandleCpu => true,
            Self::CandleCuda | Self::Tch => false,
        }
    }

    /// Whether it computes in f32 with 16 bits of a file as they are.
    pub(crate) fn widens(self) -> bool {
        match self {
            Self::CandleCpu => true,
            Self::CandleCuda | Self::Tch => false,
        }
    }

    /// Whether this program has it.
    pub(crate) fn built_in(self) -> bool {
        match self {
            Self::CandleCpu => true,
            Self::CandleCuda => cfg!(feature = "cuda"),
            Self::Tch => cfg!(feature = "libtorch"),
        }
    }

    /// Programs beside this one that may have it.
    pub(crate) fn plug_ins(self) -> &'static [&'static str] {
        match self {
            Self::CandleCpu => &[],
            Self::CandleCuda => &["corolla-cuda", "corolla-full"],
            Self::Tch => &["corolla-tch", "corolla-full"],
        }
    }

    /// Variables that its library reads when it is loaded, before the first line of ours runs; a plug-in gets them where
    /// they are not set.
    pub(crate) fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::CandleCpu | Self::CandleCuda => &[],
            // Threads of libgomp spin while they wait: beside another busy process a region that takes 0.1 ms takes 8.
            Self::Tch => &[("OMP_WAIT_POLICY", "passive")],
        }
    }

    /// How to get it.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::CandleCpu => "build corolla anew",
            Self::CandleCuda => "`make cuda` builds it (cargo feature `cuda`)",
            Self::Tch => "`make libtorch` builds it (cargo feature `libtorch`)",
        }
    }
}
