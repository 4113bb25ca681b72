//! Settings become plans: for each model, which backend computes it and in what, decided before anything is loaded.

use std::path::{Path, PathBuf};

use corolla_domain::fit::{Choice, Demand, Features, Machine, Place, Room, Wish, choose_all};
use corolla_tokenizers::HfTokenizer;

use crate::{
    Stop,
    backend::Backend,
    config::{ComputeSettings, ModelSettings, Settings},
    machine::{self, Memory},
    plugin::{self, Bounds, PlugIn, Probe},
    wiring,
};

/// One model, decided.
#[derive(Clone)]
pub(crate) struct ModelPlan {
    /// What was configured.
    pub(crate) settings: ModelSettings,
    /// What the model is, in words.
    pub(crate) about: String,
    /// What was decided.
    pub(crate) choice: Choice,
    /// The room that there was for it.
    pub(crate) room: Room,
    /// Its tokenizer, where it has ends here.
    pub(crate) tokenizer: Option<HfTokenizer>,
}

/// A model's files, as far as they were looked at.
pub(crate) struct Looked {
    /// What it is, in words.
    pub(crate) about: String,
    /// What it needs.
    pub(crate) demand: Demand,
    /// Positions that its KV cache holds.
    pub(crate) cache_tokens: usize,
    /// Its tokenizer, where it has ends here.
    pub(crate) tokenizer: Option<HfTokenizer>,
}

/// A program that could run the models, and how it would.
pub(crate) struct Program {
    /// Where it is; `None` is this one.
    pub(crate) path: Option<PathBuf>,
    /// Models whose configured backends it has.
    has: usize,
    /// How it would run each model that could be looked at, and the room there was for it.
    pub(crate) verdicts: Vec<(Result<Choice, String>, Room)>,
}

/// Everything that is known before anything is loaded.
pub(crate) struct Survey {
    /// Instruction sets of the processor.
    pub(crate) features: Features,
    /// Memory now.
    pub(crate) memory: Memory,
    /// What this program says of itself.
    pub(crate) own: Probe,
    /// Other programs that were asked.
    pub(crate) plug_ins: Vec<PlugIn>,
    /// The models, in the order of the settings: what they are, or why that cannot be told.
    pub(crate) models: Vec<Result<Looked, String>>,
    /// This program, and those that can be used.
    programs: Vec<Program>,
}

/// Decides for all models; where another program is needed for that, puts it in this one's place.
///
/// # Errors
/// A sentence for each model that cannot be run.
pub(crate) async fn decide(settings: &Settings) -> Result<Vec<ModelPlan>, Stop> {
    let survey = Survey::take(settings, &lacking(&settings.models), looks(settings)).await.map_err(Stop::usage)?;
    let program = survey.best();
    let plans = settings.models.iter().zip(survey.outcomes(program)).map(|(model, outcome)| match outcome {
        Ok((looked, choice, room)) => Ok(ModelPlan {
            settings: ModelSettings { cache_tokens: looked.cache_tokens, ..model.clone() },
            about: looked.about.clone(),
            choice: choice.clone(),
            room: room.clone(),
            tokenizer: looked.tokenizer.clone(),
        }),
        Err(fault) => Err(format!("model {}: {fault}", model.id)),
    });
    let (plans, faults): (Vec<_>, Vec<_>) = plans.partition(Result::is_ok);
    if !faults.is_empty() {
        let faults: Vec<String> = faults.into_iter().filter_map(Result::err).collect();
        return Err(Stop::usage(faults.join("\n")));
    }
    match &program.path {
        Some(path) => Err(plugin::take_over(path)),
        None => Ok(plans.into_iter().filter_map(Result::ok).collect()),
    }
}

/// Backends that this program lacks and that one of the models asks for, or may be given.
fn lacking(models: &[ModelSettings]) -> Vec<Backend> {
    let asked = |backend: &Backend| {
        models.iter().map(|model| &model.compute).any(|compute| {
            let automatic = compute.backend.is_none() && backend.automatic();
            automatic || [compute.backend, compute.blocks_backend].contains(&Some(*backend))
        })
    };
    Backend::ALL.into_iter().filter(|backend| !backend.built_in() && asked(backend)).collect()
}

