#!/usr/bin/env python3
"""Speed of every backend beside Python torch, on the same weights in one run: backends.py COROLLA [--backends NAME...] [--model FOLDER]

Rounds are interleaved, every run is a process of its own, and figures are medians. Python torch (torch_peer.py, transformers) computes in
f32 and warms up before it is measured; Corolla does not. The prompt has 128 tokens, decoding is greedy; whether the tokens are
Python's is printed too. Without --model a BLOOM-560m shape with random weights is made in the cache folder (1.1 GB, once).
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PROMPT_TOKENS = 128
# A row of the table: backend, dtype.
ROWS = [("candle-cpu", "f32"), ("tch", "f32"), ("candle-cpu", "bf16"), ("candle-cpu", "q8_0"), ("candle-cuda", "f16"), ("candle-cuda", "bf16")]


def corolla(binary, model, backend, dtype, threads, new_tokens):
    prompt = " ".join(f"t{3 + i * 7919 % 1000}" for i in range(PROMPT_TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "corolla.toml")
        config.write_text(f'[[models]]\nid = "m"\npath = "{model}"\nbackend = "{backend}"\ndtype = "{dtype}"\ncache_tokens = 512\n')
        command = [binary, "generate", "--config", config, "--json", "--ignore-eos", "--prompt", prompt]
        command += ["--max-new-tokens", str(new_tokens), "--threads", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{backend} in {dtype}: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    if len(report["prompt_ids"]) != PROMPT_TOKENS:
        sys.exit(f"the prompt became {len(report['prompt_ids'])} tokens, {PROMPT_TOKENS} are wanted: is this a model of shape_model.py?")
    return PROMPT_TOKENS / report["timings"]["prefill_s"], report["timings"]["decode_tokens_per_s"], report["ids"]


def environment():
    """The folder of the peer's Python, installed where it is not there."""
    return pathlib.Path(subprocess.run(["sh", HERE / "install.sh"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def peer(python, model, threads, new_tokens):
    command = [python, HERE / "torch_peer.py", model, str(threads), str(PROMPT_TOKENS), str(new_tokens)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return PROMPT_TOKENS / report["prefill_s"], report["decode_tokens_per_s"], report["ids"], report


def main():
    options = argparse.ArgumentParser()
    options.add_argument("binary")
    options.add_argument("--backends", nargs="+", default=["candle-cpu", "tch"])
    options.add_argument("--model")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--new-tokens", type=int, default=32)
    options.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))}))
    options = options.parse_args()
    venv = environment()
    python = venv / "bin/python"
    model = options.model or venv.parent / "bloom-560m-f16"
    if not pathlib.Path(model, "model.safetensors").exists():
        subprocess.run([python, HERE / "shape_model.py", model, "bloom-560m"], check=True)
    rows = [row for row in ROWS if row[0] in options.backends]
    print(f"A prompt of {PROMPT_TOKENS} tokens, then {options.new_tokens} greedy ones; medians of {options.rounds} rounds.")
    for threads in options.threads:
        found = {row: [] for row in ["peer", *rows]}
        for _ in range(options.rounds):
            *figures, about = peer(python, model, threads, options.new_tokens)
            found["peer"].append(figures)
            for row in rows:
                found[row].append(corolla(options.binary, model, *row, threads, options.new_tokens))
        base = [statistics.median(run[i] for run in found["peer"]) for i in (0, 1)]
        print(f"\n{threads} thread(s); Python: torch {about['torch']}, transformers {about['transformers']}, f32\n")
        print("| backend | dtype | prefill tok/s | to Python | decode tok/s | to Python | tokens are Python's |")
        print("|---|---|---|---|---|---|---|")
        print(f"| Python torch | f32 | {base[0]:.0f} | 1 | {base[1]:.1f} | 1 | |")
        for row in rows:
            speed = [statistics.median(run[i] for run in found[row]) for i in (0, 1)]
            same = sum(a == b for a, b in zip(found[row][0][2], found["peer"][0][2]))
            cells = [*row, f"{speed[0]:.0f}", f"{speed[0] / base[0]:.2f}", f"{speed[1]:.1f}", f"{speed[1] / base[1]:.2f}"]
            print(f"| {' | '.join(cells)} | {same} of {options.new_tokens} |", flush=True)


if __name__ == "__main__":
    main()
