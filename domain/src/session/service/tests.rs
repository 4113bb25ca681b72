//! The service over mocked neighbours: a store that replicas share, a clock that is moved by hand.

mod prefix;

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use super::*;
use crate::{
    generation::{FinishReason, Sampling, StopRule},
    model::{BlockRange, Chat, Message, Role, SwarmMap},
    ports::{FaultKind, MockBlockEngine, MockRemoteSwarm, PortError},
    routing::{InProcessSwarm, JoinedSwarm},
    session::{Length, ModelEntry, Prompt, Usage},
    testing::{self, Ledger},
};

struct House {
    ledger: Arc<Ledger>,
    clock: Arc<AtomicU64>,
    records: Arc<Mutex<HashMap<Uuid, SessionRecord>>>,
    service: SessionService,
}

fn limits() -> Limits {
    Limits {
        max_sessions: 3,
        default_length: 64,
        max_length: 128,
        prefixes: 0,
        concurrent: 2,
        queue: 1,
        ..Limits::default()
    }
}

fn house() -> House {
    replica(&Arc::default(), &Arc::new(AtomicU64::new(1_000_000)), 9)
}

fn replica(records: &Arc<Mutex<HashMap<Uuid, SessionRecord>>>, clock: &Arc<AtomicU64>, room: usize) -> House {
    built(records, clock, room, limits())
}

fn built(
    records: &Arc<Mutex<HashMap<Uuid, SessionRecord>>>,
    clock: &Arc<AtomicU64>,
    room: usize,
    limits: Limits,
) -> House {
    let ledger = Arc::<Ledger>::default();
    let entry = |id: &str| ModelEntry {
        tokenizer: Arc::new(testing::tokenizer()),
        local: Arc::new(testing::local(testing::spec(id), testing::letter)),
        swarm: Arc::new(InProcessSwarm::new(id.into(), Arc::new(testing::engine(&ledger, room)))),
    };
    let catalogue = Catalogue::new(vec![entry("m"), entry("other")], "m".into()).unwrap();
    let store = Arc::new(testing::store(records));
    let service = SessionService::new(catalogue, store, limits, testing::ambient(clock));
    House { ledger, clock: clock.clone(), records: records.clone(), service }
}

fn asking(session: Option<Uuid>, prompt: Prompt, length: Length) -> ReplyRequest {
    ReplyRequest {
        model: None,
        session,
        owner: None,
        prompt,
        length,
        sampling: Sampling::greedy(),
        stop: StopRule::default(),
        grammar: None,
    }
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}

impl House {
    async fn say(&self, request: ReplyRequest) -> Result<(String, Usage, FinishReason), ReplyError> {
        let mut reply = self.service.reply(request).await?;
        let mut text = String::new();
        loop {
            let chunk = reply.next().await?.expect("a finish reason comes first");
            text += &chunk.text;
            if let Some(reason) = chunk.finish {
                return Ok((text, reply.usage(), reason));
            }
        }
    }

    async fn refusal(&self, request: ReplyRequest) -> String {
        self.say(request).await.unwrap_err().to_string()
    }

    fn pass(&self, time: Duration) {
        self.clock.fetch_add(u64::try_from(time.as_millis()).unwrap(), SeqCst);
    }
}

#[tokio::test]
async fn a_session_continued_says_what_one_call_says_and_computes_nothing_twice() {
    let house = house();
    let (whole, usage, _) = house.say(asking(None, text("the prompt"), Length::NewTokens(9))).await.unwrap();
    assert_eq!(usage, Usage { prompt_tokens: 10, cached_tokens: 0, computed_tokens: 18, new_tokens: 9 });

    let session = Some(house.service.open(None, None).await.unwrap());
    let first = house.say(asking(session, text("the prompt"), Length::NewTokens(3))).await.unwrap();
    let second = house.say(asking(session, Prompt::Nothing, Length::NewTokens(2))).await.unwrap();
    let third = house.say(asking(session, Prompt::Nothing, Length::Total(19))).await.unwrap();
    assert_eq!(first.0 + &second.0 + &third.0, whole);
    assert_eq!(second.1, Usage { prompt_tokens: 13, cached_tokens: 12, computed_tokens: 2, new_tokens: 2 });
    assert_eq!(third.1, Usage { prompt_tokens: 15, cached_tokens: 14, computed_tokens: 4, new_tokens: 4 });
    assert_eq!(house.service.meter().snapshot().tokens_computed, 36);
    assert_eq!(house.ledger.stepped.load(SeqCst), 36);
}

