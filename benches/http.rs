//! What the HTTP layer costs: two hundred streams at once over a model that takes no processor time, whose every token is the
//! moment it was made at. `make bench-http` runs it. The server is this process, and the clients another one on the same
//! processors; the same replies are read without HTTP for comparison.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on fails, and prints what it found"
)]

use std::{
    env,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use corolla_api::{ApiSettings, Connections, Metrics, routes, serve};
use corolla_domain::{
    generation::{Sampling, StopRule},
    model::{
        BlockRange, CallForm, Chat, Grammar, Hidden, Hop, LogitRow, Logits, ModelId, ModelSpec, SwarmMap, TokenId, Want,
    },
    ports::{
        BlockSession, Constraint, FaultKind, LocalModel, PortError, RemoteSwarm, SessionNeed, StepInput, Timestamp,
        Tokenizer,
    },
    routing::InProcessSwarm,
    session::{Ambient, Catalogue, Length, Limits, ModelEntry, Prompt, ReplyRequest, SessionService},
};
use corolla_sessions::MemorySessions;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinSet,
};

const STREAMS: usize = 200;
const TOKENS: usize = 200;
/// Between two tokens of a stream.
const PACE: Duration = Duration::from_millis(50);
/// How often somebody asks for whom there is no room, while the streams are full.
const EXTRA: usize = 100;

/// Tokens are microseconds since that moment.
#[derive(Clone, Copy)]
struct Clock(u64);

impl Clock {
    fn start() -> Self {
        Self(epoch_micros())
    }

    fn micros(self) -> u32 {
        u32::try_from(epoch_micros().saturating_sub(self.0)).unwrap()
    }
}

/// Both processes read it.
fn epoch_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

#[async_trait]
impl Tokenizer for Clock {
    async fn encode(&self, _: &str, _: bool) -> Result<Vec<TokenId>, PortError> {
        Ok(vec![TokenId(1)])
    }

    fn decode(&self, tokens: &[TokenId], _: bool) -> Result<String, PortError> {
        Ok(tokens.iter().map(|token| format!("<{}>", token.0)).collect())
    }

    fn chat_prompt(&self, _: &Chat) -> Result<String, PortError> {
        Ok("?".to_owned())
    }

    fn call_form(&self) -> CallForm {
        CallForm::Tagged
    }

    async fn constrain(&self, _: &Grammar, _: usize, _: TokenId) -> Result<Box<dyn Constraint>, PortError> {
        Err(PortError::new(FaultKind::Unsupported, "a clock knows no grammars"))
    }
}

#[async_trait]
impl LocalModel for Clock {
    fn spec(&self) -> Arc<ModelSpec> {
        Arc::new(ModelSpec {
            id: "clock".into(),
            family: "clock".to_owned(),
            hidden: 1,
            vocab: u32::MAX as usize,
            blocks: 1,
            max_positions: None,
            eos: Vec::new(),
            bos: Some(TokenId(1)),
            dtype: "f32".to_owned(),
        })
    }

    async fn embed(&self, tokens: Vec<Vec<TokenId>>) -> Result<Hidden, PortError> {
        Hidden::from_f32((1, tokens[0].len(), 1), &vec![0.0; tokens[0].len()])
    }

    async fn logits(&self, hidden: Hidden, _: Want) -> Result<Logits, PortError> {
        let now = |_| LogitRow::Sparse(vec![(TokenId(self.micros()), 1.0)]);
        Ok(Logits { rows: (0..hidden.seq()).map(now).collect() })
    }

    async fn normed(&self, hidden: Hidden) -> Result<Hidden, PortError> {
        Ok(hidden)
    }
}

#[async_trait]
impl RemoteSwarm for Clock {
    async fn map(&self, _: &ModelId) -> Result<Arc<SwarmMap>, PortError> {
        Ok(Arc::new(vec![InProcessSwarm::offer(BlockRange::first(1), 1 << 30)].into()))
    }

    async fn dial(&self, hop: Hop, _: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        Ok(Box::new(Waiting { blocks: hop.blocks, position: 0 }))
    }

    async fn forward(&self, _: Hop, hidden: Hidden) -> Result<Hidden, PortError> {
        Ok(hidden)
    }
}

struct Waiting {
    blocks: BlockRange,
    position: usize,
}

#[async_trait]
impl BlockSession for Waiting {
    fn blocks(&self) -> BlockRange {
        self.blocks
    }

    fn position(&self) -> usize {
        self.position
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        tokio::time::sleep(PACE).await;
        self.position += input.hidden.seq();
        Ok(input.hidden)
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        self.position = to;
        Ok(())
    }
}

fn service(clock: Clock, metrics: Arc<Metrics>) -> Arc<SessionService> {
    let entry = ModelEntry { tokenizer: Arc::new(clock), local: Arc::new(clock), swarm: Arc::new(clock) };
    let limits = Limits { concurrent: STREAMS, queue: 0, ..Limits::default() };
    let ambient = Ambient { now: Arc::new(|| Timestamp(1)), random: Arc::new(|| 7) };
    let catalogue = Catalogue::new(vec![entry], "clock".into()).unwrap();
    Arc::new(SessionService::observed(catalogue, Arc::new(MemorySessions::new()), limits, ambient, metrics))
}

