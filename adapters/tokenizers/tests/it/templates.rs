//! Chat templates render as Jinja does with the settings of transformers, and hostile ones come to an end.

use std::{fs, path::Path, time::Instant};

use corolla_domain::{
    model::{Chat, Message, Role},
    ports::{FaultKind, PortError, Tokenizer},
};
use serde::Deserialize;
use tempfile::TempDir;
use testkit::fixtures;

#[derive(Deserialize)]
struct Golden {
    conversations: Vec<Vec<Message>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    /// One for each conversation; `None` where Jinja refuses.
    texts: Vec<Option<String>>,
}

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixtures::path("models/tiny-llama").join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn prompt(folder: &TempDir, template: &str, messages: &[Message]) -> Result<String, PortError> {
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    corolla_tokenizers::load(folder.path()).unwrap().chat_prompt(&Chat::from(messages.to_vec()))
}

fn hello() -> [Message; 1] {
    [Message::new(Role::User, "hello")]
}

#[test]
fn templates_render_as_jinja_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates.json");
    let golden: Golden = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let folder = folder();
    let mut differences = Vec::new();
    for case in golden.cases {
        for (messages, text) in golden.conversations.iter().zip(case.texts) {
            let ours = prompt(&folder, &case.template, messages);
            match (ours, text) {
                (Ok(ours), Some(text)) if ours == text => {}
                (Err(fault), None) if fault.kind() == FaultKind::InvalidInput => {}
                (ours, text) => differences.push(format!("{}: {ours:?}, not {text:?}", case.name)),
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn hostile_templates_come_to_an_end() {
    let folder = folder();
    let doubled =
        "{% set ns = namespace(x=messages) %}{% for a in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    for template in [
        &format!("{doubled}{{{{ ns.x }}}}"),
        &format!("{doubled}{{{{ ns.x | tojson }}}}"),
        &format!("{doubled}{{{{ ns.x | tojson(sort_keys=true) }}}}"),
        "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaa') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 'aaaaaaaaaa' * 99999999 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% macro twice(n) %}{{ twice(n + 1) }}{{ twice(n + 1) }}{% endmacro %}{{ twice(0) }}",
        "{% set ns = namespace(x=messages) %}{% for a in range(9999999) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{{ messages | tojson(indent=99999999999) }}{{ range(10 ** 9) | list }}",
    ] {
        let start = Instant::now();
        let fault = prompt(&folder, template, &hello()).unwrap_err();
        assert!(matches!(fault.kind(), FaultKind::Unsupported | FaultKind::InvalidInput), "{fault}");
        assert!(start.elapsed().as_secs() < 60, "{template} took {:?}", start.elapsed());
    }
}

#[test]
fn a_broken_template_leaves_the_model_usable() {
    let folder = folder();
    let deep = format!("{{{{ {}", "(".repeat(100_000));
    for template in ["{% if %}", "{{ nothing(", "{% unheard of %}", &deep, &"a".repeat(2_000_000)] {
        let fault = prompt(&folder, template, &hello()).unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Unsupported, "{fault}");
        assert!(fault.context().contains("the model's chat template"), "{fault}");
    }
}

#[test]
fn long_conversations_fit() {
    let messages: Vec<_> = (0..2000)
        .map(|i| Message::new(if i % 2 == 0 { Role::User } else { Role::Assistant }, "word ".repeat(200)))
        .collect();
    let tokenizer = corolla_tokenizers::load(&fixtures::path("models/tiny-llama")).unwrap();
    assert!(tokenizer.chat_prompt(&messages[..1999].to_vec().into()).unwrap().len() > 1_900_000);
}