#[tokio::test]
async fn text_given_later_is_appended() {
    let house = house();
    let session = Some(house.service.open(None, None).await.unwrap());
    let first = house.say(asking(session, text("ab"), Length::NewTokens(2))).await.unwrap().0;
    let second = house.say(asking(session, text("cd"), Length::NewTokens(2))).await.unwrap().0;
    let at_once = house.say(asking(None, text(&format!("ab{first}cd")), Length::NewTokens(2))).await.unwrap().0;
    assert_eq!(second, at_once);
}

#[tokio::test]
async fn nothing_at_all_starts_from_the_start_token_which_is_shown() {
    let house = house();
    let (reply, usage, _) = house.say(asking(None, Prompt::Nothing, Length::Total(4))).await.unwrap();
    assert!(reply.starts_with("<s>") && reply.len() == 3 + 4, "{reply}");
    assert_eq!(usage.new_tokens, 4);
}

#[tokio::test]
async fn a_chat_reuses_the_prefix_it_shares_with_what_was_said() {
    let house = house();
    let session = Some(house.service.open(None, Some(128)).await.unwrap());
    let message = |role, content: &str| Message::new(role, content);
    let mut chat = vec![message(Role::User, "hello")];
    let first = house.say(asking(session, Prompt::Chat(chat.clone().into()), Length::NewTokens(3))).await.unwrap();
    chat.extend([message(Role::Assistant, &first.0), message(Role::User, "more")]);
    let second = house.say(asking(session, Prompt::Chat(chat.clone().into()), Length::NewTokens(3))).await.unwrap();
    assert_eq!(second.1.cached_tokens, first.1.prompt_tokens + 2, "all but the last token of the first reply");
    let alone = house.say(asking(None, Prompt::Chat(chat.clone().into()), Length::NewTokens(3))).await.unwrap();
    assert_eq!(second.0, alone.0);
    // An edit of the first message goes back to where the texts part.
    chat[0].content = "help!".into();
    let edited = house.say(asking(session, Prompt::Chat(chat.into()), Length::NewTokens(3))).await.unwrap();
    assert_eq!(edited.1.cached_tokens, "User:hel".len());
}

#[tokio::test]
async fn a_reply_that_has_begun_goes_on_after_its_words() {
    let house = house();
    let chat = Chat::from(vec![Message::new(Role::User, "hello")]);
    let whole = house.say(asking(None, Prompt::Chat(chat.clone()), Length::NewTokens(6))).await.unwrap();
    let begun = Prompt::Begun(chat.clone(), whole.0[..4].to_owned());
    let rest = house.say(asking(None, begun.clone(), Length::NewTokens(2))).await.unwrap();
    assert_eq!(format!("{}{}", &whole.0[..4], rest.0), whole.0);
    // In the session that wrote the beginning it is not computed again.
    let session = Some(house.service.open(None, Some(128)).await.unwrap());
    let first = house.say(asking(session, Prompt::Chat(chat), Length::NewTokens(4))).await.unwrap();
    let second = house.say(asking(session, begun, Length::NewTokens(2))).await.unwrap();
    assert_eq!((second.0, second.1.cached_tokens), (rest.0, first.1.prompt_tokens + 3));
}

#[tokio::test]
async fn sessions_expire_after_their_last_reply() {
    let house = house();
    let id = house.service.open(None, None).await.unwrap();
    for _ in 0..3 {
        house.pass(Duration::from_secs(299));
        house.say(asking(Some(id), text("a"), Length::NewTokens(1))).await.unwrap();
    }
    house.pass(Duration::from_secs(300));
    let refusal = house.refusal(asking(Some(id), text("a"), Length::NewTokens(1))).await;
    assert_eq!(refusal, format!("Session {} expired or does not exist", id.simple()));
    assert_eq!(house.ledger.open.load(SeqCst), 0, "its cache is free");
    assert!(house.records.lock().unwrap().is_empty());
}

