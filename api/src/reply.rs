//! Following one reply from its first token to its last, with a clock beside it.

use std::time::{Duration, Instant};

use corolla_domain::{
    generation::{Chunk, FinishReason, Likelihood},
    model::{CallForm, ModelId},
    session::{Reply, ReplyRequest, SessionService, Usage},
};

use crate::{error::Fault, route::ReplyRoute};

/// A reply on its way. Dropping it stops the compute.
pub(crate) struct Running {
    reply: Reply,
    limit: Duration,
    asked: Instant,
    started: Instant,
    first: Option<Instant>,
    last: Instant,
}

impl Running {
    /// Asks for a reply and waits until it is its turn.
    pub(crate) async fn start(service: &SessionService, request: ReplyRequest, limit: Duration) -> Result<Self, Fault> {
        let asked = Instant::now();
        let reply = tokio::time::timeout(limit, service.reply(request)).await.map_err(|_| Fault::too_slow(limit))??;
        let started = Instant::now();
        Ok(Self { reply, limit, asked, started, first: None, last: started })
    }

    /// The next piece; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, Fault> {
        let left = self.limit.saturating_sub(self.asked.elapsed());
        let mut chunk =
            tokio::time::timeout(left, self.reply.next()).await.map_err(|_| Fault::too_slow(self.limit))??;
        if let Some(chunk) = &mut chunk {
            if matches!(chunk.finish, Some(FinishReason::EndOfText(_))) {
                chunk.likelihoods.clear(); // the end of the text is no part of it
            }
            self.last = Instant::now();
            self.first.get_or_insert(self.last);
        }
        Ok(chunk)
    }

    /// Begins another reply to the same prompt, the `nth` after the first.
    pub(crate) fn again(&mut self, nth: usize) {
        self.reply.again(nth as u64);
    }

    /// Counts so far.
    pub(crate) fn usage(&self) -> Usage {
        self.reply.usage()
    }

    /// How it travelled so far, where other machines took part.
    pub(crate) fn route(&self) -> Option<ReplyRoute> {
        ReplyRoute::of(self.reply.route())
    }

    /// Who answers.
    pub(crate) fn model(&self) -> &ModelId {
        self.reply.model()
    }

    /// How calls of tools stand in its text.
    pub(crate) fn call_form(&self) -> CallForm {
        self.reply.call_form()
    }

    /// The `Server-Timing` header: what was computed, what was found computed already, and how long each part took.
    pub(crate) fn timing(&self) -> String {
        let usage = self.usage();
        let first = self.first.unwrap_or(self.last);
        let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        format!(
            "prompt;desc=\"cached={} computed={}\", wait;dur={:.1}, prefill;dur={:.1}, decode;dur={:.1};desc=\"{} tokens\"",
            usage.cached_tokens,
            usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            ms(self.asked, self.started),
            ms(self.started, first),
            ms(first, self.last),
            usage.new_tokens,
        )
    }

    /// Runs to the end.
    pub(crate) async fn collect(&mut self) -> Collected {
        let (mut text, mut likelihoods) = (String::new(), Vec::new());
        let end = loop {
            match self.next().await {
                Ok(Some(chunk)) => {
                    text.push_str(&chunk.text);
                    likelihoods.extend(chunk.likelihoods);
                    if let Some(finish) = chunk.finish {
                        break Ok(finish);
                    }
                }
                Ok(None) => break Ok(FinishReason::Length),
                Err(fault) => break Err(fault),
            }
        };
        Collected { text, likelihoods, end }
    }
}

/// All of a reply.
pub(crate) struct Collected {
    /// Everything that was produced, also before a failure.
    pub(crate) text: String,
    /// How probable its tokens were, where that was asked for.
    pub(crate) likelihoods: Vec<Likelihood>,
    /// How it ended.
    pub(crate) end: Result<FinishReason, Fault>,
}
