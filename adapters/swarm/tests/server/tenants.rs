//! Servers that find their own place, on loopback and with short times: together they have every block, one that dies is
//! replaced, whoever moves lets sessions go on, and nobody leaves blocks that only he serves.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use corolla_domain::{
    model::BlockRange,
    placement::{Seat, missing},
    ports::{BlockEngine, BlockSession as _, FaultKind, PortError, RemoteSwarm as _, SessionNeed},
    routing::{Bans, Chain},
};
use corolla_swarm::{
    PetalsSwarm,
    rpc::{Rpc, RpcLimits, ServeLimits, Service, serve_unary},
    server::{Balance, BlockServer, Bootstrap, BootstrapConfig, Loader, Placement, Reach, ServerConfig, Speed, Tenant},
    transport::{Host, HostConfig, PeerId},
    wire::{
        inference::{RPC_FORWARD, RPC_INFERENCE, forward_request, parse_hidden, step_request},
        key::DhtId,
        proto::{
            self, ExpertRequest, FindRequest, FindResponse, FindResult, NodeInfo, PingResponse, StoreRequest,
            StoreResponse,
        },
        server::{ServerRecord, ServerState, block_key},
    },
};
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::{
    BLOCKS, CACHE, House, PREFIX,
    blocks::Blocks,
    calls::{WAIT, ask, metadata, opening, raw, uids},
    engine::{Ledger, Toy},
    entrance, member, server, states, until,
};

/// Loads toys, and remembers which.
struct Toys {
    loaded: Mutex<Vec<(BlockRange, Arc<Ledger>)>>,
    /// Loads that shall fail, counted down.
    failing: AtomicUsize,
    beside: AtomicBool,
    /// A load takes one of these; it waits where there is none.
    ready: Semaphore,
}

impl Toys {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            loaded: Mutex::default(),
            failing: AtomicUsize::new(0),
            beside: AtomicBool::new(true),
            ready: Semaphore::new(1000),
        })
    }

    fn spans(&self) -> Vec<String> {
        self.loaded.lock().unwrap().iter().map(|(range, _)| range.to_string()).collect()
    }

    fn ledger(&self, nth: usize) -> Arc<Ledger> {
        self.loaded.lock().unwrap()[nth].1.clone()
    }
}

#[async_trait]
impl Loader for Toys {
    async fn load(&self, blocks: BlockRange) -> Result<Arc<dyn BlockEngine>, PortError> {
        self.ready.acquire().await.unwrap().forget();
        if self.failing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(PortError::new(FaultKind::Capacity, "no memory today"));
        }
        let toy = Toy::new(blocks, CACHE);
        self.loaded.lock().unwrap().push((blocks, toy.ledger.clone()));
        Ok(Arc::new(toy))
    }

    fn fits_beside(&self, _: BlockRange) -> bool {
        self.beside.load(SeqCst)
    }
}

/// Numbers that look like chance, and how many were asked for.
#[derive(Default)]
struct Chance(AtomicU64);

impl Chance {
    fn asked(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

fn quick() -> Balance {
    let ms = Duration::from_millis;
    Balance {
        delay: ms(10),
        check: ms(25),
        grace: Duration::from_secs(10),
        retry: (ms(5), ms(20)),
        ..Balance::default()
    }
}

fn config(blocks: usize, throughput: f64) -> ServerConfig {
    // Per block what comes out as that throughput for so many of them.
    let forward = throughput * (blocks as f64 + 1.0) / 2.0;
    ServerConfig {
        speed: Speed { inference: 100.0, forward, network: 1e6 },
        update_period: Duration::from_secs(1),
        ..server((0, blocks))
    }
}

/// A tenant that roams on a task of its own.
struct Roaming {
    member: Bootstrap,
    toys: Arc<Toys>,
    chance: Arc<Chance>,
    task: JoinHandle<()>,
    leave: Option<tokio::sync::oneshot::Sender<()>>,
}

async fn tenant(
    bootstrap: &Bootstrap,
    (blocks, throughput): (usize, f64),
    toys: &Arc<Toys>,
    balance: Balance,
) -> (Tenant, Bootstrap, Arc<Chance>) {
    let config = config(blocks, throughput);
    let member = entrance(&bootstrap.addresses()).await.unwrap();
    let chance = Arc::new(Chance::default());
    let numbers = chance.clone();
    let number = Arc::new(move || (numbers.0.fetch_add(1, SeqCst) + 3).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let tenant = Tenant::new(member.clone(), config, Placement::Free(balance), toys.clone(), number);
    (tenant, member, chance)
}

impl Roaming {
    async fn start(bootstrap: &Bootstrap, size: (usize, f64)) -> Self {
        Self::with(bootstrap, size, quick(), Toys::new()).await
    }

    async fn with(bootstrap: &Bootstrap, size: (usize, f64), balance: Balance, toys: Arc<Toys>) -> Self {
        let (mut tenant, member, chance) = tenant(bootstrap, size, &toys, balance).await;
        tenant.settle().await.unwrap();
        let (leave, left) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                never = tenant.roam() => match never {},
                _ = left => {}
            }
            tenant.shut_down(Duration::from_secs(5)).await;
        });
        Self { member, toys, chance, task, leave: Some(leave) }
    }

