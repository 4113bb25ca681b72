//! Chat replies as server-sent events: one piece a token.

use std::time::Instant;

use corolla_domain::generation::Likelihood;
use poem::web::sse::Event;
use poem_openapi::types::ToJSON;

use super::{
    reason,
    scan::{Found, Scanner},
    shape::{Delta, Piece, PieceCall, PieceChoice},
};
use crate::{
    openai::{
        shape::Stamp,
        stream::{Source, done, failure},
    },
    reply::Running,
    route::Told,
};

/// The pieces of chat replies, one reply after the other.
pub(super) struct Events {
    running: Running,
    scanner: Scanner,
    /// Calls of the reply that is being written.
    calls: usize,
    stamp: Stamp,
    n: usize,
    logprobs: bool,
    include_usage: bool,
    told: Told,
    /// Which reply is being written.
    index: usize,
    begun: bool,
    over: bool,
}

impl Events {
    pub(super) fn new((running, scanner): (Running, Scanner), n: usize, logprobs: bool, include_usage: bool) -> Self {
        let stamp = Stamp::new("chatcmpl", running.model());
        let told = Told::default();
        Self {
            running,
            scanner,
            calls: 0,
            stamp,
            n,
            logprobs,
            include_usage,
            told,
            index: 0,
            begun: false,
            over: false,
        }
    }

    /// What follows the end of a reply: the next one, or the end of all.
    fn finish(&mut self, ready: &mut Vec<Event>) {
        if self.index + 1 < self.n {
            self.index += 1;
            self.calls = 0;
            self.running.again(self.index);
            ready.push(self.hello());
            return;
        }
        if self.include_usage {
            let usage = Some(self.running.usage().into());
            ready.push(event(Piece { usage, ..self.piece(Vec::new()) }));
        }
        ready.push(done());
        self.over = true;
    }

    fn hello(&self) -> Event {
        let hello = Delta { role: Some("assistant".to_owned()), content: Some(String::new()), tool_calls: None };
        event(self.piece(vec![self.choice(hello, Vec::new(), None)]))
    }

    /// What to add to the reply; nothing where nothing was found, unless it shall go out all the same.
    fn more(&mut self, found: Found, anyway: bool) -> Option<Delta> {
        let first = self.calls;
        self.calls += found.calls.len();
        let calls: Vec<PieceCall> = (first..).zip(found.calls).map(|(nth, call)| PieceCall::new(nth, call)).collect();
        if found.text.is_empty() && calls.is_empty() && !anyway {
            return None;
        }
        let tool_calls = (!calls.is_empty()).then_some(calls);
        let content = (!found.text.is_empty() || tool_calls.is_none()).then_some(found.text);
        Some(Delta { role: None, content, tool_calls })
    }

    fn choice(&self, delta: Delta, likelihoods: Vec<Likelihood>, finish_reason: Option<String>) -> PieceChoice {
        let logprobs = (self.logprobs && !likelihoods.is_empty()).then(|| likelihoods.into());
        PieceChoice { index: self.index as u64, delta, logprobs, finish_reason }
    }

    fn piece(&self, choices: Vec<PieceChoice>) -> Piece {
        Piece {
            id: self.stamp.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.stamp.created,
            model: self.stamp.model.clone(),
            choices,
            usage: None,
            route: None,
        }
    }
}

impl Source for Events {
    async fn more(&mut self) -> Vec<Event> {
        let mut ready = Vec::new();
        if !self.begun {
            self.begun = true;
            return vec![self.hello()];
        }
        while ready.is_empty() && !self.over {
            match self.running.next().await {
                Ok(Some(chunk)) => {
                    let found = match chunk.finish {
                        None => self.scanner.push(&chunk.text),
                        Some(_) => self.scanner.finish(&chunk.text),
                    };
                    if let Some(more) = self.more(found, self.logprobs && !chunk.likelihoods.is_empty()) {
                        let route = match chunk.finish {
                            None => self.told.due(self.running.route(), Instant::now()),
                            Some(_) => None, // the piece that ends the text has it
                        };
                        let choice = self.choice(more, chunk.likelihoods, None);
                        ready.push(event(Piece { route, ..self.piece(vec![choice]) }));
                    }
                    if let Some(finish) = chunk.finish {
                        let end = Some(reason(&finish, self.calls > 0).to_owned());
                        let end = self.choice(Delta::default(), Vec::new(), end);
                        ready.push(event(Piece { route: self.running.route(), ..self.piece(vec![end]) }));
                        self.finish(&mut ready);
                    }
                }
                Ok(None) => self.finish(&mut ready),
                Err(fault) => {
                    ready.extend(failure(&fault));
                    self.over = true;
                }
            }
        }
        ready
    }
}

#[allow(clippy::needless_pass_by_value, reason = "an event is the end of its piece")]
fn event(piece: Piece) -> Event {
    Event::message(piece.to_json_string())
}
