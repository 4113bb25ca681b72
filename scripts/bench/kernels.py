#!/usr/bin/env python3
"""Decoding and prefill beside llama.cpp, on the same files: kernels.py GREEDY FOLDER [--models NAME...] [--threads N...] [--pairs 5] [--prompt 512] [--tokens 48] [--screen int8|int4] [--contended]

GREEDY is the example of corolla-candle, FOLDER what llama_shapes.py filled. The two run in turns, A B A B, as whole processes; each ratio
is of one pair, and the medians of ratios are printed. Tokens that are the same are counted up to the first that differs. `--screen` lets
Corolla find tokens through a screen of the LM head. `--contended` measures Corolla alone: two threads with a busy process on one core
against one thread with the same company.
"""
import argparse
import fnmatch
import json
import pathlib
import random
import re
import statistics
import subprocess
import sys

PEER = pathlib.Path(__file__).with_name("llama_peer.py")


def ours(greedy, model, tokens, threads, ids, **environment):
    out = subprocess.run([greedy, model, str(tokens), *ids], check=True, capture_output=True, text=True,
                         env={"THREADS": str(threads), **environment}).stdout
    prompt = float(re.search(r"prompt of \d+ in ([\d.]+) s", out)[1])
    *_, tokens, speed = out.strip().splitlines()
    return {"prompt_s": prompt, "tokens_per_s": float(speed.split()[0]), "tokens": json.loads(tokens)}


def peer(args, model, threads, ids):
    command = [sys.executable, str(PEER), model, str(args.tokens), str(threads), *ids]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def same(a, b):
    """Tokens before the first that differs."""
    return next((nth for nth, (x, y) in enumerate(zip(a, b)) if x != y), len(a))


def compare(args):
    print(f"A prompt of {args.prompt} tokens, then {args.tokens} greedy ones; medians of {args.pairs} pairs.\n")
    print("| model | threads | decode, tokens/s | llama.cpp | ratio | prefill, tokens/s | llama.cpp | ratio | same tokens |")
    print("|---|---|---|---|---|---|---|---|---|")
    screen = {"SCREEN": args.screen} if args.screen else {}
    for name in args.models:
        model = str(args.folder / f"{name}.gguf")
        rng = random.Random(7)
        ids = [str(rng.randrange(3, 30000)) for _ in range(args.prompt)]
        for threads in args.threads:
            pairs = [(ours(args.greedy, model, args.tokens, threads, ids, **screen), peer(args, model, threads, ids)) for _ in range(args.pairs)]
            median = lambda of: statistics.median(of(*pair) for pair in pairs)  # noqa: E731
            print(f"| {name} | {threads} | {median(lambda a, b: a['tokens_per_s']):.1f} | {median(lambda a, b: b['tokens_per_s']):.1f} "
                  f"| **{median(lambda a, b: a['tokens_per_s'] / b['tokens_per_s']):.2f}** "
                  f"| {args.prompt / median(lambda a, b: a['prompt_s']):.0f} | {args.prompt / median(lambda a, b: b['prompt_s']):.0f} "
                  f"| **{median(lambda a, b: b['prompt_s'] / a['prompt_s']):.2f}** "
                  f"| {median(lambda a, b: same(a['tokens'], b['tokens'])):.0f} of {args.tokens} |", flush=True)


def contended(args):
    print(f"Two threads beside one, both with a busy process on one core; medians of {args.pairs} pairs.\n")
    print("| model | 1 thread, tokens/s | 2 threads | ratio |\n|---|---|---|---|")
    busy = subprocess.Popen(["taskset", "-c", "0", sys.executable, "-c", "while True: pass"])
    try:
        for name in args.models:
            model, ids = str(args.folder / f"{name}.gguf"), [str(id) for id in range(5, 12)]
            pairs = [[ours(args.greedy, model, args.tokens, threads, ids)["tokens_per_s"] for threads in (1, 2)] for _ in range(args.pairs)]
            ratio = statistics.median(two / one for one, two in pairs)
            print(f"| {name} | {statistics.median(p[0] for p in pairs):.1f} | {statistics.median(p[1] for p in pairs):.1f} | **{ratio:.2f}** |", flush=True)
    finally:
        busy.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("greedy")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--models", nargs="+", default=["*"], help="names, or patterns such as smollm2.*")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--screen", choices=["int8", "int4"])
    parser.add_argument("--contended", action="store_true")
    args = parser.parse_args()
    there = sorted(path.stem for path in args.folder.glob("*.gguf"))
    args.models = [name for name in there if any(fnmatch.fnmatch(name, wanted) for wanted in args.models)]
    if not args.models:
        sys.exit(f"{args.folder} has no such models; it has {', '.join(there) or 'none'}")
    (contended if args.contended else compare)(args)


if __name__ == "__main__":
    main()
