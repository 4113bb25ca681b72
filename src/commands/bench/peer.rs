//! Another program that is measured in turns with this one.

use std::{process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{process::Command, time::timeout};

/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What it prints, as one JSON object in its last line; other keys are passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub(super) struct Speeds {
    pub(super) prefill_tokens_per_s: Option<f64>,
    pub(super) decode_tokens_per_s: Option<f64>,
    pub(super) head_rows_per_s: Option<f64>,
    pub(super) batch_tokens_per_s: Option<f64>,
}

/// Runs the command to its end. It ends with this process.
///
/// # Errors
/// A sentence with its last words.
pub(super) async fn run(command: &str) -> Result<Speeds, String> {
    let running = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).kill_on_drop(true).output();
    let ran = timeout(PATIENCE, running).await.map_err(|_| format!("the peer is not done after {PATIENCE:?}"))?;
    let output = ran.map_err(|fault| format!("the peer cannot be run: {fault}"))?;
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
    };
    if !output.status.success() {
        return Err(format!("the peer ended with {}: {}", output.status, last(&output.stderr)));
    }
    read(&last(&output.stdout))
}

fn read(line: &str) -> Result<Speeds, String> {
    let wanted = "its last line must be a JSON object with some of the numbers prefill_tokens_per_s, \
                  decode_tokens_per_s, head_rows_per_s and batch_tokens_per_s";
    let speeds: Speeds =
        serde_json::from_str(line).map_err(|fault| format!("the peer said {line:?} ({fault}); {wanted}"))?;
    let Speeds { prefill_tokens_per_s, decode_tokens_per_s, head_rows_per_s, batch_tokens_per_s } = speeds;
    let numbers = [prefill_tokens_per_s, decode_tokens_per_s, head_rows_per_s, batch_tokens_per_s];
    let sensible = |number: f64| number.is_finite() && number > 0.0;
    if numbers.iter().all(Option::is_none) || !numbers.into_iter().flatten().all(sensible) {
        return Err(format!("the peer said {line:?}; {wanted}"));
    }
    Ok(speeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_and_nonsense_is_named() {
        let speeds = read(r#"{"decode_tokens_per_s": 12.5, "model": "x"}"#).unwrap();
        assert_eq!(speeds, Speeds { decode_tokens_per_s: Some(12.5), ..Speeds::default() });
        for wrong in ["", "fast", "{}", "[1]", r#"{"decode_tokens_per_s": 0}"#, r#"{"decode_tokens_per_s": "many"}"#] {
            assert!(read(wrong).unwrap_err().contains("decode_tokens_per_s"), "{wrong}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_goes_wrong_with_a_peer_is_said_in_its_words() {
        let speeds = run("echo loading; echo '{\"head_rows_per_s\": 3}'; echo").await.unwrap();
        assert_eq!(speeds.head_rows_per_s, Some(3.0));
        let fault = run("echo no such model >&2; exit 3").await.unwrap_err();
        assert!(fault.contains("no such model") && fault.contains('3'), "{fault}");
    }
}
