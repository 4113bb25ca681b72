//! What is said over one socket: a session is opened, then replies are written in it, one after the other.

use std::{pin::pin, sync::Arc};

use corolla_domain::{
    generation::FinishReason,
    session::{ReplyError, SessionService},
};
use futures_util::future::{Either, select};
use poem::http::StatusCode;
use poem_openapi::types::ToJSON as _;
use tokio::{runtime::Handle, sync::mpsc::Sender, time::timeout};
use uuid::Uuid;

use super::{
    frame::{self, Frame, Generate, Open},
    socket::Inbox,
};
use crate::{error::Fault, hangup::Leaving, reply::Running, settings::ApiSettings};

/// One talk. It ends with the first failure, or when its socket does.
pub(super) struct Talk {
    service: Arc<SessionService>,
    settings: Arc<ApiSettings>,
    leaving: Leaving,
}

/// Why a talk ended, and the text that was written and not sent yet.
struct End(Fault, Option<String>);

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self(fault, None)
    }
}

/// Nobody takes the frames any more.
struct Gone;

impl Talk {
    pub(super) fn new(service: Arc<SessionService>, settings: Arc<ApiSettings>, leaving: Leaving) -> Self {
        Self { service, settings, leaving }
    }

    /// Takes messages from `inbox` and puts frames into `out`, a failure last.
    pub(super) async fn run(self, mut inbox: Inbox, out: Sender<String>) {
        let Err(End(fault, text)) = self.speak(&mut inbox, &out).await else { return };
        let _ = out.send(frame::failure(&fault, text.as_deref())).await;
    }

    async fn speak(&self, inbox: &mut Inbox, out: &Sender<String>) -> Result<(), End> {
        let Some(first) = self.message(inbox).await? else { return Ok(()) };
        let session = self.open(Open::read(&first)?).await?;
        if out.send(frame::ready()).await.is_err() {
            return Ok(());
        }
        while let Some(message) = self.message(inbox).await? {
            let generate = Generate::read(&message, session.id)?;
            if self.generate(generate, out).await?.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The next message; `None` once the server is asked to stop. A client that says nothing for as long as a session may idle
    /// is told so.
    async fn message(&self, inbox: &mut Inbox) -> Result<Option<String>, Fault> {
        let idle = self.service.limits().idle;
        let mut leaving = self.leaving.clone();
        let next = match select(pin!(leaving.heard()), pin!(timeout(idle, inbox.next()))).await {
            Either::Left(_) => return Ok(None),
            Either::Right((next, _)) => next,
        };
        next.map_err(|_| {
            let message = format!("no message came for {} seconds", idle.as_secs());
            Fault { legacy: "TypeError", ..Fault::new(StatusCode::REQUEST_TIMEOUT, "idle", message) }
        })
    }

    async fn open(&self, open: Open) -> Result<Session, Fault> {
        let (id, own) = match open {
            Open::New { model, max_length } => (self.service.open(model, Some(max_length)).await?, true),
            Open::Known(id) => (id, false),
        };
        Ok(Session { service: self.service.clone(), id, own })
    }

    /// Writes one reply, a frame every so many tokens.
    async fn generate(&self, ask: Generate, out: &Sender<String>) -> Result<Result<(), Gone>, End> {
        let mut running = Running::start(&self.service, ask.request, self.settings.reply_timeout).await?;
        let (mut text, mut tokens) = (String::new(), 0);
        loop {
            let chunk = match running.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Ok(())),
                Err(fault) => return Err(End(fault, Some(text).filter(|text| !text.is_empty()))),
            };
            text += &chunk.text;
            tokens += chunk.tokens.len();
            if let Some(FinishReason::SessionFull { position, needed, max_length }) = chunk.finish {
                let full = ReplyError::LengthExceeded { position, needed, max_length };
                return Err(End(full.into(), Some(text).filter(|text| !text.is_empty())));
            }
            let stop = chunk.finish.is_some();
            // Text that is still uncertain comes with the next frame.
            let due = ask.frame.is_some_and(|frame| tokens >= frame) && !text.is_empty();
            if stop || due {
                let route = if stop { running.route().map(|route| route.to_json_string()) } else { None };
                let frame = Frame { outputs: &text, stop, token_count: tokens, route: route.as_deref() };
                if out.send(frame.write()).await.is_err() {
                    return Ok(Err(Gone));
                }
                (text, tokens) = (String::new(), 0);
            }
            if stop {
                return Ok(Ok(()));
            }
        }
    }
}

/// The session of a talk. One that the talk opened ends with it.
struct Session {
    service: Arc<SessionService>,
    id: Uuid,
    own: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.own {
            return;
        }
        let (service, id) = (self.service.clone(), self.id);
        let close = async move {
            if let Err(error) = service.close(id).await {
                tracing::warn!(%error, "a session could not be closed; it will expire");
            }
        };
        // Without a runtime the process is ending, and the session expires.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(close);
        }
    }
}
