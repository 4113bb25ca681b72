#!/usr/bin/env python3
"""A private swarm of processes on this machine, and the chat page on it: swarm_demo.py BINARY [--listen ADDRESS] [--model GGUF]

One `corolla bootstrap`, three `corolla host` that have every block of the model twice, and `corolla serve`. All listen on loopback. Prints the
page's address when it answers, and how to end each host: replies go on without it. Ctrl-C ends everything.
"""
import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

MODEL = "models/SmolLM2-135M-Instruct.Q4_1.gguf"
ID = "smollm2-135m-instruct"
HOSTS = {"first half": "0:15", "second half": "15:30", "all": "0:30"}
PATIENCE = 180  # seconds, for each step


class Demo:
    """The processes; they end with the `with` block."""

    def __init__(self, binary, model, listen):
        self.binary, self.model, self.listen = binary, model, listen
        self.folder = tempfile.TemporaryDirectory(prefix="corolla-demo-")
        self.processes = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.folder.cleanup()

    def log(self, name):
        return pathlib.Path(self.folder.name, f"{name.replace(' ', '-')}.log")

    def start(self, name, *arguments):
        """A process, and what it prints."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("COROLLA_")}
        environment = {**kept, "COROLLA_CACHE": self.folder.name}
        with open(self.log(name), "w") as log:
            process = subprocess.Popen(
                [self.binary, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=self.folder.name
            )
        self.processes[name] = process
        return process.stdout

    def until(self, name, words):
        """The first line of a process's log with these words in it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            said = self.log(name).read_text(errors="replace")
            for line in said.splitlines():
                if words in line:
                    return line
            if self.processes[name].poll() is not None or time.monotonic() > deadline:
                sys.exit(f"swarm-demo: {name} did not say {words!r}:\n{said}")
            time.sleep(0.05)

    def begin(self):
        """Starts everything; the page's address."""
        # Weights and hidden states in f32: with 16 bits a replaced server could end a near tie otherwise.
        computing = ["--dtype", "f32", "--model", self.model]
        printed = self.start("bootstrap", "bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--model", ID, "--dht-prefix", "smollm2-demo")
        lines = [printed.readline().strip(), printed.readline().strip()]
        if not lines[1]:
            sys.exit(f"swarm-demo: no swarm was started:\n{self.log('bootstrap').read_text()}")
        for name, blocks in HOSTS.items():
            self.start(name, "host", "--join", lines[1], "--blocks", blocks, "--public-name", name, "--threads", "1", *computing)
        for name in HOSTS:
            self.until(name, "serving the blocks")
        self.start("page", "serve", "--join", lines[1], "--listen", self.listen, *computing)
        address = self.until("page", "listening on ").split("listening on ")[1].strip()
        deadline = time.monotonic() + PATIENCE
        while not answers(f"{address}/health/ready"):
            if time.monotonic() > deadline or self.processes["page"].poll() is not None:
                sys.exit(f"swarm-demo: the page does not get ready:\n{self.log('page').read_text()}")
            time.sleep(0.1)
        return address, lines[1]


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=30):
            return True
    except (urllib.error.URLError, OSError):
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", nargs="?", default="target/release/corolla", help="the program (default: %(default)s)")
    parser.add_argument("--listen", default="127.0.0.1:8000", help="where the page is served (default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="the model's file (default: %(default)s)")
    asked = parser.parse_args()
    binary, model = (pathlib.Path(path).resolve() for path in (asked.binary, asked.model))
    for path, fix in ((binary, "cargo build --release --locked"), (model, "make model")):
        if not path.is_file():
            sys.exit(f"swarm-demo: there is no {path}; run `{fix}`")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    with Demo(str(binary), str(model), asked.listen) as demo:
        try:
            address, token = demo.begin()
            print(f"The swarm is complete, and every block is there twice. Chat: {address}\n")
            print("End a host in the middle of a reply, and the reply goes on with the same words:")
            for name, blocks in HOSTS.items():
                print(f"  kill -9 {demo.processes[name].pid:<8}# blocks {blocks} ({name})")
            print(f"\nOne more host, here or (with addresses that lead here) elsewhere:\n  corolla host --model {asked.model} --join {token}\n")
            print("Ctrl-C ends everything.", flush=True)
            code = demo.processes["page"].wait()
            sys.exit(f"swarm-demo: the page has ended with code {code}:\n{demo.log('page').read_text()}")
        except KeyboardInterrupt:
            print("\nswarm-demo: ended")


if __name__ == "__main__":
    main()
