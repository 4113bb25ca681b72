#!/usr/bin/env python3
"""Corolla's own servers: host.py BINARY [--models ...] [--only ...]

Starts `corolla bootstrap` and `corolla host`, alone and mixed with stock Petals servers, and asks them with the stock Python client and with
Corolla's own, token for token beside transformers. Prints a line for each check, as run.py does.
"""
import argparse
import os
import pathlib
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from types import SimpleNamespace

import corolla
import reference
from reference import HERE, STARTING, Client, Failure, Info, Swarm, end, start
from run import NEW_TOKENS, Table, exact, same, scores, sessions

PROMPTS = 6
CACHE = 8192  # positions, over all blocks of a server


def own_choice(blocks, fixed, counted):
    """Flags for blocks such as 0:2, or for so many as the server finds a place for."""
    return [fixed if ":" in blocks else counted, blocks]


class House:
    """A swarm with members of ours; ends with the `with` block. `members`: (who, blocks), where who is corolla or python."""

    def __init__(self, binary, venv, model, members, logs, dht="corolla"):
        self.binary, self.venv, self.model, self.members, self.logs, self.dht = binary, venv, model, members, logs, dht
        self.processes, self.servers, self.outer = [], {}, None
        self.sockets = tempfile.mkdtemp(prefix="corolla-p2p-")
        logs.mkdir(parents=True)

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def begin(self):
        prefix, members = self.model["dht_prefix"], list(self.members)
        if self.dht == "python":  # the stock DHT peer with its stock servers, and ours beside them
            stock = [blocks for who, blocks in members if who == "python"]
            self.outer = Swarm(self.model, " ".join(stock), self.logs / "stock").__enter__()
            self.facts = {**self.outer.facts}
            members = [(who, blocks) for who, blocks in members if who == "corolla"]
        else:
            first = self.ours("bootstrap", "bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0")
            self.facts = {"initial_peers": [first], "dht_prefix": prefix, "sockets": self.sockets}
        for nth, (who, blocks) in enumerate(members, 1):
            (self.host if who == "corolla" else self.stock)(f"{who}{nth}", blocks)

    def host(self, name, blocks, *flags, dtype="f32", period=15):
        self.ours(
            name, "host", "--model", self.model["folder"], *own_choice(blocks, "--blocks", "--num-blocks"), "--dtype", dtype, "--threads", 1, "--public-name", name,
            "--initial-peers", ",".join(self.facts["initial_peers"]), "--dht-prefix", self.facts["dht_prefix"], "--update-period", period,
            "--attn-cache-tokens", CACHE, *flags,
        )
        self.servers[name]["blocks"] = blocks
        self.until(name, "serving the blocks")

    def ours(self, name, *arguments):
        """A process of Corolla's; the address it prints."""
        log = self.logs / f"{name}.log"
        with open(log, "w") as errors:
            process = start([self.binary, *arguments], env=corolla.environment(self.logs), stdout=-1, stderr=errors)
        self.processes.append(process)
        self.servers[name] = {"name": name, "process": process, "log": log}
        ready, _, _ = select.select([process.stdout], [], [], STARTING)
        line = process.stdout.readline().strip() if ready else ""
        if not line:
            raise Failure(f"{name} printed no address: {corolla.last_words(log.read_text())}")
        self.servers[name]["peer"] = line.rsplit("/", 1)[1]
        return line

    def stock(self, name, blocks):
        """A stock server that enters through ours."""
        log = self.logs / f"{name}.log"
        around = {
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OMP_NUM_THREADS": "1", "PETALS_CACHE": str(self.logs / "cache"), "PYTHONUNBUFFERED": "1",
            "SWARM_SOCKETS": self.sockets, "TMPDIR": self.sockets,
        }
        command = [
            self.venv / "bin/python", "-W", "ignore", HERE / "node.py", "server", pathlib.Path(self.model["folder"]).resolve(),
            "--dht_prefix", self.facts["dht_prefix"], *own_choice(blocks, "--block_indices", "--num_blocks"), "--public_name", name, "--device", "cpu", "--torch_dtype", "float32",
            "--throughput", "1.0", "--num_handlers", 1, "--attn_cache_tokens", 8192, "--host_maddrs", "/ip4/127.0.0.1/tcp/0", "--no_auto_relay",
            "--initial_peers", *self.facts["initial_peers"], "--skip_reachability_check", "--update_period", 15,
        ]
        with open(log, "w") as out:
            process = start(command, env={**os.environ, **around}, stdin=-1, stdout=out, stderr=out)
        self.processes.append(process)
        self.servers[name] = {"name": name, "process": process, "log": log}
        self.until(name, " Started")

    def until(self, name, words):
        server, deadline = self.servers[name], time.monotonic() + STARTING
        while words not in (said := corolla.plain(server["log"].read_text(errors="replace"))):
            if server["process"].poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{name} does not say {words!r}: {corolla.last_words(said)}")
            time.sleep(0.05)

    def stop(self, name):
        """Asks one of ours to end, as an operator does; how long that took."""
        server, begun = self.servers.pop(name), time.monotonic()
        server["process"].send_signal(signal.SIGTERM)
        if code := server["process"].wait(40):
            raise Failure(f"{name} ended with code {code}: {corolla.last_words(server['log'].read_text())}")
        return time.monotonic() - begun

    def all_closed(self):
        """Every cache of ours is free again, a moment after the last session has ended."""
        ours = {name: server for name, server in self.servers.items() if "peer" in server and name != "bootstrap"}
        whole = {name: CACHE * (int(end) - int(start)) for name, (start, end) in ((name, server["blocks"].split(":")) for name, server in ours.items())}
        deadline = time.monotonic() + 10
        with Info(self.venv, SimpleNamespace(logs=self.logs, servers=ours, facts=self.facts)) as info:
            while (free := info.free()) != whole:
                if time.monotonic() > deadline:
                    raise Failure(f"caches are not free again: {free} of {whole}")

    def __exit__(self, *_):
        for process in self.processes:
            end(process)
        if self.outer:
            self.outer.__exit__()
        shutil.rmtree(self.sockets, ignore_errors=True)