/// Looks at every model's files.
pub(crate) fn looks(settings: &Settings) -> Vec<Result<Looked, String>> {
    let chunk = settings.limits.prefill_chunk;
    let look = |model: &ModelSettings| wiring::look_at(model, chunk).map_err(|fault| fault.to_string());
    settings.models.iter().map(look).collect()
}

impl Survey {
    /// Looks at the machine and, for the backends `wanted`, at plug-ins.
    ///
    /// # Errors
    /// A sentence where the system does not tell how much memory there is.
    pub(crate) async fn take(
        settings: &Settings,
        wanted: &[Backend],
        models: Vec<Result<Looked, String>>,
    ) -> Result<Self, String> {
        let (features, memory) = (machine::features(), machine::memory()?);
        let own = Probe::own(wiring::facts);
        let folders = plugin::folders();
        let plug_ins = plugin::find(&folders, wanted, Bounds::default()).await;
        let asked: Vec<(Demand, Wish)> = settings
            .models
            .iter()
            .zip(&models)
            .filter_map(|(model, looked)| Some((looked.as_ref().ok()?.demand.clone(), wish(&model.compute))))
            .collect();
        let program = |path: Option<&Path>, probe: &Probe| {
            let usable = |backend| match (probe.cards(backend), path) {
                (Some(cards), _) => cards,
                (None, None) => Err(plugin::missing(backend, &folders, &plug_ins)),
                (None, Some(path)) => Err(format!("{} does not have it", path.display())),
            };
            let machine = machine::machine(&features, &memory, usable);
            let has = asked.iter().filter(|(_, wish)| has_backends(&machine, wish)).count();
            Program { path: path.map(Path::to_owned), has, verdicts: choose_all(&asked, &machine) }
        };
        let others = plug_ins.iter().filter_map(|it| Some(program(Some(&it.path), it.probe.as_ref().ok()?)));
        let programs = std::iter::once(program(None, &own)).chain(others).collect();
        Ok(Self { features, memory, own, plug_ins, models, programs })
    }

    /// The program that runs most models; of those the one that has most of the backends that are configured, so that what
    /// is wrong is said by one that has them; then the one with most models on cards; then this one.
    pub(crate) fn best(&self) -> &Program {
        let mut best = &self.programs[0];
        for program in &self.programs[1..] {
            if program.rank() > best.rank() {
                best = program;
            }
        }
        best
    }

    /// What each model is, how `program` would run it and the room there is for it, or why that is not possible.
    pub(crate) fn outcomes<'a>(
        &'a self,
        program: &'a Program,
    ) -> impl Iterator<Item = Result<(&'a Looked, &'a Choice, &'a Room), &'a str>> {
        let mut verdicts = program.verdicts.iter();
        self.models.iter().map(move |model| {
            let looked = model.as_ref().map_err(String::as_str)?;
            let (verdict, room) = verdicts.next().ok_or("nothing was decided")?;
            verdict.as_ref().map(|choice| (looked, choice, room)).map_err(String::as_str)
        })
    }
}

impl Program {
    fn rank(&self) -> (usize, usize, usize) {
        let choices: Vec<&Choice> = self.verdicts.iter().filter_map(|(verdict, _)| verdict.as_ref().ok()).collect();
        let on_cards = choices.iter().filter(|choice| {
            let place = |name| Backend::named(name).map(Backend::place);
            [place(choice.ends.backend), place(choice.blocks.backend)].contains(&Some(Place::Card))
        });
        (choices.len(), self.has, on_cards.count())
    }
}

/// Whether the backends that are configured can be used.
fn has_backends(machine: &Machine, wish: &Wish) -> bool {
    let usable = |name| machine.backends.iter().any(|backend| backend.name == name && backend.usable.is_ok());
    [wish.backend, wish.blocks_backend].into_iter().flatten().all(usable)
}

fn wish(compute: &ComputeSettings) -> Wish {
    Wish {
        backend: compute.backend.map(Backend::name),
        blocks_backend: compute.blocks_backend.map(Backend::name),
        dtype: compute.dtype,
        card: compute.card,
        head_on_processor: compute.head_on_processor,
        kernels: compute.kernels,
        screen: compute.screen,
        kv_type: compute.kv_type,
        check_memory: compute.check_memory,
    }
}
