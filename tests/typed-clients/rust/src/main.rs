//! corolla-typed-client BASE KEY

use reqwest::header::{AUTHORIZATION, HeaderMap};

progenitor::generate_api!(spec = "openapi.json", interface = Builder);

fn http(key: Option<&str>) -> reqwest::Client {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        headers.insert(AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
    }
    reqwest::Client::builder().default_headers(headers).build().unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let client = Client::new_with_client(&arguments[1], http(Some(&arguments[2])));

    let models = client.list_models().send().await.unwrap().into_inner();
    assert_eq!(models.models[0].state, types::ModelState::Ready);

    let opened = client.open_inference_session().max_length(64).send().await.unwrap().into_inner();
    let session = opened.session_id.unwrap();
    let form = types::GenerateForm::builder().inputs("The capital of France is".to_owned()).max_new_tokens(4);
    let text = client.generate_text().body(form.session_id(session.clone())).send().await.unwrap().into_inner();
    assert!(text.ok && text.outputs.as_ref().unwrap().contains("Paris"), "{text:?}");
    assert!(client.close_inference_session().session_id(session).send().await.unwrap().ok);

    let chat = client.create_chat_completion().body(question("Who wrote Hamlet?", None)).send().await.unwrap().into_inner();
    assert!(chat.choices[0].message.content.as_ref().unwrap().contains("Shakespeare"), "{chat:?}");

    let wrong = client.create_chat_completion().body(question("?", Some("nobody"))).send().await;
    let Err(Error::ErrorResponse(wrong)) = wrong else { panic!("{wrong:?}") };
    assert_eq!((wrong.status().as_u16(), wrong.error.code.as_deref()), (404, Some("model_not_found")));

    let refused = Client::new_with_client(&arguments[1], http(None)).list_models().send().await;
    let Err(Error::ErrorResponse(refused)) = refused else { panic!("{refused:?}") };
    assert_eq!((refused.status().as_u16(), refused.code.as_str()), (401, "missing_api_key"));

    let ready = client.check_readiness().send().await.unwrap().into_inner();
    assert!(ready.models[0].missing_blocks.is_empty());
    println!("rust: models, a session, a text, a chat, errors");
}

fn question(words: &str, model: Option<&str>) -> types::ChatRequest {
    let message = types::ChatMessage {
        role: types::ChatMessageRole::User,
        content: Some(types::ChatMessageContent::Variant0(Some(words.to_owned()))),
        tool_call_id: None,
        tool_calls: None,
    };
    types::ChatRequest::builder()
        .messages(vec![message])
        .model(model.map(str::to_owned))
        .max_tokens(24)
        .temperature(0.0)
        .try_into()
        .unwrap()
}
