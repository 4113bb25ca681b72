//! Noticing that a client hung up while its reply is being computed.
//!
//! poem's server goes on with a request whose connection has ended, until it writes. A reply in one piece writes at
//! its very end, so all of it would be computed for nobody. The socket is therefore watched here: once the client has
//! closed it, the request is dropped, and with it the compute. Watched too: that there are not too many connections, and
//! that none is held open by a client that neither asks, nor sends what it began, nor reads what it is sent.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{Either, pending, select},
};
use poem::{
    Addr, Body, Endpoint, Request, Response,
    http::{StatusCode, uri::Scheme},
    listener::{Acceptor, TcpAcceptor},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, Sleep},
};

use crate::settings::Connections;

/// Connections above the limit that are answered with 503; those above wait to be accepted.
const TURNED_AWAY: u32 = 64;
/// The highest limit: no system has more sockets.
const MOST: u32 = 1 << 24;
/// Pause after a connection could not be accepted, for instance for want of file descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// Stands on a request whose connection is one too many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowded {
    pub(crate) limit: usize,
}

/// Stands on a request, and hears when the server is asked to stop.
#[derive(Debug, Clone)]
pub(crate) struct Leaving(watch::Receiver<bool>);

impl Leaving {
    /// Of a server that is never asked.
    pub(crate) fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Ready once the server was asked.
    pub(crate) async fn heard(&mut self) {
        if self.0.wait_for(|leaving| *leaving).await.is_err() {
            pending::<()>().await;
        }
    }

    pub(crate) fn is_heard(&self) -> bool {
        *self.0.borrow()
    }
}

/// The way out for connections that outlive their requests: WebSockets, of which the server that accepted them knows no more.
pub(crate) struct Exit {
    leaving: watch::Sender<bool>,
    places: Arc<Semaphore>,
    all: u32,
}

impl Exit {
    /// Tells them that the server is about to stop.
    pub(crate) fn announce(&self) {
        self.leaving.send_replace(true);
    }

    /// Ready once the last connection has ended.
    pub(crate) async fn passed(&self) {
        let _ = self.places.acquire_many(self.all).await;
    }
}

/// Who is connected, by address.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<HashMap<SocketAddr, Known>>>);

/// One connection, as its requests see it.
#[derive(Clone)]
struct Known {
    closed: watch::Receiver<bool>,
    requests: Arc<Requests>,
    crowded: Option<Crowded>,
}

/// The requests of one connection.
#[derive(Default)]
struct Requests {
    under_way: AtomicUsize,
    ended: AtomicU64,
}

/// Counts a request for as long as it and its answer take.
struct UnderWay(Arc<Requests>);

impl UnderWay {
    fn new(requests: &Arc<Requests>) -> Self {
        requests.under_way.fetch_add(1, SeqCst);
        Self(requests.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
        self.0.under_way.fetch_sub(1, SeqCst);
    }
}

/// `routes` behind `listener`, such that a request ends when its client hangs up.
///
/// # Errors
/// Where the listener cannot be used.
pub(crate) fn watch<E>(
    listener: TcpListener,
    routes: E,
    limits: Connections,
) -> io::Result<(Watched, Attentive<E>, Exit)> {
    let lines = Lines::default();
    let most = u32::try_from(limits.most).map_or(MOST, |most| most.clamp(1, MOST));
    let all = most + TURNED_AWAY;
    let places = Arc::new(Semaphore::new(all as usize));
    let (leaving, hears) = watch::channel(false);
    let exit = Exit { leaving, places: Arc::clone(&places), all };
    let inner = TcpAcceptor::from_tokio(listener)?;
    let acceptor =
        Watched { inner, lines: lines.clone(), places, limits: Connections { most: most as usize, ..limits } };
    Ok((acceptor, Attentive { inner: routes, lines, leaving: Leaving(hears) }, exit))
}

/// Accepts connections and watches their sockets.
pub(crate) struct Watched {
    inner: TcpAcceptor,
    lines: Lines,
    places: Arc<Semaphore>,
    limits: Connections,
}

impl Acceptor for Watched {
    type Io = Line;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.inner.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(Line, LocalAddr, RemoteAddr, Scheme)> {
        let place = self.places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (socket, local, remote, scheme) = match self.inner.accept().await {
            Ok(accepted) => accepted,
            Err(fault) => {
                tracing::warn!(error = %fault, "a connection could not be accepted");
                tokio::time::sleep(BREATH).await;
                return Err(fault);
            }
        };
        let crowded = self.places.available_permits() < TURNED_AWAY as usize;
        // Tokens leave one by one; waiting to fill a packet would delay each of them.
        socket.set_nodelay(true)?;
        let (closed, watcher) = watch::channel(false);
        let peer = remote.as_socket_addr().copied();
        let requests = Arc::<Requests>::default();
        if let Some(peer) = peer {
            let crowded = crowded.then_some(Crowded { limit: self.limits.most });
            let known = Known { closed: watcher, requests: requests.clone(), crowded };
            self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, known);
        }
        let line = Line {
            socket,
            closed,
            peer,
            lines: self.lines.clone(),
            patience: self.limits.idle,
            idle: Box::pin(tokio::time::sleep(self.limits.idle)),
            stalled: None,
            requests,
            ended: 0,
            _place: place,
        };
        Ok((line, local, remote, scheme))
    }
}