    /// Ends it as a power cut would.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    async fn leave(mut self) {
        self.leave.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }

    fn name(&self) -> PeerId {
        self.member.addresses()[0].rsplit('/').next().unwrap().parse().unwrap()
    }
}

async fn seats(bootstrap: &Bootstrap) -> Vec<Seat> {
    // As a stranger sees it: the bootstrap node itself does not ask itself.
    let observer = entrance(&bootstrap.addresses()).await.unwrap();
    observer.seats(PREFIX, BLOCKS).await.unwrap()
}

/// Waits until the swarm's map is `so`.
async fn until_map(bootstrap: &Bootstrap, what: &str, so: impl Fn(&[Seat]) -> bool) -> Vec<Seat> {
    let observer = entrance(&bootstrap.addresses()).await.unwrap();
    let watched = async {
        loop {
            let seats = observer.seats(PREFIX, BLOCKS).await.unwrap();
            if so(&seats) {
                return seats;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(20), watched).await;
    match seen {
        Ok(seats) => seats,
        Err(_) => panic!("waited in vain until {what}: {:?}", seats(bootstrap).await),
    }
}

fn complete(seats: &[Seat]) -> bool {
    let online: Vec<Seat> = seats.iter().filter(|seat| seat.online).cloned().collect();
    missing(&online, BLOCKS).is_empty()
}

async fn stranger(servers: &[&Bootstrap]) -> Rpc {
    let host = Host::start(HostConfig::default()).await.unwrap();
    for server in servers {
        let address = &server.addresses()[0];
        let (address, peer) = address.rsplit_once("/p2p/").unwrap();
        host.add_address(peer.parse().unwrap(), address.parse().unwrap()).await;
    }
    Rpc::new(host, RpcLimits::default())
}

/// Waits until a server takes no new sessions.
async fn until_refused(rpc: &Rpc, peer: PeerId, opened: &ExpertRequest) {
    let refused = async {
        loop {
            let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
            if let Err(fault) = ask(&mut stream, opened.clone()).await {
                assert!(fault.context().contains("takes no new sessions"), "{fault}");
                return;
            }
        }
    };
    tokio::time::timeout(WAIT, refused).await.expect("a refusal");
}

fn chain(swarm: &Arc<PetalsSwarm>) -> Chain {
    let need = SessionNeed { max_length: 32, batch: 1 };
    Chain::new(swarm.clone(), Arc::new(Bans::default()), "toy".into(), BlockRange::first(BLOCKS), need)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_choose_have_every_block_and_replace_one_that_dies() {
    let bootstrap = entrance(&[]).await.unwrap();
    let first = Roaming::start(&bootstrap, (2, 1.0)).await;
    let second = Roaming::start(&bootstrap, (2, 1.0)).await;
    assert_eq!((first.toys.spans(), second.toys.spans()), (vec!["0:2".to_owned()], vec!["2:4".to_owned()]));
    let third = Roaming::start(&bootstrap, (2, 1.0)).await;
    assert_eq!(third.toys.spans(), ["0:2"]);
    assert!(complete(&seats(&bootstrap).await));
    let killed = second.name().to_base58();
    second.kill().await;
    // Its records expire; of the two that have the same blocks one goes there, and the other stays.
    let replaced = |seats: &[Seat]| complete(seats) && seats.iter().all(|seat| seat.peer.0 != killed);
    let seats = until_map(&bootstrap, "somebody has taken its place", replaced).await;
    let mut spans: Vec<String> = seats.iter().map(|seat| seat.blocks.to_string()).collect();
    spans.sort();
    assert_eq!(spans, ["0:2", "2:4"]);
    assert_eq!(first.toys.spans().len() + third.toys.spans().len(), 3, "one has moved, once");
    let house = House { bootstrap: bootstrap.clone(), servers: Vec::new(), ledgers: Vec::new() };
    let swarm = Arc::new(PetalsSwarm::start(house.client()).await.unwrap());
    let input = states(1, 3, 1);
    let wanted = Blocks::new(BlockRange::first(BLOCKS)).step(&input);
    assert_eq!(chain(&swarm).step(input.into()).await.unwrap(), wanted);
    first.leave().await;
    third.leave().await;
    until_map(&bootstrap, "all have said goodbye", <[Seat]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_needed_where_he_is_stays() {
    let bootstrap = entrance(&[]).await.unwrap();
    let slow = Roaming::start(&bootstrap, (2, 1.0)).await;
    let fast = Roaming::start(&bootstrap, (2, 100.0)).await;
    until("both have looked around often", || slow.chance.asked() > 30 && fast.chance.asked() > 30).await;
    assert_eq!((slow.toys.spans().len(), fast.toys.spans().len()), (1, 1));
    slow.leave().await;
    fast.leave().await;
}

/// Three fast servers and a slow one: some should go and help the slow one, all at the same time; at no time may the
/// blocks that they leave be without anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_servers_that_count_on_each_other_not_all_go() {
    let bootstrap = entrance(&[]).await.unwrap();
    let fixed = async |(start, end), throughput| {
        let config = ServerConfig { blocks: BlockRange::new(start, end).unwrap(), ..config(2, throughput) };
        let mut server = BlockServer::join(member(&bootstrap.addresses()), config).await.unwrap();
        server.serve(Arc::new(Toy::new(BlockRange::new(start, end).unwrap(), CACHE))).await.unwrap();
        server
    };
    let placeholder = fixed((2, 4), 500.0).await;
    let slow = fixed((2, 4), 1.0).await;
    let mut fast = Vec::new();
    for _ in 0..3 {
        let balance = Balance { check: Duration::from_millis(4), ..quick() };
        fast.push(Roaming::with(&bootstrap, (2, 10.0), balance, Toys::new()).await);
    }
    assert!(fast.iter().all(|one| one.toys.spans() == ["0:2"]));
    let members: Vec<&Bootstrap> = fast.iter().map(|one| &one.member).collect();
    let rpc = stranger(&members).await;
    let leaving = tokio::spawn(placeholder.shut_down(Duration::ZERO));
    let request = proto::encode(&forward_request(&uids(0, 2), raw(&states(1, 1, 1)), None));
    let mut rounds = 0;
    while rounds < 20 || fast.iter().all(|one| one.toys.spans().len() < 2) {
        let mut served = 0;
        for one in &fast {
            served += usize::from(rpc.unary(one.name(), RPC_FORWARD, request.clone(), WAIT).await.is_ok());
        }
        assert!(served > 0, "round {rounds}: {:?}", seats(&bootstrap).await);
        rounds += 1;
        assert!(rounds < 5000, "nobody has moved");
    }
    leaving.await.unwrap();
    until_map(&bootstrap, "those that moved serve", |seats| seats.len() == 4 && seats.iter().all(|s| s.online)).await;
    assert!(complete(&seats(&bootstrap).await));
    drop(slow);
}

/// A tenant on blocks 0:2 beside fixed servers of 0:2 and 2:4, of which the second has gone.
struct Move {
    house: House,
    tenant: Roaming,
    rpc: Rpc,
}

impl Move {
    async fn begin(toys: Arc<Toys>) -> Self {
        let mut house = House::new(&[(0, 2), (2, 4)]).await;
        let tenant = Roaming::with(&house.bootstrap, (2, 1.0), quick(), toys).await;
        assert_eq!(tenant.toys.spans(), ["0:2"]);
        let rpc = stranger(&[&tenant.member]).await;
        house.servers.remove(1).shut_down(Duration::ZERO).await;
        Self { house, tenant, rpc }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_go_on_while_the_new_blocks_are_loaded() {
    moves_with_a_session(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_memory_for_both_the_sessions_come_first() {
    moves_with_a_session(false).await;
}

async fn moves_with_a_session(beside: bool) {
    let toys = Toys::new();
    toys.beside.store(beside, SeqCst);
    let mut house = House::new(&[(0, 2), (2, 4)]).await;
    let tenant = Roaming::with(&house.bootstrap, (2, 1.0), quick(), toys.clone()).await;
    let (rpc, peer) = (stranger(&[&tenant.member]).await, tenant.name());
    let mut local = Blocks::new(BlockRange::first(2));
    let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let (begin, rest) = (states(1, 3, 1), states(1, 1, 2));
    let opened = step_request(&uids(0, 2), raw(&begin), None, metadata(&[opening(9)]));
    assert_eq!(ask(&mut stream, opened.clone()).await.unwrap(), raw(&local.step(&begin)));

    house.servers.remove(1).shut_down(Duration::ZERO).await;
    until_map(&house.bootstrap, "the move is announced", |seats| {
        seats.iter().any(|seat| seat.blocks.start() == 2 && !seat.online)
    })
    .await;
    if beside {
        until("the new blocks are loaded", || toys.spans().len() == 2).await;
    }
    until_refused(&rpc, peer, &opened).await;
    assert_eq!(
        ask(&mut stream, step_request(&uids(0, 2), raw(&rest), None, metadata(&[]))).await.unwrap(),
        raw(&local.step(&rest))
    );
    assert_eq!(toys.spans().len(), if beside { 2 } else { 1 });
    assert!(!complete(&seats(&house.bootstrap).await), "the new blocks are not served before the old ones are left");
    drop(stream);
    until_map(&house.bootstrap, "the move is over", complete).await;
    assert_eq!(toys.spans(), ["0:2", "2:4"]);
    assert_eq!(toys.ledger(0).open.load(SeqCst), 0);
    let hidden = states(1, 2, 5);
    let request = proto::encode(&forward_request(&uids(2, 4), raw(&hidden), None));
    let reply = rpc.unary(peer, RPC_FORWARD, request, WAIT).await.unwrap();
    let wanted = Blocks::new(BlockRange::new(2, 4).unwrap()).step(&hidden);
    assert_eq!(parse_hidden(reply, &hidden).unwrap(), wanted);
    tenant.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_could_not_be_loaded_are_tried_again() {
    let toys = Toys::new();
    let Move { house, tenant, .. } = Move::begin(toys.clone()).await;
    toys.failing.store(3, SeqCst);
    until_map(&house.bootstrap, "the fourth attempt has worked", complete).await;
    assert_eq!((toys.spans(), toys.failing.load(SeqCst)), (vec!["0:2".to_owned(), "2:4".to_owned()], 0));
    tenant.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_load_at_first_says_so_and_is_gone() {
    let bootstrap = entrance(&[]).await.unwrap();
    let toys = Toys::new();
    toys.failing.store(1, SeqCst);
    let (mut tenant, _, _) = tenant(&bootstrap, (2, 1.0), &toys, quick()).await;
    let fault = tenant.settle().await.unwrap_err();
    assert_eq!((fault.kind(), fault.context()), (FaultKind::Capacity, "no memory today"));
    assert_eq!(seats(&bootstrap).await, []);
    tenant.settle().await.unwrap();
    assert!(seats(&bootstrap).await[0].online);
}

/// Asked to stop while it loads other blocks: it takes back what it announced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_to_stop_in_the_middle_of_a_move_says_goodbye() {
    let toys = Toys::new();
    toys.ready.forget_permits(999);
    let Move { house, tenant, rpc } = Move::begin(toys.clone()).await;
    let joining = |seats: &[Seat]| seats.iter().any(|seat| seat.blocks.start() == 2 && !seat.online);
    let found = until_map(&house.bootstrap, "the move is announced", joining).await;
    assert_eq!(found.len(), 2);
    tokio::time::timeout(WAIT, tenant.leave()).await.unwrap();
    assert_eq!(seats(&house.bootstrap).await.len(), 1, "only the fixed server is left");
    drop(rpc);
}

/// Asked to stop while its first announcement is under way, which other nodes may have taken by then.
#[tokio::test]
async fn who_is_asked_to_stop_in_the_middle_of_announcing_says_goodbye() {
    let node = Slow::start().await;
    let enter = BootstrapConfig { reach: Reach::Direct, ..member(std::slice::from_ref(&node.address)) };
    let member = Bootstrap::start(enter).await.unwrap();
    let mut tenant = Tenant::new(member, config(2, 1.0), Placement::Fixed, Toys::new(), Arc::new(|| 0));
    tokio::select! {
        settled = tenant.settle() => panic!("{settled:?}"),
        () = until("it announces itself", || node.states() == [ServerState::Joining]) => {}
    }
    tenant.shut_down(Duration::ZERO).await;
    assert_eq!(node.states(), [ServerState::Joining, ServerState::Offline]);
}

/// A node of the DHT that takes what a server announces of its first block, and says so of goodbyes only.
struct Slow {
    address: String,
    heard: Arc<Mutex<Vec<ServerState>>>,
    _host: Host,
    _services: Vec<Service>,
}

impl Slow {
    async fn start() -> Self {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let host = Host::start(HostConfig { listen, ..HostConfig::default() }).await.unwrap();
        let address = format!("{}/p2p/{}", host.listen_addresses()[0], host.peer_id());
        let heard: Arc<Mutex<Vec<ServerState>>> = Arc::default();
        let (told, limits) = (heard.clone(), ServeLimits::default());
        let me = || Some(NodeInfo { node_id: Bytes::from_static(&[9; 20]) });
        let services = vec![
            serve_unary(&host, "DHTProtocol.rpc_ping", limits, move |_, _| {
                let dht_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
                let reply = proto::encode(&PingResponse { peer: me(), dht_time, available: true });
                Box::pin(async { Ok(reply) })
            })
            .await
            .unwrap(),
            serve_unary(&host, "DHTProtocol.rpc_find", limits, move |_, request| {
                let request: FindRequest = proto::decode(request).unwrap();
                let results = vec![FindResult::default(); request.keys.len()];
                Box::pin(async move { Ok(proto::encode(&FindResponse { results, peer: me() })) })
            })
            .await
            .unwrap(),
            serve_unary(&host, "DHTProtocol.rpc_store", limits, move |_, request| {
                let request: StoreRequest = proto::decode(request).unwrap();
                let first = DhtId::of_key(&block_key(PREFIX, 0)).0;
                let nth = request.keys.iter().position(|key| *key == first[..]).unwrap();
                let state = ServerRecord::decode(&request.values[nth]).unwrap().state;
                told.lock().unwrap().push(state);
                Box::pin(async move {
                    if state != ServerState::Offline {
                        std::future::pending::<()>().await;
                    }
                    let store_ok = vec![true; request.keys.len()];
                    Ok(proto::encode(&StoreResponse { store_ok, peer: me() }))
                })
            })
            .await
            .unwrap(),
        ];
        Self { address, heard, _host: host, _services: services }
    }

    fn states(&self) -> Vec<ServerState> {
        self.heard.lock().unwrap().clone()
    }
}

/// What clients see of a server that stops: a reply goes on where it is, new ones go elsewhere, by an old map too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_goes_on_at_a_server_that_stops_and_new_ones_go_elsewhere() {
    let mut house = House::new(&[(0, 4), (0, 4)]).await;
    let swarm = Arc::new(PetalsSwarm::start(house.client()).await.unwrap());
    assert_eq!(swarm.map(&"toy".into()).await.unwrap().servers.len(), 2);
    let (mut running, mut local) = (chain(&swarm), Blocks::new(BlockRange::first(BLOCKS)));
    let input = |nth| states(1, 1, nth);
    assert_eq!(running.step(input(0).into()).await.unwrap(), local.step(&input(0)));
    let stopping = running.route()[0].peer.clone();
    let nth = house.servers.iter().position(|server| server.peer_id().to_base58() == stopping.0).unwrap();
    let (rpc, peer) = house.stranger(nth).await;
    let (server, ledger) = (house.servers.remove(nth), house.ledgers.remove(nth));
    let leaving = tokio::spawn(server.shut_down(Duration::from_secs(20)));
    let opened = step_request(&uids(0, 4), raw(&input(0)), None, metadata(&[opening(9)]));
    until_refused(&rpc, peer, &opened).await;
    until("those tries have ended", || ledger.open.load(SeqCst) == 1).await;

    let mut other = chain(&swarm);
    let wanted = Blocks::new(BlockRange::first(BLOCKS)).step(&input(7));
    assert_eq!(other.step(input(7).into()).await.unwrap(), wanted);
    assert!(other.route().iter().all(|hop| hop.peer != stopping), "{:?}", other.route());
    let fresh = PetalsSwarm::start(house.client()).await.unwrap();
    let map = fresh.map(&"toy".into()).await.unwrap();
    assert!(map.servers.len() == 1 && map.servers[0].peer != stopping, "{map:?}");

    for nth in 1..6 {
        assert_eq!(running.step(input(nth).into()).await.unwrap(), local.step(&input(nth)), "step {nth}");
    }
    assert_eq!((running.route()[0].peer.clone(), running.report().failed_over), (stopping, 0));
    assert!(!leaving.is_finished());
    drop(running);
    tokio::time::timeout(WAIT, leaving).await.unwrap().unwrap();
}
