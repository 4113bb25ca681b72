//! The rule: which backend, and which dtype. What is configured is kept; what is left open is filled in.
//!
//! A card where there is one with room, with 16 bits a number. Else the processor: a quantised file as it is, since a
//! wider form adds bytes and no information; 16 bits where there is AVX-512, else f32 (both as Petals Chat did); and
//! where that has no room, the widest quantised form that has.

use super::{
    Bytes, Demand, Dtype, Kernels, Machine, Place, Room, Stored, bytes, check_kernels,
    machine::{Backend, Card},
};

/// Positions of a KV cache below which it is no use to propose one.
const FEWEST_POSITIONS: u64 = 256;

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
struct Ask<'a> {
    demand: &'a Demand,
    wish: &'a Wish,
    machine: &'a Machine,
    room: &'a Room,
    kernels: Kernels,
}

/// A way to compute, and what it takes.
struct Way {
    ends: Side,
    blocks: Side,
    bytes: Bytes,
    memory: u64,
    /// What it takes of a card: backend, number, bytes.
    card: Option<(&'static str, usize, u64)>,
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

    /// The way that is preferred of those for which there is room.
    fn on(&self, ends: &Backend, blocks: &Backend, why: &str) -> Result<Choice, String> {
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
                let (Some(e), Some(b)) = (self.demand.ends(of_ends), self.demand.blocks(of_blocks)) else { continue };
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
            (Place::Card, Stored::F16 | Stored::Quantised(_)) => vec![Dtype::F16],
            (Place::Card, Stored::F32 | Stored::Bf16) => vec![Dtype::Bf16],
            (Place::Processor, Stored::Quantised(_)) => vec![Dtype::Stored],
            (Place::Processor, Stored::F16 | Stored::Bf16) if self.kernels == Kernels::Avx512 => vec![Dtype::Stored],
            (Place::Processor, Stored::F16 | Stored::Bf16) => vec![Dtype::F32, Dtype::Stored],
            (Place::Processor, Stored::F32) if self.kernels == Kernels::Avx512 => vec![Dtype::Bf16],
            (Place::Processor, Stored::F32) => vec![Dtype::F32],
        };
        if backend.place == Place::Processor {
            let narrowest = wanted.last().and_then(|dtype| self.demand.all(*dtype)).map_or(u64::MAX, |it| it.weights);
            let narrower = |dtype: &Dtype| self.demand.all(*dtype).is_some_and(|it| it.weights < narrowest);
            wanted.extend(Dtype::QUANTISED.into_iter().filter(narrower));
        }
        wanted.retain(|dtype| backend.dtypes.contains(dtype));
        if wanted.is_empty() { backend.dtypes.first().copied().into_iter().collect() } else { wanted }
    }

    fn fits(&self, way: &Way) -> bool {
        let on_card = way.card.is_none_or(|(backend, nth, bytes)| bytes <= self.room.card(backend, nth));
        on_card && way.memory <= self.room.memory
    }

    /// Why the dtype of way `at` was taken.
    fn reason(&self, ways: &[Way], at: usize, backend: &Backend) -> String {
        let (way, stored) = (&ways[at], self.demand.stored.name());
        let dtype = way.blocks.dtype;
        if self.wish.dtype.is_some() {
            return "the dtype is as configured".to_owned();
        }
        if let Some(wider) = at.checked_sub(1).map(|before| &ways[before]) {
            let (name, needed) = (self.called(wider.blocks.dtype), bytes(wider.memory));
            let free = bytes(self.room.memory);
            let name_of = self.called(dtype);
            return format!("{name_of} is the widest form that fits: {name} needs {needed} and {free} is free");
        }
        match (backend.place, dtype) {
            (Place::Card, _) => format!("cards keep 16 bits a number, here {dtype}"),
            (Place::Processor, _) if backend.dtypes.len() == 1 => format!("{} computes in {dtype} only", backend.name),
            (Place::Processor, Dtype::Stored) if matches!(self.demand.stored, Stored::Quantised(_)) => {
                format!("the file is quantised ({stored}), and a wider form would add bytes and no information")
            }
            (Place::Processor, Dtype::Stored) => {
                format!("the file has {stored}, and with AVX-512 16 bits a number are computed with as they are")
            }
            (Place::Processor, Dtype::Bf16) => {
                "with AVX-512 bf16 is computed with as it is, and takes half the memory of f32".to_owned()
            }
            (Place::Processor, _) => format!("the {} kernels compute in f32 (bf16 is for AVX-512)", self.kernels),
        }
    }

