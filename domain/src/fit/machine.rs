//! What a machine has: its processor, its memory, the backends of a program and the cards they see.

use std::fmt;

use super::{Dtype, KvType};

/// A set of kernels for one instruction set, the fastest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kernels {
    /// Sixty-four products of bytes at a time, sixteen of other numbers.
    Avx512Vnni,
    /// Sixteen numbers at a time.
    Avx512,
    /// Eight numbers at a time.
    Avx2,
    /// One number after the other; runs everywhere.
    Scalar,
}

impl Kernels {
    /// All of them, the fastest first.
    pub const ALL: [Self; 4] = [Self::Avx512Vnni, Self::Avx512, Self::Avx2, Self::Scalar];

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Scalar => "scalar",
        }
    }

    /// The instructions it is made of.
    #[must_use]
    pub fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Avx512Vnni => &["avx512f", "avx512bw", "avx512vnni"],
            Self::Avx512 => &["avx512f"],
            Self::Avx2 => &["avx2", "fma", "f16c"],
            Self::Scalar => &[],
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Instruction sets that a processor has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features(pub Vec<&'static str>);

impl Features {
    /// Whether it can run these kernels.
    #[must_use]
    pub fn run(&self, kernels: Kernels) -> bool {
        kernels.needs().iter().all(|needed| self.0.contains(needed))
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&if self.0.is_empty() {
            "none of the instruction sets asked about".to_owned()
        } else {
            self.0.join(", ")
        })
    }
}

/// The kernels to use: those that are wanted, or else the fastest.
///
/// # Errors
/// A sentence where the processor cannot run what is wanted.
pub fn check_kernels(wanted: Option<Kernels>, features: &Features) -> Result<Kernels, String> {
    let able: Vec<Kernels> = Kernels::ALL.into_iter().filter(|kernels| features.run(*kernels)).collect();
    let Some(wanted) = wanted else { return Ok(able.first().copied().unwrap_or(Kernels::Scalar)) };
    if able.contains(&wanted) {
        return Ok(wanted);
    }
    let lacking: Vec<&str> = wanted.needs().iter().copied().filter(|needed| !features.0.contains(needed)).collect();
    let able: Vec<String> = able.iter().map(|kernels| format!("\"{kernels}\"")).collect();
    Err(format!(
        "kernels = \"{wanted}\" needs {}, which this processor lacks (it has {features}); it can run {}, or leave \
         kernels at \"auto\"",
        lacking.join(", "),
        able.join(" and ")
    ))
}

/// Where a backend keeps weights and computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The machine's memory and processor.
    Processor,
    /// Cards with memory of their own.
    Card,
}

/// A card with memory of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// What its maker calls it.
    pub name: String,
    /// Bytes of its memory.
    pub total: u64,
    /// Bytes that nobody uses now.
    pub free: u64,
}

/// One way of computing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// What the configuration calls it.
    pub name: &'static str,
    /// Where it computes.
    pub place: Place,
    /// What it can keep weights in.
    pub dtypes: &'static [Dtype],
    /// What it can keep keys and values in; f32 is whatever it does where nothing is configured.
    pub kv_types: &'static [KvType],
    /// Whether it may be chosen where none is configured.
    pub automatic: bool,
    /// Whether it can have a screen over the head.
    pub screens: bool,
    /// Whether it computes in f32 with 16 bits of a file as they are.
    pub widens: bool,
    /// Its cards (none for the processor), or why it cannot be used here and what would help.
    pub usable: Result<Vec<Card>, String>,
}

/// What there is to compute with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What the processor can do.
    pub features: Features,
    /// Bytes of memory that can be had: of the system's and the control group's the smaller.
    pub free: u64,
    /// The backends, the preferred ones first.
    pub backends: Vec<Backend>,
}

/// Memory that is left, on the machine and on the cards of each backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Bytes of the machine's memory.
    pub memory: u64,
    /// Bytes of each card, by backend.
    pub cards: Vec<(&'static str, Vec<u64>)>,
    /// Bytes of the machine's memory that other models have got.
    pub taken: u64,
}

impl Machine {
    /// All its memory.
    #[must_use]
    pub fn room(&self) -> Room {
        let cards = |backend: &Backend| {
            let cards = backend.usable.as_ref().ok().filter(|cards| !cards.is_empty())?;
            Some((backend.name, cards.iter().map(|card| card.free).collect()))
        };
        Room { memory: self.free, cards: self.backends.iter().filter_map(cards).collect(), taken: 0 }
    }

    /// The backend that computes what does not go to a card.
    pub(super) fn processor(&self) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.place == Place::Processor && backend.automatic)
    }

    pub(super) fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.name == name)
    }
}

impl Room {
    /// Bytes free on a card.
    #[must_use]
    pub fn card(&self, backend: &str, nth: usize) -> u64 {
        let cards = self.cards.iter().find(|(name, _)| *name == backend);
        cards.and_then(|(_, free)| free.get(nth)).copied().unwrap_or(0)
    }
}
