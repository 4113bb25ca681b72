"""Servers behind NATs, in network namespaces of this machine: reached directly, through a hole in the NAT, or through a relay.

    python3 tests/namespaces/run.py BINARY [CASE...]      as root, with iproute2 and nftables; says SKIPPED where that is not to be had

The net of each case:

    client -- router --+                  +-- router -- host
    10.2.0.2    11.22.33.3     wan     11.22.33.2    10.1.0.2
                       +-- bootstrap -----+
                            11.22.33.1

Both routers masquerade, and drop what comes from outside and answers nothing. A predictable one keeps the port of a connection, towards
whomever (endpoint-independent mapping, address- and port-dependent filtering); a symmetric one takes a new random port for every connection.
A forwarding one leads port 31401 to the host. The addresses look public, since stock relays hand out no others. Nothing leaves the namespaces: they have no way to this machine's own network.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "tests/fixtures/models/tiny-bloom"
PREFIX = "tiny-bloom-petals"
PATIENCE = 60  # seconds; nothing here takes longer
TOKENS = 12
HOST_PORT = 31401
NAMES = ("bootstrap", "router-h", "router-c", "host", "client", "wan")


class Failure(Exception):
    """A check that did not hold, in a sentence."""


def run(*words, **settings):
    settings = {"text": True, "capture_output": True, "timeout": PATIENCE, **settings}
    done = subprocess.run([str(word) for word in words], **settings)
    if done.returncode:
        raise Failure(f"`{' '.join(map(str, words))}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class Net:
    """Namespaces, wires and NATs; all gone at the end."""

    def __init__(self, host_nat, client_nat):
        self.mark, self.made = f"corolla-{os.getpid()}", []
        self.nats = {"router-h": host_nat, "router-c": client_nat}

    def name(self, short):
        return f"{self.mark}-{short}"

    def inside(self, short, *words):
        return ["ip", "netns", "exec", self.name(short), *words]

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        for short in NAMES:
            run("ip", "netns", "add", self.name(short))
            self.made.append(short)
            run(*self.inside(short, "ip", "link", "set", "lo", "up"))
        run(*self.inside("wan", "ip", "link", "add", "bridge", "type", "bridge"))
        run(*self.inside("wan", "ip", "link", "set", "bridge", "up"))
        for short, last in (("bootstrap", 1), ("router-h", 2), ("router-c", 3)):
            self.wire((short, "wan", f"11.22.33.{last}/24"), ("wan", f"to-{last}", None))
            run(*self.inside("wan", "ip", "link", "set", f"to-{last}", "master", "bridge"))
        for router, inner, net in (("router-h", "host", "10.1.0"), ("router-c", "client", "10.2.0")):
            self.wire((router, "lan", f"{net}.1/24"), (inner, "lan", f"{net}.2/24"))
            run(*self.inside(inner, "ip", "route", "add", "default", "via", f"{net}.1"))
            run(*self.inside(router, "sysctl", "-qw", "net.ipv4.ip_forward=1"))
            run(*self.inside(router, "nft", "-f", "-"), input=rules(self.nats[router], f"{net}.2"))

    def wire(self, one, other):
        run("ip", "link", "add", one[1], "netns", self.name(one[0]), "type", "veth", "peer", "name", other[1], "netns", self.name(other[0]))
        for short, interface, address in (one, other):
            if address:
                run(*self.inside(short, "ip", "address", "add", address, "dev", interface))
            run(*self.inside(short, "ip", "link", "set", interface, "up"))

    def __exit__(self, *_):
        for short in self.made:
            subprocess.run(["ip", "netns", "del", self.name(short)], capture_output=True, timeout=PATIENCE)
        self.made = []


def rules(nat, inner):
    how = {"predictable": "masquerade", "symmetric": "masquerade random,fully-random", "forwarding": "masquerade"}[nat]
    forwarding = nat == "forwarding"
    return f"""
        table ip nat {{
            chain before {{
                type nat hook prerouting priority dstnat;
                {f'iifname "wan" tcp dport {HOST_PORT} dnat to {inner}' if forwarding else ''}
            }}
            chain after {{ type nat hook postrouting priority srcnat; oifname "wan" {how}; }}
        }}
        table ip filter {{
            chain in {{
                type filter hook input priority 0; policy drop;
                ct state established,related accept; iifname {{ "lan", "lo" }} accept;
            }}
            chain through {{
                type filter hook forward priority 0; policy drop;
                ct state established,related accept; iifname "lan" accept; {'ct status dnat accept;' if forwarding else ''}
            }}
        }}
    """


def reference():
    """The Python of the reference's environment."""
    return [run("sh", ROOT / "scripts/interop/install.sh", timeout=1800).strip() + "/bin/python"]


