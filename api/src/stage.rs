//! A stage for tests: a service over a toy model that goes through the alphabet, one letter a step.
//!
//! After `a` comes `b`, after `z` the end-of-text token, after anything else `a`. A token is a byte (id = byte + 3);
//! 1 is `<s>` and 2 is `</s>`.

mod script;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use corolla_domain::{
    model::{
        BlockRange, CallForm, Chat, Grammar, Hidden, Hop, LogitRow, Logits, ModelId, ModelSpec, PeerId, ServerFacts,
        ServerInfo, SwarmMap, TokenId, Want,
    },
    ports::{
        BlockSession, Constraint, FaultKind, LocalModel, PortError, RemoteSwarm, SessionNeed, SessionRecord,
        SessionStore, StepInput, Timestamp, Tokenizer,
    },
    routing::InProcessSwarm,
    session::{Ambient, Catalogue, Limits, ModelEntry, ModelState, SessionService},
};
use poem::{Endpoint, Response, test::TestClient};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::{ApiSettings, Connections, routes, serve};

pub(crate) use script::Script;

pub(crate) const MODEL: &str = "alphabet";

/// A service, and the strings behind it.
pub(crate) struct Stage {
    pub(crate) service: Arc<SessionService>,
    /// Milliseconds since the epoch, as the service sees them.
    pub(crate) clock: Arc<AtomicU64>,
    /// Steps that the blocks were asked for.
    pub(crate) steps: Arc<AtomicUsize>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default(), Duration::ZERO)
    }

    /// With those limits, each step taking that long.
    pub(crate) fn with(limits: Limits, pace: Duration) -> Self {
        Self::on(&[MODEL], &[InProcessSwarm::peer()], limits, pace)
    }

    /// With a second model, which is not the default one.
    pub(crate) fn with_another(name: &'static str) -> Self {
        Self::on(&[MODEL, name], &[InProcessSwarm::peer()], Limits::default(), Duration::ZERO)
    }

    /// Blocks at two other machines, of which the first dies at the third step.
    pub(crate) fn mortal() -> Self {
        Self::on(&[MODEL], &["mortal".into(), "heir".into()], Limits::default(), Duration::ZERO)
    }

    fn on(models: &[&'static str], peers: &[PeerId], limits: Limits, pace: Duration) -> Self {
        let steps = Arc::new(AtomicUsize::new(0));
        let entry = |name: &&'static str| ModelEntry {
            tokenizer: Arc::new(Bytes),
            local: Arc::new(Alphabet(name)),
            swarm: Arc::new(Echo { peers: peers.to_vec(), steps: steps.clone(), pace }),
        };
        let catalogue = Catalogue::new(models.iter().map(entry).collect(), MODEL.into()).unwrap();
        let (service, clock) = Self::service(catalogue, limits);
        Self { service, clock, steps }
    }

    /// A service whose model is in that state.
    pub(crate) fn unready(state: ModelState) -> Self {
        let catalogue = Catalogue::loading(vec![MODEL.into()], MODEL.into()).unwrap();
        catalogue.set(&MODEL.into(), state);
        let (service, clock) = Self::service(catalogue, Limits::default());
        Self { service, clock, steps: Arc::default() }
    }

    fn service(catalogue: Catalogue, limits: Limits) -> (Arc<SessionService>, Arc<AtomicU64>) {
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let (time, dice) = (clock.clone(), AtomicU64::new(0x0123_4567_89ab_cdef));
        let ambient = Ambient {
            now: Arc::new(move || Timestamp(time.load(SeqCst))),
            random: Arc::new(move || dice.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst)),
        };
        (Arc::new(SessionService::new(catalogue, Arc::new(Drawer::default()), limits, ambient)), clock)
    }

    pub(crate) fn routes(&self) -> impl Endpoint<Output = Response> + use<> {
        routes(self.service.clone(), ApiSettings::default())
    }

    pub(crate) fn client(&self) -> TestClient<impl Endpoint<Output = Response> + use<>> {
        TestClient::new(self.routes())
    }
}

/// Serves `routes` on a real socket until the test ends.
pub(crate) async fn listen(routes: impl Endpoint<Output = Response> + 'static, limits: Connections) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, routes, limits, std::future::pending()));
    address
}

/// Waits until `done`; fails after a minute.
pub(crate) async fn until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it never happened");
}

struct Bytes;

#[async_trait]
impl Tokenizer for Bytes {
    async fn encode(&self, text: &str, _: bool) -> Result<Vec<TokenId>, PortError> {
        let bytes = |text: &str| text.bytes().map(|byte| TokenId(u32::from(byte) + 3)).collect::<Vec<_>>();
        Ok(text.split("</s>").map(bytes).collect::<Vec<_>>().join(&TokenId(2)))
    }

