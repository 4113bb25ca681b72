//! `corolla bench` through the real binary: that it measures, not how fast.

use std::process::Output;

use serde_json::Value;

use crate::server::{run, tiny_llama};

const SHORT: [&str; 7] = ["bench", "--prompt-tokens", "20", "--new-tokens", "6", "--rounds", "2"];

fn bench(more: &[&str]) -> Output {
    run(&tiny_llama(), &[&SHORT[..], more].concat())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_round_is_in_the_report_and_sessions_say_together_what_one_says_alone() {
    let output = bench(&["--json", "--sessions", "3", "--dtype", "f32"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for measure in ["prefill_tokens_per_s", "decode_tokens_per_s", "head_rows_per_s", "batch_tokens_per_s"] {
        let rounds = report["measures"][measure]["rounds"].as_array().unwrap();
        assert!(rounds.len() == 2 && rounds.iter().all(|rate| rate.as_f64().unwrap() > 0.0), "{report}");
    }
    assert_eq!((&report["same_tokens_in_batch"], &report["dtype"]), (&Value::Bool(true), &Value::from("f32")));
    if cfg!(target_os = "linux") {
        assert!(report["peak_resident_bytes"].as_u64().unwrap() > 1 << 20, "{report}");
    }
}

#[cfg(unix)]
#[test]
fn a_peer_is_measured_in_turns_and_one_that_fails_is_named() {
    let output = bench(&["--sessions", "1", "--peer", "echo '{\"decode_tokens_per_s\": 0.001}'"]);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && table.contains("decode, tokens/s") && !table.contains("batch,"), "{table}");
    let output = bench(&["--peer", "echo it is broken >&2; false"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("it is broken"), "{}", stderr(&output));
}

#[test]
fn a_course_that_the_model_has_no_room_for_is_refused() {
    let output = run(&tiny_llama(), &["bench", "--prompt-tokens", "400000"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("lower --prompt-tokens"), "{}", stderr(&output));
}
