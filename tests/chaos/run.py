#!/usr/bin/env python3
"""A swarm under fire: run.py BINARY [--minutes 15] [--clients 8] [--seed N] [--model PATH --blocks N]

A bootstrap node, three hosts with every block at least twice, and `corolla serve` with clients that talk without pause. All the while one host
after the other is killed and started anew, or stopped for a while and let go on, by a seeded die. Of each block one healthy copy is left, so:

* every reply must be the one that an undisturbed swarm gave, token for token;
* once in a while both copies of a block are taken away for longer than anybody waits: then a reply may end, in a sentence that names what
  is missing, and replies must come again when the hosts do;
* when all is over, every host has all of its cache back;
* the memory of `corolla serve` and of the bootstrap node does not grow once they are warm.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HOUSE = pathlib.Path(__file__).resolve().parents[2]
STARTING = 120  # seconds that any process may take to start
CACHE = 8192  # positions of each host
PROMPTS = ["The garden was full of flowers", "Once upon a time", "A swarm of bees", "Water", "In the morning the gardener went out and", "1 2 3 4"]
LENGTHS = (4, 60)  # tokens of a reply
ROUTE_SECONDS = 10  # that a reply waits where nobody has a block
DEADLINE = 150  # seconds for any reply, however often it is disturbed
GROWTH = 1.10  # of the memory, between the first third and the end
GROWTH_MIB = 12  # where the memory is so small that allocators' steps show
REFUSED = ("block", "nobody has")  # words of a reply that ends because no copy was left


class Failed(Exception):
    """A sentence for the reader."""


class Process:
    """A process of Corolla's with a log, that can be killed, stopped and started again."""

    def __init__(self, binary, name, folder, *arguments):
        self.command, self.name, self.log = [binary, *map(str, arguments)], name, folder / f"{name}.log"
        self.process = None
        self.folder = folder

    def start(self):
        kept = {key: value for key, value in os.environ.items() if not key.startswith("COROLLA_")}
        environment = {**kept, "COROLLA_CACHE": str(self.folder)}
        with open(self.log, "a") as log:
            log.write("---- started\n")
            log.flush()
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=self.folder
            )

    def until(self, words):
        """The line of the log since the last start that has these words."""
        deadline = time.monotonic() + STARTING
        while True:
            said = self.log.read_text(errors="replace").rpartition("---- started")[2]
            for line in said.splitlines():
                if words in line:
                    return line
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.name} did not say {words!r}: {said[-500:]}")
            time.sleep(0.05)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()
            self.process.stdout.close()

    def memory(self):
        """MiB in use."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise Failed(f"{self.name} has ended")


class Swarm:
    """All processes; they end with the `with` block."""

    def __init__(self, asked, folder):
        self.folder, self.asked = folder, asked
        half = asked.blocks // 2
        self.spans = {"left": f"0:{half + 1}", "right": f"{half}:{asked.blocks}", "all": f"0:{asked.blocks}"}
        self.bootstrap = Process(asked.binary, "bootstrap", folder, "bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--dht-prefix", "chaos", "--model", "m")
        self.hosts, self.page = {}, None

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def begin(self):
        self.bootstrap.start()
        lines = [self.bootstrap.process.stdout.readline().strip() for _ in range(2)]
        if not lines[1]:
            raise Failed(f"no swarm was started: {self.bootstrap.log.read_text()[-500:]}")
        computing = ["--dtype", "f32", "--model", self.asked.model]
        for name, blocks in self.spans.items():
            # A host that comes back is the one that it was: same key, same address.
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            self.hosts[name] = Process(
                self.asked.binary, name, self.folder, "host", "--join", lines[1], "--blocks", blocks, "--public-name", name, "--threads", 1,
                "--identity", self.folder / f"{name}.id", "--listen", f"/ip4/127.0.0.1/tcp/{port}", "--attn-cache-tokens", CACHE,
                "--update-period", 10, *computing,
            )
            self.hosts[name].start()
        for host in self.hosts.values():
            host.until("serving the blocks")
        config = self.folder / "corolla.toml"
        config.write_text(
            f'listen = "127.0.0.1:0"\n[limits]\nroute_seconds = {ROUTE_SECONDS}\nconcurrent = {self.asked.clients}\n'
            f'[[models]]\nid = "m"\npath = "{self.asked.model}"\ndtype = "f32"\nblocks = "swarm"\nthreads = 1\n[models.swarm]\njoin = "{lines[1]}"\n'
        )
        self.page = Process(self.asked.binary, "page", self.folder, "serve", "--config", config)
        self.page.start()
        self.base = self.page.until("listening on ").split("listening on ")[1].strip()
        deadline = time.monotonic() + STARTING
        while not self.ready():
            if time.monotonic() > deadline:
                raise Failed("the page does not get ready")
            time.sleep(0.1)

    def ready(self):
        try:
            with urllib.request.urlopen(f"{self.base}/health/ready", timeout=10):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, prompt, count):
        form = urllib.parse.urlencode({"inputs": prompt, "max_new_tokens": count}).encode()
        with urllib.request.urlopen(f"{self.base}/api/v1/generate", form, timeout=DEADLINE) as answer:
            return json.load(answer)

    def free(self):
        """Free positions of each host, as it says when it is asked."""
        run = subprocess.run(
            [self.asked.binary, "swarm", "status", "--json", "--config", self.folder / "corolla.toml"], capture_output=True, text=True, timeout=120, check=False
        )
        if run.returncode:
            return run.stderr.strip()
        report = json.loads(run.stdout)
        report = report[0] if isinstance(report, list) else report
        return {server["name"]: server["free_tokens"] for server in report["servers"]}

    def __exit__(self, *_):
        for process in [self.page, *self.hosts.values(), self.bootstrap]:
            if process and process.process and process.process.poll() is None:
                process.signal(signal.SIGCONT)
                process.kill()


class Monkey:
    """Disturbs one host at a time; and sometimes, for a while, two."""

    def __init__(self, swarm, seed):
        self.swarm, self.random = swarm, random.Random(seed)
        self.done, self.dark = collections.Counter(), []

    def disturb(self):
        if self.random.random() < 0.07:
            return self.darkness()
        name = self.random.choice(list(self.swarm.hosts))
        host = self.swarm.hosts[name]
        if self.random.random() < 0.5:
            host.kill()
            self.done["killed"] += 1
            time.sleep(self.random.uniform(0, 4))
            host.start()
            host.until("serving the blocks")
        else:
            host.signal(signal.SIGSTOP)
            self.done["stopped"] += 1
            time.sleep(self.random.uniform(0.2, 15))
            host.signal(signal.SIGCONT)
        # Until clients have found it again, it is no healthy copy.
        self.rest(self.random.uniform(2, 6))
        return None

    def darkness(self):
        """No copy of a block is left for longer than a reply waits."""
        pair = self.random.choice([("left", "all"), ("right", "all")])
        begun = time.monotonic()
        for name in pair:
            self.swarm.hosts[name].kill()
        self.done["dark"] += 1
        time.sleep(ROUTE_SECONDS * self.random.uniform(1.2, 2))
        for name in pair:
            self.swarm.hosts[name].start()
        for name in pair:
            self.swarm.hosts[name].until("serving the blocks")
        self.rest(8)
        self.dark.append((begun, time.monotonic()))

    def rest(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or not self.swarm.ready():
            if time.monotonic() > deadline + STARTING:
                raise Failed("the page does not get ready again though all hosts are there")
            time.sleep(0.1)


class Talker(threading.Thread):
    """A client: one reply after the other."""

    def __init__(self, nth, swarm, wanted, stop):
        super().__init__(daemon=True)
        self.random, self.swarm, self.wanted, self.stop = random.Random(1000 + nth), swarm, wanted, stop
        self.right, self.tokens, self.failovers, self.ended, self.wrong, self.waits = 0, 0, 0, [], [], []

    def run(self):
        while not self.stop.is_set():
            prompt, count = self.random.choice(list(self.wanted))
            begun = time.monotonic()
            try:
                answer = self.swarm.ask(prompt, count)
            except Exception as fault:
                self.wrong.append(f"{type(fault).__name__}: {fault}")
                self.stop.wait(1)
                continue
            self.waits.append(time.monotonic() - begun)
            if answer["ok"] and answer["outputs"] == self.wanted[prompt, count]:
                self.right, self.tokens = self.right + 1, self.tokens + count
                self.failovers += len(answer.get("route", {}).get("failovers", []))
            elif answer["ok"]:
                self.wrong.append(f"{answer['outputs'][:60]!r} instead of {self.wanted[prompt, count][:60]!r}")
            else:
                self.ended.append((begun, time.monotonic(), answer["traceback"].strip()))
                self.stop.wait(1)


def judge(asked, swarm, monkey, talkers, memory):
    faults = [f"wrong reply: {wrong}" for talker in talkers for wrong in talker.wrong]
    for talker in talkers:
        for begun, end, sentence in talker.ended:
            excused = any(begun < dark_end and end > dark_begin for dark_begin, dark_end in monkey.dark)
            named = any(word in sentence for word in REFUSED)
            if not (excused and named):
                faults.append(f"a reply ended though every block had a copy: {sentence}" if not excused else f"an end that names no block: {sentence}")
    deadline, whole = time.monotonic() + 60, dict.fromkeys(swarm.hosts, CACHE)
    while (free := swarm.free()) != whole:
        if time.monotonic() > deadline:
            faults.append(f"caches are not free again: {free}")
            break
        time.sleep(0.5)
    for name, samples in memory.items():
        third = len(samples) // 3
        if third >= 3:
            before, after = statistics.median(samples[third : 2 * third]), statistics.median(samples[-third:])
            print(f"memory of {name}: {samples[0]:.0f} MiB at first, then {before:.1f}, at the end {after:.1f}")
            if after > before * GROWTH and after > before + GROWTH_MIB:
                faults.append(f"the memory of {name} grows: {before:.1f} -> {after:.1f} MiB")
    right, tokens = sum(talker.right for talker in talkers), sum(talker.tokens for talker in talkers)
    waits = sorted(wait for talker in talkers for wait in talker.waits)
    print(
        f"{right} replies right, {tokens} tokens, {sum(talker.failovers for talker in talkers)} failovers, "
        f"{sum(len(talker.ended) for talker in talkers)} ended while a block had no copy; {dict(monkey.done)}"
    )
    if waits:
        print(f"seconds for a reply: median {statistics.median(waits):.2f}, longest {waits[-1]:.1f}")
    if right < 10 * asked.minutes:
        faults.append(f"only {right} replies in {asked.minutes} minutes")
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", nargs="?", default="target/release/corolla", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--model", default=HOUSE / "tests/fixtures/models/tiny-llama", help="default: the tiny Llama of the tests")
    parser.add_argument("--blocks", type=int, default=3, help="how many blocks it has (default: %(default)s)")
    asked = parser.parse_args()
    asked.binary, asked.model = str(pathlib.Path(asked.binary).resolve()), pathlib.Path(asked.model).resolve()
    if not pathlib.Path(asked.binary).is_file():
        sys.exit(f"chaos: there is no {asked.binary}; build it with `cargo build --release --locked`")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    print(f"chaos: {asked.minutes:g} minutes, {asked.clients} clients, --seed {asked.seed}", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="corolla-chaos-"))
    try:
        with Swarm(asked, folder) as swarm:
            dice = random.Random(asked.seed)
            wanted = {}
            for prompt in PROMPTS:
                for count in {dice.randint(*LENGTHS) for _ in range(3)}:
                    answer = swarm.ask(prompt, count)
                    if not answer["ok"]:
                        raise Failed(f"an undisturbed reply failed: {answer['traceback']}")
                    wanted[prompt, count] = answer["outputs"]
            stop, monkey = threading.Event(), Monkey(swarm, asked.seed)
            talkers = [Talker(nth, swarm, wanted, stop) for nth in range(asked.clients)]
            for talker in talkers:
                talker.start()
            memory, end = {"page": [], "bootstrap": []}, time.monotonic() + asked.minutes * 60
            while time.monotonic() < end:
                monkey.disturb()
                memory["page"].append(swarm.page.memory())
                memory["bootstrap"].append(swarm.bootstrap.memory())
                if any(talker.wrong for talker in talkers):
                    break
            stop.set()
            for talker in talkers:
                talker.join(DEADLINE)
                if talker.is_alive():
                    raise Failed("a reply does not come to an end")
            faults = judge(asked, swarm, monkey, talkers, memory)
    except Failed as failed:
        faults = [str(failed)]
    if faults:
        print("\n".join(f"FAILED  {fault}" for fault in faults[:20]))
        sys.exit(f"chaos: {len(faults)} faults with --seed {asked.seed}; logs: {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    print("chaos: passed")


if __name__ == "__main__":
    main()
