#!/usr/bin/env python3
"""Servers of blocks, `corolla host` beside stock Petals: bench_hosts.py BINARY STEPS [--models tiny-bloom bloom-560m] [--dtypes f32 bf16]

Both serve all blocks of the same files with one thread, and are asked by the same client (STEPS: `cargo build --release -p corolla-swarm
--example steps`) for steps of one token, alone and with eight sessions side by side. One server at a time is asked, in turns; medians of
the rounds. Embeddings, logits and text are left out, so that the server is what is measured.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

HOUSE = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(HOUSE / "tests" / "interop"))
import host  # noqa: E402
import reference  # noqa: E402

SHAPE = "bloom-560m"
DTYPES = {"f32": "float32", "bf16": "bfloat16"}
STEPS = {"tiny-bloom": 400, SHAPE: 24}  # of each session
PATIENCE = 600  # seconds
PERIOD = 600  # seconds between announcements: who is stopped meanwhile must not be forgotten


def shape():
    """A BLOOM of the 560m's shape, made where it is not there."""
    installed = subprocess.run(["sh", HOUSE / "scripts/bench/install.sh"], check=True, stdout=subprocess.PIPE, text=True)
    venv = pathlib.Path(installed.stdout.strip())
    folder = venv.parent / "bloom-560m-f16"
    if not (folder / "model.safetensors").exists():
        subprocess.run([venv / "bin/python", HOUSE / "scripts/bench/shape_model.py", folder, SHAPE], check=True)
    return {"name": SHAPE, "folder": folder, "dht_prefix": "bloom-560m-petals"}


def sizes(model):
    config = json.loads(pathlib.Path(model["folder"], "config.json").read_text())
    return config.get("n_layer") or config["num_hidden_layers"], config["hidden_size"]


def ask(steps, swarm, model, sessions):
    blocks, hidden = sizes(model)
    command = [steps, swarm.facts["initial_peers"][0], swarm.facts["dht_prefix"], blocks, hidden, sessions, STEPS[model["name"]]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise reference.Failure(f"the client failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)["steps_per_s"]


def rest(swarm, number):
    """Stops a swarm's processes or lets them go on, so that the other one has the machine for itself."""
    for server in swarm.servers.values():
        pid = server["process"].pid if "process" in server else server["pid"]
        os.killpg(pid, number)


def measured(asked, venv, model, dtype, logs):
    blocks, _ = sizes(model)
    found = {sessions: {"python": [], "corolla": []} for sessions in asked.sessions}
    ours = host.House(asked.binary, venv, model, [], logs / "ours")
    with reference.Swarm(model, f"0:{blocks}", logs / "stock", "--dtype", DTYPES[dtype], "--timeout", PATIENCE, "--update-period", PERIOD) as stock, ours:
        ours.host("corolla1", f"0:{blocks}", dtype=dtype, period=PERIOD)
        swarms = {"python": stock, "corolla": ours}
        for _ in range(asked.rounds):
            for sessions in asked.sessions:
                for who, swarm in swarms.items():
                    other = swarms["corolla" if who == "python" else "python"]
                    rest(other, signal.SIGSTOP)
                    found[sessions][who].append(ask(asked.steps, swarm, model, sessions))
                    rest(other, signal.SIGCONT)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", nargs="?", default="target/release/corolla", help="default: %(default)s")
    parser.add_argument("steps", nargs="?", default="target/release/examples/steps", help="the client (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=["tiny-bloom", SHAPE], choices=["tiny-bloom", SHAPE])
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--sessions", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    asked.binary, asked.steps = (str(pathlib.Path(path).resolve()) for path in (asked.binary, asked.steps))
    for path in (asked.binary, asked.steps):
        if not pathlib.Path(path).is_file():
            sys.exit(f"bench: there is no {path}; run `make bench-hosts`")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    venv, models = reference.prepare()
    logs = pathlib.Path(tempfile.mkdtemp(prefix="corolla-bench-"))
    print(f"One server with one thread, the client on the other core; medians of {asked.rounds} rounds.\n")
    print("| model | dtype | sessions | Petals, steps/s | Corolla, steps/s | ratio | least of the rounds |\n|---|---|---|---|---|---|---|")
    try:
        for name in asked.models:
            model = shape() if name == SHAPE else models[name]
            for dtype in asked.dtypes:
                for sessions, found in measured(asked, venv, model, dtype, logs / f"{name}-{dtype}").items():
                    ratios = [ours / theirs for ours, theirs in zip(found["corolla"], found["python"])]
                    python, ours = statistics.median(found["python"]), statistics.median(found["corolla"])
                    print(
                        f"| {name} | {dtype} | {sessions} | {python:.1f} | {ours:.1f} | **{statistics.median(ratios):.2f}** | {min(ratios):.2f} |",
                        flush=True,
                    )
    except reference.Failure as failure:
        sys.exit(f"bench: {failure} (logs: {logs})")
    shutil.rmtree(logs, ignore_errors=True)


if __name__ == "__main__":
    main()
