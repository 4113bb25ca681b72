//! A toy model that says what it is told to, once, after any chat.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use async_trait::async_trait;
use corolla_domain::{
    model::{
        BlockRange, CallForm, Chat, Grammar, Hidden, Hop, LogitRow, Logits, ModelId, ModelSpec, SwarmMap, TokenId, Want,
    },
    ports::{
        BlockSession, Constraint, LocalModel, PortError, RemoteSwarm, SessionNeed, StepInput, TokenSet, Tokenizer,
    },
    routing::InProcessSwarm,
    session::{Catalogue, Limits, ModelEntry},
};

use super::{Alphabet, Bytes, Echo, MODEL, Stage};

/// What the model says, and what it was asked.
pub(crate) struct Script {
    words: &'static str,
    form: CallForm,
    pub(crate) chats: Mutex<Vec<Chat>>,
    pub(crate) grammars: Mutex<Vec<Grammar>>,
}

impl Stage {
    /// With a model that says these words and writes calls in that form.
    pub(crate) fn saying(words: &'static str, form: CallForm) -> (Self, Arc<Script>) {
        let script = Arc::new(Script { words, form, chats: Mutex::default(), grammars: Mutex::default() });
        let steps = Arc::new(AtomicUsize::new(0));
        let peers = vec![InProcessSwarm::peer()];
        let entry = ModelEntry {
            tokenizer: script.clone(),
            local: script.clone(),
            swarm: Arc::new(Prompter { echo: Echo { peers, steps: steps.clone(), pace: std::time::Duration::ZERO } }),
        };
        let catalogue = Catalogue::new(vec![entry], MODEL.into()).unwrap();
        let (service, clock) = Self::service(catalogue, Limits::default());
        (Self { service, clock, steps }, script)
    }
}

#[async_trait]
impl Tokenizer for Script {
    async fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, PortError> {
        Bytes.encode(text, add_special).await
    }

    fn decode(&self, tokens: &[TokenId], skip_special: bool) -> Result<String, PortError> {
        Bytes.decode(tokens, skip_special)
    }

    /// Ends with the only `</s>`, after which the script begins.
    fn chat_prompt(&self, chat: &Chat) -> Result<String, PortError> {
        self.chats.lock().unwrap().push(chat.clone());
        Ok(Bytes.chat_prompt(chat)? + "</s>")
    }

    fn call_form(&self) -> CallForm {
        self.form
    }

    async fn constrain(&self, grammar: &Grammar, vocab: usize, _: TokenId) -> Result<Box<dyn Constraint>, PortError> {
        self.grammars.lock().unwrap().push(grammar.clone());
        Ok(Box::new(Anything(vocab)))
    }
}

#[async_trait]
impl LocalModel for Script {
    fn spec(&self) -> Arc<ModelSpec> {
        Alphabet(MODEL).spec()
    }

    async fn embed(&self, tokens: Vec<Vec<TokenId>>) -> Result<Hidden, PortError> {
        Alphabet(MODEL).embed(tokens).await
    }

    /// A state is the place in the script.
    async fn logits(&self, hidden: Hidden, _: Want) -> Result<Logits, PortError> {
        let row = |place: f32| {
            let byte = self.words.as_bytes().get(place as usize);
            let next = byte.map_or(2, |byte| u32::from(*byte) + 3);
            LogitRow::Sparse(vec![(TokenId(next), 1.0)])
        };
        Ok(Logits { rows: hidden.to_f32().into_iter().map(row).collect() })
    }

    async fn normed(&self, hidden: Hidden) -> Result<Hidden, PortError> {
        Ok(hidden)
    }
}

/// A grammar of all texts.
struct Anything(usize);

#[async_trait]
impl Constraint for Anything {
    async fn allowed(&self) -> Result<TokenSet, PortError> {
        Ok((0..u32::try_from(self.0).unwrap()).map(TokenId).collect())
    }

    fn take(&mut self, _: TokenId) -> Result<(), PortError> {
        Ok(())
    }

    fn anew(&self) -> Box<dyn Constraint> {
        Box::new(Self(self.0))
    }
}

/// Blocks that count the positions since the last `</s>`.
struct Prompter {
    echo: Echo,
}

#[async_trait]
impl RemoteSwarm for Prompter {
    async fn map(&self, model: &ModelId) -> Result<Arc<SwarmMap>, PortError> {
        self.echo.map(model).await
    }

    async fn dial(&self, hop: Hop, _: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        Ok(Box::new(Counting { blocks: hop.blocks, fed: Vec::new(), steps: self.echo.steps.clone() }))
    }

    async fn forward(&self, hop: Hop, hidden: Hidden) -> Result<Hidden, PortError> {
        self.echo.forward(hop, hidden).await
    }
}

struct Counting {
    blocks: BlockRange,
    fed: Vec<f32>,
    steps: Arc<AtomicUsize>,
}

#[async_trait]
impl BlockSession for Counting {
    fn blocks(&self) -> BlockRange {
        self.blocks
    }

    fn position(&self) -> usize {
        self.fed.len()
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        self.steps.fetch_add(1, SeqCst);
        let mut places = Vec::new();
        for value in input.hidden.to_f32() {
            self.fed.push(value);
            places.push(self.fed.iter().rev().take_while(|token| **token != 2.0).count() as f32);
        }
        Hidden::from_f32((1, places.len(), 1), &places)
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        self.fed.truncate(to);
        Ok(())
    }
}
