//! A tokenizer from the metadata of a GGUF file.

use std::{fs::File, io::Read, path::Path};

use corolla_domain::ports::{FaultKind, PortError};
use corolla_gguf::{Gguf, GgufError, Strings};
use tokenizers::{AddedToken, models::bpe::Vocab};

use crate::{
    byte_level,
    chat::{Around, Sources, Template},
    pieces::{self, MAX_ID, Pieces},
    sentencepiece,
    tokenizer::{HfTokenizer, Vocabulary},
};

/// How much of a file is read at first; what stands before the data is seldom longer.
const FIRST_READ: u64 = 16 * 1024 * 1024;

/// What a token is, by `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A piece of text.
    Normal,
    /// Marks the structure of a text: left out with `skip_special`.
    Control,
    /// Found in texts whole, and shown as it is.
    UserDefined,
    /// One byte, written `<0xE2>`.
    Byte,
}

impl TokenKind {
    fn of(number: i64) -> Self {
        match number {
            2 | 3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

pub(crate) fn load(path: &Path) -> Result<HfTokenizer, PortError> {
    let gguf = read(path)?;
    build(&gguf).map_err(|fault| PortError::new(fault.kind(), format!("{}: {fault}", path.display())))
}

/// Reads what stands before the data, in growing parts.
fn read(path: &Path) -> Result<Gguf, PortError> {
    let unreadable = |e: std::io::Error| {
        PortError::invalid(format!(
            "{} cannot be read ({e}); a model is a GGUF file or a folder with tokenizer.json",
            path.display()
        ))
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    let mut head = Vec::new();
    let mut wanted = FIRST_READ;
    loop {
        let more = wanted - head.len() as u64;
        let read = file.by_ref().take(more).read_to_end(&mut head).map_err(unreadable)?;
        match Gguf::parse_head(&head, usize::try_from(len).unwrap_or(usize::MAX)) {
            Err(GgufError::Truncated { .. }) if read as u64 == more => wanted = wanted.saturating_mul(2),
            Err(fault) => {
                let said = format!("{} cannot be used: {fault}", path.display());
                return Err(PortError::invalid(said).with_source(fault));
            }
            Ok(gguf) => return Ok(gguf),
        }
    }
}

fn build(gguf: &Gguf) -> Result<HfTokenizer, PortError> {
    let Some(tokens) = gguf.strings("tokenizer.ggml.tokens").filter(|t| !t.is_empty() && t.len() < MAX_ID) else {
        return Err(PortError::invalid("tokenizer.ggml.tokens is missing; fetch another conversion of the model"));
    };
    let kinds = kinds(gguf, tokens)?;
    let mut vocab = Vocab::default();
    for (id, token) in (0u32..).zip(tokens.iter()) {
        vocab.entry(token.to_owned()).or_insert(id);
    }
    let name = gguf.str("tokenizer.ggml.model").unwrap_or("without a name");
    let (mut encoder, add_bos, text_of): (_, _, fn(&str) -> Vec<u8>) = match name {
        "gpt2" => {
            let (encoder, bos) = byte_level::encoder(gguf, tokens, vocab)?;
            (encoder, bos, pieces::byte_level)
        }
        "llama" => (sentencepiece::encoder(gguf, tokens, &kinds, vocab)?, true, |token| {
            token.replace(sentencepiece::SPACE, " ").into_bytes()
        }),
        other => {
            let said = format!("tokenizer model `{other}` is not supported in GGUF files, only gpt2 and llama are");
            return Err(PortError::new(FaultKind::Unsupported, said));
        }
    };
    let whole =
        tokens.iter().zip(&kinds).filter(|(_, kind)| matches!(kind, TokenKind::Control | TokenKind::UserDefined));
    let whole = whole.map(|(token, kind)| AddedToken::from(token, *kind == TokenKind::Control).normalized(false));
    encoder
        .add_tokens(whole.collect::<Vec<_>>())
        .map_err(|e| PortError::invalid(format!("the special tokens are refused: {e}")))?;

    let mut table = Pieces::default();
    for ((id, token), kind) in (0u32..).zip(tokens.iter()).zip(&kinds) {
        let bytes = match kind {
            TokenKind::Normal => text_of(token),
            TokenKind::Control | TokenKind::UserDefined => token.as_bytes().to_vec(),
            TokenKind::Byte => pieces::byte_token(token).map_or_else(|| text_of(token), |byte| vec![byte]),
        };
        table.insert(id, bytes, *kind == TokenKind::Control);
    }
    let fallback = |id| (name == "llama").then_some(id);
    let bos = special(gguf, tokens, "tokenizer.ggml.bos_token_id")?.or(fallback(1));
    let eos = special(gguf, tokens, "tokenizer.ggml.eos_token_id")?.or(fallback(2));
    let text = |id: Option<u32>| id.and_then(|id| table.text(id));
    let source = |key| gguf.str(key).map(str::to_owned);
    let sources =
        Sources { chat: source("tokenizer.chat_template"), tools: source("tokenizer.chat_template.tool_use") };
    let template = Template::new(&sources, Around { bos: text(bos), eos: text(eos) });
    let before = bos.filter(|_| gguf.bool("tokenizer.ggml.add_bos_token").unwrap_or(add_bos));
    let after = eos.filter(|_| gguf.bool("tokenizer.ggml.add_eos_token").unwrap_or(false));
    let vocabulary =
        Vocabulary { encoder, pieces: table, before: before.into_iter().collect(), after: after.into_iter().collect() };
    Ok(HfTokenizer::new(vocabulary, template))
}

fn kinds(gguf: &Gguf, tokens: &Strings) -> Result<Vec<TokenKind>, PortError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    if !gguf.metadata().contains_key(KEY) {
        return Ok(vec![TokenKind::Normal; tokens.len()]);
    }
    let kinds = gguf.ints(KEY).filter(|kinds| kinds.len() == tokens.len());
    let Some(kinds) = kinds else {
        return Err(PortError::invalid(format!("{KEY} does not give each token a type")));
    };
    Ok(kinds.into_iter().map(TokenKind::of).collect())
}

/// The id that stands at `key`, checked to be in the vocabulary.
fn special(gguf: &Gguf, tokens: &Strings, key: &str) -> Result<Option<u32>, PortError> {
    let Some(id) = gguf.u64(key) else {
        return Ok(None);
    };
    match u32::try_from(id) {
        Ok(small) if (small as usize) < tokens.len() => Ok(Some(small)),
        _ => Err(PortError::invalid(format!("{key} is {id}, but the vocabulary has {} tokens", tokens.len()))),
    }
}
