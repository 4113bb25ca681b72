//! What the HTTP layer costs: two hundred streams at once over a model that takes no processor time and whose every token is
//! the moment it was made at. `make bench-http` runs it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use corolla_domain::{
    generation::{Sampling, StopRule},
    model::{BlockRange, Hidden, Hop, LogitRow, Logits, Message, ModelId, ModelSpec, SwarmMap, TokenId, Want},
    ports::{BlockSession, LocalModel, PortError, RemoteSwarm, SessionNeed, StepInput, Timestamp, Tokenizer},
    routing::InProcessSwarm,
    session::{Ambient, Catalogue, Length, Limits, ModelEntry, Prompt, ReplyRequest, SessionService},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{ApiSettings, Connections, Metrics, routes, serve, stage::Drawer};

const STREAMS: usize = 200;
const TOKENS: usize = 100;
/// Between two tokens of a stream: twenty a second, as fast as one reads.
const PACE: Duration = Duration::from_millis(50);

/// Tokens are microseconds since then.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn micros(self) -> u32 {
        u32::try_from(self.0.elapsed().as_micros()).unwrap()
    }
}

#[async_trait]
impl Tokenizer for Clock {
    async fn encode(&self, _: &str, _: bool) -> Result<Vec<TokenId>, PortError> {
        Ok(vec![TokenId(1)])
    }

    fn decode(&self, tokens: &[TokenId], _: bool) -> Result<String, PortError> {
        Ok(tokens.iter().map(|token| format!("<{}>", token.0)).collect())
    }

    fn chat_prompt(&self, _: &[Message]) -> Result<String, PortError> {
        Ok("?".to_owned())
    }
}

#[async_trait]
impl LocalModel for Clock {
    fn spec(&self) -> Arc<ModelSpec> {
        Arc::new(ModelSpec {
            id: "clock".into(),
            family: "toy".to_owned(),
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
        let now = || LogitRow::Sparse(vec![(TokenId(self.micros()), 1.0)]);
        Ok(Logits { rows: (0..hidden.seq()).map(|_| now()).collect() })
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
    Arc::new(SessionService::observed(catalogue, Arc::new(Drawer::default()), limits, ambient, metrics))
}

async fn ask(address: std::net::SocketAddr) -> TcpStream {
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"?"}}],"stream":true,"temperature":0,"max_tokens":{TOKENS}}}"#
    );
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ";
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
            late.push(now - kept[begin + 1..end].parse::<u32>().unwrap());
            kept.drain(..=end);
        }
        if kept.contains("[DONE]") {
            return late;
        }
    }
}

/// Memory of this process, server and clients, in kB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn percentile(sorted: &[u32], percent: usize) -> f64 {
    f64::from(sorted[(sorted.len() - 1) * percent / 100]) / 1000.0
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a release build on a quiet machine: make bench-http"]
async fn two_hundred_streams_at_once() {
    let clock = Clock(Instant::now());
    let metrics = Arc::<Metrics>::default();
    let service = service(clock, metrics.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = routes(service.clone(), ApiSettings { metrics, ..ApiSettings::default() });
    tokio::spawn(serve(listener, app, Connections::default(), std::future::pending()));
    // One stream first, so that what is made once is not counted.
    let _ = read(ask(address).await, clock).await;

    // The same replies with no HTTP between: what the timer and the domain take.
    let bare = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let (service, bare) = (service.clone(), bare.clone());
        tasks.spawn(async move {
            let request = ReplyRequest {
                model: None,
                session: None,
                prompt: Prompt::Text("?".to_owned()),
                length: Length::NewTokens(TOKENS),
                sampling: Sampling::greedy(),
                stop: StopRule::default(),
            };
            let mut reply = service.reply(request).await.unwrap();
            while let Some(chunk) = reply.next().await.unwrap() {
                let now = clock.micros();
                let made = chunk.tokens.first().map_or(now, |token| token.0);
                bare.lock().unwrap().push(now - made);
            }
        });
    }
    tasks.join_all().await;

    let before = memory();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let socket = ask(address).await;
        tasks.spawn(read(socket, clock));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = (memory().saturating_sub(before)) / STREAMS as u64;
    // One more than there is room for, ten times.
    let mut refused = Vec::new();
    for _ in 0..10 {
        let asked = Instant::now();
        let mut socket = ask(address).await;
        let mut buffer = [0; 4096];
        let count = socket.read(&mut buffer).await.unwrap();
        refused.push(u32::try_from(asked.elapsed().as_micros()).unwrap());
        let answer = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
        assert!(answer.starts_with("http/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    }
    let mut late: Vec<u32> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(late.len(), STREAMS * TOKENS);
    let mut bare = std::mem::take(&mut *bare.lock().unwrap());
    for list in [&mut late, &mut bare, &mut refused] {
        list.sort_unstable();
    }
    let (p50, p99, without) = (percentile(&late, 50), percentile(&late, 99), percentile(&bare, 99));
    println!("{STREAMS} streams, {} tokens a second in all", STREAMS * 1000 / PACE.as_millis() as usize);
    println!("from token to client   p50 {p50:.3} ms   p99 {p99:.3} ms   (without HTTP: p99 {without:.3} ms)");
    println!("memory                 {each} kB a stream, the client's end included");
    println!("one too many           503 after {:.3} ms at most", percentile(&refused, 100));
    assert!(p99 - without < 1.0, "the HTTP layer adds more than a millisecond");
    assert!(each < 100, "a stream takes more than 100 kB");
    assert!(percentile(&refused, 100) < 50.0, "who is turned away is told late");
}
