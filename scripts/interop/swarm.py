#!/usr/bin/env python3
"""A swarm of stock Petals servers on loopback: swarm.py --model FOLDER --prefix NAME [--ranges "0:2 2:4"] [--dtype ...] [--throughput ...]

Once every server is ONLINE in the DHT, prints one line of JSON: initial peers, and of each server its blocks, peer id, pid and log. Stays
until its standard input closes, then ends its processes. Each server leads a process group of its own: `kill -9 -PID` is a machine that
goes away, `kill -STOP -PID` one that freezes. --dtype and --throughput take one value for all servers, or one for each.
"""
import argparse
import glob
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
TOO_SLOW = "none of the initial_peers responded to a ping"  # hivemind waits three seconds, in which a busy machine may not come to it


def environment():
    """The folder of the Python environment; makes it where it is not there."""
    done = subprocess.run([HERE / "install.sh"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return pathlib.Path(done.stdout.strip())


class Swarm:
    def __init__(self, python, folder, deadline):
        self.python, self.folder, self.deadline = python, folder, deadline
        self.nodes, self.said = {}, queue.SimpleQueue()
        self.sockets = tempfile.mkdtemp(prefix="corolla-p2p-")  # and other short-lived files; the names of sockets must be short

    def start(self, name, *arguments):
        """One node; what it prints goes to its log, a DHT peer's answers to `said`."""
        log = self.folder / f"{name}.log"
        talks = arguments[0] == "dht"
        settings = {
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",  # AMX kernels end in an illegal instruction on some virtual machines
            "OMP_NUM_THREADS": "1", "PETALS_CACHE": str(self.folder / "cache"), "PYTHONUNBUFFERED": "1", "SWARM_SOCKETS": self.sockets,
            "TMPDIR": self.sockets,
        }
        with open(log, "wb") as out:
            node = subprocess.Popen(
                [self.python, "-W", "ignore", HERE / "node.py", *map(str, arguments)], env={**os.environ, **settings},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE if talks else out, stderr=out, start_new_session=True,
            )
        self.nodes[name] = node, log, arguments
        if talks:
            threading.Thread(target=lambda: [self.said.put(json.loads(line)) for line in node.stdout], daemon=True).start()

    def answer(self, key):
        """The DHT peer's next answer, as long as everybody lives and there is time."""
        while True:
            try:
                return self.said.get(timeout=0.2)[key]
            except queue.Empty:
                pass
            for name, (node, log, arguments) in list(self.nodes.items()):
                if not ended(node):
                    continue
                self.bury(node)
                if TOO_SLOW not in log.read_text(errors="replace"):
                    self.fail(f"{name} ended with code {node.returncode}", log)
                print(f"interop: {name} got no answer from the DHT in time and begins again", file=sys.stderr)
                self.start(name, *arguments)
            if time.monotonic() > self.deadline:
                logs = [log for _, log, _ in self.nodes.values()]
                late = [log for log in logs if " Started" not in log.read_text(errors="replace")]
                self.fail(f"waited in vain until the swarm is {key}", (late or logs)[-1])

    def fail(self, sentence, log):
        words = log.read_text(errors="replace").splitlines()[-12:]
        print(f"interop: {sentence}; the end of its log:", *words, sep="\n         ", file=sys.stderr)
        sys.exit(1)

    def bury(self, node):
        """Ends a node and all its processes. Nobody else has its number before wait()."""
        if node.returncode is None:
            try:
                os.killpg(node.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            node.wait()
        for left in glob.glob(f"/dev/shm/torch_{node.pid}_*"):
            pathlib.Path(left).unlink(missing_ok=True)

    def end(self):
        for node, _, _ in self.nodes.values():
            self.bury(node)
        shutil.rmtree(self.sockets, ignore_errors=True)


def ended(node):
    """Whether a process has ended; its number is kept until somebody waits for it."""
    return os.waitid(os.P_PID, node.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def each(text, count, what):
    values = text.split()
    if len(values) == 1:
        values *= count
    if len(values) != count:
        sys.exit(f"interop: {len(values)} values for {what}, but {count} servers; give one for all or one for each")
    return values


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="folder in Hugging Face layout")
    parser.add_argument("--prefix", required=True, help="the model's name in the DHT")
    parser.add_argument("--ranges", default="0:2 2:4", help="blocks of each server")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--throughput", default="1.0", help="what the servers claim")
    parser.add_argument("--cache-tokens", type=int, default=8192, help="positions that a server's cache holds")
    parser.add_argument("--update-period", type=float, default=15, help="seconds between announcements; a dead server is forgotten after two")
    parser.add_argument("--timeout", type=float, default=180, help="seconds until everybody must be ONLINE")
    parser.add_argument("--logs", type=pathlib.Path, help="folder for logs (default: one that is removed at the end)")
    return parser.parse_args()


def run(swarm, asked):
    ranges = asked.ranges.split()
    blocks = json.loads((asked.model / "config.json").read_text())
    blocks = blocks.get("n_layer") or blocks["num_hidden_layers"]
    dtypes, throughputs = each(asked.dtype, len(ranges), "--dtype"), each(asked.throughput, len(ranges), "--throughput")
    begun = time.monotonic()
    swarm.start("dht", "dht", asked.prefix, blocks, len(ranges), swarm.folder / "dht.id")
    initial = swarm.answer("initial_peers")
    servers = {}
    for nth, (span, dtype, throughput) in enumerate(zip(ranges, dtypes, throughputs), 1):
        name = f"server{nth}"
        # Every other one has an identity file: hivemind makes RSA keys for files, and Ed25519 keys without.
        identity = ["--identity_path", swarm.folder / f"{name}.id"] if nth % 2 else []
        swarm.start(
            name, "server", asked.model.resolve(), "--dht_prefix", asked.prefix, "--block_indices", span, "--public_name", name,
            "--device", "cpu", "--torch_dtype", dtype, "--throughput", throughput, "--num_handlers", 1,
            "--attn_cache_tokens", asked.cache_tokens, "--host_maddrs", "/ip4/127.0.0.1/tcp/0", "--initial_peers", *initial,
            "--no_auto_relay", "--skip_reachability_check", "--update_period", asked.update_period, *identity,
        )
        servers[name] = {"name": name, "dtype": dtype}
    for online in swarm.answer("online"):
        node, log, _ = swarm.nodes[online["name"]]
        servers[online["name"]].update(online, pid=node.pid, log=str(log))
    return {
        "initial_peers": initial, "dht_prefix": asked.prefix, "seconds": round(time.monotonic() - begun, 1),
        "dht": {"pid": swarm.nodes["dht"][0].pid}, "sockets": swarm.sockets, "servers": list(servers.values()),
    }


def main():
    asked = options()
    venv = environment()
    folder = asked.logs or pathlib.Path(tempfile.mkdtemp(prefix="corolla-swarm-"))
    folder.mkdir(parents=True, exist_ok=True)
    swarm = Swarm(venv / "bin" / "python", folder, time.monotonic() + asked.timeout)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        print(json.dumps(run(swarm, asked)), flush=True)
        while sys.stdin.buffer.read1():
            pass
    finally:
        swarm.end()
        if not asked.logs:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
