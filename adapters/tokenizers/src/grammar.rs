//! Grammars on `llguidance`: which tokens keep a text within a JSON schema.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use corolla_domain::{
    model::{CallForm, Grammar, TokenId},
    ports::{Constraint, PortError, TokenSet},
};
use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::{Value, json};

use crate::{calls, pieces::Pieces};

/// Longest schema, in bytes.
const MAX_SCHEMA: usize = 64 << 10;
/// Largest grammar that a schema may become, in symbols.
const MAX_GRAMMAR: usize = 100_000;
/// Most states of the automaton that reads the text, each of about 2 KB.
const MAX_STATES: usize = 20_000;

/// A vocabulary in the order in which grammars look through it.
pub(crate) struct Grammars(ParserFactory);

impl Grammars {
    /// Of the first `vocab` tokens, of which `end` ends a text. Takes up to a second for large vocabularies: not for the
    /// executor.
    pub(crate) fn new(pieces: &Pieces, vocab: usize, end: TokenId) -> Result<Self, PortError> {
        let size = u32::try_from(vocab).map_err(|_| PortError::internal("the vocabulary is too large"))?;
        let word = |id| match pieces.bytes(TokenId(id)) {
            // The mark keeps special tokens out of every text.
            Some((bytes, true)) => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
            Some((bytes, false)) => bytes.to_vec(),
            None => Vec::new(),
        };
        let words: Vec<Vec<u8>> = (0..size).map(word).collect();
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&TokRxInfo::new(size, end.0), &words)));
        let mut factory = ParserFactory::new_simple(&env).map_err(broken)?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_grammar_size = MAX_GRAMMAR;
        limits.max_lexer_states = MAX_STATES;
        limits.verbose_errors = false;
        Ok(Self(factory))
    }

    /// The grammar, from its start on. Not for the executor.
    pub(crate) fn compile(&self, grammar: &Grammar, form: CallForm) -> Result<Compiled, PortError> {
        match grammar {
            Grammar::JsonObject => self.of_schema("the JSON schema", &json!({"type": "object"})),
            Grammar::JsonSchema(text) => self.of_schema("the JSON schema", &schema("the JSON schema", text)?),
            Grammar::Calls(calls) => {
                let whole = self.started(TopLevelGrammar::from_lark(calls::lark(calls, form)?));
                whole.map_err(|error| {
                    let parts = calls::schemas(calls).and_then(|parts| {
                        parts.iter().try_for_each(|(what, schema)| self.of_schema(what, schema).map(drop))
                    });
                    parts.err().unwrap_or_else(|| PortError::invalid(format!("the tools cannot be used: {error}")))
                })
            }
        }
    }

    fn of_schema(&self, what: &str, schema: &Value) -> Result<Compiled, PortError> {
        let grammar = TopLevelGrammar::from_json_schema(plain(schema.clone()));
        self.started(grammar).map_err(|error| PortError::invalid(format!("{what} cannot be used: {error}")))
    }

    fn started(&self, grammar: TopLevelGrammar) -> Result<Compiled, String> {
        let parser = self.0.create_parser(grammar).map_err(short)?;
        Ok(Compiled::at_start_of(&Matcher::new(Ok(parser))))
    }
}

/// The schema that `text` is; `what` says whose.
pub(crate) fn schema(what: &str, text: &str) -> Result<Value, PortError> {
    if text.len() > MAX_SCHEMA {
        let length = text.len();
        return Err(PortError::invalid(format!("{what} has {length} bytes, at most {MAX_SCHEMA} are taken")));
    }
    serde_json::from_str(text).map_err(|error| PortError::invalid(format!("{what} is not valid JSON: {error}")))
}

/// The schema, such that there is one way of writing each value: small models would go on with spaces for ever.
pub(crate) fn plain(schema: Value) -> Value {
    let style = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
    match schema {
        Value::Object(mut members) => {
            members.insert("x-guidance".to_owned(), style);
            Value::Object(members)
        }
        other => json!({"allOf": [other], "x-guidance": style}),
    }
}

/// A grammar on its way.
pub(crate) struct Compiled {
    start: Mutex<Matcher>,
    now: Arc<Mutex<Matcher>>,
}

impl Compiled {
    fn at_start_of(start: &Matcher) -> Self {
        Self { start: Mutex::new(start.deep_clone()), now: Arc::new(Mutex::new(start.deep_clone())) }
    }
}

