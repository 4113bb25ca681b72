//! The rule in words: why a way was taken, and why none was.

use super::{
    Bytes, Dtype, Place, Stored, bytes,
    choose::{Ask, Way},
    machine::Backend,
};

/// Positions of a KV cache below which it is no use to propose one.
const FEWEST_POSITIONS: u64 = 256;

impl Ask<'_> {
    /// Why the dtype of way `at` was taken.
    pub(super) fn reason(&self, ways: &[Way], at: usize, backend: &Backend) -> String {
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
            (_, Dtype::Stored) if matches!(self.demand.stored, Stored::Quantised(_)) => {
                format!("the file is quantised ({stored}), and a wider form would add bytes and no information")
            }
            (Place::Card, _) => format!("cards keep 16 bits a number, here {dtype}"),
            (Place::Processor, _) if backend.dtypes.len() == 1 => format!("{} computes in {dtype} only", backend.name),
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
    pub(super) fn called(&self, dtype: Dtype) -> String {
        if dtype == Dtype::Stored { self.demand.stored.name().to_owned() } else { dtype.name().to_owned() }
    }

    /// None of `ways` fits: what the one that needs least lacks, and what would help.
    pub(super) fn refusal(&self, ways: &[Way]) -> String {
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
        let [ends, blocks] = [way.ends, way.blocks].map(|side| self.machine.backend(side.backend));
        let on_processor = way.card.is_none();
        if self.wish.dtype.is_some() && on_processor {
            let narrower = Dtype::ALL.into_iter().filter(|dtype| *dtype != Dtype::Stored).find_map(|dtype| {
                let known = |backend: &&Backend| backend.dtypes.contains(&dtype);
                let blocks = blocks.filter(known).and_then(|blocks| self.blocks(blocks, dtype))?;
                let all = blocks + ends.filter(known).and_then(|ends| self.ends(ends, dtype))?;
                (all.total() <= self.room.memory).then_some((dtype, all))
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
        let alone = ends.and_then(|ends| self.ends(ends, way.ends.dtype)).map_or(u64::MAX, |ends| ends.total());
        if self.demand.has_blocks() && self.demand.has_ends() && alone <= free {
            help.push(format!("blocks = \"swarm\" (needs {} here)", bytes(alone)));
        }
        let help = if help.is_empty() { String::new() } else { format!("set {}, or ", help.join(" or ")) };
        format!("{help}use a machine with more; memory_check = false overrules this estimate")
    }
}
