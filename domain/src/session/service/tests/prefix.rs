//! Prefixes that are kept without a session.

use super::*;
use crate::session::Owner;

/// Keeps `prefixes`, and has room for so many open conversations.
fn keeping(prefixes: usize, room: usize) -> House {
    let limits = Limits { prefixes, default_length: 256, max_length: 1024, ..limits() };
    built(&Arc::default(), &Arc::new(AtomicU64::new(1_000_000)), room, limits)
}

/// A chat that has come to its `turns`-th question, and what it is answered by a house that keeps nothing.
struct Talk {
    messages: Vec<Message>,
    cold: House,
}

impl Talk {
    fn about(topic: &str) -> Self {
        let first = Message::new(
            Role::User,
            format!("Tell me something about {topic}, in as many words as you like, and then go on."),
        );
        Self { messages: vec![first], cold: keeping(0, 9) }
    }

    fn request(&self) -> ReplyRequest {
        asking(None, Prompt::Chat(self.messages.clone().into()), Length::NewTokens(12))
    }

    /// Asks `house`, checks that the answer is the cold one, and goes on; returns what was found in the cache.
    async fn turn(&mut self, house: &House, owner: Option<&str>) -> usize {
        let request = ReplyRequest { owner: owner.map(Owner::from), ..self.request() };
        let (said, usage, _) = house.say(request).await.unwrap();
        let (cold, cold_usage, _) = self.cold.say(self.request()).await.unwrap();
        assert_eq!((&said, usage.prompt_tokens), (&cold, cold_usage.prompt_tokens), "as without what was kept");
        assert_eq!(usage.computed_tokens + usage.cached_tokens, cold_usage.computed_tokens);
        self.messages.extend([Message::new(Role::Assistant, said), Message::new(Role::User, "Go on.")]);
        usage.cached_tokens
    }

    /// Positions of the conversation up to the latest answer's last token but one.
    fn known(&self) -> usize {
        let said: String = self.messages[..self.messages.len() - 1]
            .iter()
            .map(|message| format!("{:?}:{}\n", message.role, message.content))
            .collect();
        said.len() - 2
    }
}

#[tokio::test]
async fn a_chat_without_a_session_goes_on_from_what_was_kept() {
    let house = keeping(8, 9);
    let mut talk = Talk::about("the sea");
    assert_eq!(talk.turn(&house, None).await, 0);
    let mut saved = 0;
    for _ in 0..4 {
        let known = talk.known();
        assert_eq!(talk.turn(&house, None).await, known);
        saved += known;
    }
    let meter = house.service.meter().snapshot();
    assert_eq!((meter.prefix_hits, meter.prefix_tokens, meter.prefixes_kept), (4, saved as u64, 1));
    assert_eq!(house.ledger.open.load(SeqCst), 1, "one conversation, one cache");
}

#[tokio::test]
async fn the_same_question_again_computes_its_last_token_alone() {
    let house = keeping(8, 9);
    let talk = Talk::about("the sea");
    let first = house.say(talk.request()).await.unwrap();
    let again = house.say(talk.request()).await.unwrap();
    assert_eq!(again.0, first.0);
    assert_eq!(again.1.cached_tokens, first.1.prompt_tokens - 1);
}

#[tokio::test]
async fn of_several_the_longest_is_taken_and_others_are_left_alone() {
    let house = keeping(8, 9);
    let (mut sea, mut sky) = (Talk::about("the sea"), Talk::about("the sky"));
    for talk in [&mut sea, &mut sky] {
        assert_eq!(talk.turn(&house, None).await, 0, "a beginning in common is no reason to lose a conversation");
    }
    for _ in 0..2 {
        for talk in [&mut sea, &mut sky] {
            let known = talk.known();
            assert_eq!(talk.turn(&house, None).await, known);
        }
    }
    assert_eq!(house.service.meter().snapshot().prefixes_kept, 2);
}

#[tokio::test]
async fn what_one_key_said_is_not_there_for_another() {
    let house = keeping(8, 9);
    let mut talk = Talk::about("my secrets");
    talk.turn(&house, Some("ann")).await;
    for other in [Some("bob"), None] {
        let request = ReplyRequest { owner: other.map(Owner::from), ..talk.request() };
        assert_eq!(house.say(request).await.unwrap().1.cached_tokens, 0, "{other:?}");
    }
    let other = ReplyRequest { model: Some("other".into()), owner: Some("ann".into()), ..talk.request() };
    assert_eq!(house.say(other).await.unwrap().1.cached_tokens, 0, "nor for another model");
    let known = talk.known();
    assert_eq!(talk.turn(&house, Some("ann")).await, known);
}

