//! The models a server offers, and whether each can be used yet.

use std::sync::{Arc, PoisonError, RwLock};

use super::ReplyError;
use crate::{
    model::ModelId,
    ports::{FaultKind, LocalModel, PortError, RemoteSwarm, Tokenizer},
    routing::Bans,
};

/// The parts of one model.
#[derive(Clone)]
pub struct ModelEntry {
    /// Text to tokens and back.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Embeddings and LM head.
    pub local: Arc<dyn LocalModel>,
    /// Who runs the blocks.
    pub swarm: Arc<dyn RemoteSwarm>,
}

/// How far a model is.
#[derive(Clone)]
pub enum ModelState {
    /// Its parts are being loaded.
    Loading,
    /// It can be asked.
    Loaded(ModelEntry),
    /// Loading failed, for this reason.
    Failed(String),
}

struct Slot {
    id: ModelId,
    state: RwLock<ModelState>,
    bans: Arc<Bans>,
}

/// Models by name. The list is fixed at the start; their parts arrive as they are loaded.
pub struct Catalogue {
    slots: Vec<Slot>,
    default: ModelId,
}

impl Catalogue {
    /// A catalogue of loaded models.
    ///
    /// # Errors
    /// As [`Catalogue::loading`].
    pub fn new(entries: Vec<ModelEntry>, default: ModelId) -> Result<Self, PortError> {
        let catalogue = Self::loading(entries.iter().map(|e| e.local.spec().id.clone()).collect(), default)?;
        for entry in entries {
            let id = entry.local.spec().id.clone();
            catalogue.set(&id, ModelState::Loaded(entry));
        }
        Ok(catalogue)
    }

    /// A catalogue of models still to be loaded.
    ///
    /// # Errors
    /// `InvalidInput` where two have the same name, there is none, or the default is not among them.
    pub fn loading(ids: Vec<ModelId>, default: ModelId) -> Result<Self, PortError> {
        if !ids.contains(&default) {
            return Err(PortError::invalid(format!("the default model {default} is not among the models")));
        }
        if let Some((_, twice)) = ids.iter().enumerate().find(|(i, id)| ids[..*i].contains(id)) {
            return Err(PortError::invalid(format!("there are two models named {twice}")));
        }
        let slot = |id| Slot { id, state: RwLock::new(ModelState::Loading), bans: Arc::default() };
        Ok(Self { slots: ids.into_iter().map(slot).collect(), default })
    }

    /// Tells what became of a model. A name that is not in the catalogue is passed over.
    pub fn set(&self, id: &ModelId, state: ModelState) {
        if let Some(slot) = self.slot(id) {
            *slot.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        }
    }

    /// The model for requests that name none.
    #[must_use]
    pub fn default_id(&self) -> &ModelId {
        &self.default
    }

    /// All models in the order of the configuration, and how far each is.
    pub fn states(&self) -> impl Iterator<Item = (&ModelId, ModelState)> {
        self.slots.iter().map(|s| (&s.id, s.state.read().unwrap_or_else(PoisonError::into_inner).clone()))
    }

    /// The models that are loaded.
    pub fn iter(&self) -> impl Iterator<Item = ModelEntry> {
        self.states().filter_map(|(_, state)| match state {
            ModelState::Loaded(entry) => Some(entry),
            ModelState::Loading | ModelState::Failed(_) => None,
        })
    }

    /// The model of that name, if it is loaded.
    #[must_use]
    pub fn get(&self, id: &ModelId) -> Option<ModelEntry> {
        self.find(id).ok().map(|(entry, _)| entry)
    }

    /// The model of that name with the bans of its swarm, or why it cannot be used.
    pub(super) fn find(&self, id: &ModelId) -> Result<(ModelEntry, Arc<Bans>), ReplyError> {
        let Some(slot) = self.slot(id) else {
            let served: Vec<&str> = self.slots.iter().map(|s| s.id.0.as_str()).collect();
            return Err(ReplyError::UnknownModel { asked: id.0.clone(), served: served.join(", ") });
        };
        let unavailable = |text| ReplyError::Port(PortError::new(FaultKind::Unavailable, text));
        match &*slot.state.read().unwrap_or_else(PoisonError::into_inner) {
            ModelState::Loaded(entry) => Ok((entry.clone(), slot.bans.clone())),
            ModelState::Loading => Err(unavailable(format!("model {id} is still being loaded; try again shortly"))),
            ModelState::Failed(_) => {
                Err(unavailable(format!("model {id} could not be loaded; the server's log says why")))
            }
        }
    }

    fn slot(&self, id: &ModelId) -> Option<&Slot> {
        self.slots.iter().find(|s| s.id == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(ids: &[&str], default: &str) -> String {
        let ids = ids.iter().map(|id| ModelId::from(*id)).collect();
        Catalogue::loading(ids, default.into()).err().unwrap().to_string()
    }

    #[test]
    fn names_are_unique_and_include_the_default() {
        assert_eq!(refusal(&["a", "b", "a"], "a"), "there are two models named a");
        assert_eq!(refusal(&[], "a"), "the default model a is not among the models");
    }

    #[test]
    fn a_model_that_cannot_be_used_says_why() {
        let catalogue = Catalogue::loading(vec!["a".into(), "b".into()], "a".into()).unwrap();
        let why = |id: &str| catalogue.find(&id.into()).err().unwrap().to_string();
        assert_eq!(why("c"), "model c is not served here; there is: a, b");
        assert_eq!(why("a"), "model a is still being loaded; try again shortly");
        catalogue.set(&"a".into(), ModelState::Failed("/home/me/a.gguf is gone".into()));
        assert_eq!(why("a"), "model a could not be loaded; the server's log says why");
    }
}
