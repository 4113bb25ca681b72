#!/usr/bin/env python3
"""The client part of BLOOM-176B: client_part.py COROLLA PASS_THROUGH FOLDER [--tokens 32] [--rounds 5] [--threads N]

FOLDER is what the example wide_head made: embeddings and head, 250,880 x 14,336 in bf16, and the norms beside them. PASS_THROUGH (an example of
corolla-swarm) stands for the 70 blocks and computes nothing, so what is left is what a client of such a swarm does for itself:
`corolla serve` is started on the whole of it, without a screen and with either, in turns, its file in the page cache. Told are the time from
the start of the process until /health/ready says yes, the time of a token over HTTP, and the most memory the process had. Tokens, greedy and
drawn from a seed, must be those of the server without a screen. A screen that is not there is made first, which is not counted.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import shape_model

PREFIX, BLOCKS = "client-part", 70
SCREENS = ["off", "int8", "int4"]
PROMPT = " ".join(f"t{at}" for at in (922, 31, 84_511, 250_000, 7, 120_042, 922, 3))
PATIENCE = 600  # seconds; a screen that is not there yet is made meanwhile
GOALS = "goals: 20 s to start; int8 4.2 GB, int4 2.8 GB"


def read(url, body=None):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read()


class Server:
    """`corolla serve` on the client part."""

    def __init__(self, options, home, swarm, screen):
        config = pathlib.Path(home, f"{screen}.toml")
        config.write_text(
            f'listen = "127.0.0.1:0"\n[[models]]\nid = "bloom"\npath = "{options.folder.resolve()}"\nbackend = "candle-cpu"\nblocks = "swarm"\nscreen = "{screen}"\n'
            f'[models.swarm]\ninitial_peers = ["{swarm}"]\ndht_prefix = "{PREFIX}"\n')
        self.log = open(pathlib.Path(home, f"{screen}.log"), "w+", encoding="utf8")
        kept = {key: value for key, value in os.environ.items() if not key.startswith("COROLLA_")}
        command = [options.binary, "serve", "--config", config] + (["--threads", str(options.threads)] if options.threads else [])
        begun = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log, env={**kept, "COROLLA_CACHE": str(home)})
        while not self.ready():
            if self.process.poll() is not None or time.perf_counter() - begun > PATIENCE:
                self.fail("was never ready")
            time.sleep(0.02)
        self.took = time.perf_counter() - begun

    def fail(self, what):
        sys.exit(f"client_part: the server {what}:\n{self.said()[-2000:]}")

    def said(self):
        return pathlib.Path(self.log.name).read_text(encoding="utf8")

    def ready(self):
        address = re.search(r"listening on (http://[^\s/]+)", self.said())
        if not address:
            return False
        self.base = address[1]
        try:
            read(f"{self.base}/health/ready")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def reply(self, tokens, **sampling):
        """Seconds of a token after the first, and the text."""
        body = {"model": "bloom", "prompt": PROMPT, "max_tokens": tokens, "stream": True, **sampling}
        request = urllib.request.Request(f"{self.base}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        times, text = [], ""
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    piece = json.loads(line[6:])["choices"]
                    if piece and piece[0]["text"]:
                        times.append(time.perf_counter())
                        text += piece[0]["text"]
        if len(times) < 2:
            self.fail("wrote no reply")
        return statistics.median(b - a for a, b in zip(times, times[1:])), text

    def memory(self):
        """GB: the most that were resident."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e9

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("binary")
    options.add_argument("pass_through")
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--tokens", type=int, default=32)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int)
    options.add_argument("--screens", nargs="+", default=SCREENS)
    options = options.parse_args()
    shape = json.loads((options.folder / "config.json").read_text())
    words = options.folder / "tokenizer.json"
    if not words.exists():
        words.write_text(json.dumps(shape_model.tokenizer(shape["vocab_size"])))
    found = {screen: {"start": [], "greedy": [], "drawn": [], "memory": []} for screen in options.screens}
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        blocks = subprocess.Popen([options.pass_through, PREFIX, str(BLOCKS), str(shape["hidden_size"])], stdout=subprocess.PIPE, text=True)
        stack.callback(blocks.wait)
        stack.callback(blocks.kill)
        swarm = blocks.stdout.readline().strip()
        for screen in options.screens:  # makes what is not there, and fills the page cache
            Server(options, home, swarm, screen).end()
        for nth in range(options.rounds):
            wanted = None
            for screen in options.screens:
                server = Server(options, home, swarm, screen)
                greedy, text = server.reply(options.tokens, temperature=0)
                drawn, other = server.reply(options.tokens, temperature=1, seed=nth)
                wanted = wanted or (text, other)
                if (text, other) != wanted:
                    sys.exit(f"client_part: with screen {screen} the reply is {(text, other)}, with {options.screens[0]} {wanted}")
                for key, value in (("start", server.took), ("greedy", greedy), ("drawn", drawn), ("memory", server.memory())):
                    found[screen][key].append(value)
                server.end()
    print(f"Medians of {options.rounds} starts with {2 * options.tokens} tokens each, on {options.threads or 'all'} thread(s); {GOALS}.\n")
    print("| screen | until ready, s (most) | a greedy token, ms | a drawn one, ms | resident at most, GB |\n|---|---|---|---|---|")
    for screen, of in found.items():
        print(f"| {screen} | {statistics.median(of['start']):.1f} ({max(of['start']):.1f}) | {1e3 * statistics.median(of['greedy']):.0f} "
              f"| {1e3 * statistics.median(of['drawn']):.0f} | {max(of['memory']):.2f} |")


if __name__ == "__main__":
    main()
