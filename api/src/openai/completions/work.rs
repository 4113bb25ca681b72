//! The prompts of one request, worked off one after the other: the prompt itself where it is asked for, then its texts.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use corolla_domain::{
    generation::FinishReason,
    model::ModelId,
    session::{Prompt, ReplyRequest, SessionService, Usage},
};

use super::request::CompletionAsk;
use crate::{
    error::Fault,
    openai::{
        likelihood::CompletionLogprobs,
        shape::{TokenUsage, finish_reason},
    },
    reply::Running,
    route::ReplyRoute,
};

/// A piece of one text.
#[derive(Debug)]
pub(super) struct Piece {
    /// Which text.
    pub(super) index: u64,
    pub(super) text: String,
    /// Where they were asked for.
    pub(super) logprobs: Option<CompletionLogprobs>,
    /// On the last piece of the text.
    pub(super) finish: Option<&'static str>,
}

/// What is left to do.
pub(super) struct Work {
    service: Arc<SessionService>,
    limit: Duration,
    n: usize,
    echo: bool,
    nothing: bool,
    waiting: VecDeque<Prompt>,
    /// What is asked of each prompt.
    like: ReplyRequest,
    current: Option<Current>,
    /// Texts before those of the current prompt.
    before: usize,
    done: TokenUsage,
    route: Option<ReplyRoute>,
}

/// The prompt being worked on.
struct Current {
    /// `None` where nothing is written.
    running: Option<Running>,
    /// Its own tokens, where nothing is written.
    tokens: usize,
    /// What comes before each text.
    echo: Option<Echo>,
    /// Which text, and whether its prompt was shown.
    nth: usize,
    shown: bool,
    /// Characters of the text so far.
    offset: u64,
}

/// A prompt as it is shown.
#[derive(Clone)]
struct Echo {
    text: String,
    logprobs: Option<CompletionLogprobs>,
}

impl Work {
    /// Begins with the first prompt.
    pub(super) async fn begin(
        service: Arc<SessionService>,
        limit: Duration,
        ask: CompletionAsk,
    ) -> Result<Self, Fault> {
        let CompletionAsk { prompts, like, n, echo, nothing, .. } = ask;
        if nothing {
            service.check_sampling(like.model.as_ref(), &like.sampling)?;
        }
        let (current, done, route) = (None, TokenUsage::default(), None);
        let mut work =
            Self { service, limit, n, echo, nothing, waiting: prompts.into(), like, current, before: 0, done, route };
        work.go_on().await?;
        Ok(work)
    }

    /// Who writes.
    pub(super) fn model(&self) -> &ModelId {
        let current = self.current.as_ref().and_then(|current| current.running.as_ref());
        current.map(Running::model).or(self.like.model.as_ref()).unwrap_or(self.service.catalogue().default_id())
    }

    /// Counts of all prompts that are done.
    pub(super) fn usage(&self) -> TokenUsage {
        self.done
    }

    /// How the last text travelled, where other machines took part.
    pub(super) fn route(&mut self) -> Option<ReplyRoute> {
        self.route.take()
    }

    /// Goes on with the next prompt, if there is one.
    async fn go_on(&mut self) -> Result<(), Fault> {
        let Some(prompt) = self.waiting.pop_front() else { return Ok(()) };
        let request = ReplyRequest { prompt, ..self.like.clone() };
        let (echo, tokens) = if self.echo {
            let (echo, tokens) = self.echo_of(&request).await?;
            (Some(echo), tokens)
        } else {
            (None, 0)
        };
        let running = if self.nothing { None } else { Some(self.start(request).await?) };
        self.current = Some(Current { running, tokens, echo, nth: 0, shown: false, offset: 0 });
        Ok(())
    }

    /// The next piece; `None` when all prompts are done.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, Fault> {
        loop {
            let Some(current) = &mut self.current else { return Ok(None) };
            if current.nth == self.n {
                self.finish();
                self.go_on().await?;
                continue;
            }
            let index = (self.before + current.nth) as u64;
            if !current.shown {
                current.shown = true;
                if let Some(Echo { text, logprobs }) = current.echo.clone() {
                    current.offset = text.chars().count() as u64;
                    let finish = current.running.is_none().then_some("length");
                    current.nth += usize::from(finish.is_some());
                    current.shown = finish.is_none();
                    return Ok(Some(Piece { index, text, logprobs, finish }));
                }
            }
            let Some(running) = &mut current.running else {
                current.nth = self.n;
                continue;
            };
            let (text, likelihoods, end) = match running.next().await? {
                Some(chunk) => (chunk.text, chunk.likelihoods, chunk.finish),
                None => (String::new(), Vec::new(), Some(FinishReason::Length)),
            };
            let mut logprobs = (!likelihoods.is_empty()).then(CompletionLogprobs::default);
            if let Some(all) = &mut logprobs {
                for it in likelihoods {
                    current.offset = all.push(it.chosen.text, Some(it.chosen.logprob), it.best, current.offset);
                }
            }
            let finish = end.as_ref().map(finish_reason);
            if finish.is_some() {
                (current.nth, current.shown, current.offset) = (current.nth + 1, false, 0);
                if current.nth < self.n {
                    running.again(current.nth);
                }
            }
            if !text.is_empty() || logprobs.is_some() || finish.is_some() {
                return Ok(Some(Piece { index, text, logprobs, finish }));
            }
        }
    }

    /// Counts the current prompt, and lets its place at the door go.
    fn finish(&mut self) {
        let Some(current) = self.current.take() else { return };
        self.before += self.n;
        match current.running {
            Some(running) => {
                self.done.add(running.usage().into());
                self.route = running.route();
            }
            None => self.done.add(Usage { prompt_tokens: current.tokens, ..Usage::default() }.into()),
        }
    }

    async fn start(&self, request: ReplyRequest) -> Result<Running, Fault> {
        Running::start(&self.service, request, self.limit).await.map_err(about_prompt)
    }

    /// The prompt as it is shown, and where it was counted, its tokens.
    async fn echo_of(&self, request: &ReplyRequest) -> Result<(Echo, usize), Fault> {
        let logprobs = request.sampling.alternatives;
        let text = match &request.prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Tokens(tokens) => self.service.text_of(request.model.as_ref(), tokens)?,
            Prompt::Nothing | Prompt::Chat(_) | Prompt::Begun(..) => {
                return Ok((Echo { text: String::new(), logprobs: None }, 0));
            }
        };
        if logprobs.is_none() && !self.nothing {
            return Ok((Echo { text, logprobs: None }, 0));
        }
        let scoring = self.service.score_prompt(request.model.clone(), &request.prompt, logprobs.unwrap_or(0));
        let scored = tokio::time::timeout(self.limit, scoring).await.map_err(|_| Fault::too_slow(self.limit))?;
        let scored = scored.map_err(Fault::from).map_err(about_prompt)?;
        let count = scored.len();
        let (mut all, mut offset) = (CompletionLogprobs::default(), 0);
        // A token that the model puts before every text is no part of this one.
        let added = usize::from(scored.first().is_some_and(|first| !text.starts_with(&first.text)));
        for it in scored.into_iter().skip(added) {
            offset = all.push(it.text, it.logprob, it.best, offset);
        }
        Ok((Echo { text, logprobs: logprobs.map(|_| all) }, count))
    }
}

fn about_prompt(fault: Fault) -> Fault {
    match fault.code {
        "empty_input" => Fault::invalid("prompt", "prompt must not be empty; leave it out to begin with nothing"),
        _ => fault,
    }
}
