#!/usr/bin/env python3
"""A reply from a cold start, as a whole process: cold.py COROLLA FOLDER [--models NAME...] [--threads 1 2] [--pairs 5] [--evict]

`corolla generate` beside llama.cpp through llama-cpp-python (whose Python runs this), on the GGUF files of FOLDER, in turns: from the start
of the process to the first byte of text, and to the end of 128 greedy tokens. `Python` is what an interpreter takes that imports
llama_cpp and ends: the peer without it is what a program like llama-cli would need. With --evict the file is dropped from the page cache
before each run. Ratios are the peer's time to ours, medians of pairs.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

TOKENS = 128
PROMPT = "Once upon a time there was a miller who had three sons, and of these the youngest"
PEER = pathlib.Path(__file__).with_name("cold_peer.py")


def evict(path):
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(command, environment=None):
    """Seconds to the first byte of text and to the end, and the text."""
    begun = time.perf_counter()
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        first = os.read(process.stdout.fileno(), 1)
        at = time.perf_counter() - begun
        rest, said = process.communicate()
    total = time.perf_counter() - begun
    if process.returncode or not first:
        sys.exit(f"{command[0]} ended with code {process.returncode}: {said.decode(errors='replace').strip()[-500:]}")
    return at, total, (first + rest).decode(errors="replace").strip()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("binary")
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--models", nargs="+", default=["smollm2.Q4_1", "smollm2.Q8_0", "smollm2.BF16"])
    options.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))}))
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--evict", action="store_true")
    options = options.parse_args()
    print(f"Milliseconds, medians of {options.pairs} pairs, files {'dropped from' if options.evict else 'in'} the page cache.\n")
    print("| model | threads | first text | llama.cpp | of that Python | ratio | without Python | 128 tokens | llama.cpp | ratio | without Python | same text |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("COROLLA_")}
        for name in options.models:
            model = options.folder / f"{name}.gguf"
            config = pathlib.Path(home, "corolla.toml")
            config.write_text(f'[[models]]\nid = "m"\npath = "{model.resolve()}"\n')
            for threads in options.threads:
                ours = [options.binary, "generate", "--config", config, "--prompt", PROMPT, "--max-new-tokens", TOKENS, "--ignore-eos", "--threads", threads]
                theirs = [sys.executable, PEER, model, TOKENS, threads, PROMPT]
                rounds, same = [], 0
                for _ in range(options.pairs):
                    pair = []
                    for command in (ours, theirs):
                        if options.evict:
                            evict(model)
                        pair.append(timed(command, {**kept, "COROLLA_CACHE": home}))
                    begun = time.perf_counter()
                    subprocess.run([sys.executable, "-c", "import llama_cpp"], check=True)
                    rounds.append((*pair, time.perf_counter() - begun))
                    texts = [text.removeprefix(PROMPT).strip() for *_, text in pair]
                    same += os.path.commonprefix(texts) == min(texts, key=len)
                middle = lambda of: statistics.median(of(*one) for one in rounds)  # noqa: E731
                cells = [name, threads, f"{1e3 * middle(lambda a, b, p: a[0]):.0f}", f"{1e3 * middle(lambda a, b, p: b[0]):.0f}",
                         f"{1e3 * middle(lambda a, b, p: p):.0f}", f"**{middle(lambda a, b, p: b[0] / a[0]):.2f}**",
                         f"{middle(lambda a, b, p: (b[0] - p) / a[0]):.2f}", f"{1e3 * middle(lambda a, b, p: a[1]):.0f}",
                         f"{1e3 * middle(lambda a, b, p: b[1]):.0f}", f"**{middle(lambda a, b, p: b[1] / a[1]):.2f}**",
                         f"{middle(lambda a, b, p: (b[1] - p) / a[1]):.2f}", f"{same} of {options.pairs}"]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
