#!/usr/bin/env python3
"""What honest clients notice of a hostile one: hostile.py BINARY STEPS FLOOD [--seconds 20] [--rounds 3]

A `corolla host` with the tiny Llama of the tests, four sessions that step all the time, and in every second measurement a peer that opens
thousands of streams and leaves them, asks for impossible sessions and passes, and stores records without end. Prints the 99th percentile of
a step with and without it, and the server's memory. STEPS and FLOOD are examples of corolla-swarm. The attacker computes on the same
machine, which is a part of what is measured.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HOUSE = pathlib.Path(__file__).resolve().parents[2]
MODEL, BLOCKS, PREFIX = HOUSE / "tests/fixtures/models/tiny-llama", 3, "hostile"
SESSIONS = 4


def memory(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(("VmRSS:", "VmHWM:")):
            yield line.split(":")[0], int(line.split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, path in (("binary", "target/release/corolla"), ("steps", "target/release/examples/steps"), ("flood", "target/release/examples/flood")):
        parser.add_argument(name, nargs="?", default=path, help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for path in (asked.binary, asked.steps, asked.flood):
        if not pathlib.Path(path).is_file():
            sys.exit(f"hostile: there is no {path}; run `make bench-hostile`")
    hidden = json.loads((MODEL / "config.json").read_text())["hidden_size"]
    processes = []
    with tempfile.TemporaryDirectory() as folder, open(pathlib.Path(folder, "log"), "w+") as log:

        kept = {key: value for key, value in os.environ.items() if not key.startswith("COROLLA_")}
        environment = {**kept, "COROLLA_CACHE": folder}

        def start(*command):
            process = subprocess.Popen([asked.binary, *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
            processes.append(process)
            return process, process.stdout.readline().strip()

        try:
            _, entrance = start("bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0")
            server, address = start("host", "--model", MODEL, "--dtype", "f32", "--threads", 1, "--initial-peers", entrance, "--dht-prefix", PREFIX)
            while "serving the blocks" not in pathlib.Path(log.name).read_text():
                if server.poll() is not None:
                    sys.exit(f"hostile: the server has ended:\n{pathlib.Path(log.name).read_text()}")
                time.sleep(0.1)

            def honest(steps):
                command = [asked.steps, entrance, PREFIX, BLOCKS, hidden, SESSIONS, steps]
                return json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout)

            speed = honest(200)["steps_per_s"]
            steps = min(2000, int(speed / SESSIONS * asked.seconds / 6))
            found = {"alone": [], "flooded": []}
            for nth in range(asked.rounds):
                found["alone"].append(honest(steps))
                command = [asked.flood, address, PREFIX, BLOCKS, hidden, asked.seconds]
                flood = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
                time.sleep(2)
                found["flooded"].append(honest(steps))
                if flood.poll() is not None:
                    sys.exit("hostile: the flood ended before the measurement did; give it more --seconds")
                tried = json.loads(flood.communicate()[0])
                most = round(max(mib for _, mib in memory(server)))
                print(f"round {nth + 1}: {tried}; the server's memory {most} MiB at most", file=sys.stderr, flush=True)
            print(f"{SESSIONS} honest sessions; the flood of the last round tried {', '.join(f'{count} {what}' for what, count in tried.items())}; ")
            print(f"the server had {most} MiB of memory at most.\n")
            print("| | steps/s | median, ms | 99 of 100, ms |\n|---|---|---|---|")
            for what, rounds in found.items():
                middle = {key: statistics.median(one[key] for one in rounds) for key in ("steps_per_s", "median_ms", "p99_ms")}
                print(f"| {what} | {middle['steps_per_s']:.0f} | {middle['median_ms']:.2f} | {middle['p99_ms']:.2f} |")
            ratios = [flooded["p99_ms"] / alone["p99_ms"] for alone, flooded in zip(found["alone"], found["flooded"])]
            print(f"\nThe slowest of a hundred steps take **{statistics.median(ratios):.2f}** times as long beside the flood ({', '.join(f'{ratio:.2f}' for ratio in ratios)}).")
        finally:
            for process in processes:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
