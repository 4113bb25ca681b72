//! One `rpc_inference` stream: a KV cache as long as the stream lives (wire protocol §6.6).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use corolla_domain::{model::BlockRange, ports::SessionNeed};
use tokio::{sync::mpsc, time::timeout};

use super::{
    blocks::Stack,
    handler::Handler,
    input::{self, Input},
    refusal::Refusal,
};
use crate::{
    rpc::Caller,
    wire::{
        proto::{self, Compression, ExpertRequest, ExpertResponse, Tensor},
        serving::CallMetadata,
    },
};

/// Messages that are read ahead while a step is computed.
const AHEAD: usize = 2;
/// Pushes that may wait for a session.
const PUSHES: usize = 4;
/// Names of steps that are remembered: a copy follows its twin within a few steps.
const STEPS: usize = 4096;

/// Why a session ends.
enum End {
    /// The caller has said its last, or nothing for too long: the stream ends without a word.
    Silent,
    /// The caller went, or sent nonsense: nobody is told.
    Gone,
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        tracing::debug!(%error, "a caller has gone");
        Self::Gone
    }
}

/// Where pushes for the sessions go, by the callers' names for them.
#[derive(Debug, Clone, Default)]
pub(super) struct Inboxes(Arc<Mutex<HashMap<String, mpsc::Sender<ExpertRequest>>>>);

impl Inboxes {
    /// Hands a push to its session, where there is one and it has room.
    pub(super) fn deliver(&self, session: &str, request: ExpertRequest) {
        let inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(session).cloned();
        if inbox.is_none_or(|inbox| inbox.try_send(request).is_err()) {
            tracing::debug!(session, "a push for no session, or one that has no room");
        }
    }

    fn open(&self, session: String) -> Result<(Named, mpsc::Receiver<ExpertRequest>), Refusal> {
        let mut inboxes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inboxes.contains_key(&session) {
            return Err(Refusal::assertion(format!("session id {session} is not unique")));
        }
        let (inbox, pushes) = mpsc::channel(PUSHES);
        inboxes.insert(session.clone(), inbox);
        Ok((Named(self.clone(), session), pushes))
    }
}

/// A session's name, as long as it is taken.
struct Named(Inboxes, String);

