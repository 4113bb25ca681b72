//! Chat replies as server-sent events: one piece a token.

use std::time::Instant;

use corolla_domain::generation::Likelihood;
use poem::web::sse::Event;
use poem_openapi::types::ToJSON;

use super::shape::{Delta, Piece, PieceChoice};
use crate::{
    openai::{
        shape::{Stamp, finish_reason},
        stream::{Source, done, failure},
    },
    reply::Running,
    route::Told,
};

/// The pieces of chat replies, one reply after the other.
pub(super) struct Events {
    running: Running,
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
    pub(super) fn new(running: Running, n: usize, logprobs: bool, include_usage: bool) -> Self {
        let stamp = Stamp::new("chatcmpl", running.model());
        Self { running, stamp, n, logprobs, include_usage, told: Told::default(), index: 0, begun: false, over: false }
    }

    /// What follows the end of a reply: the next one, or the end of all.
    fn finish(&mut self, ready: &mut Vec<Event>) {
        if self.index + 1 < self.n {
            self.index += 1;
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
        let hello = Delta { role: Some("assistant".to_owned()), content: Some(String::new()) };
        event(self.piece(vec![self.choice(hello, Vec::new(), None)]))
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
                    if !chunk.text.is_empty() || (self.logprobs && !chunk.likelihoods.is_empty()) {
                        let more = Delta { role: None, content: Some(chunk.text) };
                        let route = match chunk.finish {
                            None => self.told.due(self.running.route(), Instant::now()),
                            Some(_) => None, // the piece that ends the text has it
                        };
                        let choice = self.choice(more, chunk.likelihoods, None);
                        ready.push(event(Piece { route, ..self.piece(vec![choice]) }));
                    }
                    if let Some(finish) = chunk.finish {
                        let end = self.choice(Delta::default(), Vec::new(), Some(finish_reason(&finish).to_owned()));
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