#[tokio::test]
async fn sweeping_frees_what_expired_and_nothing_else() {
    let house = house();
    let old = house.service.open(None, None).await.unwrap();
    house.say(asking(Some(old), text("a"), Length::NewTokens(1))).await.unwrap();
    house.pass(Duration::from_secs(200));
    let young = house.service.open(None, None).await.unwrap();
    let mut running = house.service.reply(asking(Some(young), text("a"), Length::NewTokens(9))).await.unwrap();
    running.next().await.unwrap();
    house.pass(Duration::from_secs(1000));
    house.service.sweep().await;
    assert_eq!(house.records.lock().unwrap().keys().collect::<Vec<_>>(), [&young], "a running session is not expired");
    drop(running);
    house.pass(Duration::from_secs(299));
    house.service.sweep().await;
    assert!(house.say(asking(Some(young), Prompt::Nothing, Length::NewTokens(1))).await.is_ok());
    assert_eq!(house.service.meter().snapshot().sessions_live, 1);
}

#[tokio::test]
async fn closing_forgets_and_an_unknown_session_is_no_fault_to_close() {
    let house = house();
    let id = house.service.open(None, None).await.unwrap();
    house.say(asking(Some(id), text("a"), Length::NewTokens(1))).await.unwrap();
    assert!(house.service.close(id).await.unwrap());
    assert!(!house.service.close(id).await.unwrap());
    assert_eq!(house.ledger.open.load(SeqCst), 0);
    assert!(house.refusal(asking(Some(id), text("a"), Length::NewTokens(1))).await.contains("does not exist"));
}

#[tokio::test]
async fn there_are_so_many_sessions_and_no_more() {
    let house = house();
    for _ in 0..3 {
        house.service.open(None, None).await.unwrap();
    }
    let refusal = house.service.open(None, None).await.unwrap_err();
    assert_eq!(refusal.to_string(), "Too many opened inference sessions (max 3), please come back later");
    house.pass(Duration::from_secs(300));
    assert!(house.service.open(None, None).await.is_ok());
}

#[tokio::test]
async fn lengths_that_cannot_be_are_refused_before_anything_is_computed() {
    let house = house();
    let refusal = async |prompt: &str, length| house.refusal(asking(None, text(prompt), length)).await;
    assert_eq!(refusal("abc", Length::Total(3)).await, "Provided max_length is less than prefix size: 3 < 3");
    assert_eq!(
        refusal("abc", Length::NewTokens(usize::MAX)).await,
        format!("Maximum length exceeded: prefix 0 + current {} exceeds pre-allocated maximum 128", usize::MAX)
    );
    assert!(refusal(&"a".repeat(200), Length::Rest).await.contains("prefix 0 + current 200 exceeds"));
    assert!(refusal("", Length::NewTokens(1)).await.contains("must not be empty"));
    assert_eq!(
        house.service.open(None, Some(129)).await.unwrap_err().to_string(),
        "max_length 129 is more than this server allows for m: at most 128"
    );
    assert!(house.service.open(None, Some(0)).await.is_err());
    assert_eq!(house.ledger.stepped.load(SeqCst), 0);
}

#[tokio::test]
async fn a_session_that_runs_full_keeps_what_it_said_and_then_refuses() {
    let house = house();
    let session = Some(house.service.open(None, Some(8)).await.unwrap());
    let (said, _, reason) = house.say(asking(session, text("12345"), Length::NewTokens(50))).await.unwrap();
    assert_eq!(said.len(), 4);
    assert_eq!(reason, FinishReason::SessionFull { position: 8, needed: 1, max_length: 8 });
    let refusal = house.refusal(asking(session, text("abc"), Length::NewTokens(1))).await;
    assert_eq!(refusal, "Maximum length exceeded: prefix 8 + current 4 exceeds pre-allocated maximum 8");
}

#[tokio::test]
async fn one_model_a_session_and_unknown_models_are_named() {
    let house = house();
    let session = Some(house.service.open(Some("other".into()), None).await.unwrap());
    let mut request = asking(session, text("a"), Length::NewTokens(1));
    request.model = Some("m".into());
    assert_eq!(house.refusal(request).await, "the session was opened for model other, not m");
    let mut reply = house.service.reply(asking(session, text("a"), Length::NewTokens(1))).await.unwrap();
    assert_eq!(reply.model(), &"other".into());
    reply.next().await.unwrap();
    assert!(house.service.open(Some("x".into()), None).await.unwrap_err().to_string().contains("there is: m, other"));
}

