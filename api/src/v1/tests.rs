//! `/api/v1` on the wire, to the byte.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use corolla_domain::session::Limits;
use poem::http::{HeaderMap, StatusCode};

use crate::stage::Stage;

async fn form(stage: &Stage, query: &str, form: &str) -> (HeaderMap, String) {
    let client = stage.client();
    let request = client.post(format!("/api/v1/generate{query}"));
    let request = request.content_type("application/x-www-form-urlencoded").body(form.to_owned());
    let response = request.send().await;
    response.assert_status_is_ok();
    response.assert_content_type("application/json");
    let headers = response.0.headers().clone();
    (headers, response.0.into_body().into_string().await.unwrap())
}

async fn generate(stage: &Stage, text: &str) -> String {
    form(stage, "", text).await.1
}

async fn get(stage: &Stage, path: &str) -> String {
    let response = stage.client().get(path).send().await;
    response.assert_status_is_ok();
    response.0.into_body().into_string().await.unwrap()
}

async fn open(stage: &Stage, query: &str) -> String {
    let body = get(stage, &format!("/api/v1/open_inference_session{query}")).await;
    let id =
        body.strip_prefix(r#"{"ok":true,"session_id":""#).and_then(|rest| rest.strip_suffix("\"}\n")).expect(&body);
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    id.to_owned()
}

#[tokio::test]
async fn answers_to_the_byte() {
    let stage = Stage::new();
    let cases = [
        ("inputs=a&max_new_tokens=3", r#"{"ok":true,"outputs":"bcd"}"#),
        ("inputs=a&max_length=3", r#"{"ok":true,"outputs":"bc"}"#),
        ("inputs=a&max_new_tokens=0", r#"{"ok":true,"outputs":"b"}"#),
        ("inputs=y&max_new_tokens=9", r#"{"ok":true,"outputs":"z</s>"}"#),
        ("inputs=a&max_new_tokens=+1_0+", r#"{"ok":true,"outputs":"bcdefghijk"}"#),
        ("inputs=a&max_new_tokens=9&stop_sequence=de", r#"{"ok":true,"outputs":"bcde"}"#),
        ("inputs=a&max_new_tokens=2&do_sample=true&top_k=1", r#"{"ok":true,"outputs":"bc"}"#),
        ("inputs=a&max_new_tokens=2&top_k=1&top_p=0.9", r#"{"ok":true,"outputs":"bc"}"#),
        ("inputs=a&max_new_tokens=1&model=alphabet", r#"{"ok":true,"outputs":"b"}"#),
        (
            "inputs=a",
            r#"{"ok":false,"traceback":"AssertionError: please set max_length or max_new_tokens (not both)"}"#,
        ),
        (
            "inputs=a&max_length=5&max_new_tokens=5",
            r#"{"ok":false,"traceback":"AssertionError: please set max_length or max_new_tokens (not both)"}"#,
        ),
        (
            "inputs=abc&max_length=2",
            r#"{"ok":false,"traceback":"AssertionError: Provided max_length is less than prefix size: 2 < 3"}"#,
        ),
        (
            "inputs=a&max_new_tokens=ten",
            r#"{"ok":false,"traceback":"ValueError: invalid literal for int() with base 10: 'ten'"}"#,
        ),
        (
            "inputs=a&max_new_tokens=",
            r#"{"ok":false,"traceback":"ValueError: invalid literal for int() with base 10: ''"}"#,
        ),
        (
            "inputs=a&max_new_tokens=1.0",
            r#"{"ok":false,"traceback":"ValueError: invalid literal for int() with base 10: '1.0'"}"#,
        ),
        (
            "inputs=a&max_new_tokens=1&temperature=hot",
            r#"{"ok":false,"traceback":"ValueError: could not convert string to float: 'hot'"}"#,
        ),
        (
            "inputs=a&max_new_tokens=1&do_sample=1&top_k=5&top_p=0.9",
            r#"{"ok":false,"traceback":"ValueError: You have to provide only top_k or top_p for sampling"}"#,
        ),
        (
            "inputs=a&max_new_tokens=-1",
            r#"{"ok":false,"traceback":"ValueError: max_new_tokens must not be negative, got -1"}"#,
        ),
        (
            "inputs=a&max_new_tokens=99999999999999999999",
            r#"{"ok":false,"traceback":"ValueError: max_new_tokens is out of range: 99999999999999999999"}"#,
        ),
        (
            "inputs=a&max_new_tokens=1&session_id=no%27pe",
            r#"{"ok":false,"traceback":"KeyError: \"Session no'pe expired or does not exist\""}"#,
        ),
        (
            "inputs=a&max_new_tokens=1&session_id=00000000000000000000000000000000",
            r#"{"ok":false,"traceback":"KeyError: 'Session 00000000000000000000000000000000 expired or does not exist'"}"#,
        ),
        (
            "inputs=a&max_new_tokens=1&model=gpt",
            r#"{"ok":false,"traceback":"KeyError: 'model gpt is not served here; there is: alphabet'"}"#,
        ),
        (
            "inputs=&max_new_tokens=1",
            r#"{"ok":false,"traceback":"ValueError: inputs must not be empty; leave the parameter out to continue without new text"}"#,
        ),
        (
            "inputs=%ff&max_new_tokens=1",
            r#"{"ok":false,"traceback":"ValueError: inputs is not valid UTF-8: the fault is at byte 0 of its value"}"#,
        ),
    ];
    for (form, expected) in cases {
        assert_eq!(generate(&stage, form).await, format!("{expected}\n"), "{form}");
    }
}

#[tokio::test]
async fn huge_lengths_are_refused_in_words() {
    let stage = Stage::new();
    for form in [
        "inputs=a&max_new_tokens=9223372036854775807",
        "inputs=a&max_length=9223372036854775807",
        "inputs=a&max_new_tokens=100000",
    ] {
        let body = generate(&stage, form).await;
        assert!(body.starts_with(r#"{"ok":false,"traceback":"ValueError: "#), "{form}: {body}");
    }
    let opened = get(&stage, "/api/v1/open_inference_session?max_length=9223372036854775807").await;
    assert!(opened.contains("ValueError: max_length 9223372036854775807 is more than"), "{opened}");
}

#[tokio::test]
async fn the_query_wins_and_the_first_value_counts() {
    let stage = Stage::new();
    let (_, body) = form(&stage, "?max_new_tokens=1&max_new_tokens=3", "inputs=a&inputs=x&max_new_tokens=2").await;
    assert_eq!(body, "{\"ok\":true,\"outputs\":\"b\"}\n");
}

#[tokio::test]
async fn multipart_and_json_bodies_are_read_too() {
    let stage = Stage::new();
    let multipart = "--x\r\nContent-Disposition: form-data; name=\"inputs\"\r\n\r\na\r\n\
                     --x\r\nContent-Disposition: form-data; name=\"max_new_tokens\"\r\n\r\n2\r\n--x--\r\n";
    let json = r#"{"inputs":"a","max_new_tokens":2,"do_sample":false}"#;
    for (media, body) in [("multipart/form-data; boundary=x", multipart), ("application/json", json)] {
        let response = stage.client().post("/api/v1/generate").content_type(media).body(body).send().await;
        response.assert_text("{\"ok\":true,\"outputs\":\"bc\"}\n").await;
    }
    let response = stage.client().post("/api/v1/generate").content_type("application/json").body("{").send().await;
    let body = response.0.into_body().into_string().await.unwrap();
    assert!(body.starts_with(r#"{"ok":false,"traceback":"ValueError: the body is not valid JSON"#), "{body}");
}

#[tokio::test]
async fn a_session_goes_on_and_computes_nothing_twice() {
    let stage = Stage::new();
    let id = open(&stage, "?max_length=64").await;
    let (headers, body) = form(&stage, "", &format!("inputs=abc&max_new_tokens=2&session_id={id}")).await;
    assert_eq!(body, "{\"ok\":true,\"outputs\":\"de\"}\n");
    let timing = headers["server-timing"].to_str().unwrap();
    assert!(timing.starts_with("prompt;desc=\"cached=0 computed=3\", wait;dur="), "{timing}");
    assert!(timing.ends_with(";desc=\"2 tokens\""), "{timing}");

    let dashed = format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
    let (headers, body) = form(&stage, "", &format!("max_new_tokens=2&session_id={dashed}")).await;
    assert_eq!(body, "{\"ok\":true,\"outputs\":\"fg\"}\n");
    let timing = headers["server-timing"].to_str().unwrap();
    assert!(timing.starts_with("prompt;desc=\"cached=4 computed=1\""), "{timing}");
}

#[tokio::test]
async fn a_full_session_hands_over_what_it_produced() {
    let stage = Stage::new();
    let id = open(&stage, "?max_length=5").await;
    let body = generate(&stage, &format!("inputs=abc&max_new_tokens=9&session_id={id}")).await;
    assert_eq!(
        body,
        "{\"ok\":false,\"outputs\":\"def\",\"traceback\":\"ValueError: Maximum length exceeded: prefix 5 + current 1 \
         exceeds pre-allocated maximum 5\"}\n"
    );
}

#[tokio::test]
async fn sessions_expire_close_and_run_out() {
    let stage = Stage::with(Limits { max_sessions: 1, ..Limits::default() }, Duration::ZERO);
    let id = open(&stage, "").await;
    let full = "RuntimeError: Too many opened inference sessions (max 1), please come back later";
    let refused = format!("{{\"ok\":false,\"traceback\":\"{full}\"}}\n");
    assert_eq!(get(&stage, "/api/v1/open_inference_session").await, refused);
    stage.clock.fetch_add(301_000, SeqCst);
    let body = generate(&stage, &format!("inputs=a&max_new_tokens=1&session_id={id}")).await;
    assert_eq!(
        body,
        format!("{{\"ok\":false,\"traceback\":\"KeyError: 'Session {id} expired or does not exist'\"}}\n")
    );
    let id = open(&stage, "").await;
    let closed = get(&stage, &format!("/api/v1/close_inference_session?session_id={id}")).await;
    assert_eq!(closed, format!("{{\"ok\":true,\"session_id\":\"{id}\"}}\n"));
    open(&stage, "").await;
}

#[tokio::test]
async fn closing_is_always_fine() {
    let stage = Stage::new();
    let close = "/api/v1/close_inference_session";
    assert_eq!(get(&stage, close).await, "{\"ok\":true,\"session_id\":null}\n");
    assert_eq!(get(&stage, &format!("{close}?session_id=%C3%A9")).await, "{\"ok\":true,\"session_id\":\"\\u00e9\"}\n");
}

#[tokio::test]
async fn head_opens_and_other_methods_are_refused() {
    let stage = Stage::with(Limits { max_sessions: 1, ..Limits::default() }, Duration::ZERO);
    let open = "/api/v1/open_inference_session";
    let head = stage.client().head(open).send().await;
    head.assert_status_is_ok();
    head.assert_text("").await;
    assert!(get(&stage, open).await.contains("Too many opened"), "HEAD really opened a session");

    for (response, allow) in [
        (stage.client().post(open).send().await, "GET, HEAD"),
        (stage.client().get("/api/v1/generate").send().await, "POST"),
    ] {
        response.assert_status(StatusCode::METHOD_NOT_ALLOWED);
        response.assert_header("allow", allow);
        let body = response.json().await;
        body.value().object().get("code").assert_string("method_not_allowed");
    }
    let options = stage.client().options("/api/v1/generate").send().await;
    options.assert_status(StatusCode::NO_CONTENT);
    options.assert_header("allow", "POST");
}

#[tokio::test]
async fn a_megabyte_reaches_the_service_and_two_and_a_bit_do_not() {
    let stage = Stage::new();
    let body = generate(&stage, &format!("max_new_tokens=1&inputs={}", "x".repeat(1 << 20))).await;
    assert!(body.starts_with(r#"{"ok":false,"traceback":"ValueError: Maximum length exceeded"#), "{body}");
    let large = "x".repeat((2 << 20) + 1);
    let client = stage.client();
    let request = client.post("/api/v1/generate").content_type("application/x-www-form-urlencoded");
    let response = request.body(large).send().await;
    response.assert_status(StatusCode::PAYLOAD_TOO_LARGE);
    response.json().await.value().object().get("code").assert_string("body_too_large");
}
