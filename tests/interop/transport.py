"""The ways to a swarm other than TCP with noise to an IP address: names, QUIC, TLS alone, and a relay that keeps ending its circuits."""
import itertools
import re
import socket

import corolla
from reference import Failure

TCP, QUIC = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"
PROMPTS = 6
SESSIONS = 16  # enough that a relay ends some of their circuits
CALL = 8  # tokens


def few(model):
    """Prompts enough to see that a way leads there. What is said of each fits a circuit."""
    return {**model, "cases": model["cases"][:PROMPTS]}


def addresses(swarm):
    """Where each server says that it is, by the server's name."""
    said = {name: open(server["log"], errors="replace").read() for name, server in swarm.servers.items()}
    return {name: re.findall(r"'(/\S+?)'", re.search(r"Running a server on (.*)", text).group(1)) for name, text in said.items()}


def all_lie(swarm, what):
    """Fails where somebody can be reached in another way: then a check would say nothing."""
    found = [*swarm.facts["initial_peers"], *(address for some in addresses(swarm).values() for address in some)]
    if other := [address for address in found if what not in address]:
        raise Failure(f"this swarm has addresses without {what}: {other}")


def entrance(swarm, protocol):
    """The address of the DHT peer with this protocol in it."""
    return next(address for address in swarm.facts["initial_peers"] if f"/{protocol}/" in address)


def named(swarm, kind):
    """The address of the DHT peer with a name in it."""
    return entrance(swarm, "tcp").replace("/ip4/127.0.0.1/", f"/{kind}/localhost/")


def answer(swarm, proposal):
    """What the DHT peer says to the proposal of a security protocol: the same for yes, `na` for no."""
    port = int(re.search(r"/tcp/(\d+)/", entrance(swarm, "tcp")).group(1))
    frames = b"".join(bytes([len(line) + 1]) + line.encode() + b"\n" for line in ("/multistream/1.0.0", proposal))
    with socket.create_connection(("127.0.0.1", port), 10) as peer, peer.makefile("rb") as said:
        peer.sendall(frames)
        return [said.readline()[1:].decode().strip() for _ in range(2)][1]


def tls_alone(model, house, swarm, exact):
    noise, tls = answer(swarm, "/noise"), answer(swarm, "/tls/1.0.0")
    if (noise, tls) != ("na", "/tls/1.0.0"):
        raise Failure(f"asked for noise and for TLS the DHT peer says {noise!r} and {tls!r}")
    return exact(few(model), house)


def quic_alone(model, house, swarm, exact):
    all_lie(swarm, "/quic-v1")
    return exact(few(model), house)


def status(house, swarm):
    """`corolla swarm status` tells who is reached directly and who through a relay."""
    shown = house.run("swarm", "status")
    rows = [row.split() for row in shown.stdout.splitlines()]
    rows = {row[0]: row[-1] for row in rows if row[-1] in ("direct", "relayed")}
    wanted = {server["peer"]: server["reach"] for server in swarm.servers.values()}
    if rows != wanted:
        raise Failure(f"shown: {rows}, not {wanted}: {corolla.last_words(shown.stderr)}")


def circuits(model, house, swarm):
    """Sessions through a relay that ends its circuits in the middle of replies: no token is lost or wrong, and no server is given up.

    A p2pd that is not sure to be public ends a circuit after 128 KiB in either direction, and after two minutes.
    """
    for name, server in swarm.servers.items():
        if server["reach"] == "relayed" and not all("/p2p-circuit" in address for address in addresses(swarm)[name]):
            raise Failure(f"{name} can be reached without a relay: {addresses(swarm)[name]}")
    short = [case for case in model["cases"] if len(case["prompt_ids"]) < 100]
    with house.serve(log="info,corolla_swarm=debug") as server:
        for case in itertools.islice(itertools.cycle(short), SESSIONS):
            session = server.open(512)
            for start in range(0, len(case["pieces"]), CALL):
                said, _ = server.say(session, None if start else case["prompt"], CALL)
                wanted = "".join(case["pieces"][start : start + CALL])
                if said.get("outputs") != wanted:
                    raise Failure(f"{case['prompt'][:30]!r}, token {start}: {said} instead of {wanted!r}")
            server.close(session)
        log = corolla.plain(server.log.read_text())
    opened, ended = log.count("a relay leads to a peer"), log.count("a relayed or idle stream was lost")
    if ended < 2 or "a server failed" in log:
        raise Failure(f"{ended} streams ended in mid-reply, on {opened} circuits; servers given up: {log.count('a server failed')}")
    return f"{opened} circuits, {ended} of them ended in mid-reply"


def swarms(model, house, exact):
    """(label, flags of swarm.py, checks) of each swarm; two servers each."""
    short = few(model)
    names = {f"transport: {kind} name": lambda swarm, kind=kind: exact(short, house(swarm, initial_peers=[named(swarm, kind)]))
             for kind in ("dns", "dns4")}
    beside = {"transport: QUIC beside TCP": lambda swarm: exact(short, house(swarm, initial_peers=[entrance(swarm, "quic-v1")]))}
    yield "names", ["--listen", TCP, QUIC], {**names, **beside}
    yield "quic", ["--listen", QUIC], {"transport: QUIC alone": lambda swarm: quic_alone(model, house(swarm), swarm, exact)}
    yield "tls", ["--p2pd=-noise=0"], {"transport: TLS without noise": lambda swarm: tls_alone(model, house(swarm), swarm, exact)}
    yield "relay", ["--reach", "direct relayed"], {
        "transport: a server behind a relay": lambda swarm: exact(short, house(swarm)),
        "transport: status tells relayed from direct": lambda swarm: status(house(swarm), swarm),
        "transport: circuits that end in mid-reply": lambda swarm: circuits(model, house(swarm), swarm),
    }