    /// What people call the dtype.
    fn called(&self, dtype: Dtype) -> String {
        if dtype == Dtype::Stored { self.demand.stored.name().to_owned() } else { dtype.name().to_owned() }
    }

    /// None of `ways` fits: what the one that needs least lacks, and what would help.
    fn refusal(&self, ways: &[Way]) -> String {
        let Some(way) = ways.iter().min_by_key(|way| way.bytes.total()) else { return String::new() };
        let Bytes { weights, cache, .. } = way.bytes;
        let dtype = self.called(way.blocks.dtype);
        let (needed, free, whose) =
            match way.card.filter(|(backend, nth, bytes)| *bytes > self.room.card(backend, *nth)) {
                Some((backend, nth, bytes)) => (bytes, self.room.card(backend, nth), format!("of cuda:{nth}'s memory")),
                None => (way.memory, self.room.memory, "of memory".to_owned()),
            };
        let mut parts = vec![format!("{} of weights", bytes(weights))];
        if cache > 0 {
            parts.push(format!("{} of KV cache for {} positions", bytes(cache), self.demand.positions));
        }
        let others = match self.room.taken {
            0 => String::new(),
            taken => format!(" beside the {} of the other models", bytes(taken)),
        };
        let narrowest = if self.wish.dtype.is_none() && ways.len() > 1 { ", the narrowest form," } else { "" };
        format!(
            "not enough memory: {dtype}{narrowest} needs {} {whose} ({}), {} is free{others}; {}",
            bytes(needed),
            parts.join(" and "),
            bytes(free),
            self.help(way, needed, free)
        )
    }

    /// What could be changed so that it fits.
    fn help(&self, way: &Way, needed: u64, free: u64) -> String {
        let mut help = Vec::new();
        let on_processor = way.card.is_none();
        if self.wish.dtype.is_some() && on_processor {
            let backend = self.machine.backend(way.blocks.backend);
            let narrower = Dtype::ALL.into_iter().skip(1).find_map(|dtype| {
                let all = self.demand.all(dtype).filter(|all| all.total() <= self.room.memory)?;
                backend.is_some_and(|it| it.dtypes.contains(&dtype)).then_some((dtype, all))
            });
            if let Some((dtype, all)) = narrower {
                help.push(format!("dtype = \"{dtype}\" (needs {})", bytes(all.total())));
            }
        }
        if !on_processor {
            help.push("backend = \"candle-cpu\"".to_owned());
        }
        let cache = self.demand.position.saturating_mul(self.demand.positions);
        let positions =
            free.saturating_sub(needed.saturating_sub(cache)).checked_div(self.demand.position).unwrap_or(0);
        if positions >= FEWEST_POSITIONS {
            help.push(format!("cache_tokens = {}", positions / FEWEST_POSITIONS * FEWEST_POSITIONS));
        }
        let alone = self.demand.ends(way.ends.dtype).map_or(u64::MAX, |ends| ends.total());
        if self.demand.has_blocks() && alone <= free {
            help.push(format!("blocks = \"swarm\" (needs {} here)", bytes(alone)));
        }
        let help = if help.is_empty() { String::new() } else { format!("set {}, or ", help.join(" or ")) };
        format!("{help}use a machine with more; memory_check = false overrules this estimate")
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
