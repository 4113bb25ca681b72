#!/usr/bin/env python3
"""Corolla against stock Petals servers, token for token: run.py BINARY [--models ...] [--only ...] [--client reference]

Starts swarms of the seeded models on loopback (scripts/interop/swarm.py) and compares what `corolla` says with what transformers says
alone. Prints a line for each check and at the end how many passed. Logs stay in the folder that is named where something failed.
"""
import argparse
import concurrent.futures
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time

import corolla
import faults
import reference
import transport
from reference import Client, Failure, Swarm

LAYOUTS = {"1 server": "0:4", "2 servers": "0:2 2:4", "4 servers": "0:1 0:2 1:3 3:4"}
TWICE = "0:2 2:4 0:2 2:4"
THREE = "0:1 1:3 3:4"
RELEASES = ["2.2.0.post1", "2.2.0", "2.1.0"]
MIXED = ["2.1.0 bfloat16", "2.2.0.post1 float32", "2.2.0 bfloat16"]
THRICE = "0:2 2:4 0:2 2:4 0:2 2:4"
NEW_TOKENS = 64


class Table:
    """Results, printed as they come."""

    def __init__(self, only):
        self.only, self.lock, self.begun = only, threading.Lock(), time.monotonic()
        self.passed, self.failed = 0, 0

    def wants(self, *whats):
        return any(word in what for what in whats for word in self.only) or not self.only

    def check(self, model, what, check, *arguments):
        if not self.wants(what):
            return
        begun = time.monotonic()
        try:
            word, detail = "ok", check(*arguments) or ""
        except Failure as failure:
            word, detail = "FAILED", str(failure)
        except Exception as fault:  # a fault of one check must not hide the others
            word, detail = "FAILED", f"{type(fault).__name__}: {fault}"
        with self.lock:
            self.passed, self.failed = self.passed + (word == "ok"), self.failed + (word != "ok")
            print(f"{model:<11} {what:<46} {word:<6} {time.monotonic() - begun:6.1f} s  {detail}", flush=True)

    def finish(self, logs):
        """Ends the process; the logs stay where something failed."""
        if self.failed:
            print(f"logs: {logs}")
        else:
            shutil.rmtree(logs, ignore_errors=True)
        print(f"{self.passed} passed, {self.failed} failed ({time.monotonic() - self.begun:.0f} s)")
        sys.exit(1 if self.failed or not self.passed else 0)


def first_difference(found, wanted):
    return next((at for at, (one, other) in enumerate(zip(found, wanted)) if one != other), min(len(found), len(wanted)))


def same(found, wanted, what):
    if found != wanted:
        at = first_difference(found, wanted)
        raise Failure(f"{what}: differs from token {at} on: {found[at : at + 4]} instead of {wanted[at : at + 4]} ({len(found)} of {len(wanted)})")


def close(found, case, what):
    """How many tokens are the same; where the first one differs, bf16 must be able to make the two best change places."""
    at = first_difference(found, case["new_ids"])
    if len(found) != len(case["new_ids"]):
        raise Failure(f"{what}: {len(found)} tokens instead of {len(case['new_ids'])}")
    if at < len(found) and case["margins"][at] > 2 * case["bf16_noise"][at]:
        apart, moved = case["margins"][at], case["bf16_noise"][at]
        raise Failure(f"{what}: differs from token {at} on, where the best two are {apart} apart and bf16 moves them by {moved}")
    return at


