//! A reply as server-sent events: one piece a token, then `[DONE]`. A failure on the way is an event of its own.

use std::{collections::VecDeque, time::Duration};

use futures_util::{Stream, stream};
use poem::{
    IntoResponse, Response,
    web::sse::{Event, SSE},
};
use poem_openapi::types::ToJSON;

use super::{
    finish_reason,
    shape::{Delta, Piece, PieceChoice, Stamp},
    usage,
};
use crate::{fault::ChatFaultBody, reply::Running};

/// The event stream of `running`. Dropping the response, as a closed connection does, stops the compute.
pub(super) fn response(running: Running, include_usage: bool, keep_alive: Duration) -> Response {
    let mut response = SSE::new(events(running, include_usage)).keep_alive(keep_alive).into_response();
    // Proxies that collect a response before they pass it on would undo the streaming.
    response.headers_mut().insert("x-accel-buffering", poem::http::HeaderValue::from_static("no"));
    response
}

struct State {
    running: Running,
    stamp: Stamp,
    include_usage: bool,
    ready: VecDeque<Event>,
    over: bool,
}

fn events(running: Running, include_usage: bool) -> impl Stream<Item = Event> + Send + 'static {
    let stamp = Stamp::new(running.model());
    let hello = Delta { role: Some("assistant".to_owned()), content: Some(String::new()) };
    let first = event(piece(&stamp, vec![choice(hello, None)]));
    let state = State { running, stamp, include_usage, ready: VecDeque::from([first]), over: false };
    stream::unfold(state, |mut state| async move {
        while state.ready.is_empty() && !state.over {
            state.advance().await;
        }
        Some((state.ready.pop_front()?, state))
    })
}

impl State {
    /// Takes the next chunk and makes its events ready.
    async fn advance(&mut self) {
        match self.running.next().await {
            Ok(Some(chunk)) => {
                if !chunk.text.is_empty() {
                    let more = Delta { role: None, content: Some(chunk.text) };
                    self.ready.push_back(event(piece(&self.stamp, vec![choice(more, None)])));
                }
                if let Some(finish) = chunk.finish {
                    let end = choice(Delta::default(), Some(finish_reason(&finish).to_owned()));
                    let last = Piece { route: self.running.route(), ..piece(&self.stamp, vec![end]) };
                    self.ready.push_back(event(last));
                    self.finish();
                }
            }
            Ok(None) => self.finish(),
            Err(fault) => {
                self.ready.push_back(Event::message(ChatFaultBody::from(&fault).to_json_string()));
                self.ready.push_back(Event::message("[DONE]"));
                self.over = true;
            }
        }
    }

    fn finish(&mut self) {
        if self.include_usage {
            let usage = Some(usage(self.running.usage()));
            self.ready.push_back(event(Piece { usage, ..piece(&self.stamp, Vec::new()) }));
        }
        self.ready.push_back(Event::message("[DONE]"));
        self.over = true;
    }
}

fn choice(delta: Delta, finish_reason: Option<String>) -> PieceChoice {
    PieceChoice { index: 0, delta, finish_reason }
}

fn piece(stamp: &Stamp, choices: Vec<PieceChoice>) -> Piece {
    Piece {
        id: stamp.id.clone(),
        object: "chat.completion.chunk".to_owned(),
        created: stamp.created,
        model: stamp.model.clone(),
        choices,
        usage: None,
        route: None,
    }
}

#[allow(clippy::needless_pass_by_value, reason = "an event is the end of its piece")]
fn event(piece: Piece) -> Event {
    Event::message(piece.to_json_string())
}
