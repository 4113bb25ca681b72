//! Serving the routes on a socket until asked to stop.

use std::{future::Future, io, time::Duration};

use poem::{Endpoint, Response, Server};
use tokio::net::TcpListener;

use crate::hangup;

/// How long replies that are being written may go on once the server was asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Answers on `listener` until `shutdown` is ready; then takes no new connection, gives running replies ten seconds
/// to end, and returns.
///
/// A connection that its client closes takes its reply with it: the compute stops at the next token.
///
/// # Errors
/// Where the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    routes: impl Endpoint<Output = Response> + 'static,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let (acceptor, routes) = hangup::watch(listener, routes)?;
    Server::new_with_acceptor(acceptor).run_with_graceful_shutdown(routes, shutdown, Some(DRAIN)).await
}