class Swarm:
    """Corolla's processes in a net."""

    def __init__(self, binary, net, folder, client_listens):
        self.binary, self.net, self.folder, self.processes = binary, net, folder, {}
        self.client_listens = client_listens

    def start(self, name, short, *words, program=None, stdin=subprocess.DEVNULL, around=None):
        log = self.folder / f"{name}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("COROLLA_")}
        environment = {**kept, "COROLLA_CACHE": str(self.folder), "COROLLA_LOG": "info,corolla_swarm=debug"}
        environment |= {key: str(value) for key, value in (around or {}).items()}
        with open(log, "w") as out:
            process = subprocess.Popen(
                self.net.inside(short, *(program or [self.binary]), *map(str, words)), stdin=stdin, stdout=out, stderr=out, env=environment,
                start_new_session=True,
            )
        self.processes[name] = (process, log)

    def said(self, name):
        return self.processes[name][1].read_text(errors="replace")

    def until(self, name, *words, patience=PATIENCE):
        """Waits until a process says one of these; which."""
        process, deadline = self.processes[name][0], time.monotonic() + patience
        while True:
            said = self.said(name)
            for word in words:
                if word in said:
                    return word
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{name} does not say {' or '.join(words)}:\n{said[-3000:]}")
            time.sleep(0.05)

    def bootstrap(self):
        self.start("bootstrap", "bootstrap", "bootstrap", "--listen", "/ip4/11.22.33.1/tcp/31400")
        self.until("bootstrap", "/p2p/")
        self.entrance = next(line.strip() for line in self.said("bootstrap").splitlines() if line.startswith("/ip4/11"))

    def stock_bootstrap(self):
        """A node of the reference: its relay, and its word on whether it reaches others."""
        node = [ROOT / "scripts/interop/node.py", "dht", PREFIX, 3, 1, self.folder / "stock.id", "/ip4/11.22.33.1/tcp/31400"]
        self.start("bootstrap", "bootstrap", *node, program=[*reference(), "-W", "ignore"], stdin=subprocess.PIPE)
        self.until("bootstrap", "/p2p/", patience=600)  # it is Python, with torch
        self.entrance = re.search(r"/ip4/11[^\s\"]*/p2p/\w+", self.said("bootstrap")).group()

    def host(self):
        self.start(
            "host", "host", "host", "--model", MODEL, "--dtype", "f32", "--threads", 1, "--initial-peers", self.entrance, "--dht-prefix", PREFIX,
            "--listen", f"/ip4/0.0.0.0/tcp/{HOST_PORT}",
        )
        self.until("host", "serving the blocks")

    def stock_host(self):
        """A server of the reference that takes a slot at our relay."""
        server = [
            ROOT / "scripts/interop/node.py", "server", MODEL, "--dht_prefix", PREFIX, "--block_indices", "0:3", "--device", "cpu", "--torch_dtype",
            "float32", "--throughput", "1.0", "--num_handlers", 1, "--attn_cache_tokens", 8192, "--host_maddrs", f"/ip4/0.0.0.0/tcp/{HOST_PORT}",
            "--initial_peers", self.entrance, "--skip_reachability_check",
        ]
        around = {"SWARM_P2PD": "-relayDiscovery=0", "SWARM_RELAY": self.entrance, "PETALS_CACHE": self.folder / "cache", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        self.start("host", "host", *server, program=[*reference(), "-W", "ignore"], stdin=subprocess.PIPE, around=around)
        self.until("host", " Started", patience=600)

    def serve(self):
        config = self.folder / "corolla.toml"
        listen = 'listen = ["/ip4/0.0.0.0/tcp/0"]\n' if self.client_listens else ""
        config.write_text(
            f'[[models]]\nid = "tiny-bloom"\npath = {json.dumps(str(MODEL))}\ndtype = "f32"\nblocks = "swarm"\nthreads = 1\n'
            f'[models.swarm]\ninitial_peers = [{json.dumps(self.entrance)}]\ndht_prefix = "{PREFIX}"\nrequest_timeout = "20s"\n{listen}'
        )
        self.start("client", "client", "serve", "--config", config, "--listen", "127.0.0.1:8000")
        self.until("client", "wiring: loaded")

    def ask(self, path, body=None):
        words = ["curl", "-sS", "--max-time", "40", f"http://127.0.0.1:8000{path}"]
        if body is not None:
            words += ["-H", "content-type: application/json", "-d", json.dumps(body)]
        return json.loads(run(*self.net.inside("client", *words)))

    def reply(self):
        body = {"inputs": PROMPT, "max_new_tokens": TOKENS, "temperature": 0}
        answer = self.ask("/api/v1/generate", body)
        if not answer.get("ok"):
            raise Failure(f"no reply: {answer}\n{self.said('client')[-3000:]}")
        return answer["outputs"]

    def relayed(self):
        models = self.ask("/api/v1/swarm")["models"]
        return [server["relayed"] for model in models for server in model["servers"]]

    def kill(self, name):
        process = self.processes[name][0]
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in self.processes:
            self.kill(name)


PROMPT = "The quick brown fox"
PUNCHED = "a direct connection takes the place of the relayed one"
STAYS = "there is no direct way, the relay stays"
# What each case is: the NATs of host and client, whether the client listens, what the host finds out, and what becomes of the way.
CASES = {
    "relayed": ("predictable", "predictable", False, "relayed by", STAYS),
    "punched": ("predictable", "predictable", True, "relayed by", PUNCHED),
    "symmetric": ("symmetric", "symmetric", True, "relayed by", STAYS),
    "forwarded": ("forwarding", "predictable", False, "direct:", None),
    "stock-relay": ("predictable", "predictable", False, "relayed by", STAYS),
    "stock-server": ("predictable", "predictable", False, None, None),
}
ASKED_FOR = ("stock-relay", "stock-server")  # they need the reference's environment: about 1 GB, installed once


def check(binary, name, expected, folder):
    host_nat, client_nat, listens, verdict, outcome = CASES[name]
    with Net(host_nat, client_nat) as net, Swarm(binary, net, folder, listens) as swarm:
        swarm.stock_bootstrap() if name == "stock-relay" else swarm.bootstrap()
        if name == "stock-server":
            swarm.stock_host()
            swarm.serve()
            if (reply := swarm.reply()) != expected or swarm.relayed() != [True]:
                raise Failure(f"the reply is {reply!r}, not {expected!r}; relayed: {swarm.relayed()}")
            return "the host is a stock server at our relay; a reply"
        listen = f"/ip4/0.0.0.0/tcp/{HOST_PORT}"
        found = run(*net.inside("host", binary, "doctor", "--listen", listen, "--initial-peers", swarm.entrance))
        if not found.startswith(verdict) or (outcome and f"TCP {HOST_PORT}" not in found):
            raise Failure(f"corolla doctor says {found!r}")
        swarm.host()
        swarm.until("host", verdict)
        swarm.serve()
        begun = time.monotonic()
        if (reply := swarm.reply()) != expected:
            raise Failure(f"the reply is {reply!r}, not {expected!r}")
        if outcome:
            said = swarm.until("host", PUNCHED, STAYS)
            if said != outcome:
                raise Failure(f"the host says {said!r}, not {outcome!r}")
        if outcome == PUNCHED:
            swarm.kill("bootstrap")  # whatever still went through the relay ends here
        elif (relayed := swarm.relayed()) != [outcome == STAYS]:
            raise Failure(f"servers reached through a relay: {relayed}")
        if (reply := swarm.reply()) != expected:
            raise Failure(f"the later reply is {reply!r}, not {expected!r}")
        return f"the host is {verdict.split()[0].rstrip(':')}; a reply, {outcome or 'no relay'}, another reply: {time.monotonic() - begun:.1f} s"


def missing():
    """Why this cannot be run here, where it cannot."""
    if os.geteuid():
        return "network namespaces need root"
    for tool in ("ip", "nft", "curl", "sysctl"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    try:
        with Net("predictable", "symmetric"):
            return None
    except Failure as failure:
        return str(failure)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    binary, names = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:] or [name for name in CASES if name not in ASKED_FOR]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if reason := missing():
        print(f"SKIPPED: hosts behind NATs were not tested: {reason}", flush=True)
        return
    local = ["generate", "--prompt", PROMPT, "--max-new-tokens", TOKENS, "--json"]
    with tempfile.TemporaryDirectory(prefix="corolla-namespaces-") as folder:
        folder = pathlib.Path(folder)
        (folder / "local.toml").write_text(f'[[models]]\nid = "tiny-bloom"\npath = {json.dumps(str(MODEL))}\ndtype = "f32"\n')
        expected = json.loads(run(binary, *local, "--config", folder / "local.toml"))["text"]
        failed = 0
        for name in names:
            (folder / name).mkdir()
            try:
                print(f"{name}: {check(binary, name, expected, folder / name)}", flush=True)
            except (Failure, subprocess.TimeoutExpired) as failure:
                failed += 1
                print(f"{name} FAILED: {failure}", flush=True)
    print(f"{len(names) - failed} passed, {failed} failed", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
