//! Reading a request's body: bounded in bytes and in time.

use bytes::Bytes;
use poem::{
    Body,
    error::ReadBodyError,
    http::{HeaderMap, StatusCode, header},
};

use crate::{error::Fault, settings::ApiSettings};

/// The whole body, or 413 where it is too long and 408 where it takes too long.
pub(crate) async fn read(headers: &HeaderMap, body: Body, settings: &ApiSettings) -> Result<Bytes, Fault> {
    let limit = settings.max_body_bytes;
    let too_large = || {
        let message = format!("the request body is longer than this server takes: at most {limit} bytes");
        Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(settings.body_timeout, body.into_bytes_limit(limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(ReadBodyError::PayloadTooLarge)) => Err(too_large()),
        Ok(Err(error)) => {
            Err(Fault::new(StatusCode::BAD_REQUEST, "body_unreadable", format!("the request body broke off: {error}")))
        }
        Err(_) => {
            let message = format!("the request body did not arrive within {} seconds", settings.body_timeout.as_secs());
            Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", message))
        }
    }
}

/// The media type of the body without its parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}