fn locked(matcher: &Mutex<Matcher>) -> MutexGuard<'_, Matcher> {
    matcher.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Constraint for Compiled {
    async fn allowed(&self) -> Result<TokenSet, PortError> {
        let now = Arc::clone(&self.now);
        let work = move || {
            let mask = locked(&now).compute_mask_or_eos();
            let mask =
                mask.map_err(|error| PortError::invalid(format!("the grammar is too complex: {}", short(error))))?;
            Ok(TokenSet(mask.as_slice().to_vec()))
        };
        // Most masks take microseconds, but a rare one takes milliseconds.
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| PortError::internal("finding the tokens of a grammar broke off").with_source(error))?
    }

    fn take(&mut self, token: TokenId) -> Result<(), PortError> {
        let mut now = locked(&self.now);
        if now.is_stopped() { Ok(()) } else { now.consume_token(token.0).map_err(broken) }
    }

    fn anew(&self) -> Box<dyn Constraint> {
        Box::new(Self::at_start_of(&locked(&self.start)))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is the end of the error")]
fn broken(error: impl ToString) -> PortError {
    PortError::internal(format!("the grammar: {}", short(error)))
}

/// The beginning of what the library says, which may repeat the schema.
#[allow(clippy::needless_pass_by_value, reason = "it is the end of the error")]
fn short(error: impl ToString) -> String {
    error.to_string().chars().take(300).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A token a byte, `</s>` as 256, and some words.
    fn pieces() -> Pieces {
        let mut pieces = Pieces::default();
        for byte in 0u8..=255 {
            pieces.insert(u32::from(byte), vec![byte], false).unwrap();
        }
        pieces.insert(256, b"</s>".to_vec(), true).unwrap();
        for (id, word) in (257..).zip(["{\"", "\": ", "true", "name", "\"}", "\n\n"]) {
            pieces.insert(id, word.as_bytes().to_vec(), false).unwrap();
        }
        pieces
    }

    pub(crate) fn grammars() -> Grammars {
        Grammars::new(&pieces(), 263, TokenId(256)).unwrap()
    }

    fn compile(schema: &Value) -> Result<Compiled, PortError> {
        grammars().compile(&Grammar::JsonSchema(schema.to_string()), CallForm::Tagged)
    }

    /// Whether the text is taken byte by byte, and may end there.
    pub(crate) async fn takes(mut grammar: Box<dyn Constraint>, text: &str) -> bool {
        for byte in text.bytes().map(|byte| TokenId(u32::from(byte))) {
            if !grammar.allowed().await.unwrap().has(byte) {
                return false;
            }
            grammar.take(byte).unwrap();
        }
        grammar.allowed().await.unwrap().has(TokenId(256))
    }

    #[tokio::test]
    async fn texts_within_the_schema_are_taken_and_no_others() {
        let schema = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
            "required": ["name", "age"], "additionalProperties": false,
            "$defs": {"age": {"type": "integer", "minimum": 0, "maximum": 150}}});
        let grammar = compile(&schema).unwrap();
        assert!(takes(grammar.anew(), r#"{"name": "é\n</s>", "age": 42}"#.replace('\n', "").as_str()).await);
        for wrong in [r#"{"name": "x"}"#, r#"{"name": "x", "age": 200}"#, r#"{"name": 1}"#, "[]", "", "{  "] {
            assert!(!takes(grammar.anew(), wrong).await, "{wrong}");
        }
    }

    #[tokio::test]
    async fn tokens_of_several_bytes_count_and_special_ones_never_do() {
        let schema = json!({"type": "object", "properties": {"name": {"type": "boolean"}}, "required": ["name"],
            "additionalProperties": false});
        let mut grammar = compile(&schema).unwrap().anew();
        for id in [257, 260, 258, 259] {
            let allowed = grammar.allowed().await.unwrap();
            assert!(allowed.has(TokenId(id)) && !allowed.has(TokenId(256)) && !allowed.has(TokenId(262)), "{id}");
            grammar.take(TokenId(id)).unwrap();
        }
        grammar.take(TokenId(u32::from(b'}'))).unwrap();
        let end = grammar.allowed().await.unwrap();
        assert!((0..263).all(|id| end.has(TokenId(id)) == (id == 256)), "nothing but the end may follow");
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for schema in
            [json!({"type": "nonsense"}), json!(5), json!({"$ref": "#/nowhere"}), json!({"$ref": "http://x/y"})]
        {
            let error = compile(&schema).err().unwrap_or_else(|| panic!("{schema} was taken"));
            assert!(error.to_string().contains("the JSON schema cannot be used: "), "{error}");
        }
        assert!(compile(&json!({"description": "x".repeat(MAX_SCHEMA)})).is_err());
    }
}