#[tokio::test]
async fn a_dropped_reply_keeps_its_tokens_and_one_without_tokens_never_was() {
    let house = house();
    let whole = house.say(asking(None, text("abc"), Length::NewTokens(6))).await.unwrap().0;
    let session = Some(house.service.open(None, None).await.unwrap());
    drop(house.service.reply(asking(session, text("abc"), Length::NewTokens(6))).await.unwrap());
    let mut reply = house.service.reply(asking(session, text("abc"), Length::NewTokens(6))).await.unwrap();
    let mut said = String::new();
    for _ in 0..2 {
        said += &reply.next().await.unwrap().unwrap().text;
    }
    drop(reply);
    assert_eq!(house.service.meter().snapshot().turns_running, 0);
    said += &house.say(asking(session, Prompt::Nothing, Length::NewTokens(4))).await.unwrap().0;
    assert_eq!(said, whole);
}

#[tokio::test]
async fn too_many_requests_are_turned_away_at_once() {
    let house = house();
    let request = || asking(None, text("a"), Length::NewTokens(1));
    let first = house.service.reply(request()).await.unwrap();
    let _second = house.service.reply(request()).await.unwrap();
    let mut third = Box::pin(house.service.reply(request()));
    assert!(futures_util::poll!(third.as_mut()).is_pending());
    assert!(
        house.refusal(request()).await.starts_with("the server is busy: 2 replies are being written and 1 are waiting")
    );
    drop(first);
    assert!(third.await.is_ok());
}

#[tokio::test]
async fn calls_on_one_session_queue_for_its_lock() {
    let house = house();
    let session = Some(house.service.open(None, None).await.unwrap());
    let mut first = house.service.reply(asking(session, text("ab"), Length::NewTokens(2))).await.unwrap();
    let mut second = Box::pin(house.say(asking(session, Prompt::Nothing, Length::NewTokens(2))));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    let mut said = String::new();
    while let Some(chunk) = first.next().await.unwrap() {
        said += &chunk.text;
    }
    drop(first);
    said += &second.await.unwrap().0;
    assert_eq!(said, house.say(asking(None, text("ab"), Length::NewTokens(4))).await.unwrap().0);
}

#[tokio::test]
async fn a_full_cache_takes_the_room_of_idle_sessions_which_are_replayed_later() {
    let house = replica(&Arc::default(), &Arc::new(AtomicU64::new(0)), 1);
    let mut sessions = Vec::new();
    for _ in 0..2 {
        sessions.push(Some(house.service.open(None, None).await.unwrap()));
    }
    let whole = async |at: usize, prompt: &str| {
        let first = house.say(asking(sessions[at], text(prompt), Length::NewTokens(2))).await.unwrap();
        house.pass(Duration::from_secs(1));
        first.0
    };
    let a = whole(0, "abc").await;
    whole(1, "xyz").await;
    let more = house.say(asking(sessions[0], Prompt::Nothing, Length::NewTokens(2))).await.unwrap();
    assert_eq!(more.1.cached_tokens, 0, "its cache had to go");
    drop(house.service.close(sessions[0].unwrap()).await);
    let alone = house.say(asking(None, text("abc"), Length::NewTokens(4))).await.unwrap().0;
    assert_eq!(a + &more.0, alone);
}

#[tokio::test]
async fn another_replica_continues_a_session_from_the_store() {
    let (records, clock) = (Arc::default(), Arc::new(AtomicU64::new(0)));
    let here = replica(&records, &clock, 9);
    let there = replica(&records, &clock, 9);
    let session = Some(here.service.open(None, None).await.unwrap());
    let mut said = here.say(asking(session, text("abc"), Length::NewTokens(2))).await.unwrap().0;
    said += &there.say(asking(session, Prompt::Nothing, Length::NewTokens(2))).await.unwrap().0;
    let (back, usage, _) = here.say(asking(session, Prompt::Nothing, Length::NewTokens(2))).await.unwrap();
    assert_eq!(usage.cached_tokens, 4, "what it knew before is still in its cache");
    let whole = here.say(asking(None, text("abc"), Length::NewTokens(6))).await.unwrap().0;
    assert_eq!(said + &back, whole);
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let house = house();
    assert!(house.service.readiness().await.iter().all(|r| r.missing.is_none()));
    let catalogue = house.service.catalogue();
    catalogue.set(&"m".into(), ModelState::Loading);
    catalogue.set(&"other".into(), ModelState::Failed("no such file".into()));
    let missing: Vec<_> = house.service.readiness().await.into_iter().map(|r| r.missing.unwrap()).collect();
    assert_eq!(missing, ["it is still being loaded", "it could not be loaded; the server's log says why"]);
}

