//! The rule: which backend, and which dtype. What is configured is kept; what is left open is filled in.
//!
//! A card where there is one with room, with 16 bits a number. Else the processor: a quantised file as it is, since a
//! wider form adds bytes and no information; 16 bits where there is AVX-512, else f32 (both as Petals Chat did); and
//! where that has no room, the widest quantised form that has.

use super::{
    Bytes, Demand, Dtype, Kernels, KvType, Machine, Place, Room, Screen, Stored, check_kernels,
    machine::{Backend, Card},
};

/// What the configuration says of one model; `None` leaves it to the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The backend of embeddings and head, and of the blocks unless those have their own.
    pub backend: Option<&'static str>,
    /// The backend of the blocks.
    pub blocks_backend: Option<&'static str>,
    /// How weights are kept.
    pub dtype: Option<Dtype>,
    /// Which card.
    pub card: Option<usize>,
    /// Whether embeddings and head of a model on a card stay in the machine's memory.
    pub head_on_processor: bool,
    /// Which kernels the processor runs.
    pub kernels: Option<Kernels>,
    /// What screen the processor has over the head.
    pub screen: Option<Screen>,
    /// What keys and values are kept in.
    pub kv_type: KvType,
    /// Whether what does not fit is refused.
    pub check_memory: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            backend: None,
            blocks_backend: None,
            dtype: None,
            card: None,
            head_on_processor: false,
            kernels: None,
            screen: None,
            kv_type: KvType::F32,
            check_memory: true,
        }
    }
}

/// How one side of a model is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// By which backend.
    pub backend: &'static str,
    /// How weights are kept.
    pub dtype: Dtype,
    /// On which card, where the backend computes on cards.
    pub card: Option<usize>,
}

/// How a model is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Embeddings and head.
    pub ends: Side,
    /// The blocks that are computed here.
    pub blocks: Side,
    /// Whether embeddings and head stay in the machine's memory though their backend has cards.
    pub head_on_processor: bool,
    /// What the processor runs.
    pub kernels: Kernels,
    /// What it takes, on the machine and on cards together.
    pub bytes: Bytes,
    /// Bytes of the machine's memory it takes.
    pub memory: u64,
    /// Why so.
    pub reason: String,
}

/// Decides for several models that are loaded into one process. Those whose dtype is configured get their room first;
/// the others share what is left, in their order. With each answer comes the room there was for it.
#[must_use]
pub fn choose_all(models: &[(Demand, Wish)], machine: &Machine) -> Vec<(Result<Choice, String>, Room)> {
    let mut room = machine.room();
    let mut answers: Vec<Option<(Result<Choice, String>, Room)>> = vec![None; models.len()];
    for settled in [true, false] {
        for ((demand, wish), answer) in models.iter().zip(&mut answers) {
            if wish.dtype.is_some() == settled {
                let had = room.clone();
                let choice = choose(demand, wish, machine, &room);
                if let Ok(choice) = &choice {
                    room.take(choice, demand);
                }
                *answer = Some((choice, had));
            }
        }
    }
    answers.into_iter().flatten().collect()
}

/// Decides for one model, with `room` left.
///
/// # Errors
/// A sentence that says what is missing and what would help.
pub fn choose(demand: &Demand, wish: &Wish, machine: &Machine, room: &Room) -> Result<Choice, String> {
    let kernels = check_kernels(wish.kernels, &machine.features)?;
    let ask = Ask { demand, wish, machine, room, kernels };
    let blocks = wish.blocks_backend.filter(|_| demand.has_blocks());
    let blocks = blocks.map(|name| ask.configured("blocks_backend", name)).transpose()?;
    if let Some(name) = wish.backend {
        let ends = ask.configured("backend", name)?;
        return ask.on(ends, blocks.unwrap_or(ends), "the backend is as configured");
    }
    let mut notes = Vec::new();
    for ends in machine.backends.iter().filter(|backend| backend.automatic && ask.possible(backend)) {
        let why = match (ends.place, &ends.usable) {
            (_, Err(_)) => continue,
            (Place::Card, Ok(cards)) if cards.is_empty() => continue,
            (Place::Card, Ok(_)) => "a card has room for it".to_owned(),
            (Place::Processor, _) if notes.is_empty() => "no card can be used".to_owned(),
            (Place::Processor, _) => notes.join("; "),
        };
        match ask.on(ends, blocks.unwrap_or(ends), &why) {
            Err(fault) if ends.place == Place::Card => notes.push(format!("on {}: {fault}", ends.name)),
            answer => return answer,
        }
    }
    Err(if notes.is_empty() { "no backend of this program can compute it".to_owned() } else { notes.join("; ") })
}

