//! One `rpc_inference` stream: a KV cache as long as the stream lives (wire protocol §6.6).

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::SessionNeed,
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    blocks::Stack,
    config::ServerConfig,
    handler::{Handler, PUSH},
    input::{self, Input},
    refusal::{End, Refusal},
};
use crate::{
    rpc::{Caller, CallerFault, Message, Share},
    transport::Worth,
    wire::{
        proto::{self, Compression, ExpertRequest, ExpertResponse},
        serving::CallMetadata,
    },
};

/// Messages that are read ahead while a step is computed.
const AHEAD: usize = 2;
/// Pushes that may wait for a session.
const PUSHES: usize = 4;
/// How long a step's name is remembered: its copy follows within a step or two, or with a push that was long on its way.
const COPIES: Duration = PUSH.saturating_mul(2);
/// Steps that are remembered at most.
const STEPS: usize = 4096;

/// A request, and the room that it takes until its step is done.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: ExpertRequest,
    room: Share,
}

impl Asked {
    pub(super) fn read(message: Message) -> Result<Self, Refusal> {
        Ok(Self { request: proto::decode(message.bytes)?, room: message.room })
    }
}

/// Where pushes for the sessions go, by the callers' names for them.
#[derive(Debug, Clone, Default)]
pub(super) struct Inboxes(Arc<Mutex<HashMap<String, mpsc::Sender<Asked>>>>);

impl Inboxes {
    /// Hands a push to its session, where there is one and it has room.
    pub(super) fn deliver(&self, session: &str, push: Asked) {
        let inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(session).cloned();
        if inbox.is_none_or(|inbox| inbox.try_send(push).is_err()) {
            tracing::debug!(session, "a push for no session, or one that has no room");
        }
    }