def by_python(model, house, venv):
    """The stock client: replies, a session of several calls, beam search, blocks without a cache."""
    with Client(venv, house) as client:
        for case in model["cases"]:
            answer = client.ask(ids=case["prompt_ids"], max_new_tokens=NEW_TOKENS)
            same(answer["ids"], case["new_ids"], repr(case["prompt"][:30]))
        ids = model["cases"][0]["prompt_ids"]
        answer = client.ask(ids=ids, talk=[10, 1, 20])
        same(answer["ids"], answer["wanted"], "a session of three calls")
        apart = client.ask(states=ids)["apart"]
        if not apart <= 1e-3:
            raise Failure(f"blocks without a cache are {apart:.1e} from those of transformers")
        answer = client.ask(ids=ids, beams=3, max_new_tokens=24)
        same(answer["ids"], answer["wanted"], "beam search")
        speed = client.ask(steps=200)
    return f"{len(model['cases'])} prompts x {NEW_TOKENS} ids, a session, 3 beams; states {apart:.0e} apart; {speed['steps_per_s']} steps/s"


def tuned(model, house, venv):
    """Prompt tuning by the stock client: losses and gradients are those of transformers, and losses fall."""
    text = [id for case in model["cases"] for id in case["prompt_ids"] + case["new_ids"]]
    rows, seen = [text[at : at + 14] for at in (0, 20, 40)], []
    # The last is long enough to go in pieces (more than 1 MiB of inputs, gradients and prompts).
    asks = [("ptune", rows, 5, 5), ("deep_ptune", rows, 5, 5), ("deep_ptune", [(text * 8)[:700]], 700, 1)]
    with Client(venv, house) as client:
        for mode, rows, length, steps in asks:
            answer = client.ask(tune=mode, rows=rows, length=length, steps=steps)
            losses = answer["losses"]
            if not (answer["loss_apart"] <= 1e-3 and answer["grads_apart"] <= 1e-3):
                raise Failure(f"{mode} with {length} prompts is off from transformers: {answer}")
            if steps > 1 and not losses[-1] < 0.9 * losses[0]:
                raise Failure(f"{mode} does not learn: {losses}")
            learned = f", loss {losses[0]:.2f} to {losses[-1]:.2f}" if steps > 1 else ""
            seen.append(f"{mode} of {len(rows)} x {length + len(rows[0])}: grads {answer['grads_apart']:.0e} apart{learned}")
    house.all_closed()
    return "; ".join(seen)


