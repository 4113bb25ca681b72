#!/usr/bin/env python3
"""Speed on a swarm, Corolla beside the stock Python client: bench.py BINARY [--servers 1 2 4] [--rounds 5] [--json]

Both talk to the same running servers (tiny BLOOM on loopback), in turns; medians of the rounds. Two comparisons:
  step    Python: one-token steps of hidden states through all blocks, without embeddings and logits. Corolla: decoding as `corolla serve`
          times it, which is such steps and also embeddings, logits (of a small vocabulary), sampling and text.
  reply   tokens per second of a whole reply, session opened and closed. Python: generate(). Corolla: HTTP calls to open a session, to
          generate, and to close it.
Both run already when the measurement begins. The last columns are the processor time that a client spends on a token, with all of its
processes and without the servers'; unlike the speeds it hardly depends on what else the machine does.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "interop"))
import corolla  # noqa: E402
import reference  # noqa: E402

# One route only, so that both clients take the same.
LAYOUTS = {1: "0:4", 2: "0:2 2:4", 4: "0:1 1:2 2:3 3:4"}
TOKENS = 200
PROMPT = "The garden at the end of the road"
MODEL = "tiny-bloom"


def cpu_seconds(process):
    """Processor time of a process and of all in its session, so far."""
    ticks = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == process.pid:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def python_reply(client, ids):
    return TOKENS / client.ask(ids=ids, max_new_tokens=TOKENS)["seconds"]


def corolla_reply(server, text):
    """Tokens per second of decoding alone, and of all of it."""
    begun = time.perf_counter()
    session = server.open(512)
    answer, timing = server.say(session, PROMPT, TOKENS)
    server.close(session)
    took = time.perf_counter() - begun
    if not answer["ok"] or answer["outputs"] != text:
        raise reference.Failure(f"not the reply that the Python client gets: {str(answer)[:200]}")
    decode = re.search(r"decode;dur=([\d.]+)", timing)
    if not decode:
        raise reference.Failure(f"`corolla serve` does not say how long decoding took: {timing!r}")
    return (TOKENS - 1) / (float(decode[1]) / 1000), TOKENS / took


def same_reply(client, house, ids):
    """The reply of both clients, where it is the same. Also warms Python up."""
    ours = house.generate(PROMPT, TOKENS)
    theirs = client.ask(ids=ids, max_new_tokens=TOKENS)["ids"]
    if ours["ids"] != theirs:
        raise reference.Failure(f"Corolla says {ours['ids'][:8]}..., the Python client {theirs[:8]}...")
    return ours["text"]


def measured(model, binary, venv, count, rounds, logs):
    ids = next(case["prompt_ids"] for case in model["cases"] if case["prompt"] == PROMPT)
    found = {what: {"python": [], "corolla": [], "python_ms": [], "corolla_ms": []} for what in ("step", "reply")}
    with reference.Swarm(model, LAYOUTS[count], logs / f"{count}-servers") as swarm:
        house = corolla.Corolla(binary, swarm)
        with reference.Client(venv, swarm) as client, house.serve() as server:
            text = same_reply(client, house, ids)
            corolla_reply(server, text)
            for _ in range(rounds):
                for what, python, ours in (
                    ("step", lambda: client.ask(steps=TOKENS)["steps_per_s"], lambda: corolla_reply(server, text)[0]),
                    ("reply", lambda: python_reply(client, ids), lambda: corolla_reply(server, text)[1]),
                ):
                    for who, process, run in (("python", client.process, python), ("corolla", server.process, ours)):
                        before = cpu_seconds(process)
                        found[what][who].append(run())
                        found[what][f"{who}_ms"].append((cpu_seconds(process) - before) / TOKENS * 1000)
    return found


def row(servers, what, found):
    python, ours = statistics.median(found["python"]), statistics.median(found["corolla"])
    ratios = [one / other for one, other in zip(found["corolla"], found["python"])]
    return {
        "servers": servers, "what": what, "python_per_s": round(python, 1), "corolla_per_s": round(ours, 1),
        "ratio": round(statistics.median(ratios), 2), "least_ratio": round(min(ratios), 2), "rounds": len(ratios),
        **{f"{who}_cpu_ms": round(statistics.median(found[f"{who}_ms"]), 2) for who in ("python", "corolla")},
    }


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", nargs="?", default="target/release/corolla", help="default: %(default)s")
    parser.add_argument("--servers", type=int, nargs="+", choices=sorted(LAYOUTS), default=sorted(LAYOUTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def main():
    asked = options()
    binary = str(pathlib.Path(asked.binary).resolve())
    if not pathlib.Path(binary).is_file():
        sys.exit(f"bench: there is no {binary}; build it with `cargo build --release --locked`")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    venv, models = reference.prepare()
    logs, rows, load = pathlib.Path(tempfile.mkdtemp(prefix="corolla-bench-")), [], os.getloadavg()[0]
    if not asked.json:
        print(f"Tiny BLOOM, servers and clients on the same cores; medians of {asked.rounds} rounds.\n")
        print("| servers | what | Python, a second | Corolla, a second | ratio | least | Python's processor time, ms | Corolla's |")
        print("|---|---|---|---|---|---|---|---|")
    try:
        for servers in asked.servers:
            found = measured(models[MODEL], binary, venv, servers, asked.rounds, logs)
            for what in found:
                rows.append(row(servers, what, found[what]))
                if not asked.json:
                    one = rows[-1]
                    speeds = f"{one['python_per_s']} | {one['corolla_per_s']} | **{one['ratio']}** | {one['least_ratio']}"
                    print(f"| {servers} | {what} | {speeds} | {one['python_cpu_ms']} | {one['corolla_cpu_ms']} |", flush=True)
    except reference.Failure as failure:
        sys.exit(f"bench: {failure} (logs: {logs})")
    except SystemExit:
        shutil.rmtree(logs, ignore_errors=True)
        raise
    shutil.rmtree(logs, ignore_errors=True)
    if asked.json:
        print(json.dumps({"load_before": round(load, 2), "tokens": TOKENS, "rows": rows}))


if __name__ == "__main__":
    main()