    fn open(&self, session: String) -> Result<(Named, mpsc::Receiver<Asked>), Refusal> {
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
pub(super) async fn serve(handler: Arc<Handler>, mut caller: Caller) -> Worth {
    let limits = handler.config.limits;
    let end = timeout(limits.session, run(&handler, &mut caller)).await;
    let (peer, worth) = (caller.peer(), caller.worth());
    match end {
        Ok(End::Silent) => caller.close().await,
        Ok(End::Gone) => {}
        Ok(End::Refused(refusal)) => {
            tracing::debug!(%peer, reason = %refusal, "a session was refused or broken off");
            caller.fail(&refusal.to_string()).await;
        }
        Err(_) => caller.fail("").await,
    }
    worth
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
    let first = Asked::read(first.ok_or(End::Silent)?)?;
    if first.request.tensors.is_empty() {
        return Err(End::Silent);
    }
    let _counted = handler.enter()?;
    let mut ahead = Ahead::default();
    let mut session = ahead.during(caller, Session::open(handler, &first.request)).await??;
    tracing::debug!(peer = %caller.peer(), blocks = %session.range, "session opened");
    ahead.0.push_front(Ok(first));
    loop {
        let (Asked { request, room }, pushed) = match ahead.0.pop_front() {
            Some(asked) => (asked?, false),
            None => {
                let next = async {
                    tokio::select! {
                        biased;
                        Some(push) = session.pushes.recv() => Ok((push, true)),
                        message = caller.next() => match message? {
                            Some(message) => Ok::<_, End>((Asked::read(message)?, false)),
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
        match ahead.during(caller, session.step(handler, request, &room)).await? {
            Ok(Some(answer)) => caller.send(&answer).await?,
            Ok(None) => {}
            Err(refusal) if pushed && !session.touched => tracing::debug!(reason = %refusal, "a push is of no use"),
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

/// Messages that came while something was computed. After the last one stands why there are no more.
#[derive(Default)]
struct Ahead(VecDeque<Result<Asked, End>>);

impl Ahead {
    /// What `work` comes to. It is dropped where the caller goes meanwhile.
    async fn during<T>(&mut self, caller: &mut Caller, work: impl Future<Output = T>) -> Result<T, End> {
        let mut work = std::pin::pin!(work);
        loop {
            let listening = self.0.len() < AHEAD && !self.0.back().is_some_and(Result::is_err);
            tokio::select! {
                biased;
                outcome = &mut work => return Ok(outcome),
                message = caller.next(), if listening => self.0.push_back(match message {
                    Ok(Some(message)) => Asked::read(message).map_err(End::from),
                    Ok(None) => Err(End::Silent),
                    // What is under way is answered first.
                    Err(fault @ CallerFault::NoRoom(_)) => Err(fault.into()),
                    Err(gone) => return Err(gone.into()),
                }),
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
    done: Done,
    /// Whether a step has begun to change the cache and has not been answered. One that fails then ends the session: nobody
    /// knows where it stands.
    touched: bool,
    pushes: mpsc::Receiver<Asked>,
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
        let tensors = metadata.arrange(first.tensors.iter().collect())?;
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
        let (arguments, done) = (metadata.arguments, Done::default());
        Ok(Self { stack, range, max_length, batch, arguments, done, touched: false, pushes, _name: name })
    }

    /// The answer to a step; `None` where it is the copy of one that was answered.
    async fn step(
        &mut self,
        handler: &Arc<Handler>,
        request: ExpertRequest,
        room: &Share,
    ) -> Result<Option<Bytes>, Refusal> {
        let weight = input::weight(&request.tensors);
        let mut metadata = CallMetadata::decode(&request.metadata)?;
        metadata.arguments.clone_from(&self.arguments);
        if metadata.step_id.as_ref().is_some_and(|step| self.done.has(step)) {
            return Ok(None);
        }
        let arguments = metadata.arrange(request.tensors)?;
        let onward = handler.onward(&metadata, &arguments);
        let range = self.range;
        let reading = move |config: &ServerConfig| input::input(config, range, arguments);
        let input = handler.aside(weight, reading).await?;
        if input.shape.0 != self.batch {
            let text = format!("a step of {} rows in a session of {}", input.shape.0, self.batch);
            return Err(Refusal::value(text));
        }
        let shape = input.shape;
        let hidden = self.compute(input, &metadata).await?;
        let writing = move |config: &ServerConfig| {
            let output = match hidden {
                Some(hidden) => input::output(&hidden, config.dtype, Compression::None)?,
                None => input::nothing(shape, config.dtype),
            };
            let response = ExpertResponse { tensors: vec![output.clone()], ..ExpertResponse::default() };
            Ok((output, proto::encode(&response)))
        };
        let (output, answer) = handler.aside(input::bytes([shape.0, shape.1, shape.2]), writing).await?;
        if let Some(onward) = onward {
            handler.push(onward, &metadata, output, room);
        }
        if let Some(step) = metadata.step_id {
            self.done.note(&step, Instant::now());
        }
        self.touched = false;
        Ok(Some(answer))
    }

    async fn compute(&mut self, input: Input, metadata: &CallMetadata) -> Result<Option<Hidden>, Refusal> {
        let position = self.stack.position();
        let start = match metadata.start_from_position {
            None => position,
            Some(start) => usize::try_from(start).ok().filter(|start| *start <= position).ok_or_else(|| {
                Refusal::value(format!("start_from_position={start} in a session at position {position}"))
            })?,
        };
        let more = input.shape.1;
        if start + more > self.max_length {
            return Err(Refusal::value(format!(
                "Maximum length exceeded: prefix {start} + current {more} exceeds pre-allocated maximum {}",
                self.max_length
            )));
        }
        if input.prompts.is_some() && !self.stack.takes_prompts(self.range) {
            let text = "deep prompts must come with the first step of a session";
            return Err(Refusal::new("NotImplementedError", text));
        }
        self.touched = true;
        if start < position {
            self.stack.rewind(start).await?;
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

/// The last steps that were answered, by hashes of their names: names may be long.
#[derive(Default)]
struct Done {
    hasher: RandomState,
    last: VecDeque<(Instant, u64)>,
}

impl Done {
    fn has(&self, step: &str) -> bool {
        let name = self.hasher.hash_one(step);
        self.last.iter().any(|(_, done)| *done == name)
    }

    fn note(&mut self, step: &str, now: Instant) {
        let old = |at: &Instant| now.saturating_duration_since(*at) > COPIES;
        while self.last.len() >= STEPS || self.last.front().is_some_and(|(at, _)| old(at)) {
            self.last.pop_front();
        }
        self.last.push_back((now, self.hasher.hash_one(step)));
    }
}

/// Refuses adapters: there are none here.
pub(super) fn refuse_adapter(metadata: &CallMetadata) -> Result<(), Refusal> {
    match &metadata.active_adapter {
        Some(name) => Err(Refusal::new("KeyError", format!("adapter {name} not found"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_steps_are_remembered() {
        let (mut done, begun) = (Done::default(), Instant::now());
        for step in 0..=STEPS {
            done.note(&step.to_string(), begun);
        }
        assert!(!done.has("0"));
        assert!((1..=STEPS).all(|step| done.has(&step.to_string())));
        done.note("next", begun + COPIES);
        assert!(done.has("2"), "a push may still bring it");
        done.note("later", begun + COPIES + Duration::from_millis(1));
        assert!(!done.has("2") && done.has("next") && done.has("later"));
        assert_eq!(done.last.len(), 2);
    }
}