/// One question to the rule.
pub(super) struct Ask<'a> {
    pub(super) demand: &'a Demand,
    pub(super) wish: &'a Wish,
    pub(super) machine: &'a Machine,
    pub(super) room: &'a Room,
    pub(super) kernels: Kernels,
}

/// A way to compute, and what it takes.
pub(super) struct Way {
    pub(super) ends: Side,
    pub(super) blocks: Side,
    pub(super) bytes: Bytes,
    pub(super) memory: u64,
    /// What it takes of a card: backend, number, bytes.
    pub(super) card: Option<(&'static str, usize, u64)>,
}

impl Ask<'_> {
    /// The backend that key `key` names.
    fn configured(&self, key: &str, name: &str) -> Result<&Backend, String> {
        let backend = self.machine.backend(name).ok_or_else(|| format!("{key} = \"{name}\" is unknown here"))?;
        if !self.possible(backend) {
            let dtypes: Vec<&str> = backend.dtypes.iter().map(|dtype| dtype.name()).collect();
            return Err(format!(
                "dtype = \"{}\" is not possible with {key} = \"{name}\", which computes in {}; leave dtype at \"auto\", \
                 or choose another backend",
                self.wish.dtype.map_or("auto", Dtype::name),
                dtypes.join(", ")
            ));
        }
        match &backend.usable {
            Ok(_) => Ok(backend),
            Err(why) => Err(format!("{key} = \"{name}\" cannot be used: {why}")),
        }
    }

    /// Whether the backend knows the dtype that is configured.
    fn possible(&self, backend: &Backend) -> bool {
        self.wish.dtype.is_none_or(|dtype| backend.dtypes.contains(&dtype))
    }

    /// Refuses a backend of blocks that does not keep keys and values as it is configured.
    fn check_kv_type(&self, blocks: &Backend) -> Result<(), String> {
        let wanted = self.wish.kv_type;
        if !self.demand.has_blocks() || blocks.kv_types.contains(&wanted) {
            return Ok(());
        }
        let able = self.machine.backends.iter().filter(|backend| backend.kv_types.contains(&wanted));
        let able: Vec<&str> = able.map(|backend| backend.name).collect();
        Err(format!(
            "kv_cache = \"{wanted}\" is not possible with {}; leave kv_cache out, or have the blocks computed by {}",
            blocks.name,
            able.join(" or ")
        ))
    }

    /// The way that is preferred of those for which there is room.
    fn on(&self, ends: &Backend, blocks: &Backend, why: &str) -> Result<Choice, String> {
        self.check_kv_type(blocks)?;
        let ways = self.ways(ends, blocks)?;
        let fits = |way: &Way| !self.wish.check_memory || self.fits(way);
        let Some(at) = ways.iter().position(fits) else { return Err(self.refusal(&ways)) };
        let way = &ways[at];
        Ok(Choice {
            ends: way.ends,
            blocks: way.blocks,
            head_on_processor: self.wish.head_on_processor && ends.place == Place::Card,
            kernels: self.kernels,
            bytes: way.bytes,
            memory: way.memory,
            reason: format!("{why}; {}", self.reason(&ways, at, if self.demand.has_blocks() { blocks } else { ends })),
        })
    }

    /// All ways with these backends, the preferred ones first; at least one.
    fn ways(&self, ends: &Backend, blocks: &Backend) -> Result<Vec<Way>, String> {
        let (ends_card, blocks_card) = (self.card(ends)?, self.card(blocks)?);
        let mut ways = Vec::new();
        for of_ends in self.dtypes(ends) {
            for of_blocks in self.dtypes(blocks) {
                if ends.name == blocks.name && of_ends != of_blocks {
                    continue;
                }
                let (Some(e), Some(b)) = (self.ends(ends, of_ends), self.blocks(blocks, of_blocks)) else { continue };
                let (mut memory, mut card) = (0u64, None);
                for (bytes, backend, nth, stays) in
                    [(e, ends, ends_card, self.wish.head_on_processor), (b, blocks, blocks_card, false)]
                {
                    match nth.filter(|_| !stays) {
                        Some(nth) => {
                            let before = card.map_or(0, |(_, _, bytes)| bytes);
                            card = Some((backend.name, nth, bytes.total().saturating_add(before)));
                        }
                        None => memory = memory.saturating_add(bytes.total()),
                    }
                }
                let side = |backend: &Backend, dtype, card| Side { backend: backend.name, dtype, card };
                ways.push(Way {
                    ends: side(ends, of_ends, ends_card),
                    blocks: side(blocks, of_blocks, blocks_card),
                    bytes: e + b,
                    memory,
                    card,
                });
            }
        }
        if ways.is_empty() {
            return Err(format!(
                "dtype = \"{}\" is not possible: it keeps 32 numbers at a time, and rows of this model are no multiples \
                 of 32; use \"f32\" or \"bf16\"",
                self.wish.dtype.map_or("auto", Dtype::name)
            ));
        }
        Ok(ways)
    }