impl Drop for Named {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Serves one session to its end.
pub(super) async fn serve(handler: Arc<Handler>, mut caller: Caller) {
    let limits = handler.config.limits;
    let peer = caller.peer();
    let end = timeout(limits.session, run(&handler, &mut caller)).await;
    match end {
        Ok(End::Silent) => caller.close().await,
        Ok(End::Gone) => {}
        Ok(End::Refused(refusal)) => {
            tracing::debug!(%peer, reason = %refusal, "a session was refused or broken off");
            caller.fail(&refusal.to_string()).await;
        }
        Err(_) => caller.fail("").await,
    }
}

async fn run(handler: &Arc<Handler>, caller: &mut Caller) -> End {
    match steps(handler, caller).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn steps(handler: &Arc<Handler>, caller: &mut Caller) -> Result<std::convert::Infallible, End> {
    let idle = handler.config.limits.step;
    let first = timeout(idle, caller.next()).await.map_err(|_| End::Silent)??;
    let first = read(first.ok_or(End::Silent)?)?;
    if first.tensors.is_empty() {
        return Err(End::Silent);
    }
    let _counted = handler.enter()?;
    let mut ahead = Ahead::default();
    let mut session = ahead.during(caller, Session::open(handler, &first)).await??;
    tracing::debug!(peer = %caller.peer(), blocks = %session.range, "session opened");
    ahead.0.push_front(Some(first));
    loop {
        let (request, pushed) = match ahead.0.pop_front() {
            Some(Some(request)) => (request, false),
            Some(None) => return Err(End::Silent),
            None => {
                let next = async {
                    tokio::select! {
                        biased;
                        Some(push) = session.pushes.recv() => Ok((push, true)),
                        message = caller.next() => match message? {
                            Some(message) => Ok((read(message)?, false)),
                            None => Err(End::Silent),
                        },
                    }
                };
                timeout(idle, next).await.map_err(|_| End::Silent)??
            }
        };
        if request.tensors.is_empty() {
            return Err(End::Silent);
        }
        match ahead.during(caller, session.step(handler, request)).await? {
            Ok(Some(answer)) => caller.send(&answer).await?,
            Ok(None) => {}
            Err(refusal) if pushed => tracing::debug!(reason = %refusal, "a push is of no use"),
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

fn read(message: Bytes) -> Result<ExpertRequest, End> {
    proto::decode(message).map_err(|error| End::Refused(error.into()))
}

/// Messages that came while something was computed; `None` is the caller's last word.
#[derive(Default)]
struct Ahead(VecDeque<Option<ExpertRequest>>);

impl Ahead {
    /// What `work` comes to. It is dropped where the caller goes meanwhile.
    async fn during<T>(&mut self, caller: &mut Caller, work: impl Future<Output = T>) -> Result<T, End> {
        let mut work = std::pin::pin!(work);
        loop {
            let listening = self.0.len() < AHEAD && !self.0.back().is_some_and(Option::is_none);
            tokio::select! {
                biased;
                outcome = &mut work => return Ok(outcome),
                message = caller.next(), if listening => self.0.push_back(message?.map(read).transpose()?),
            }
        }
    }
}

/// The state of a session.
struct Session {
    stack: Stack,
    range: BlockRange,
    max_length: usize,
    batch: usize,
    /// The first message's order of arguments counts for all.
    arguments: Option<Vec<usize>>,
    done: HashSet<String>,
    pushes: mpsc::Receiver<ExpertRequest>,
    _name: Option<Named>,
}

impl Session {
    async fn open(handler: &Arc<Handler>, first: &ExpertRequest) -> Result<Self, Refusal> {
        let limits = handler.config.limits;
        let range = input::blocks(&handler.config, &first.uid)?;
        let metadata = CallMetadata::decode(&first.metadata)?;
        refuse_adapter(&metadata)?;
        let asked = metadata
            .max_length
            .ok_or_else(|| Refusal::assertion("rpc_inference metadata must contain int max_length, got None"))?;
        let max_length = usize::try_from(asked).ok().filter(|length| *length <= limits.max_length);
        let max_length = max_length.ok_or_else(|| {
            Refusal::value(format!("Cannot allocate KV cache for {asked} tokens, max = {}", limits.max_length))
        })?;
        let tensors = metadata.arrange(first.tensors.clone())?;
        let hidden = tensors.first().ok_or_else(|| Refusal::value("not enough values to unpack"))?;
        let (batch, _, _) = input::shape(&handler.config, hidden)?;
        let apart = tensors.get(1).is_some_and(|prompts| !prompts.size.contains(&0));
        let (name, pushes) = match metadata.session_id {
            Some(id) => {
                let (name, pushes) = handler.inboxes.open(id)?;
                (Some(name), pushes)
            }
            None => (None, mpsc::channel(1).1),
        };
        let patience =
            Duration::try_from_secs_f64(metadata.alloc_timeout).unwrap_or(limits.waiting).min(limits.waiting);
        let need = SessionNeed { max_length: max_length.max(1), batch };
        let stack = handler.blocks.stack(range, need, (apart, patience)).await?;
        let (arguments, done) = (metadata.arguments, HashSet::new());
        Ok(Self { stack, range, max_length, batch, arguments, done, pushes, _name: name })
    }

    /// The answer to a step; `None` where it is the copy of one that was answered.
    async fn step(&mut self, handler: &Arc<Handler>, request: ExpertRequest) -> Result<Option<Bytes>, Refusal> {
        let mut metadata = CallMetadata::decode(&request.metadata)?;
        metadata.arguments.clone_from(&self.arguments);
        if metadata.step_id.as_ref().is_some_and(|step| self.done.contains(step)) {
            return Ok(None);
        }
        // The next server reorders its rows as this one does.
        let others: Vec<Tensor> = metadata.arrange(request.tensors.clone())?.into_iter().skip(1).collect();
        let input = input::input(&handler.config, self.range, request, &metadata)?;
        if input.shape.0 != self.batch {
            let text = format!("a step of {} rows in a session of {}", input.shape.0, self.batch);
            return Err(Refusal::value(text));
        }
        let prompted = input.prompts.is_some();
        let shape = input.shape;
        let output = match self.compute(input, &metadata).await? {
            Some(hidden) => input::output(&hidden, handler.config.dtype, Compression::None)?,
            None => input::nothing(shape, handler.config.dtype),
        };
        if self.done.len() >= STEPS {
            self.done.clear();
        }
        self.done.extend(metadata.step_id.clone());
        if !prompted && shape.1 > 0 {
            handler.push(&metadata, &output, others);
        }
        let response = ExpertResponse { tensors: vec![output], ..ExpertResponse::default() };
        Ok(Some(proto::encode(&response)))
    }

    async fn compute(
        &mut self,
        input: Input,
        metadata: &CallMetadata,
    ) -> Result<Option<corolla_domain::model::Hidden>, Refusal> {
        if let Some(start) = metadata.start_from_position {
            let position = self.stack.position();
            match usize::try_from(start) {
                Ok(start) if start < position => self.stack.rewind(start).await?,
                Ok(start) if start == position => {}
                _ => {
                    let text = format!("start_from_position={start} in a session at position {position}");
                    return Err(Refusal::value(text));
                }
            }
        }
        let (prefix, more) = (self.stack.position(), input.shape.1);
        if prefix + more > self.max_length {
            return Err(Refusal::value(format!(
                "Maximum length exceeded: prefix {prefix} + current {more} exceeds pre-allocated maximum {}",
                self.max_length
            )));
        }
        if input.prompts.is_some() && !self.stack.takes_prompts(self.range) {
            let text = "deep prompts must come with the first step of a session";
            return Err(Refusal::new("NotImplementedError", text));
        }
        if let Some(rows) = &input.rows {
            self.stack.reorder(rows).await?;
        }
        match input.hidden {
            Some(hidden) => self.stack.step(hidden, input.prompts.as_ref()).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Refuses adapters: there are none here.
pub(super) fn refuse_adapter(metadata: &CallMetadata) -> Result<(), Refusal> {
    match &metadata.active_adapter {
        Some(name) => Err(Refusal::new("KeyError", format!("adapter {name} not found"))),
        None => Ok(()),
    }
}
