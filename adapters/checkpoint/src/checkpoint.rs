//! A model's files opened: settings, tensors and special tokens, whatever the format.

use std::path::{Path, PathBuf};

use corolla_domain::{
    model::TokenId,
    ports::{FaultKind, PortError},
};

use crate::{
    families::Description,
    fault::{bad_file, unreadable},
    settings::Settings,
    tensors::Tensors,
    weights::{GgufWeights, Weights, open_folder},
};

/// A model on disk.
pub struct Checkpoint {
    files: Files,
}

enum Files {
    /// One GGUF file.
    Gguf(GgufWeights),
    /// A folder in the layout of Hugging Face.
    Folder { path: PathBuf, weights: Box<dyn Weights> },
}

/// Tokens with a meaning.
pub(crate) struct SpecialTokens {
    /// Tokens that end a reply, the canonical one first.
    pub eos: Vec<TokenId>,
    /// The token that starts a text.
    pub bos: Option<TokenId>,
}

impl Checkpoint {
    /// Opens `path`: a GGUF file, or a folder that holds a checkpoint. Reads headers only.
    ///
    /// # Errors
    /// `NotFound` where there is no such model, `InvalidInput` where a file is damaged.
    pub fn open(path: &Path) -> Result<Self, PortError> {
        Ok(Self { files: Files::open(path)? })
    }

    /// What the model is.
    ///
    /// # Errors
    /// `InvalidInput` where the files contradict themselves, `Unsupported` for a family this crate does not know.
    pub fn description(&self) -> Result<Description, PortError> {
        Description::read(&self.settings()?, self.weights())
    }

    /// Its tensors.
    #[must_use]
    pub fn tensors(&self) -> Tensors<'_> {
        Tensors::of(self.weights())
    }

    /// The tensors, unchecked.
    pub(crate) fn weights(&self) -> &dyn Weights {
        match &self.files {
            Files::Gguf(weights) => weights,
            Files::Folder { weights, .. } => weights.as_ref(),
        }
    }

    /// What describes the model.
    fn settings(&self) -> Result<Settings<'_>, PortError> {
        match &self.files {
            Files::Gguf(weights) => Ok(Settings::from_gguf(weights.place(), weights.gguf())),
            Files::Folder { path, .. } => Settings::from_json(&path.join("config.json")),
        }
    }

    /// Tokens with a meaning, below `vocab`. What `generation_config.json` says comes before what `config.json` says.
    pub(crate) fn special_tokens(&self, vocab: usize) -> Result<SpecialTokens, PortError> {
        let mut eos = Vec::new();
        let mut bos = Vec::new();
        match &self.files {
            Files::Gguf(_) => {
                let settings = self.settings()?;
                for name in ["eos", "eot", "eom"] {
                    eos.extend(settings.tokens(&format!("tokenizer.ggml.{name}_token_id")));
                }
                bos.extend(settings.tokens("tokenizer.ggml.bos_token_id"));
            }
            Files::Folder { path, .. } => {
                let generation = path.join("generation_config.json");
                let generation = generation.exists().then(|| Settings::from_json(&generation)).transpose()?;
                for settings in generation.iter().chain([&self.settings()?]) {
                    eos.extend(settings.tokens("eos_token_id"));
                    bos.extend(settings.tokens("bos_token_id"));
                }
            }
        }
        let mut distinct: Vec<TokenId> = Vec::new();
        for token in eos.into_iter().map(TokenId).filter(|token| (token.0 as usize) < vocab) {
            if !distinct.contains(&token) {
                distinct.push(token);
            }
        }
        let bos = bos.into_iter().map(TokenId).find(|token| (token.0 as usize) < vocab);
        Ok(SpecialTokens { eos: distinct, bos })
    }
}

impl Files {
    fn open(path: &Path) -> Result<Self, PortError> {
        let about = std::fs::metadata(path).map_err(|e| unreadable(path, e))?;
        if !about.is_dir() {
            return Ok(Self::Gguf(GgufWeights::open(path)?));
        }
        if path.join("config.json").exists() {
            return Ok(Self::Folder { path: path.to_owned(), weights: open_folder(path)? });
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|e| unreadable(path, e))? {
            let file = entry.map_err(|e| unreadable(path, e))?.path();
            if file.extension().is_some_and(|ext| ext == "gguf") {
                files.push(file);
            }
        }
        match &files[..] {
            [file] => Ok(Self::Gguf(GgufWeights::open(file)?)),
            [] => Err(PortError::new(
                FaultKind::NotFound,
                format!("{} has neither config.json nor a .gguf file; check the model's path", path.display()),
            )),
            _ => Err(bad_file(path, format!("has {} .gguf files; name the one to load", files.len()))),
        }
    }
}