    /// Embeddings and head on that backend, with a screen where it has one; `None` where they cannot be kept so.
    pub(super) fn ends(&self, backend: &Backend, dtype: Dtype) -> Option<Bytes> {
        let stays = backend.place == Place::Card && self.wish.head_on_processor;
        let backend = self.machine.processor().filter(|_| stays).unwrap_or(backend);
        let kept = dtype.kept(&self.demand.stored, backend.widens);
        self.demand.screened_ends(kept, self.wish.screen.filter(|_| backend.screens))
    }

    /// The blocks on that backend; `None` where they cannot be kept so.
    pub(super) fn blocks(&self, backend: &Backend, dtype: Dtype) -> Option<Bytes> {
        self.demand.blocks(dtype.kept(&self.demand.stored, backend.widens))
    }

    /// The card of a backend that has some: the one configured, or the one with the most room.
    fn card(&self, backend: &Backend) -> Result<Option<usize>, String> {
        let cards: &[Card] = match (backend.place, &backend.usable) {
            (Place::Processor, _) => return Ok(None),
            (Place::Card, Ok(cards)) if !cards.is_empty() => cards,
            (Place::Card, _) => return Err(format!("{} sees no card; use another backend", backend.name)),
        };
        match self.wish.card {
            None => Ok((0..cards.len()).rev().max_by_key(|nth| self.room.card(backend.name, *nth))),
            Some(nth) if nth < cards.len() => Ok(Some(nth)),
            Some(nth) => {
                let there: Vec<String> =
                    cards.iter().enumerate().map(|(nth, card)| format!("cuda:{nth} ({})", card.name)).collect();
                Err(format!("device = \"cuda:{nth}\" is not there; {} sees {}", backend.name, there.join(", ")))
            }
        }
    }

    /// Dtypes to try, the preferred ones first.
    fn dtypes(&self, backend: &Backend) -> Vec<Dtype> {
        if let Some(dtype) = self.wish.dtype {
            return vec![dtype];
        }
        let stored = &self.demand.stored;
        let mut wanted: Vec<Dtype> = match (backend.place, stored) {
            // f16 has more digits, bf16 the range of f32.
            (Place::Card, Stored::F16) => vec![Dtype::F16],
            (Place::Card, Stored::F32 | Stored::Bf16) => vec![Dtype::Bf16],
            (_, Stored::Quantised(_)) => vec![Dtype::Stored],
            (Place::Processor, Stored::F16 | Stored::Bf16) if self.kernels <= Kernels::Avx512 => vec![Dtype::Stored],
            (Place::Processor, Stored::F32) if self.kernels <= Kernels::Avx512 => vec![Dtype::Bf16],
            (Place::Processor, _) => vec![Dtype::F32],
        };
        if backend.place == Place::Processor {
            let all = |dtype| Some((self.ends(backend, dtype)? + self.blocks(backend, dtype)?).weights);
            let narrowest = wanted.last().and_then(|dtype| all(*dtype)).unwrap_or(u64::MAX);
            let narrower = |dtype: &Dtype| all(*dtype).is_some_and(|weights| weights < narrowest);
            wanted.extend(Dtype::QUANTISED.into_iter().filter(narrower));
        }
        wanted.retain(|dtype| backend.dtypes.contains(dtype));
        if wanted.is_empty() { backend.dtypes.first().copied().into_iter().collect() } else { wanted }
    }

    fn fits(&self, way: &Way) -> bool {
        let on_card = way.card.is_none_or(|(backend, nth, bytes)| bytes <= self.room.card(backend, nth));
        on_card && way.memory <= self.room.memory
    }
}

impl Room {
    /// Gives a model what it takes.
    fn take(&mut self, choice: &Choice, demand: &Demand) {
        self.memory = self.memory.saturating_sub(choice.memory);
        self.taken = self.taken.saturating_add(choice.memory);
        let ends = demand.ends(choice.ends.dtype).filter(|_| !choice.head_on_processor);
        for (side, bytes) in [(choice.ends, ends), (choice.blocks, demand.blocks(choice.blocks.dtype))] {
            let cards = self.cards.iter_mut().find(|(name, _)| *name == side.backend);
            if let (Some(nth), Some((_, free)), Some(bytes)) = (side.card, cards, bytes)
                && let Some(free) = free.get_mut(nth)
            {
                *free = free.saturating_sub(bytes.total());
            }
        }
    }
}
