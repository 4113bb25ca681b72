//! What is found in a reply does not depend on where it is cut.

use super::*;

const NOW: &str = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
const ROME: &str = r#"{"name": "weather", "arguments": {"city": "Rome", "note": "</tool_call>{"}}"#;

fn call(name: &str, arguments: &str) -> Call {
    Call { name: name.to_owned(), arguments: arguments.to_owned() }
}

fn scanner(form: CallForm) -> Scanner {
    Scanner::new(form, vec!["now".to_owned(), "weather".to_owned()])
}

fn scan<'a>(form: CallForm, pieces: impl IntoIterator<Item = &'a str>) -> Found {
    let mut scanner = scanner(form);
    let mut all = Found::default();
    for piece in pieces {
        let found = scanner.push(piece);
        all.text += &found.text;
        all.calls.extend(found.calls);
    }
    let found = scanner.finish("");
    all.text += &found.text;
    all.calls.extend(found.calls);
    all
}

/// The same in one piece, cut at any two places, and character by character.
fn everywhere(form: CallForm, text: &str, expected: &Found) {
    assert_eq!(scan(form, [text]), *expected, "{text:?} in one piece");
    assert_eq!(scanner(form).finish(text), *expected, "{text:?} as the end");
    let cuts: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
    for (nth, first) in cuts.iter().enumerate() {
        for second in &cuts[nth..] {
            let pieces = [&text[..*first], &text[*first..*second], &text[*second..]];
            assert_eq!(scan(form, pieces), *expected, "{pieces:?}");
        }
    }
    let letters = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
    assert_eq!(scan(form, letters), *expected, "{text:?} letter by letter");
}

fn holds(form: CallForm, text: &str, shown: &str, calls: &[Call]) {
    everywhere(form, text, &Found { text: shown.to_owned(), calls: calls.to_vec() });
}

fn stays(form: CallForm, text: &str) {
    holds(form, text, text, &[]);
}

#[test]
fn tagged_calls_are_found_between_words() {
    let now = || call("now", "{}");
    let rome = call("weather", r#"{"city":"Rome","note":"</tool_call>{"}"#);
    holds(CallForm::Tagged, NOW, "", &[now()]);
    holds(CallForm::Tagged, &format!("Let's see.\n{NOW}\n"), "Let's see.", &[now()]);
    holds(CallForm::Tagged, &format!("{NOW}\n<tool_call>{ROME}</tool_call>"), "", &[now(), rome]);
    holds(CallForm::Tagged, &format!("a {NOW} b\n"), "a b", &[now()]);
    holds(CallForm::Tagged, &NOW[..NOW.len() - "</tool_call>".len()], "", &[now()]);
    holds(CallForm::Tagged, "<tool_call>{\"name\": \"now\"}</tool_call>", "", &[now()]);
}

#[test]
fn what_only_looks_like_a_tagged_call_stays_text() {
    for text in [
        "Just words, 1 < 2 and 3 > 2.\n",
        " \n",
        "<tool_call",
        "<tool_call>",
        "a <tool_call> b",
        "<tool_call>{}</tool_call>",
        "<tool_call>{\"name\": \"never\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"now\", \"arguments\": []}</tool_call> and more",
        "<tool_call>{\"name\": \"now\", \"arguments\": {",
        "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool",
        "<tool_call>{\"name\": \"now\", \"arguments\": {}} é",
        "<tool_call>[1]</tool_call>\n",
    ] {
        stays(CallForm::Tagged, text);
    }
    holds(CallForm::Tagged, &format!("<tool_call>{NOW}"), "<tool_call>", &[call("now", "{}")]);
}

#[test]
fn a_reply_that_is_nothing_but_calls_is_one_in_the_bare_form() {
    let bare = "{\"name\": \"now\", \"parameters\": {}}";
    holds(CallForm::Bare, bare, "", &[call("now", "{}")]);
    holds(CallForm::Bare, &format!("\n{bare}; {bare}\n"), "", &[call("now", "{}"), call("now", "{}")]);
    for text in [
        "Words {\"name\": \"now\"}",
        "{\"name\": \"never\", \"parameters\": {}}",
        "{\"warm\": true}\n",
        "{\"name\": \"now\", \"parameters\": {}} it is",
        "{\"name\": \"now\", \"par",
        "  ",
        "",
    ] {
        stays(CallForm::Bare, text);
    }
}

#[test]
fn lists_of_calls_follow_their_mark() {
    let list = r#"[TOOL_CALLS] [{"name": "now", "arguments": {}}, {"name": "weather", "arguments": {"city": "é"}}]"#;
    let calls = [call("now", "{}"), call("weather", "{\"city\":\"é\"}")];
    holds(CallForm::Listed, list, "", &calls);
    holds(CallForm::Listed, &format!("Well: {list}\n"), "Well:", &calls);
    holds(CallForm::Listed, "[TOOL_CALLS]{\"name\": \"now\"}", "", &[call("now", "{}")]);
    for text in
        ["[TOOL_CALLS] []", "[TOOL_CALLS] [{\"name\": \"never\"}]", "[TOOL_CALLS] [{\"name\"", "[TOOL", "[1] [TO] x"]
    {
        stays(CallForm::Listed, text);
    }
}

#[test]
fn words_go_out_at_once_and_calls_when_they_are_whole() {
    let mut scanner = scanner(CallForm::Tagged);
    assert_eq!(scanner.push("It is < ").text, "It is <");
    assert_eq!(scanner.push("5 ").text, " 5");
    assert_eq!(scanner.push("<tool_"), Found::default());
    assert_eq!(scanner.push("call>{\"name\": \"now\"}"), Found::default());
    assert_eq!(scanner.push("</tool_call>").calls, [call("now", "{}")]);
    assert_eq!(scanner.finish(""), Found::default());
}

#[test]
fn without_tools_nothing_is_held_back() {
    let mut scanner = Scanner::new(CallForm::Tagged, Vec::new());
    assert_eq!(scanner.push(" <tool_call>{").text, " <tool_call>{");
    assert_eq!(scanner.finish(""), Found::default());
}
