//! Serving the routes on a socket until asked to stop.

use std::{future::Future, io};

use poem::{Endpoint, Response, Server};
use tokio::net::TcpListener;

use crate::{hangup, settings::Connections};

/// Answers on `listener` until `shutdown` is ready; then takes no new connection, gives running replies some time to end,
/// and returns.
///
/// A connection that its client closes takes its reply with it: the compute stops at the next token.
///
/// # Errors
/// Where the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    routes: impl Endpoint<Output = Response> + 'static,
    limits: Connections,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let (acceptor, routes) = hangup::watch(listener, routes, limits)?;
    Server::new_with_acceptor(acceptor).run_with_graceful_shutdown(routes, shutdown, Some(limits.drain)).await
}
