//! A tokenizer from a folder in Hugging Face layout: `tokenizer.json`, and what `tokenizer_config.json` and
//! `chat_template.jinja` say about it.

use std::{fs::File, io::Read, panic, path::Path};

use corolla_domain::ports::{FaultKind, PortError};
use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::{
    chat::{Around, Sources, Template},
    pieces::{self, Pieces},
    tokenizer::{HfTokenizer, Vocabulary},
};

/// The largest file read; tokenizers of large vocabularies have about 30 MB.
const MAX_FILE: u64 = 512 * 1024 * 1024;

pub(crate) fn load(folder: &Path) -> Result<HfTokenizer, PortError> {
    let path = folder.join("tokenizer.json");
    let Some(json) = read(&path)? else {
        let fix = "fetch the model's folder in full, or name a GGUF file";
        return Err(PortError::invalid(format!("{} is missing; {fix}", path.display())));
    };
    let at = |fault: PortError| PortError::new(fault.kind(), format!("{}: {fault}", path.display()));
    let encoder = parse(&json).map_err(at)?;
    let pieces = table(&encoder).map_err(at)?;
    let config = read_config(&folder.join("tokenizer_config.json"))?;
    let id = |token: &Option<Named>| token.as_ref().and_then(|t| encoder.token_to_id(t.text()));
    let (bos, eos) = (id(&config.bos_token), id(&config.eos_token));
    let (mut before, mut after) = around(&encoder).map_err(at)?;
    set(&mut before, bos, config.add_bos_token);
    set(&mut after, eos, config.add_eos_token);
    let own_file = read(&folder.join("chat_template.jinja"))?;
    let own_file = own_file.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let sources = match own_file {
        Some(template) => Sources { chat: Some(template), tools: None },
        None => config.chat_template.map(Templates::chosen).unwrap_or_default(),
    };
    let text = |token: Option<Named>| token.map(|t| t.text().to_owned());
    let template = Template::new(&sources, Around { bos: text(config.bos_token), eos: text(config.eos_token) });
    Ok(HfTokenizer::new(Vocabulary { encoder, pieces, before, after }, template))
}

/// The contents of a file; `None` where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, PortError> {
    let unreadable = |e: std::io::Error| PortError::invalid(format!("{} cannot be read: {e}", path.display()));
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(PortError::invalid(format!("{} is larger than {MAX_FILE} bytes", path.display())));
    }
    Ok(Some(bytes))
}

/// What this crate looks at before it hands the file over.
#[derive(Deserialize)]
struct Peek {
    model: PeekModel,
}

#[derive(Deserialize)]
struct PeekModel {
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
}

