//! The table of handlers, for operations that read their requests by hand.

use std::collections::HashMap;

use poem::{
    EndpointExt, Request, Response,
    endpoint::{BoxEndpoint, make},
    error::IntoResult,
    http::Method,
};

/// Who answers at each path, by method.
pub(crate) type Table = HashMap<String, HashMap<Method, BoxEndpoint<'static>>>;

/// Lets `api` answer `method` at `path` by `handle`.
pub(crate) fn add<A, F, R>(
    table: &mut Table,
    (method, path): (Method, &str),
    api: A,
    handle: impl Fn(A, Request) -> F + Send + Sync + 'static,
) where
    A: Clone + Send + Sync + 'static,
    F: Future<Output = R> + Send + 'static,
    R: IntoResult<Response> + 'static,
{
    let endpoint = make(move |request| handle(api.clone(), request)).boxed();
    table.entry(path.to_owned()).or_default().insert(method, endpoint);
}
