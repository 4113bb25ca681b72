#!/usr/bin/env python3
"""Many sessions for a long time: soak.py BINARY [--sessions 50] [--minutes 10]

A swarm of two stock Petals servers, one `corolla serve`, and clients that open sessions, let them go on in calls of varying length, hang up
now and then, close, and begin again. Every answer is compared with what transformers says. Memory and file descriptors of the server must
not grow once it is warm, no request may take longer than its deadline, and when the last sessions are closed, the servers of the swarm must
have all their cache back within two seconds.
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
import sys
import tempfile
import threading
import time
import urllib.parse

import corolla
import reference
from reference import Failure, Info, Swarm

DEADLINE = corolla.PATIENCE  # seconds for any request
FREED_WITHIN = 2  # seconds from the last close until the swarm's cache is free
LONGEST_CALL = 24  # tokens
LAST_WORDS, LAST_TOKENS = "And then", 8  # of a client that does not wait for the answer
MOST_GROWTH = 0.06  # of the memory, over the last two thirds
MOST_GROWTH_MIB = 6  # where the memory is so small that allocators' steps show
MOST_FDS = 4  # that may be open at the end beyond those of an idle server; connections to servers of the swarm may have come
LEAST_SAMPLES = 10
SHOWN_ERRORS = 5


class Tally:
    """What all clients have done together."""

    def __init__(self):
        self.lock, self.counts, self.errors, self.waits = threading.Lock(), collections.Counter(), [], []

    def add(self, **counts):
        with self.lock:
            self.counts.update(counts)

    def waited(self, seconds):
        with self.lock:
            self.waits.append(seconds)

    def failed(self, sentence):
        with self.lock:
            self.errors.append(sentence)


class Talker(threading.Thread):
    """A client: one session after the other until it is told to stop; then it keeps the one it has."""

    def __init__(self, nth, model, server, tally, stop):
        super().__init__(daemon=True)
        self.random, self.model, self.server, self.tally, self.stop = random.Random(nth), model, server, tally, stop
        self.session = None

    def run(self):
        while not self.stop.is_set():
            try:
                self.one_session()
            except Exception as fault:  # the others go on, and so does this one
                self.tally.failed(f"{type(fault).__name__}: {fault}")
                self.close()
                self.stop.wait(1)

    def one_session(self):
        length, calls = self.script()
        self.session = self.server.open(length + len(LAST_WORDS) + LAST_TOKENS)
        self.tally.add(opened=1)
        early = self.random.random() < 0.3
        for call in calls[: self.random.randint(1, len(calls))] if early else calls:
            self.call(*call)
            if self.stop.is_set():
                return  # with the session open
        if self.random.random() < 0.1:
            self.hang_up()
        self.close()

    def script(self):
        """How long a session may become, and its calls: new words, how many tokens, and the text that must come."""
        if self.random.random() < 0.2:
            script = self.random.choice(self.model["sessions"])["calls"]
            calls = [(call["inputs"], call["max_new_tokens"], "".join(call["pieces"])) for call in script]
            return sum(len(words or "") + count for words, count, _ in calls), calls
        case, calls = self.random.choice(self.model["cases"]), []
        pieces = collections.deque(case["pieces"])
        while pieces:
            count = min(self.random.randint(1, LONGEST_CALL), len(pieces))
            calls.append((None if calls else case["prompt"], count, "".join(pieces.popleft() for _ in range(count))))
        return len(case["prompt_ids"]) + len(case["pieces"]), calls

    def call(self, words, count, text):
        begun = time.monotonic()
        answer, _ = self.server.say(self.session, words, count)
        took = time.monotonic() - begun
        self.tally.waited(took)
        if took > DEADLINE:
            raise Failure(f"a call of {count} tokens took {took:.0f} s")
        if not answer["ok"]:
            raise Failure(f"refused: {answer['traceback']}")
        if answer["outputs"] != text:
            raise Failure(f"{answer['outputs'][:60]!r} instead of {text[:60]!r}")
        self.tally.add(calls=1, tokens=count)

    def hang_up(self):
        """Asks for tokens, and is gone before they come."""
        self.tally.add(hung_up=1)
        where = urllib.parse.urlsplit(self.server.base)
        form = urllib.parse.urlencode({"session_id": self.session, "max_new_tokens": LAST_TOKENS, "inputs": LAST_WORDS})
        head = f"POST /api/v1/generate HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        with socket.create_connection((where.hostname, where.port), DEADLINE) as raw:
            raw.sendall(f"{head}Content-Length: {len(form)}\r\n\r\n{form}".encode())
            raw.settimeout(self.random.uniform(0.001, 0.2))
            try:
                raw.recv(1)
            except TimeoutError:
                pass

    def close(self):
        session, self.session = self.session, None
        if session is not None:
            status, text, _ = self.server.get(f"/api/v1/close_inference_session?session_id={session}")
            if status != 200 or not json.loads(text)["ok"]:
                self.tally.failed(f"closing answered {status}: {text[:200]}")
            self.tally.add(closed=1)


class Watch(threading.Thread):
    """Memory and file descriptors of a process, once a second."""

    def __init__(self, pid, tally):
        super().__init__(daemon=True)
        self.folder, self.tally, self.ended = pathlib.Path(f"/proc/{pid}"), tally, threading.Event()
        self.samples, self.begun = [], time.monotonic()

    def fds(self):
        return len(os.listdir(self.folder / "fd"))

    def rss(self):
        pages = int((self.folder / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def run(self):
        shown = 0
        while not self.ended.wait(1):
            try:
                sample = (time.monotonic() - self.begun, self.rss(), self.fds())
            except OSError:  # the process has ended, which others report
                return
            self.samples.append(sample)
            if sample[0] >= shown:
                counts, errors = self.tally.counts, len(self.tally.errors)
                done = f"{counts['opened']} sessions, {counts['calls']} calls, {counts['tokens']} tokens, {errors} errors"
                print(f"{sample[0]:5.0f} s  {sample[1]:7.1f} MiB  {sample[2]:4} descriptors  {done}", flush=True)
                shown = sample[0] + 30 - (sample[0] % 30 > 1) * (sample[0] % 30)

    def growth(self, column):
        """Over the last two thirds: the mean, and how much the fitted line rises."""
        window = self.samples[len(self.samples) // 3 :]
        times, values = [sample[0] for sample in window], [sample[column] for sample in window]
        slope = statistics.linear_regression(times, values).slope
        return statistics.mean(values), slope * (times[-1] - times[0])


def freed(info, at_first, since):
    """How long after `since` all cache was free."""
    while True:
        asked = time.monotonic() - since
        now = info.free()
        if now == at_first:
            return asked
        if asked > FREED_WITHIN:
            raise Failure(f"{asked:.1f} s after the last session was closed, {now} of {at_first} cache tokens are free")


def soak(model, asked, venv, swarm, problems):
    tables = f"[limits]\nconcurrent = {asked.sessions}\nqueue = {asked.sessions}\n[sessions]\nmax_sessions = {asked.sessions}\n"
    house = corolla.Corolla(asked.binary, swarm, tables=tables)
    tally, stop = Tally(), threading.Event()
    with Info(venv, swarm) as info, house.serve() as server:
        at_first = info.free()
        first = Talker(-1, model, server, Tally(), threading.Event())
        first.one_session()  # connects to every server
        watch = Watch(server.process.pid, tally)
        idle_fds = watch.fds()
        talkers = [Talker(nth, model, server, tally, stop) for nth in range(asked.sessions)]
        watch.start()
        for talker in talkers:
            talker.start()
        enough = time.monotonic() + asked.minutes * 60
        while time.monotonic() < enough and server.process.poll() is None:
            stop.wait(0.5)
        stop.set()
        for talker in talkers:
            talker.join(DEADLINE * 2)
        watch.ended.set()
        watch.join()
        if server.process.poll() is not None:
            raise Failure(f"`corolla serve` ended with code {server.process.returncode}: {corolla.last_words(server.log.read_text())}")
        report(tally, watch, problems)
        if stuck := sum(talker.is_alive() for talker in talkers):
            raise Failure(f"{stuck} clients still wait {2 * DEADLINE} s after the end")
        held, taken = sum(talker.session is not None for talker in talkers), info.free()
        if held and not any(taken[name] < at_first[name] for name in at_first):
            raise Failure(f"{held} sessions are open, but the cache is free: {taken}")
        closing = [threading.Thread(target=talker.close) for talker in talkers]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        took = freed(info, at_first, time.monotonic())
        swarm.all_closed()
        print(f"{held} sessions were open at the end ({taken} cache tokens free); closed, all {at_first} were free after {took:.2f} s")
        problems += [f"error: {error}" for error in tally.errors[:SHOWN_ERRORS]]
        check_fds(server, watch, idle_fds)


def report(tally, watch, problems):
    waits, counts = sorted(tally.waits), tally.counts
    if not counts["calls"] or len(watch.samples) < LEAST_SAMPLES:
        problems.append(f"{counts['calls']} calls were answered and {len(watch.samples)} samples taken: too few to say anything")
        return
    print(
        f"{counts['opened']} sessions, {counts['calls']} calls, {counts['tokens']} tokens, {counts['hung_up']} hung up, "
        f"{len(tally.errors)} errors; a call took {statistics.median(waits):.1f} s (median), {waits[-1]:.1f} s at most"
    )
    memory, grown = watch.growth(1)
    most = max(MOST_GROWTH_MIB, MOST_GROWTH * memory)
    print(f"memory {memory:.1f} MiB, growth over the last two thirds {grown:+.1f} MiB (at most {most:.1f})")
    if grown > most:
        problems.append(f"memory grows: {grown:.1f} MiB over the last two thirds")
    descriptors, grown = watch.growth(2)
    print(f"descriptors {descriptors:.0f}, growth over the last two thirds {grown:+.1f}")
    if grown > max(8, 0.2 * descriptors):
        problems.append(f"file descriptors grow: {grown:.0f} over the last two thirds")


def check_fds(server, watch, idle):
    """Connections of clients that have gone are closed."""
    server.until(f"no more than {idle} + {MOST_FDS} descriptors are open", lambda: watch.fds() <= idle + MOST_FDS, DEADLINE)


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", nargs="?", default="target/release/corolla", help="the program to be tried (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=50, help="at the same time (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--model", choices=["tiny-bloom", "tiny-llama"], default="tiny-bloom")
    return parser.parse_args()


def main():
    asked = options()
    asked.binary = str(pathlib.Path(asked.binary).resolve())
    if not pathlib.Path(asked.binary).is_file():
        sys.exit(f"soak: there is no {asked.binary}; build it with `cargo build --release --locked`")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    venv, models = reference.prepare()
    model, problems = models[asked.model], []
    longest = max(len(case["prompt_ids"]) + len(case["pieces"]) for case in model["cases"])
    logs = pathlib.Path(tempfile.mkdtemp(prefix="corolla-soak-"))
    try:
        with Swarm(model, "0:2 2:4", logs / "swarm", "--cache-tokens", 2 * asked.sessions * longest) as swarm:
            soak(model, asked, venv, swarm, problems)
    except Failure as failure:
        problems.append(str(failure))
    except SystemExit:
        shutil.rmtree(logs, ignore_errors=True)
        raise
    for problem in problems:
        print(f"FAILED: {problem}")
    if problems:
        print(f"logs: {logs}")
    else:
        shutil.rmtree(logs, ignore_errors=True)
        print("ok")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