/// Replies with no HTTP between: what the timer and the domain take.
async fn bare(service: &Arc<SessionService>, clock: Clock) -> Vec<u32> {
    let mut tasks = JoinSet::new();
    for _ in 0..STREAMS {
        let service = service.clone();
        tasks.spawn(async move {
            let request = ReplyRequest {
                model: None,
                session: None,
                owner: None,
                prompt: Prompt::Text("?".to_owned()),
                length: Length::NewTokens(TOKENS),
                sampling: Sampling::greedy(),
                grammar: None,
                stop: StopRule::default(),
            };
            let (mut reply, mut late) = (service.reply(request).await.unwrap(), Vec::with_capacity(TOKENS));
            while let Some(chunk) = reply.next().await.unwrap() {
                let now = clock.micros();
                late.extend(chunk.tokens.first().map(|made| now.saturating_sub(made.0)));
            }
            late
        });
    }
    tasks.join_all().await.concat()
}

async fn ask(address: &str) -> TcpStream {
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"?"}}],"stream":true,"temperature":0,"max_tokens":{TOKENS}}}"#
    );
    let mut socket = TcpStream::connect(address).await.unwrap();
    // An older version, whose answers are not cut into chunks.
    let head = "POST /v1/chat/completions HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ";
    socket.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    socket
}

/// Reads a stream to its end; the microseconds from each token's making to its arrival.
async fn read(mut socket: TcpStream, clock: Clock) -> Vec<u32> {
    let (mut late, mut buffer, mut kept) = (Vec::with_capacity(TOKENS), [0; 4096], String::new());
    loop {
        let count = socket.read(&mut buffer).await.unwrap();
        let now = clock.micros();
        assert!(count > 0, "the stream was cut: {kept}");
        kept.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        while let Some((begin, end)) = kept.find('<').and_then(|at| Some((at, at + kept[at..].find('>')?))) {
            let made = kept[begin + 1..end].parse::<u32>();
            late.push(now.saturating_sub(made.unwrap_or_else(|_| panic!("no token: {kept:?}"))));
            kept.drain(..=end);
        }
        if kept.contains("[DONE]") {
            return late;
        }
    }
}

/// Asks for what there is no room for; the microseconds to each refusal.
async fn refused(address: &str, times: usize) -> Vec<u32> {
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let asked = Instant::now();
        let (mut socket, mut buffer) = (ask(address).await, [0; 4096]);
        let count = socket.read(&mut buffer).await.unwrap();
        taken.push(u32::try_from(asked.elapsed().as_micros()).unwrap());
        let answer = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
        assert!(
            answer.lines().next().is_some_and(|line| line.contains(" 503 ")) && answer.contains("retry-after: "),
            "{answer}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    taken
}

/// The other process: all streams at once, and in their midst `extra` requests too many. Prints how late tokens are, and how
/// long refusals take.
async fn clients(address: &str, clock: Clock, extra: usize) {
    let mut tasks = JoinSet::new();
    for _ in 0..STREAMS {
        let socket = ask(address).await;
        tasks.spawn(read(socket, clock));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = refused(address, extra).await;
    let late = tasks.join_all().await.concat();
    println!("{}", serde_json::json!({ "late": late, "refused": refused }));
}

/// What the clients saw, and by how many kB this process grew while it served them.
async fn served(address: &str, clock: Clock, extra: usize) -> (Vec<u32>, Vec<u32>, u64) {
    let before = memory();
    let program = env::current_exe().unwrap();
    let child = Command::new(program)
        .args([address, &clock.0.to_string(), &extra.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let most = Arc::new(Mutex::new(0));
    let watch = tokio::spawn({
        let most = most.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let now = memory();
                let mut most = most.lock().unwrap();
                *most = now.max(*most);
            }
        }
    });
    let output = child.wait_with_output().await.unwrap();
    watch.abort();
    assert!(output.status.success(), "the clients failed");
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |name: &str| serde_json::from_value::<Vec<u32>>(seen[name].clone()).unwrap();
    let grown = most.lock().unwrap().saturating_sub(before);
    (list("late"), list("refused"), grown)
}

/// Memory of this process in kB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Milliseconds below which so many of a hundred are.
fn percentile(times: &mut [u32], percent: usize) -> f64 {
    times.sort_unstable();
    f64::from(times[(times.len() - 1) * percent / 100]) / 1000.0
}

async fn measure() {
    let clock = Clock::start();
    let metrics = Arc::<Metrics>::default();
    let service = service(clock, metrics.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = routes(service.clone(), ApiSettings { metrics, ..ApiSettings::default() });
    tokio::spawn(serve(listener, app, Connections::default(), std::future::pending()));
    // One stream first, so that what is made once is not counted.
    let _ = read(ask(&address).await, clock).await;

    let mut without = bare(&service, clock).await;
    let (mut late, _, grown) = served(&address, clock, 0).await;
    let (mut beside, mut refused, _) = served(&address, clock, EXTRA).await;
    assert_eq!([without.len(), late.len(), beside.len()], [STREAMS * TOKENS; 3]);

    let rate = STREAMS * 1000 / PACE.as_millis() as usize;
    println!(
        "{STREAMS} streams, {rate} tokens a second in all; milliseconds from the making of a token to its reader.\n"
    );
    println!("| | median | 99 of 100 | most |\n|---|---|---|---|");
    for (what, times) in [
        ("the same replies without HTTP", &mut without),
        ("over HTTP", &mut late),
        ("over HTTP, while others are turned away", &mut beside),
        ("turning one away (503, `Retry-After`)", &mut refused),
    ] {
        let [p50, p99, most] = [50, 99, 100].map(|percent| percentile(times, percent));
        println!("| {what} | {p50:.3} | {p99:.3} | {most:.3} |");
    }
    println!("\nThe server's memory grew by {} kB a stream.", grown / STREAMS as u64);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments[..] {
        [] => runtime.block_on(measure()),
        [address, start, extra] => {
            runtime.block_on(clients(address, Clock(start.parse().unwrap()), extra.parse().unwrap()));
        }
        _ => panic!("this takes no arguments"),
    }
}