/// A service whose first block is in this process, with what is known of the other one.
fn half(far: Result<SwarmMap, PortError>) -> SessionService {
    let ledger = Arc::<Ledger>::default();
    let (mut engine, mut swarm, other) = (MockBlockEngine::new(), MockRemoteSwarm::new(), ledger.clone());
    engine.expect_hosted().returning(|| BlockRange::first(1));
    engine.expect_free_tokens().returning(|| 99);
    engine.expect_open().returning(move |blocks, need| Ok(testing::session(&ledger, blocks, need)));
    swarm.expect_map().returning(move |_| far.clone().map(Arc::new));
    swarm.expect_dial().returning(move |hop, need| Ok(testing::session(&other, hop.blocks, need)));
    let here = InProcessSwarm::new("m".into(), Arc::new(engine));
    let entry = ModelEntry {
        tokenizer: Arc::new(testing::tokenizer()),
        local: Arc::new(testing::local(testing::spec("m"), testing::letter)),
        swarm: Arc::new(JoinedSwarm::new(here, Arc::new(swarm))),
    };
    let catalogue = Catalogue::new(vec![entry], "m".into()).unwrap();
    let (store, clock) = (Arc::new(testing::store(&Arc::default())), Arc::default());
    SessionService::new(catalogue, store, limits(), testing::ambient(&clock))
}