#[tokio::test]
async fn as_many_are_kept_as_was_said_for_as_long_as_a_session() {
    let house = keeping(2, 9);
    let mut talks = [Talk::about("the sea"), Talk::about("a sky"), Talk::about("some land")];
    for talk in &mut talks {
        talk.turn(&house, None).await;
    }
    assert_eq!((house.service.meter().snapshot().prefixes_kept, house.ledger.open.load(SeqCst)), (2, 2));
    assert_eq!(talks[0].turn(&house, None).await, 0, "the one unused for longest had to go");
    house.pass(limits().idle);
    house.service.sweep().await;
    assert_eq!((house.service.meter().snapshot().prefixes_kept, house.ledger.open.load(SeqCst)), (0, 0));
    let none = keeping(0, 9);
    talks[1].turn(&none, None).await;
    assert_eq!(none.ledger.open.load(SeqCst), 0, "0 keeps nothing");
}

#[tokio::test]
async fn whoever_needs_the_room_gets_it() {
    let house = keeping(8, 2);
    let (mut sea, mut sky) = (Talk::about("the sea"), Talk::about("a sky"));
    sea.turn(&house, None).await;
    sky.turn(&house, None).await;
    assert_eq!(house.ledger.open.load(SeqCst), 2, "the cache is full");
    let session = Some(house.service.open(None, None).await.unwrap());
    house.say(asking(session, text("a session"), Length::NewTokens(2))).await.unwrap();
    assert_eq!(house.service.meter().snapshot().prefixes_kept, 1);
    house.say(asking(None, text("something else without a session"), Length::NewTokens(2))).await.unwrap();
    assert_eq!(house.ledger.open.load(SeqCst), 2);
    let usage = house.say(asking(session, Prompt::Nothing, Length::NewTokens(2))).await.unwrap().1;
    assert_eq!(usage.computed_tokens, 2, "no session lost its cache for it");
}

#[tokio::test]
async fn a_reply_that_was_left_is_kept_as_far_as_it_came() {
    let house = keeping(8, 9);
    let talk = Talk::about("the sea");
    let mut left = house.service.reply(talk.request()).await.unwrap();
    left.next().await.unwrap();
    left.next().await.unwrap();
    drop(left);
    let first = house.say(talk.request()).await.unwrap();
    assert_eq!(first.1.cached_tokens, first.1.prompt_tokens - 1);
    house.ledger.hang.store(1, SeqCst);
    let mut hung = house.service.reply(talk.request()).await.unwrap();
    tokio::time::timeout(Duration::from_millis(1), hung.next()).await.unwrap_err();
    drop(hung);
    let again = house.say(talk.request()).await.unwrap();
    assert_eq!(
        (again.0, again.1.cached_tokens),
        (first.0, first.1.prompt_tokens - 1),
        "a dropped step leaves no trace"
    );
}

#[tokio::test]
async fn a_conversation_that_outgrows_its_room_is_read_again() {
    let house = keeping(8, 9);
    let mut talk = Talk::about("the sea");
    let mut cold = 0;
    for turn in 0..16 {
        let known = if turn == 0 { 0 } else { talk.known() };
        let cached = talk.turn(&house, None).await;
        assert!(cached == known || cached == 0, "turn {turn}: {cached} of {known}");
        cold += usize::from(cached == 0);
    }
    assert_eq!(cold, 2, "the first turn, and one when 256 more than it needed are full");
    assert_eq!(house.ledger.open.load(SeqCst), 1, "the smaller one has given way");
}

#[tokio::test]
async fn who_names_a_seed_has_the_prompt_read_anew() {
    let house = keeping(8, 9);
    let talk = Talk::about("the sea");
    house.say(talk.request()).await.unwrap();
    let seeded = ReplyRequest { sampling: Sampling { seed: Some(7), ..Sampling::greedy() }, ..talk.request() };
    assert_eq!(house.say(seeded).await.unwrap().1.cached_tokens, 0);
}

/// A house whose sessions give copies of their beginning, and a long prompt before a question.
fn copying(room: usize) -> House {
    let house = keeping(8, room);
    house.ledger.forks.store(room, SeqCst);
    house
}

fn question(about: &str) -> ReplyRequest {
    let system = "You answer in as few words as you can, and never in more. ".repeat(6);
    let messages = vec![Message::new(Role::System, system), Message::new(Role::User, about)];
    asking(None, Prompt::Chat(messages.into()), Length::NewTokens(9))
}

