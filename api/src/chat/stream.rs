//! Replies as server-sent events: one piece a token, then `[DONE]`. A failure on the way is an event of its own.

use std::{collections::VecDeque, time::Duration};

use corolla_domain::generation::Likelihood;
use futures_util::{Stream, stream};
use poem::{
    IntoResponse, Response,
    web::sse::{Event, SSE},
};
use poem_openapi::types::ToJSON;

use super::shape::{Delta, Piece, PieceChoice, Stamp};
use crate::{fault::ChatFaultBody, openai::finish_reason, reply::Running};

/// What makes the events of one response, some at a time.
pub(crate) trait Source: Send + 'static {
    /// The next events; none where it is over.
    fn more(&mut self) -> impl Future<Output = Vec<Event>> + Send;
}

/// The event stream of `source`. Dropping the response, as a closed connection does, stops the compute.
pub(crate) fn response(source: impl Source, keep_alive: Duration) -> Response {
    let mut response = SSE::new(events(source)).keep_alive(keep_alive).into_response();
    // Proxies that collect a response before they pass it on would undo the streaming.
    response.headers_mut().insert("x-accel-buffering", poem::http::HeaderValue::from_static("no"));
    response
}

fn events(source: impl Source) -> impl Stream<Item = Event> + Send + 'static {
    stream::unfold((source, VecDeque::new()), |(mut source, mut ready)| async move {
        if ready.is_empty() {
            ready.extend(source.more().await);
        }
        Some((ready.pop_front()?, (source, ready)))
    })
}

/// The last event of every stream.
pub(crate) fn done() -> Event {
    Event::message("[DONE]")
}

/// The pieces of chat replies, one reply after the other.
pub(super) struct Events {
    running: Running,
    stamp: Stamp,
    n: usize,
    logprobs: bool,
    include_usage: bool,
    /// Which reply is being written.
    index: usize,
    begun: bool,
    over: bool,
}

impl Events {
    pub(super) fn new(running: Running, n: usize, logprobs: bool, include_usage: bool) -> Self {
        let stamp = Stamp::new("chatcmpl", running.model());
        Self { running, stamp, n, logprobs, include_usage, index: 0, begun: false, over: false }
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
                        ready.push(event(self.piece(vec![self.choice(more, chunk.likelihoods, None)])));
                    }
                    if let Some(finish) = chunk.finish {
                        let end = self.choice(Delta::default(), Vec::new(), Some(finish_reason(&finish).to_owned()));
                        ready.push(event(Piece { route: self.running.route(), ..self.piece(vec![end]) }));
                        self.finish(&mut ready);
                    }
                }
                Ok(None) => self.finish(&mut ready),
                Err(fault) => {
                    ready.push(Event::message(ChatFaultBody::from(&fault).to_json_string()));
                    ready.push(done());
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