def goodbye(model, house, binary):
    """A server that is asked to stop is gone from the swarm at once, and a reply says which blocks are missing."""
    name = next(name for name in house.servers if name.startswith("corolla"))
    took = house.stop(name)
    shown = corolla.Corolla(binary, house).run("swarm", "status")
    if "nobody hosts blocks" not in shown.stdout:
        raise Failure(f"after {name} has left, the swarm is still shown whole: {shown.stdout}")
    return f"after {took:.1f} s"


LAYOUTS = {
    "2 of ours": ([("corolla", "0:2"), ("corolla", "2:4")], "corolla"),
    "ours, stock": ([("corolla", "0:2"), ("python", "2:4")], "corolla"),
    "stock, ours": ([("python", "0:2"), ("corolla", "2:4")], "python"),
    "ours, then stock, choose": ([("corolla", "2"), ("python", "2")], "corolla"),
    "stock, then ours, choose": ([("python", "2"), ("corolla", "2")], "corolla"),
}


def check(asked, venv, model, logs, table):
    for label, (members, dht) in LAYOUTS.items():
        name = model["name"]
        checks = {
            f"{label}: the stock client": lambda house: by_python(model, house, venv),
            f"{label}: prompt tuning by the stock client": lambda house: tuned(model, house, venv),
            f"{label}: our client": lambda house: exact(model, corolla.Corolla(asked.binary, house)),
            f"{label}: our client, scored prompts": lambda house: scores(model, corolla.Corolla(asked.binary, house)),
            f"{label}: our client, sessions": lambda house: sessions(model, corolla.Corolla(asked.binary, house), house),
            f"{label}: one of ours says goodbye": lambda house: goodbye(model, house, asked.binary),
        }
        if "choose" in label:  # the blocks are what is new; one goodbye and one client tell whether both found theirs
            checks = {what: run for what, run in checks.items() if what.endswith((": the stock client", "goodbye"))}
        checks = {what: run for what, run in checks.items() if table.wants(what)}
        if not checks:
            continue
        try:
            with House(asked.binary, venv, model, members, logs / f"{name}-{re.sub('[^a-z0-9]+', '-', label)}", dht) as house:
                for what, run in checks.items():
                    table.check(name, what, run, house)
        except Failure as failure:
            for what in checks:
                table.check(name, what, corolla.failing, failure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", nargs="?", default="target/release/corolla", help="the program to be tried (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=["tiny-bloom", "tiny-llama"])
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only checks whose names contain one of these")
    asked = parser.parse_args()
    asked.binary = str(pathlib.Path(asked.binary).resolve())
    if not pathlib.Path(asked.binary).is_file():
        sys.exit(f"interop: there is no {asked.binary}; build it with `cargo build --release --locked`")
    venv, models = reference.prepare()
    logs = pathlib.Path(tempfile.mkdtemp(prefix="corolla-host-"))
    table = Table(asked.only)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    for name in asked.models:
        models[name]["cases"] = models[name]["cases"][:PROMPTS]
        check(asked, venv, models[name], logs, table)
    table.finish(logs)


if __name__ == "__main__":
    main()
