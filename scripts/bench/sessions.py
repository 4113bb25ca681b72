#!/usr/bin/env python3
"""Sessions that decode together against one alone: sessions.py SESSIONS_EXAMPLE MODEL[:DTYPE]... [--sessions 8] [--tokens 48] [--rounds 5]

SESSIONS_EXAMPLE is the example `sessions` of corolla-candle; a model's weights are as in its file, or in DTYPE. In turns within one process,
medians of the rounds; `same tokens` says whether the first session said beside the others what it says alone, in every round.
"""
import argparse
import os
import pathlib
import re
import subprocess


def main():
    options = argparse.ArgumentParser()
    options.add_argument("example")
    options.add_argument("models", nargs="+")
    options.add_argument("--sessions", type=int, default=8)
    options.add_argument("--tokens", type=int, default=48)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))}))
    options = options.parse_args()
    print(f"{options.sessions} sessions of {options.tokens} tokens, medians of {options.rounds} rounds.\n")
    print(f"| model | kept in | threads | one alone, tokens/s | {options.sessions} together, tokens/s | ratio | same tokens |\n|---|---|---|---|---|---|---|")
    for name in options.models:
        path, _, dtype = name.partition(":")
        for threads in options.threads:
            command = [options.example, path, options.sessions, options.tokens, options.rounds]
            out = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True,
                                 env={**os.environ, "THREADS": str(threads), **({"DTYPE": dtype} if dtype else {})}).stdout
            kept = out.splitlines()[0].split(",")[0]
            alone, together, ratio, same = re.search(r"1: ([\d.]+) tokens/s, \d+: ([\d.]+) tokens/s, ratio ([\d.]+), same tokens: (\w+)", out).groups()
            row = [pathlib.Path(path).stem, kept, threads, alone, together, f"**{ratio}**", "yes" if same == "true" else "no"]
            print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
