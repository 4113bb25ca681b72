//! `/api/v2/generate`: a session and its replies over one WebSocket, as the first chat page spoke it.

mod describe;
mod frame;
mod socket;
mod talk;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use corolla_domain::session::{ReplyError, SessionService};
use poem::{
    FromRequest, IntoResponse, Request, RequestBody, Response,
    http::{Method, StatusCode},
    web::websocket::{WebSocket, WebSocketConfig},
};
use poem_openapi::{
    OpenApi,
    registry::{MetaApi, Registry},
};
use tokio::sync::Semaphore;
use tracing::{Instrument, Span};

use crate::{
    error::Fault,
    guard::Held,
    hangup::Leaving,
    settings::ApiSettings,
    table::{self, Table},
};

/// Silence from the server after which it sends a ping, so that proxies keep the connection open.
const PING: Duration = Duration::from_secs(25);

/// The WebSocket operation.
#[derive(Clone)]
pub(crate) struct V2 {
    service: Arc<SessionService>,
    settings: Arc<ApiSettings>,
    /// Sockets that may be open at the same time: as many as sessions.
    sockets: Arc<Semaphore>,
}

impl V2 {
    pub(crate) fn new(service: Arc<SessionService>, settings: Arc<ApiSettings>) -> Self {
        let sockets = Arc::new(Semaphore::new(service.limits().max_sessions.min(Semaphore::MAX_PERMITS)));
        Self { service, settings, sockets }
    }

    async fn upgrade(&self, request: &Request) -> Result<Response, Fault> {
        let mut body = RequestBody::default();
        let socket = WebSocket::from_request(request, &mut body).await.map_err(|_| {
            let message = "this path is a WebSocket: ask for an upgrade, and see /docs for its frames";
            Fault::new(StatusCode::BAD_REQUEST, "websocket_expected", message)
        })?;
        let max = self.service.limits().max_sessions;
        let place = self.sockets.clone().try_acquire_owned().map_err(|_| ReplyError::TooManySessions { max })?;
        let longest = self.settings.max_body_bytes;
        let config = WebSocketConfig::default()
            .max_message_size(Some(longest))
            .max_frame_size(Some(longest))
            .max_write_buffer_size(socket::WRITE_BUFFER);
        let leaving = request.data::<Leaving>().cloned().unwrap_or_else(Leaving::never);
        let talk = talk::Talk::new(self.service.clone(), self.settings.clone(), leaving.clone());
        // The socket goes on after this request: so do its places, and its name in the log.
        let (held, span) = (request.data::<Arc<Held>>().cloned(), Span::current());
        let upgraded = socket.config(config).on_upgrade(move |socket| async move {
            socket::run(socket, talk, leaving, longest).instrument(span).await;
            drop((place, held));
        });
        Ok(upgraded.into_response())
    }
}

impl OpenApi for V2 {
    fn meta() -> Vec<MetaApi> {
        vec![describe::api()]
    }

    fn register(registry: &mut Registry) {
        describe::register(registry);
    }

    fn add_routes(self, table: &mut Table) {
        let handle = |api: Self, request| async move { api.upgrade(&request).await };
        table::add(table, (Method::GET, describe::PATH), self, handle);
    }
}
