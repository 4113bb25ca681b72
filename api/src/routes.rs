//! All paths put together.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use corolla_domain::session::SessionService;
use poem::{
    Endpoint, EndpointExt, Response, Route,
    endpoint::{BoxEndpoint, make_sync},
    get,
    http::header,
    middleware::CatchPanic,
};
use poem_openapi::OpenApiService;

use crate::{
    error::Fault,
    front::Front,
    guard::{Cors, Guarded, Keys},
    settings::ApiSettings,
    spec,
};

/// What the page with the interactive description may do. It is one file that runs its own script.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           img-src 'self' data: blob:; font-src data:; connect-src 'self'; worker-src blob:; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Everything the server answers: the page, the operations, and their description.
pub fn routes(service: Arc<SessionService>, settings: ApiSettings) -> impl Endpoint<Output = Response> {
    let settings = Arc::new(settings);
    let mut methods = spec::methods();
    for path in ["/docs", "/openapi.yaml"] {
        methods.insert(path.to_owned(), "GET, HEAD".to_owned());
    }
    let operations = OpenApiService::new(spec::operations(service, settings.clone()), "Corolla", &settings.version);
    let inner = Route::new()
        .at("/openapi.yaml", get(fixed("application/yaml; charset=utf-8", spec::yaml, &settings, None)))
        .at("/docs", get(fixed("text/html; charset=utf-8", spec::page, &settings, Some(DOCS_POLICY))))
        .nest("/", operations)
        .with(CatchPanic::new().with_handler(panicked));
    let metrics = settings.metrics.clone();
    let guarded = Guarded { inner: inner.map_to_response(), keys: Keys::new(&settings.keys), methods, metrics };
    Front { inner: Cors::new(guarded, &settings.origins) }
}

/// The OpenAPI description of everything the server answers. Needs no running service, and is the same each time.
#[must_use]
pub fn openapi_yaml() -> String {
    spec::yaml(&ApiSettings::default().version)
}

/// The same as OpenAPI 3.1, for tools that know no older one.
#[must_use]
pub fn openapi_3_1_yaml() -> String {
    spec::yaml_3_1(&ApiSettings::default().version)
}

/// A text that is written when it is first asked for, and then stays the same.
fn fixed(
    media_type: &'static str,
    write: fn(&str) -> String,
    settings: &Arc<ApiSettings>,
    policy: Option<&'static str>,
) -> BoxEndpoint<'static> {
    let (settings, text) = (settings.clone(), OnceLock::new());
    make_sync(move |_| {
        let text = text.get_or_init(|| Bytes::from(write(&settings.version)));
        let mut response = Response::builder().content_type(media_type).header(header::CACHE_CONTROL, "no-cache");
        if let Some(policy) = policy {
            response = response.header(header::CONTENT_SECURITY_POLICY, policy);
        }
        response.body(text.clone())
    })
    .boxed()
}

#[allow(clippy::needless_pass_by_value, reason = "the middleware hands the value over")]
fn panicked(what: Box<dyn std::any::Any + Send>) -> Response {
    let what = what.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| what.downcast_ref().cloned());
    tracing::error!(what, "a handler panicked");
    let fault = Fault::internal();
    // What the path's errors look like is known further out.
    Response::builder().status(fault.status).extension(fault).finish()
}
