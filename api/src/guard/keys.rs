//! API keys: known by their SHA-256 alone, compared in constant time, each with limits of its own.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use poem::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rate::Rate;
use crate::error::Fault;

/// A key that clients may send. The key itself is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Whose it is; stands in the log.
    pub name: String,
    /// SHA-256 of the key's text.
    pub sha256: [u8; 32],
    /// Requests a minute; as many at once after a minute's rest.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Requests at the same time.
    pub concurrent: Option<usize>,
}

impl ApiKey {
    /// What is kept of a key. A key has at least 128 random bits, so one round of SHA-256 is enough.
    #[must_use]
    pub fn digest(key: &str) -> [u8; 32] {
        Sha256::digest(key.as_bytes()).into()
    }
}

/// The keys in force; where there is none, everybody may ask.
pub(crate) struct Keys(Vec<Known>);

struct Known {
    name: Arc<str>,
    digest: [u8; 32],
    rate: Option<Rate>,
    places: Option<(Arc<Semaphore>, usize)>,
}

/// A request that was let in; dropping it gives its place back.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Whose key was sent.
    pub(crate) name: Arc<str>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Keys {
    pub(crate) fn new(keys: &[ApiKey]) -> Self {
        let known = |key: &ApiKey| Known {
            name: key.name.as_str().into(),
            digest: key.sha256,
            rate: key.requests_per_minute.map(Rate::new),
            places: key.concurrent.map(|n| (Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS))), n)),
        };
        Self(keys.iter().map(known).collect())
    }

    /// Lets a request in that brings a key with room for it; `None` where no key is asked for.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<Option<Entry>, Fault> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let known = self.find(sent(headers)?)?;
        known.keep_pace()?;
        let place = known.place()?;
        Ok(Some(Entry { name: known.name.clone(), _place: place }))
    }

    /// Compares with every key, equal or not, so that the time taken tells nothing.
    fn find(&self, key: &str) -> Result<&Known, Fault> {
        let digest = ApiKey::digest(key);
        let mut found = u64::MAX;
        for (at, known) in (0u64..).zip(&self.0) {
            let same: Choice = known.digest.ct_eq(&digest);
            found.conditional_assign(&at, same);
        }
        let known = usize::try_from(found).ok().and_then(|at| self.0.get(at));
        known.ok_or_else(|| refused("invalid_api_key", "this server does not know the API key that was sent"))
    }
}

impl Known {
    fn keep_pace(&self) -> Result<(), Fault> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.take().map_err(|wait| {
            let message = format!("the API key has sent its {} requests a minute", rate.per_minute());
            too_many("rate_limited", message, wait)
        })
    }

    fn place(&self) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        let Some((places, number)) = &self.places else { return Ok(None) };
        places.clone().try_acquire_owned().map(Some).map_err(|_| {
            let message = format!("the API key has its {number} requests under way; one must end first");
            too_many("too_many_requests", message, Duration::from_secs(1))
        })
    }
}

/// The key that a request brings.
fn sent(headers: &HeaderMap) -> Result<&str, Fault> {
    let text = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = text.and_then(|text| {
        let (scheme, key) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.filter(|key| !key.is_empty()).ok_or_else(|| {
        refused("missing_api_key", "this server wants an API key: send it in a header, Authorization: Bearer KEY")
    })
}

fn refused(code: &'static str, message: &str) -> Fault {
    Fault::new(StatusCode::UNAUTHORIZED, code, message)
}

fn too_many(code: &'static str, message: String, wait: Duration) -> Fault {
    let wait = Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    Fault { retry_after: Some(wait), ..Fault::new(StatusCode::TOO_MANY_REQUESTS, code, message) }
}
