#!/usr/bin/env python3
"""Prefill and decode speed of the default model: bench.py BINARY. Medians of five runs, with 1 thread and with all cores."""
import json
import os
import statistics
import subprocess
import sys

PROMPT = "The garden was full of flowers, and every flower had a name. " * 36
RUNS, NEW_TOKENS = 5, 128


def run(binary, threads):
    command = [binary, "generate", "--json", "--ignore-eos", "--prompt", PROMPT, "--max-new-tokens", str(NEW_TOKENS)]
    report = json.loads(subprocess.run(command + ["--threads", str(threads)], check=True, capture_output=True).stdout)
    timings = report["timings"]
    return len(report["prompt_ids"]) / timings["prefill_s"], timings["decode_tokens_per_s"], timings["load_s"]


def main():
    binary = sys.argv[1]
    print(f"{'threads':>7} {'prefill tok/s':>14} {'decode tok/s':>13} {'load s':>7}   (medians of {RUNS})")
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        prefill, decode, load = map(statistics.median, zip(*(run(binary, threads) for _ in range(RUNS))))
        print(f"{threads:>7} {prefill:>14.0f} {decode:>13.1f} {load:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
