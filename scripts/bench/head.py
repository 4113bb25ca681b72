#!/usr/bin/env python3
"""The LM head, exact and screened, beside Python torch in bf16: head.py SCREEN_EXAMPLE FOLDER [--rounds 15] [--threads 1 2] [--copied]

SCREEN_EXAMPLE is target/release/examples/screen, FOLDER what the example wide_head made. Both programs map the same file and stay for
the whole run; in each round every contender gives one token, in turns, and ratios are those of a round. Torch's time is that of its best
way to multiply; with --copied it has the head in memory of its own, which takes as much again. Screened tokens are checked against
those of the whole head in every round. At the end each screened head runs alone and tells its memory. `make bench-head` does all of it.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TENSOR = "word_embeddings.weight"
WAYS = ["mv", "linear", "matmul"]
SCREENS = ["int8", "int4"]


class Program:
    """A program that answers a line with a line."""

    def __init__(self, command, environment=None):
        self.name = pathlib.Path(command[0]).name
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
        self.greeting = self.read()

    def read(self):
        line = self.process.stdout.readline().strip()
        if not line:
            sys.exit(f"{self.name} ended with code {self.process.wait()}; what it said is above")
        return line

    def ask(self, line):
        """(milliseconds, token)"""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        time, token = self.read().split()
        return float(time), int(token)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def table(example, folder, threads, rounds, copied):
    ours = Program([example, folder, "turns"], {"THREADS": str(threads)})
    torch = Program([sys.executable, HERE / "torch_head.py", pathlib.Path(folder, "model.safetensors"), TENSOR, threads, *copied],
                    # Its threads are not to spin while it is our turn.
                    {"OMP_WAIT_POLICY": "passive"})
    best = min(WAYS, key=lambda way: statistics.median(torch.ask(way)[0] for _ in range(3)))
    times = {}
    for nth in range(rounds):
        times.setdefault("torch", []).append(torch.ask(best)[0])
        for way in ["greedy", "draw"]:
            exact, wanted = ours.ask(f"exact {way} {nth}")
            times.setdefault(f"exact, {way}", []).append(exact)
            for screen in SCREENS:
                screened, found = ours.ask(f"{screen} {way} {nth}")
                if wanted != found:
                    sys.exit(f"state {nth}, {way}: the whole head gives token {wanted}, the one with screen {screen} {found}")
                times.setdefault(f"{screen}, {way}", []).append(screened)
    torch.end()
    ours.end()
    print(f"\n{threads} thread(s), torch {torch.greeting.split()[1]}, its best way: {best}; medians of {rounds} rounds\n")
    print("| head | ms | torch's time to this one |\n|---|---|---|")
    for name, own in times.items():
        ratio = statistics.median(peer / time for peer, time in zip(times["torch"], own))
        print(f"| {name} | {statistics.median(own):.0f} | {ratio:.2f} |", flush=True)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("example")
    options.add_argument("folder")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))}))
    options.add_argument("--copied", action="store_true")
    options = options.parse_args()
    for threads in options.threads:
        table(options.example, options.folder, threads, options.rounds, ["copied"] if options.copied else [])
    print("\nBy itself, with the most memory it had:\n", flush=True)
    for screen in SCREENS:
        subprocess.run([options.example, options.folder, "0", str(options.rounds)], check=True, env={**os.environ, "SCREENS": screen})


if __name__ == "__main__":
    main()
