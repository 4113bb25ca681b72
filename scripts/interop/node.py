"""One process of the reference swarm, on this machine only. Runs in the environment that install.sh makes.

    node.py versions                       what is installed
    node.py dht PREFIX BLOCKS SERVERS IDENTITY ADDRESS...
                                           a DHT peer; prints its addresses, then who hosts what once SERVERS servers are ONLINE
    node.py server ARGUMENT...             a Petals server, with the arguments of petals.cli.run_server

Of the environment: SWARM_P2PD holds flags for the Go daemon, such as `-noise=0`; SWARM_RELAY the address of a peer through which alone this
node can be reached; SWARM_PETALS the folder of another petals than the environment's own.

Each process leads a group of its own, and ends with its whole group (hivemind forks, and starts a Go daemon) when its standard input closes.
"""
import json
import os
import runpy
import signal
import sys
import threading
import time
import warnings

warnings.filterwarnings("ignore")
NOWHERE = "http://127.0.0.1:9"  # an HTTP client that wants to leave this machine fails at once
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", PETALS_IGNORE_DEPENDENCY_VERSION="1", BITSANDBYTES_NOWELCOME="1",
    http_proxy=NOWHERE, https_proxy=NOWHERE, no_proxy="",
)

if other := os.environ.get("SWARM_PETALS"):
    sys.path.insert(0, other)

import hivemind  # noqa: E402
import hivemind.compression, hivemind.dht, hivemind.p2p, hivemind.utils  # noqa: E401,E402
from hivemind.utils import (  # noqa: E402
    asyncio, limits, logging, mpfuture, nested, networking, performance_ema, serializer, streaming, tensor_descr, timed_storage,
)

POLL_SECONDS = 0.2


def give_back_names():
    """hivemind 1.1.12 no longer exports from its top what petals 2.2 imports from there."""
    parts = [asyncio, limits, logging, mpfuture, nested, networking, performance_ema, serializer, streaming, tensor_descr, timed_storage]
    for target, modules in ((hivemind.utils, parts), (hivemind, [*parts, hivemind.compression, hivemind.p2p])):
        for module in modules:
            for name, value in vars(module).items():
                if not name.startswith("_") and not hasattr(target, name) and type(value).__name__ != "module":
                    setattr(target, name, value)


def behind(relay, kwargs):
    """Arguments of a daemon that listens nowhere and asks `relay` for a place. hivemind's probe of its own reachability asks for none."""
    nowhere = {"host_maddrs": None, "no_listen": True, "force_reachability": "private", "announce_maddrs": [f"{relay}/p2p-circuit"]}
    return {**kwargs, **nowhere, **({"trusted_relays": [relay]} if kwargs.get("use_auto_relay") else {})}


def stay_here():
    """No port mapping at a router, no question to a package index for newer versions; and what the environment asks of the daemons."""
    create, arguments = hivemind.p2p.P2P.create.__func__, hivemind.p2p.P2P._make_process_args
    flags, relay = os.environ.get("SWARM_P2PD", "").split(), os.environ.get("SWARM_RELAY")

    async def create_here(cls, *args, **kwargs):
        kwargs = behind(relay, kwargs) if relay else kwargs
        return await create(cls, *args, **{**kwargs, "nat_port_map": False})

    hivemind.p2p.P2P.create = classmethod(create_here)
    hivemind.p2p.P2P._make_process_args = staticmethod(lambda *args, **kwargs: [*arguments(*args, **kwargs), *flags])
    if folder := os.environ.get("SWARM_SOCKETS"):
        hivemind.p2p.P2P._UNIX_SOCKET_PREFIX = f"/unix{folder}/"  # who is killed leaves its sockets; in this folder they are found
    import petals.utils.version

    petals.utils.version.validate_version = lambda: None


give_back_names()
stay_here()


def end_with_standard_input():
    """The process that started this one holds the other end of the pipe: whichever way it ends, its nodes end."""

    def watch():
        while os.read(0, 4096):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def tell(value):
    print(json.dumps(value), flush=True)


def versions():
    import petals
    import torch
    import transformers

    print(f"petals {petals.__version__}, hivemind {hivemind.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")


def dht(prefix, blocks, servers, identity, *addresses):
    from petals.data_structures import ServerState
    from petals.server.reachability import ReachabilityProtocol
    from petals.utils.dht import compute_spans, get_remote_module_infos

    peer = hivemind.DHT(
        start=True, host_maddrs=addresses, identity_path=identity, use_auto_relay=False, ensure_bootstrap_success=False
    )
    ReachabilityProtocol.attach_to_dht(peer, await_ready=True)
    end_with_standard_input()
    tell({"initial_peers": [str(address) for address in peer.get_visible_maddrs()]})
    uids = [f"{prefix}.{block}" for block in range(int(blocks))]
    while True:
        infos = get_remote_module_infos(peer, uids, latest=True)
        spans = compute_spans(infos, min_state=ServerState.ONLINE)
        if len(spans) == int(servers):
            break
        time.sleep(POLL_SECONDS)
    tell({"online": [
        {"name": span.server_info.public_name, "peer": str(peer_id), "blocks": [span.start, span.end]} for peer_id, span in spans.items()
    ]})
    threading.Event().wait()


def server(arguments):
    """`python -m petals.cli.run_server` that asks nobody whether it can be reached: on a busy machine they answer too late."""
    import petals.server.server

    petals.server.server.check_direct_reachability = lambda **_: True
    end_with_standard_input()
    sys.argv = ["petals.cli.run_server", *arguments]
    runpy.run_module("petals.cli.run_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    verb, rest = sys.argv[1], sys.argv[2:]
    {"versions": versions, "dht": dht, "server": lambda *arguments: server(arguments)}[verb](*rest)
