//! Serving the routes on a socket until asked to stop.

use std::{future::Future, io};

use poem::{Endpoint, Response, Server};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};

use crate::{hangup, settings::Connections};

/// Answers on `listener` until `shutdown` is ready; then takes no new connection, gives running replies some time to end,
/// those over WebSockets too, and returns.
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
    let (acceptor, routes, exit) = hangup::watch(listener, routes, limits)?;
    let mut until = Instant::now();
    let asked = async {
        shutdown.await;
        until = Instant::now() + limits.drain;
        exit.announce();
    };
    Server::new_with_acceptor(acceptor).run_with_graceful_shutdown(routes, asked, Some(limits.drain)).await?;
    // Of connections that became WebSockets the server knows no more.
    let _ = timeout_at(until, exit.passed()).await;
    Ok(())
}