/// One connection. Tells when its far end closes.
pub(crate) struct Line {
    socket: TcpStream,
    closed: watch::Sender<bool>,
    peer: Option<SocketAddr>,
    lines: Lines,
    patience: Duration,
    /// Ends the period in which a request must be under way.
    idle: Pin<Box<Sleep>>,
    /// Runs while the far end takes nothing of what is sent to it.
    stalled: Option<Pin<Box<Sleep>>>,
    requests: Arc<Requests>,
    /// Requests that had ended when that period began.
    ended: u64,
    _place: OwnedSemaphorePermit,
}

impl Line {
    /// Whether the client has asked nothing, or not finished asking, for too long: for the whole of a period, of which one
    /// follows the other. The clock always runs, since nobody asks again when a request ends.
    fn idles(&mut self, cx: &mut Context<'_>) -> bool {
        while self.idle.as_mut().poll(cx).is_ready() {
            let ended = self.requests.ended.load(SeqCst);
            if self.requests.under_way.load(SeqCst) == 0 && ended == self.ended {
                return true;
            }
            self.ended = ended;
            self.idle.as_mut().reset(Instant::now() + self.patience);
        }
        false
    }

    /// `written`, unless the client has read nothing for too long.
    fn keeps_reading(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                tracing::debug!("a client reads nothing of its reply; its connection is closed");
                self.closed.send_replace(true);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut lines = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The address may belong to a newer connection already.
        if let Some(peer) = self.peer
            && lines.get(&peer).is_some_and(|known| known.closed.same_channel(&self.closed.subscribe()))
        {
            lines.remove(&peer);
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let mut read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_pending() && self.idles(cx) {
            read = Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let over = match &read {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => buf.filled().len() == before && buf.remaining() > 0,
            Poll::Ready(Err(_)) => true,
        };
        if over {
            self.closed.send_replace(true);
        }
        read
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.keeps_reading(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.keeps_reading(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

/// Drops a request, or the stream that answers it, when its client hangs up.
pub(crate) struct Attentive<E> {
    inner: E,
    lines: Lines,
    leaving: Leaving,
}

impl<E: Endpoint<Output = Response>> Endpoint for Attentive<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let Some(line) = self.lines.of(request.remote_addr()) else { return self.inner.call(request).await };
        let under_way = UnderWay::new(&line.requests);
        request.extensions_mut().insert(self.leaving.clone());
        if let Some(crowded) = line.crowded {
            request.extensions_mut().insert(crowded);
        }
        let hung_up = pin!(gone(line.closed.clone()));
        let response = match select(pin!(self.inner.call(request)), hung_up).await {
            Either::Left((response, _)) => response?,
            Either::Right(((), _)) => {
                tracing::debug!("a client hung up; its request was dropped");
                return Ok(StatusCode::BAD_REQUEST.into());
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            line.requests.under_way.fetch_add(1, SeqCst); // for good: the handler knows how long it waits
            return Ok(response);
        }
        if response.content_type() != Some("text/event-stream") {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let gone = Box::pin(gone(line.closed));
        let stream = body.into_bytes_stream().take_until(gone).inspect(move |_| _ = &under_way);
        Ok(Response::from_parts(parts, Body::from_bytes_stream(stream)))
    }
}

impl Lines {
    fn of(&self, remote: &RemoteAddr) -> Option<Known> {
        let Addr::SocketAddr(peer) = remote.0 else { return None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }
}

/// Ready once the far end has closed, or the connection is no more.
async fn gone(mut watcher: watch::Receiver<bool>) {
    let _ = watcher.wait_for(|closed| *closed).await;
}
