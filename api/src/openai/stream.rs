//! Replies as server-sent events, then `[DONE]`. A failure on the way is an event of its own.

use std::{collections::VecDeque, time::Duration};

use futures_util::{Stream, stream};
use poem::{
    IntoResponse, Response,
    web::sse::{Event, SSE},
};
use poem_openapi::types::ToJSON;

use crate::{error::Fault, fault::ChatFaultBody};

/// What makes the events of one response, some at a time.
pub(super) trait Source: Send + 'static {
    /// The next events; none where it is over.
    fn more(&mut self) -> impl Future<Output = Vec<Event>> + Send;
}

/// The event stream of `source`. Dropping the response, as a closed connection does, stops the compute.
pub(super) fn response(source: impl Source, keep_alive: Duration) -> Response {
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
pub(super) fn done() -> Event {
    Event::message("[DONE]")
}

/// The last events of a stream that breaks off.
pub(super) fn failure(fault: &Fault) -> [Event; 2] {
    [Event::message(ChatFaultBody::from(fault).to_json_string()), done()]
}