async fn cold(about: &str) -> (String, Usage) {
    let (said, usage, _) = keeping(0, 9).say(question(about)).await.unwrap();
    (said, usage)
}

#[tokio::test]
async fn a_long_prompt_that_many_requests_share_is_computed_once() {
    let house = copying(9);
    house.say(question("The first.")).await.unwrap();
    let (before, computed) = (cold("The first.").await.1.prompt_tokens, house.ledger.stepped.load(SeqCst));
    let mut pair = Vec::new();
    for about in ["Why?", "And then?"] {
        pair.push((about, house.service.reply(question(about)).await.unwrap(), String::new()));
    }
    for _ in 0..9 {
        for (_, reply, text) in &mut pair {
            *text += &reply.next().await.unwrap().unwrap().text;
        }
    }
    for (about, reply, text) in pair {
        let (wanted, usage) = cold(about).await;
        assert_eq!(text, wanted);
        assert!(reply.usage().cached_tokens >= before - "The first.\nAssistant:".len());
        assert_eq!(reply.usage().cached_tokens + reply.usage().computed_tokens, usage.computed_tokens);
    }
    let computed = house.ledger.stepped.load(SeqCst) - computed;
    assert!(computed < 2 * "And then?\nAssistant:".len() + 2 * 9, "{computed} positions for two questions");
    let meter = house.service.meter().snapshot();
    assert_eq!((meter.prefix_hits, meter.prefixes_kept), (2, 3), "nobody took it from the other");
    assert_eq!(meter.tokens_computed, house.ledger.stepped.load(SeqCst) as u64);
}

#[tokio::test]
async fn a_request_begins_from_the_prompt_of_one_that_is_still_being_answered() {
    let house = copying(9);
    let mut first = house.service.reply(question("The first.")).await.unwrap();
    first.next().await.unwrap();
    first.next().await.unwrap();
    let (said, usage, _) = house.say(question("Why?")).await.unwrap();
    let (wanted, cold) = cold("Why?").await;
    assert_eq!(said, wanted);
    assert!(usage.cached_tokens > cold.prompt_tokens - 20, "{usage:?}");
    while first.next().await.unwrap().is_some() {}
    drop(first);
    assert_eq!(house.service.meter().snapshot().prefixes_kept, 2, "the whole of it takes the place of its beginning");
    assert_eq!(house.ledger.open.load(SeqCst), 2);
}

#[tokio::test]
async fn what_is_kept_already_is_not_kept_twice() {
    let house = copying(9);
    let (first, second) = (house.say(question("Why?")).await.unwrap(), house.say(question("Why?")).await.unwrap());
    assert_eq!((second.0, second.1.cached_tokens), (first.0, first.1.prompt_tokens - 1));
    let mut left = house.service.reply(question("Why?")).await.unwrap();
    left.next().await.unwrap();
    drop(left);
    assert_eq!((house.service.meter().snapshot().prefixes_kept, house.ledger.open.load(SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_conversation_goes_on_from_copies_as_it_would_by_itself() {
    let house = copying(9);
    let mut talk = Talk::about("the sea");
    assert_eq!(talk.turn(&house, None).await, 0);
    for _ in 0..4 {
        let known = talk.known();
        assert_eq!(talk.turn(&house, None).await, known);
    }
    assert_eq!((house.service.meter().snapshot().prefixes_kept, house.ledger.open.load(SeqCst)), (1, 1));
    assert_eq!(talk.turn(&house, Some("bob")).await, 0, "what is said for one is not there for another");
}

#[tokio::test]
async fn where_there_is_no_room_for_a_copy_the_conversation_itself_goes_on() {
    let house = copying(1);
    let mut talk = Talk::about("the sea");
    for turn in 0..3 {
        let known = if turn == 0 { 0 } else { talk.known() };
        assert_eq!(talk.turn(&house, None).await, known);
    }
    assert_eq!(house.ledger.open.load(SeqCst), 1);
}

#[tokio::test]
async fn others_that_are_kept_make_room_for_a_copy() {
    let house = copying(3);
    house.say(question(&"Most of it is of no use to anybody else. ".repeat(12))).await.unwrap();
    let mut sky = Talk::about("a sky");
    sky.turn(&house, None).await;
    house.ledger.forks.store(2, SeqCst);
    let (said, usage, _) = house.say(question("Why?")).await.unwrap();
    let (wanted, cold) = cold("Why?").await;
    assert_eq!(said, wanted);
    assert!(usage.cached_tokens > cold.prompt_tokens - 20, "{usage:?}");
    assert_eq!(sky.turn(&house, None).await, 0, "it had to go");
}