fn parse(json: &[u8]) -> Result<Tokenizer, PortError> {
    let damaged = |e: &dyn std::fmt::Display| PortError::invalid(format!("it is damaged ({e}); fetch it again"));
    let peek: Peek = serde_json::from_slice(json).map_err(|e| damaged(&e))?;
    if peek.model.continuing_subword_prefix.is_some_and(|prefix| !prefix.is_empty()) {
        return Err(unsupported("tokens with a continuing_subword_prefix are not supported"));
    }
    // The library indexes by numbers of the file: some contradictions make it panic instead of answering.
    let parsed = panic::catch_unwind(|| Tokenizer::from_bytes(json));
    let parsed = parsed.map_err(|_| damaged(&"its vocabulary contradicts itself"))?;
    let mut tokenizer = parsed.map_err(|e| damaged(&e))?;
    tokenizer.with_truncation(None).map_err(|e| damaged(&e))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// How `tokenizer.json` says to make text of tokens.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    ByteLevel,
    ByteFallback,
    Metaspace {
        replacement: char,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Sequence {
        decoders: Vec<Decoder>,
    },
    /// Joins what is joined here anyway.
    Fuse,
    /// Takes the first space from a text; the port's contract keeps it.
    Strip,
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(String),
}

fn table(tokenizer: &Tokenizer) -> Result<Pieces, PortError> {
    let Some(decoder) = tokenizer.get_decoder() else {
        return Err(unsupported("a tokenizer without a decoder is not supported"));
    };
    let decoder: Decoder = serde_json::to_value(decoder)
        .and_then(serde_json::from_value)
        .map_err(|e| unsupported(format!("its decoder is not supported: {e}")))?;
    let mut steps = Vec::new();
    flatten(decoder, &mut steps)?;
    let added = tokenizer.get_added_vocabulary();
    let mut pieces = Pieces::default();
    for (token, id) in tokenizer.get_vocab(true) {
        let special = added.is_special_token(&token);
        if pieces.insert(id, bytes(&token, &steps), special).is_none() {
            return Err(PortError::invalid(format!("token id {id} is beyond what a vocabulary can hold")));
        }
    }
    Ok(pieces)
}

/// One step from a token's name to its bytes.
enum Step {
    ByteLevel,
    ByteFallback,
    Replace { from: String, to: String },
}

fn flatten(decoder: Decoder, steps: &mut Vec<Step>) -> Result<(), PortError> {
    match decoder {
        Decoder::ByteLevel => steps.push(Step::ByteLevel),
        Decoder::ByteFallback => steps.push(Step::ByteFallback),
        Decoder::Metaspace { replacement } => {
            steps.push(Step::Replace { from: replacement.to_string(), to: " ".to_owned() });
        }
        Decoder::Replace { pattern: Pattern::String(from), content } => {
            steps.push(Step::Replace { from, to: content });
        }
        Decoder::Replace { pattern: Pattern::Regex(regex), .. } => {
            return Err(unsupported(format!("a decoder that replaces `{regex}` is not supported")));
        }
        Decoder::Sequence { decoders } => {
            for decoder in decoders {
                flatten(decoder, steps)?;
            }
        }
        Decoder::Fuse | Decoder::Strip => {}
        Decoder::Unknown => return Err(unsupported("its decoder is not supported, only those of BPE models are")),
    }
    Ok(())
}

fn bytes(token: &str, steps: &[Step]) -> Vec<u8> {
    let mut text = token.to_owned();
    for step in steps {
        match step {
            Step::ByteLevel => return pieces::byte_level(&text),
            Step::ByteFallback => {
                if let Some(byte) = pieces::byte_token(&text) {
                    return vec![byte];
                }
            }
            Step::Replace { from, to } => text = text.replace(from, to),
        }
    }
    text.into_bytes()
}

/// What the file's post-processor adds around a text.
fn around(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>), PortError> {
    let probe = |special| {
        let encoded = tokenizer.encode_fast("a", special).map_err(|e| PortError::invalid(format!("it fails: {e}")));
        encoded.map(|encoding| encoding.get_ids().to_vec())
    };
    let (plain, full) = (probe(false)?, probe(true)?);
    let start = (0..=full.len().saturating_sub(plain.len())).find(|at| full[*at..].starts_with(&plain));
    let Some(start) = start else {
        return Err(unsupported("its post-processor changes the tokens of a text"));
    };
    Ok((full[..start].to_vec(), full[start + plain.len()..].to_vec()))
}

/// Follows an explicit `add_bos_token` or `add_eos_token`.
fn set(around: &mut Vec<u32>, token: Option<u32>, wanted: Option<bool>) {
    let Some(token) = token else {
        return;
    };
    match wanted {
        Some(true) if !around.contains(&token) => around.push(token),
        Some(false) => around.retain(|id| *id != token),
        _ => {}
    }
}

/// What is read of `tokenizer_config.json`.
#[derive(Deserialize, Default)]
struct Config {
    bos_token: Option<Named>,
    eos_token: Option<Named>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    chat_template: Option<Templates>,
}

/// A token, by its text or as an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Object { content: String },
}

impl Named {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

/// One chat template, or several with names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Several(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl Templates {
    /// The one named `default`, else the only one; and the one named `tool_use`.
    fn chosen(self) -> Sources {
        match self {
            Self::One(template) => Sources { chat: Some(template), tools: None },
            Self::Several(several) => {
                let named = |name| several.iter().find(|it: &&NamedTemplate| it.name == name);
                let text = |it: &NamedTemplate| it.template.clone();
                let only = (several.len() == 1).then(|| &several[0]);
                Sources { chat: named("default").or(only).map(text), tools: named("tool_use").map(text) }
            }
        }
    }
}

fn read_config(path: &Path) -> Result<Config, PortError> {
    let Some(json) = read(path)? else {
        return Ok(Config::default());
    };
    serde_json::from_slice(&json)
        .map_err(|e| PortError::invalid(format!("{} is damaged ({e}); fetch it again", path.display())))
}

fn unsupported(context: impl Into<String>) -> PortError {
    PortError::new(FaultKind::Unsupported, context)
}