def many(asks):
    """Two replies at a time."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda ask: ask(), asks))


def replies(model, house):
    """Every prompt by `corolla generate`."""
    found = many([lambda case=case: house.generate(case["prompt"], NEW_TOKENS) for case in model["cases"]])
    for case, reply in zip(model["cases"], found):
        same(reply["prompt_ids"], case["prompt_ids"], f"tokens of {case['prompt'][:30]!r}")
    return found


def exact(model, house):
    found = replies(model, house)
    for case, reply in zip(model["cases"], found):
        same(reply["ids"], case["new_ids"], repr(case["prompt"][:30]))
    speed = statistics.median(reply["timings"]["decode_tokens_per_s"] for reply in found)
    return f"{len(found)} prompts x {NEW_TOKENS} ids, median {speed:.0f} tokens/s with two at a time"


def partly_here(model, house, swarm):
    """Blocks 0 and 1 in Corolla itself, the others at the only server."""
    (server,) = swarm.servers.values()
    found = replies(model, house)
    for case, reply in zip(model["cases"], found):
        same(reply["ids"], case["new_ids"], repr(case["prompt"][:30]))
        same([hop["hop"] for hop in reply["route"]["hops"]], ["0:2@in-process", f"2:4@{server['peer']}"], "the route")
    (report,) = house.json("swarm", "status", "--json")
    same([hop["peer"] for hop in report["route"]], ["in-process", server["peer"]], "the route of `corolla swarm status`")
    swarm.all_closed()
    return f"{len(found)} prompts x {NEW_TOKENS} ids"


def exact_by_python(model, swarm, venv):
    with Client(venv, swarm) as client:
        for case in model["cases"]:
            answer = client.ask(ids=case["prompt_ids"], max_new_tokens=NEW_TOKENS)
            same(answer["ids"], case["new_ids"], repr(case["prompt"][:30]))
        speed = client.ask(steps=200)
    return f"{len(model['cases'])} prompts x {NEW_TOKENS} ids by the Python client, {speed['steps_per_s']} steps/s alone"


def scores(model, house):
    """`corolla score`: one forward pass without a cache."""
    apart = 0
    for case in model["cases"][:5]:
        scored = house.json("score", "--json", "--prompt", case["prompt"])["tokens"]
        same([token["id"] for token in scored], case["prompt_ids"], f"tokens of {case['prompt'][:30]!r}")
        found = [token["logprob"] for token in scored[1:]]
        apart = max([apart, *(abs(ours - theirs) for ours, theirs in zip(found, case["prompt_logprobs"]))])
    if apart > 1e-3:
        raise Failure(f"log-probabilities are up to {apart} apart from those of transformers")
    return f"log-probabilities of 5 prompts at most {apart:.1e} from those of transformers"


def tolerant(model, house):
    agreed = [close(reply["ids"], case, repr(case["prompt"][:30])) for case, reply in zip(model["cases"], replies(model, house))]
    return f"{sum(agreed)} of {NEW_TOKENS * len(agreed)} ids before the first difference, {agreed.count(NEW_TOKENS)} of {len(agreed)} replies whole"


def tolerant_by_python(model, swarm, venv):
    with Client(venv, swarm) as client:
        found = [client.ask(ids=case["prompt_ids"], max_new_tokens=NEW_TOKENS)["ids"] for case in model["cases"]]
    agreed = [close(ids, case, repr(case["prompt"][:30])) for case, ids in zip(model["cases"], found)]
    return f"{sum(agreed)} of {NEW_TOKENS * len(agreed)} ids before the first difference, {agreed.count(NEW_TOKENS)} of {len(agreed)} replies whole"


def sessions(model, house, swarm):
    """Sessions over several calls, all at once; a call that goes on computes one token; a session that ends is closed at every server."""

    def talk(server, script):
        session = server.open(512)
        for nth, call in enumerate(script["calls"]):
            answer, timing = server.say(session, call["inputs"], call["max_new_tokens"])
            what = f"call {nth + 1}"
            if not answer["ok"]:
                raise Failure(f"{what}: {answer['traceback']}")
            wanted = "".join(call["pieces"])
            if answer["outputs"] != wanted:
                raise Failure(f"{what}: {answer['outputs'][:60]!r} instead of {wanted[:60]!r}")
            if call["inputs"] is None and "computed=1\"" not in timing:
                raise Failure(f"{what} computed its prefix again: {timing}")
        return session

    with house.serve() as server:
        opened = many([lambda script=script: talk(server, script) for script in model["sessions"]])
        for session in opened:
            server.close(session)
        swarm.all_closed()
    return f"{len(opened)} sessions side by side, {sum(len(script['calls']) for script in model['sessions'])} calls"


def status(house, swarm):
    """`corolla swarm status` and GET /api/v1/swarm know every server."""
    shown = house.run("swarm", "status", "--json")
    with house.serve() as server:
        code, answered, _ = server.get("/api/v1/swarm")
    if shown.returncode or code != 200:
        raise Failure(f"`corolla swarm status --json` ended with {shown.returncode}, GET /api/v1/swarm with {code}: {corolla.last_words(shown.stderr)}")
    for where, text in (("`corolla swarm status --json`", shown.stdout), ("GET /api/v1/swarm", answered)):
        missing = [server["peer"] for server in swarm.servers.values() if server["peer"] not in text]
        if missing:
            raise Failure(f"{where} does not name {', '.join(missing)}")


def versions(house, swarm, wanted):
    """`corolla swarm status` tells which release each server is."""
    (report,) = house.json("swarm", "status", "--json")
    found = {server["name"]: server["version"] for server in report["servers"]}
    if found != dict(zip(swarm.servers, wanted)):
        raise Failure(f"shown: {found}, not {', '.join(wanted)} in turn")


class Run:
    """All checks of one model, one swarm after the other."""

    def __init__(self, model, asked, venv, logs, table):
        self.model, self.asked, self.venv, self.logs, self.table = model, asked, venv, logs, table
        self.python = asked.client == "reference"

    def swarm(self, label, ranges, *flags):
        return Swarm(self.model, ranges, self.logs / f"{self.model['name']}-{label.replace(' ', '-')}", *flags)

    def house(self, swarm, **settings):
        return corolla.Corolla(self.asked.binary, swarm, **settings)

    def on(self, label, ranges, checks, *flags):
        """Starts a swarm if one of the checks is wanted, and runs those that are."""
        name = self.model["name"]
        checks = {what: check for what, check in checks.items() if self.table.wants(what)}
        if not checks:
            return
        try:
            with self.swarm(label, ranges, *flags) as swarm:
                for what, check in checks.items():
                    self.table.check(name, what, check, swarm)
        except Failure as failure:  # it did not start
            for what in checks:
                self.table.check(name, what, corolla.failing, failure)

    def all(self):
        model = self.model
        for label, ranges in LAYOUTS.items():
            if self.python:
                self.on(label, ranges, {f"ids, {label}": lambda swarm: exact_by_python(model, swarm, self.venv)})
                continue
            checks = {f"ids, {label}": lambda swarm: exact(model, self.house(swarm))}
            if label == "2 servers":
                checks["sessions over several calls"] = lambda swarm: sessions(model, self.house(swarm), swarm)
                checks["prompts are scored"] = lambda swarm: scores(model, self.house(swarm))
                checks["status names every server"] = lambda swarm: status(self.house(swarm), swarm)
                checks["no route left"] = lambda swarm: faults.no_route(model, self.house(swarm, request_timeout="5s"), swarm)
            self.on(label, ranges, checks)
        if self.python:
            check = lambda swarm: tolerant_by_python(model, swarm, self.venv)  # noqa: E731
        else:
            check = lambda swarm: tolerant(model, self.house(swarm))  # noqa: E731
            story = {
                "killed, frozen, killed: one call a token": lambda swarm: faults.steps(model, self.house(swarm, request_timeout="5s"), swarm),
            }
            self.on("twice", TWICE, story)
            story = {"killed, frozen, killed: in mid-reply": lambda swarm: faults.stream(model, self.house(swarm, request_timeout="5s"), swarm)}
            self.on("twice again", TWICE, story)
            checks = {
                f"ids, petals {', '.join(RELEASES)}": lambda swarm: exact(model, self.house(swarm)),
                "status tells the releases": lambda swarm: versions(self.house(swarm), swarm, RELEASES),
            }
            self.on("releases", THREE, checks, "--versions", " ".join(RELEASES))
            releases, dtypes = zip(*(server.split() for server in MIXED))
            checks = {"ids within tolerance, mixed releases and types": check}
            self.on("mixed", THREE, checks, "--versions", " ".join(releases), "--dtype", " ".join(dtypes))
            checks = {"ids, blocks 0:2 here": lambda swarm: partly_here(model, self.house(swarm, here="0:2"), swarm)}
            self.on("partly here", "2:4", checks)
            if model["name"] == "tiny-bloom":  # the model makes no difference to the way there
                for label, flags, checks in transport.swarms(model, self.house, exact):
                    self.on(label, "0:2 2:4", checks, *flags)
            story = {
                "killed, kept frozen, killed: one call a token": lambda swarm: faults.steps(
                    model, self.house(swarm, request_timeout="5s"), swarm, hosts=3
                ),
            }
            self.on("thrice", THRICE, story)
        dtype = {"tiny-bloom": "bfloat16", "tiny-llama": "float32 bfloat16"}[model["name"]]
        self.on("bf16", "0:2 2:4", {f"ids within tolerance, {dtype}": check}, "--dtype", dtype)


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", nargs="?", default="target/release/corolla", help="the program to be tried (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=["tiny-bloom", "tiny-llama"])
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only checks whose names contain one of these")
    parser.add_argument("--client", choices=["corolla", "reference"], default="corolla", help="reference: the stock Python client, to try this harness")
    parser.add_argument("--prompts", type=int, default=20)
    return parser.parse_args()


def main():
    asked = options()
    asked.binary = str(pathlib.Path(asked.binary).resolve())
    if asked.client == "corolla" and not pathlib.Path(asked.binary).is_file():
        sys.exit(f"interop: there is no {asked.binary}; build it with `cargo build --release --locked`")
    venv, models = reference.prepare()
    logs = pathlib.Path(tempfile.mkdtemp(prefix="corolla-interop-"))
    table = Table(asked.only)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    runs = []
    try:
        for name in asked.models:
            models[name]["cases"] = models[name]["cases"][: asked.prompts]
            runs.append(threading.Thread(target=Run(models[name], asked, venv, logs, table).all, daemon=True))
            runs[-1].start()
        for run in runs:
            run.join()
    except SystemExit:
        table.lock.acquire()  # no more results
        reference.end_all()
        shutil.rmtree(logs, ignore_errors=True)
        raise
    table.finish(logs)


if __name__ == "__main__":
    main()