    fn decode(&self, tokens: &[TokenId], skip_special: bool) -> Result<String, PortError> {
        let mut bytes = Vec::new();
        for token in tokens {
            match token.0 {
                0..=2 if skip_special => {}
                0 => bytes.extend_from_slice(b"<unk>"),
                1 => bytes.extend_from_slice(b"<s>"),
                2 => bytes.extend_from_slice(b"</s>"),
                id => bytes.push(u8::try_from(id - 3).map_err(|_| PortError::invalid("not a token"))?),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn call_form(&self) -> CallForm {
        CallForm::Tagged
    }

    fn chat_prompt(&self, chat: &Chat) -> Result<String, PortError> {
        Ok(chat.messages.iter().map(|message| format!("{:?}:{}\n", message.role, message.content)).collect())
    }

    async fn constrain(&self, _: &Grammar, _: usize, _: TokenId) -> Result<Box<dyn Constraint>, PortError> {
        Err(PortError::new(FaultKind::Unsupported, "the toy knows no grammars"))
    }
}

struct Alphabet(&'static str);

#[async_trait]
impl LocalModel for Alphabet {
    fn spec(&self) -> Arc<ModelSpec> {
        Arc::new(ModelSpec {
            id: self.0.into(),
            family: "toy".to_owned(),
            hidden: 1,
            vocab: 259,
            blocks: 2,
            max_positions: Some(4096),
            eos: vec![TokenId(2)],
            bos: Some(TokenId(1)),
            dtype: "f32".to_owned(),
        })
    }

    async fn embed(&self, tokens: Vec<Vec<TokenId>>) -> Result<Hidden, PortError> {
        let row = &tokens[0];
        let values: Vec<f32> = row.iter().map(|token| token.0 as f32).collect();
        Hidden::from_f32((1, row.len(), 1), &values)
    }

    async fn logits(&self, hidden: Hidden, _: Want) -> Result<Logits, PortError> {
        let next = |token: f32| match token as u32 {
            id if (u32::from(b'a') + 3..u32::from(b'z') + 3).contains(&id) => id + 1,
            id if id == u32::from(b'z') + 3 => 2,
            _ => u32::from(b'a') + 3,
        };
        let row = |token| LogitRow::Dense((0..259).map(|id| if id == next(token) { 9.0 } else { 0.0 }).collect());
        let values = hidden.to_f32();
        Ok(Logits { rows: values.iter().copied().map(row).collect() })
    }

    async fn normed(&self, hidden: Hidden) -> Result<Hidden, PortError> {
        Ok(hidden)
    }
}

struct Echo {
    peers: Vec<PeerId>,
    steps: Arc<AtomicUsize>,
    pace: Duration,
}

impl Echo {
    /// What a step takes.
    async fn work(&self) {
        self.steps.fetch_add(1, SeqCst);
        if !self.pace.is_zero() {
            tokio::time::sleep(self.pace).await;
        }
    }
}

#[async_trait]
impl RemoteSwarm for Echo {
    async fn map(&self, _: &ModelId) -> Result<Arc<SwarmMap>, PortError> {
        let server = |(nth, peer): (usize, &PeerId)| ServerInfo {
            peer: peer.clone(),
            blocks: BlockRange::first(2),
            rps: 1000.0 - nth as f64,
            rtt: None,
            next: Vec::new(),
            pushes: false,
            free_tokens: None,
            facts: ServerFacts::default(),
        };
        let servers: Vec<ServerInfo> = self.peers.iter().enumerate().map(server).collect();
        Ok(Arc::new(servers.into()))
    }

    async fn dial(&self, hop: Hop, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        let (steps, pace) = (self.steps.clone(), self.pace);
        let life = if hop.peer == "mortal".into() { 2 } else { usize::MAX };
        Ok(Box::new(EchoSession { blocks: hop.blocks, room: need.max_length, position: 0, steps, pace, life }))
    }

    async fn forward(&self, _: Hop, hidden: Hidden) -> Result<Hidden, PortError> {
        self.work().await;
        Ok(hidden)
    }
}

struct EchoSession {
    blocks: BlockRange,
    room: usize,
    position: usize,
    steps: Arc<AtomicUsize>,
    pace: Duration,
    /// Steps it does before its server is gone.
    life: usize,
}

#[async_trait]
impl BlockSession for EchoSession {
    fn blocks(&self) -> BlockRange {
        self.blocks
    }

    fn position(&self) -> usize {
        self.position
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        self.steps.fetch_add(1, SeqCst);
        self.life = self.life.checked_sub(1).ok_or_else(|| PortError::new(FaultKind::Unavailable, "it is gone"))?;
        if !self.pace.is_zero() {
            tokio::time::sleep(self.pace).await;
        }
        if self.position + input.hidden.seq() > self.room {
            return Err(PortError::new(FaultKind::Capacity, "no room"));
        }
        self.position += input.hidden.seq();
        Ok(input.hidden)
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        self.position = to;
        Ok(())
    }
}

#[derive(Default)]
struct Drawer(Mutex<HashMap<Uuid, SessionRecord>>);

#[async_trait]
impl SessionStore for Drawer {
    async fn create(&self, record: SessionRecord, now: Timestamp, max_live: usize) -> Result<(), PortError> {
        let mut records = self.0.lock().unwrap();
        if records.values().filter(|record| record.expires > now).count() >= max_live {
            return Err(PortError::new(FaultKind::Capacity, "the drawer is full"));
        }
        records.insert(record.id, record);
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<Option<SessionRecord>, PortError> {
        Ok(self.0.lock().unwrap().get(&id).cloned())
    }

    async fn save(&self, record: SessionRecord) -> Result<u64, PortError> {
        let mut records = self.0.lock().unwrap();
        let old = records.get_mut(&record.id).ok_or_else(|| PortError::new(FaultKind::NotFound, "no such session"))?;
        let version = record.version + 1;
        *old = SessionRecord { version, ..record };
        Ok(version)
    }

    async fn delete(&self, id: Uuid) -> Result<bool, PortError> {
        Ok(self.0.lock().unwrap().remove(&id).is_some())
    }

    async fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<Uuid>, PortError> {
        let records = self.0.lock().unwrap();
        Ok(records.values().filter(|record| record.expires <= now).map(|record| record.id).take(limit).collect())
    }
}