#[tokio::test]
async fn a_reply_tells_of_blocks_in_this_process_only_beside_those_of_others() {
    let route = async |service: &SessionService| {
        let mut reply = service.reply(asking(None, text("abc"), Length::NewTokens(1))).await.unwrap();
        reply.next().await.unwrap();
        reply.route().hops.iter().map(|it| it.hop.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(route(&house().service).await, [""; 0]);
    let mut far = InProcessSwarm::offer(BlockRange::new(1, 2).unwrap(), 99);
    far.peer = "far".into();
    assert_eq!(route(&half(Ok(vec![far].into()))).await, ["0:1@in-process", "1:2@far"]);
}

#[tokio::test]
async fn readiness_tells_why_the_rest_of_the_blocks_is_not_known() {
    let service = half(Err(PortError::new(FaultKind::Unavailable, "no initial peer answers")));
    let missing = service.readiness().await.remove(0).missing.unwrap();
    assert_eq!(missing, "no server is known for blocks 1: the swarm could not be reached: no initial peer answers");
    let service = half(Err(PortError::internal("/etc/swarm.key cannot be read")));
    let missing = service.readiness().await.remove(0).missing.unwrap();
    assert!(!missing.contains("/etc"), "{missing}");
    let service = half(Ok(Vec::new().into()));
    assert_eq!(service.readiness().await.remove(0).missing_blocks, [1]);
}

/// Writes down what it hears.
#[derive(Default)]
struct Diary(Mutex<Vec<String>>);

impl Observer for Diary {
    fn observe(&self, event: &Event<'_>) {
        let line = match event {
            Event::Started { model, .. } => format!("{model} begins"),
            Event::Token { first, .. } => format!("token{}", if *first { ", the first" } else { "" }),
            Event::Step { hop, .. } => format!("step {hop}"),
            Event::FailedOver { failover, .. } => format!("lost {}", failover.lost),
            Event::Ended { tokens, finished, .. } => format!("ends after {tokens}, finished: {finished}"),
        };
        self.0.lock().unwrap().push(line);
    }
}

#[tokio::test]
async fn an_observer_hears_every_step_of_a_reply_and_how_it_ended() {
    let ledger = Arc::<Ledger>::default();
    let entry = ModelEntry {
        tokenizer: Arc::new(testing::tokenizer()),
        local: Arc::new(testing::local(testing::spec("m"), testing::letter)),
        swarm: Arc::new(InProcessSwarm::new("m".into(), Arc::new(testing::engine(&ledger, 9)))),
    };
    let catalogue = Catalogue::new(vec![entry], "m".into()).unwrap();
    let (store, clock, diary) = (Arc::new(testing::store(&Arc::default())), Arc::default(), Arc::<Diary>::default());
    let service = SessionService::observed(catalogue, store, limits(), testing::ambient(&clock), diary.clone());
    let mut whole = service.reply(asking(None, text("abc"), Length::NewTokens(2))).await.unwrap();
    while whole.next().await.unwrap().is_some_and(|chunk| chunk.finish.is_none()) {}
    drop(whole);
    let mut left = service.reply(asking(None, text("abc"), Length::NewTokens(9))).await.unwrap();
    left.next().await.unwrap();
    drop(left);
    let step = "step 0:2@in-process";
    let expected = [
        "m begins",
        step,
        "token, the first",
        step,
        "token",
        "ends after 2, finished: true",
        "m begins",
        step,
        "token, the first",
        "ends after 1, finished: false",
    ];
    assert_eq!(*diary.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn an_ending_leaves_the_session_as_if_the_model_had_ended() {
    let house = house();
    let plain = house.say(asking(None, text("a prompt"), Length::NewTokens(8))).await.unwrap().0;
    let ending = plain[4..6].to_owned();
    let stop = |sequence: &str, endings: &[&str]| StopRule {
        sequences: vec![sequence.to_owned()],
        endings: Some(endings.iter().map(|text| (*text).to_owned()).collect()),
        include: true,
        ..StopRule::default()
    };
    let session = house.service.open(None, None).await.unwrap();
    let asked = asking(Some(session), text("a prompt"), Length::NewTokens(8));
    let (said, _, reason) = house.say(ReplyRequest { stop: stop("!", &[&ending]), ..asked.clone() }).await.unwrap();
    assert_eq!((said.as_str(), reason), (&plain[..6], FinishReason::StopSequence(ending)));
    let kept = house.records.lock().unwrap()[&session].tokens.clone();
    assert_eq!(kept, testing::tokens(&format!("a prompt{}!", &plain[..5])), "the stop sequence is the last token");

    for (sequence, endings) in [("!!", &[][..]), ("!!", &["x"][..])] {
        let refused = house.refusal(ReplyRequest { stop: stop(sequence, endings), ..asked.clone() }).await;
        assert_eq!(refused, "extra_stop_sequences require stop_sequence length to be exactly 1 token");
    }
}

#[tokio::test]
async fn another_reply_to_the_same_prompt_computes_the_prompt_once() {
    let house = house();
    let sampling = Sampling { seed: Some(7), ..Sampling::at_temperature(5.0) };
    let request = |seed| ReplyRequest {
        sampling: Sampling { seed: Some(seed), ..sampling.clone() },
        ..asking(None, text("the prompt"), Length::NewTokens(6))
    };
    let mut lone = Vec::new();
    for seed in 7..10 {
        lone.push(house.say(request(seed)).await.unwrap().0);
    }
    let mut reply = house.service.reply(request(7)).await.unwrap();
    let mut texts = Vec::new();
    for nth in 0..3 {
        if nth > 0 {
            reply.again(nth);
        }
        let mut said = String::new();
        while let Some(chunk) = reply.next().await.unwrap() {
            said += &chunk.text;
        }
        texts.push(said);
    }
    assert_eq!(texts, lone);
    assert_ne!(texts[0], texts[1]);
    let usage = Usage { prompt_tokens: 10, cached_tokens: 0, computed_tokens: 10 + 5 + 5 + 5, new_tokens: 18 };
    assert_eq!(reply.usage(), usage);
}

#[tokio::test]
async fn tokens_are_as_good_as_their_text() {
    let house = house();
    let from_text = house.say(asking(None, text("prompt"), Length::NewTokens(5))).await.unwrap();
    let from_tokens = house.say(asking(None, Prompt::Tokens(testing::tokens("prompt")), Length::NewTokens(5))).await;
    assert_eq!(from_tokens.unwrap(), from_text);
    assert_eq!(house.service.text_of(None, &testing::tokens("prompt")).unwrap(), "prompt");
    let unknown = Prompt::Tokens(vec![crate::model::TokenId(300)]);
    let told = house.refusal(asking(None, unknown, Length::NewTokens(5))).await;
    assert_eq!(told, "the prompt has token 300, but the tokens of m are below 256");
    assert!(matches!(
        house.say(asking(None, Prompt::Tokens(Vec::new()), Length::NewTokens(5))).await,
        Err(ReplyError::EmptyInput)
    ));
}
