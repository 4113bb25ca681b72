//! Little programs that behave as plug-ins may.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests too")]

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use super::*;

const QUICK: Bounds = Bounds { time: Duration::from_secs(20), bytes: 4096 };

/// A folder with programs of these names and shell scripts.
fn folder(programs: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in programs {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// What a program with that script is taken for.
async fn asked(script: &str, bounds: Bounds) -> Result<Probe, String> {
    let folder = folder(&[("corolla-tch", script)]);
    let found = find(&[folder.path().to_owned()], &[Backend::Tch], bounds).await;
    let [plug_in] = found.try_into().unwrap();
    plug_in.probe.map_err(|fault| fault.replace(&folder.path().display().to_string(), "FOLDER"))
}

fn saying(json: &str) -> String {
    format!("[ \"$1\" = probe ] && [ -n \"$COROLLA_PLUG_IN\" ] && cat <<'END'\n{json}\nEND")
}

#[tokio::test]
async fn the_right_answer_is_taken() {
    let json = format!(
        r#"{{"version": "{VERSION}", "backends": {{
            "tch": {{"devices": [], "library": "libtorch 2.13.0"}},
            "candle-cuda": {{"devices": [{{"name": "A100", "total_bytes": 80, "free_bytes": 70}}]}},
            "candle-cpu": {{"error": "no processor"}}, "new": {{}} }} }}"#
    );
    let probe = asked(&saying(&json), QUICK).await.unwrap();
    assert_eq!(probe.cards(Backend::Tch), Some(Ok(Vec::new())));
    let card = Card { name: "A100".into(), total: 80, free: 70 };
    assert_eq!(probe.cards(Backend::CandleCuda), Some(Ok(vec![card])));
    assert_eq!(probe.cards(Backend::CandleCpu), Some(Err("no processor".into())));
}

#[tokio::test]
async fn own_words_are_read_by_others() {
    let own = Probe::own(|_| Ok(Facts::default()));
    assert_eq!(own.cards(Backend::CandleCpu), Some(Ok(Vec::new())));
    assert_eq!(asked(&saying(&serde_json::to_string(&own).unwrap()), QUICK).await, Ok(own));
    let broken = Probe::own(|_| Err("none".to_owned()));
    assert_eq!(asked(&saying(&serde_json::to_string(&broken).unwrap()), QUICK).await, Ok(broken));
}

#[tokio::test]
async fn what_is_wrong_with_a_program_is_said_in_its_words() {
    let loader = "echo \"$0: error while loading shared libraries: libcuda.so.1: cannot open shared object file: No such \
                  file or directory\" >&2; exit 127";
    for (script, words) in [
        (
            loader.to_owned(),
            "does not start: error while loading shared libraries: libcuda.so.1: cannot open shared object file: No such \
             file or directory; install the driver of the NVIDIA card",
        ),
        (
            "echo 'symbol lookup error: undefined symbol: _ZN5torch3jit' >&2; exit 127".to_owned(),
            "does not start: symbol lookup error: undefined symbol: _ZN5torch3jit; install the library, or build it anew",
        ),
        ("exit 3".to_owned(), "ended with exit code 3: nothing"),
        ("kill -9 $$".to_owned(), "was ended by a signal: nothing"),
        ("printf '\\033[31mhello\\n'".to_owned(), "is no build of corolla: it said \"[31mhello\""),
        (String::new(), "is no build of corolla: it said \"nothing\""),
        (saying("{\"version\": 1}"), "is no build of corolla: it said \"{\"version\": 1}\""),
        (
            saying("{\"version\": \"9.9.9\", \"backends\": {}}"),
            "is corolla 9.9.9, this is 0.1.0; build both from the same sources",
        ),
    ] {
        assert_eq!(asked(&script, QUICK).await.unwrap_err(), words.replace("0.1.0", VERSION));
    }
}

#[tokio::test]
async fn a_program_that_says_too_much_or_nothing_is_left() {
    let begun = Instant::now();
    let endless = asked("while :; do echo more and more; done", QUICK).await.unwrap_err();
    assert_eq!(endless, "said more than 4096 bytes, so it is no build of corolla");
    let chatty = asked("while :; do echo more and more >&2; done", QUICK).await.unwrap_err();
    assert!(chatty.starts_with("was ended by a signal: more and more"), "{chatty}");
    let short = Bounds { time: Duration::from_millis(300), ..QUICK };
    for hangs in ["exec sleep 100", "echo '{'; exec sleep 100", "exec >&- 2>&-; exec sleep 100"] {
        let fault = asked(hangs, short).await.unwrap_err();
        assert_eq!(fault, "did not answer within 0.3 s; look at what `FOLDER/corolla-tch probe` does");
    }
    assert!(begun.elapsed() < QUICK.time, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn only_programs_that_may_have_it_are_asked_each_once() {
    let folder = folder(&[("corolla-tch", "exit 1"), ("corolla-full", "exit 2"), ("corolla-cuda", "exit 3")]);
    fs::write(folder.path().join("corolla"), "no program").unwrap();
    let twice = [folder.path().to_owned(), folder.path().to_owned()];
    let names = async |wanted: &[Backend]| -> Vec<String> {
        let found = find(&twice, wanted, QUICK).await;
        found.into_iter().map(|it| it.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[Backend::Tch]).await, ["corolla-tch", "corolla-full"]);
    assert_eq!(names(&[Backend::CandleCuda, Backend::Tch]).await, ["corolla-cuda", "corolla-full", "corolla-tch"]);
    assert_eq!(names(&[Backend::CandleCpu]).await, Vec::<String>::new());
    let no_program = folder.path().join("corolla-cuda");
    fs::set_permissions(&no_program, fs::Permissions::from_mode(0o644)).unwrap();
    let found = find(&twice, &[Backend::CandleCuda], QUICK).await;
    assert!(found[0].probe.as_ref().unwrap_err().starts_with("cannot be started: Permission denied"), "{found:?}");
}

#[test]
fn what_is_missing_is_said_with_what_was_found() {
    let folders = [PathBuf::from("/opt/bin")];
    assert_eq!(
        missing(Backend::Tch, &folders, &[]),
        "this program does not have it, and there is no corolla-tch or corolla-full in /opt/bin; `make libtorch` builds it \
         (cargo feature `libtorch`)"
    );
    let probe = |backends: &[(&str, Answer)]| Probe {
        version: VERSION.into(),
        backends: backends.iter().map(|(name, answer)| ((*name).to_owned(), answer.clone())).collect(),
    };
    let broken = Answer::Broken { error: "libtorch 2.12 was found, 2.13 is needed".into() };
    let plug_in = |name: &str, probe| PlugIn { path: Path::new("/opt/bin").join(name), probe };
    let found = [
        plug_in("corolla-tch", Ok(probe(&[("tch", broken)]))),
        plug_in("corolla-full", Ok(probe(&[]))),
        plug_in("corolla-cuda", Err("does not start".into())),
    ];
    assert_eq!(
        missing(Backend::Tch, &folders, &found),
        "this program does not have it, and /opt/bin/corolla-tch has it, but: libtorch 2.12 was found, 2.13 is needed; \
         /opt/bin/corolla-full was built without it"
    );
}
