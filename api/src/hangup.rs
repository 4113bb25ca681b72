//! Noticing that a client hung up while its reply is being computed.
//!
//! poem's server goes on with a request whose connection has ended, until it writes. A reply in one piece writes at
//! its very end, so all of it would be computed for nobody. The socket is therefore watched here: once the client has
//! closed it, the request is dropped, and with it the compute.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::{
    StreamExt,
    future::{Either, select},
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
    sync::watch,
};

/// Who is connected, by address.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<HashMap<SocketAddr, watch::Receiver<bool>>>>);

/// `routes` behind `listener`, such that a request ends when its client hangs up.
///
/// # Errors
/// Where the listener cannot be used.
pub(crate) fn watch<E>(listener: TcpListener, routes: E) -> io::Result<(Watched, Attentive<E>)> {
    let lines = Lines::default();
    let acceptor = Watched { inner: TcpAcceptor::from_tokio(listener)?, lines: lines.clone() };
    Ok((acceptor, Attentive { inner: routes, lines }))
}

/// Accepts connections and watches their sockets.
pub(crate) struct Watched {
    inner: TcpAcceptor,
    lines: Lines,
}

impl Acceptor for Watched {
    type Io = Line;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.inner.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(Line, LocalAddr, RemoteAddr, Scheme)> {
        let (socket, local, remote, scheme) = self.inner.accept().await?;
        // Tokens leave one by one; waiting to fill a packet would delay each of them.
        socket.set_nodelay(true)?;
        let (closed, watcher) = watch::channel(false);
        let peer = remote.as_socket_addr().copied();
        if let Some(peer) = peer {
            self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, watcher);
        }
        Ok((Line { socket, closed, peer, lines: self.lines.clone() }, local, remote, scheme))
    }
}

/// One connection. Tells when its far end closes.
pub(crate) struct Line {
    socket: TcpStream,
    closed: watch::Sender<bool>,
    peer: Option<SocketAddr>,
    lines: Lines,
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut lines = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The address may belong to a newer connection already.
        if let Some(peer) = self.peer
            && lines.get(&peer).is_some_and(|watcher| watcher.same_channel(&self.closed.subscribe()))
        {
            lines.remove(&peer);
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
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
        Pin::new(&mut self.socket).poll_write(cx, buf)
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
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

/// Drops a request, or the stream that answers it, when its client hangs up.
pub(crate) struct Attentive<E> {
    inner: E,
    lines: Lines,
}

impl<E: Endpoint<Output = Response>> Endpoint for Attentive<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let Some(watcher) = self.lines.of(request.remote_addr()) else { return self.inner.call(request).await };
        let hung_up = pin!(gone(watcher.clone()));
        let response = match select(pin!(self.inner.call(request)), hung_up).await {
            Either::Left((response, _)) => response?,
            Either::Right(((), _)) => {
                tracing::debug!("a client hung up; its request was dropped");
                return Ok(StatusCode::BAD_REQUEST.into());
            }
        };
        if response.content_type() != Some("text/event-stream") {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let stream = body.into_bytes_stream().take_until(Box::pin(gone(watcher)));
        Ok(Response::from_parts(parts, Body::from_bytes_stream(stream)))
    }
}

impl Lines {
    fn of(&self, remote: &RemoteAddr) -> Option<watch::Receiver<bool>> {
        let Addr::SocketAddr(peer) = remote.0 else { return None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }
}

/// Ready once the far end has closed, or the connection is no more.
async fn gone(mut watcher: watch::Receiver<bool>) {
    let _ = watcher.wait_for(|closed| *closed).await;
}
