"""The Corolla side: a configuration, one reply from the command line, and a server to talk to."""
import http.client
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

from reference import Failure, end, start

PATIENCE = 120  # seconds; nothing here takes longer


def environment(folder, log=None):
    """What is measured and fetched stays in `folder`, out of the user's cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COROLLA_")}
    return {**kept, "COROLLA_CACHE": str(folder / "cache"), "COROLLA_LOG": log or os.environ.get("COROLLA_LOG", "info")}


class Corolla:
    """The binary with a configuration that leads it to one swarm for all blocks, or for those that are not `here`; `tables` are TOML, for
    other settings."""

    def __init__(self, binary, swarm, request_timeout="60s", initial_peers=None, here=None, tables=""):
        self.binary, self.folder, self.model = binary, swarm.logs, swarm.model
        self.config = self.folder / "corolla.toml"
        quoted = json.dumps  # JSON strings are TOML strings
        self.config.write_text(
            "[[models]]\n"
            f"id = {quoted(self.model['name'])}\n"
            f"path = {quoted(str(self.model['folder']))}\n"
            'dtype = "f32"\n'
            + (f'blocks = "local"\nblock_range = {quoted(here)}\n' if here else 'blocks = "swarm"\n')
            + "threads = 1\n"
            "[models.swarm]\n"
            f"initial_peers = {quoted(initial_peers or swarm.facts['initial_peers'])}\n"
            f"dht_prefix = {quoted(swarm.facts['dht_prefix'])}\n"
            f"request_timeout = {quoted(request_timeout)}\n{tables}"
        )

    def command(self, *arguments):
        return [self.binary, *map(str, arguments), "--config", self.config]

    def run(self, *arguments):
        process = start(self.command(*arguments), env=environment(self.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failure(f"`corolla {arguments[0]}` is not done after {PATIENCE} s: {last_words(process.communicate()[1])}") from None
        finally:
            end(process)
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def json(self, *arguments):
        """What a command that must succeed prints."""
        done = self.run(*arguments)
        if done.returncode:
            raise Failure(f"`corolla {' '.join(map(str, arguments[:2]))}` ended with code {done.returncode}: {last_words(done.stderr)}")
        return json.loads(done.stdout)

    def generate(self, prompt, count):
        return self.json("generate", "--json", "--ignore-eos", "--max-new-tokens", count, "--prompt", prompt)

    def stream(self, prompt, count):
        """The text of a reply as it grows, by `corolla generate` without --json. Corolla waits for who reads: with the kernel's smallest
        buffer it is a few tokens ahead at most, however slow this process is."""
        log = self.folder / "generate.log"
        command = self.command("generate", "--ignore-eos", "--max-new-tokens", count, "--prompt", prompt)
        here, there = socket.socketpair()
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        here.settimeout(PATIENCE)
        with here, open(log, "w") as errors:
            with there:
                process = start(command, env=environment(self.folder), stdout=there, stderr=errors)
            try:
                text, begun = b"", time.monotonic()
                while piece := here.recv(16):
                    text += piece
                    yield text.decode(errors="replace")
                    if time.monotonic() - begun > PATIENCE:
                        raise Failure(f"the reply is not complete after {PATIENCE} s")
                if process.wait(PATIENCE):
                    raise Failure(f"`corolla generate` ended with code {process.returncode}: {last_words(log.read_text())}")
            except TimeoutError:
                raise Failure(f"the reply stands still for {PATIENCE} s") from None
            finally:
                end(process)

    def serve(self, **settings):
        return Server(self, **settings)


class Server:
    """A running `corolla serve`; ends with the `with` block."""

    def __init__(self, corolla, log=None):
        self.corolla, self.log, self.environment = corolla, corolla.folder / "serve.log", environment(corolla.folder, log)

    def __enter__(self):
        with open(self.log, "w") as out:
            command = self.corolla.command("serve", "--listen", "127.0.0.1:0")
            self.process = start(command, env=self.environment, stdout=out, stderr=out)
        try:
            self.base = self.until("it listens", lambda: re.search(r"listening on (http://\S+)", plain(self.log.read_text()))).group(1)
            self.until("it is ready", lambda: self.get("/health/ready")[0] == 200)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        end(self.process)

    def until(self, what, so, seconds=60):
        deadline = time.monotonic() + seconds
        while not (found := so()):
            if self.process.poll() is not None:
                raise Failure(f"`corolla serve` ended with code {self.process.returncode}: {last_words(self.log.read_text())}")
            if time.monotonic() > deadline:
                raise Failure(f"`corolla serve`: waited {seconds} s in vain until {what}: {last_words(self.log.read_text())}")
            time.sleep(0.02)
        return found

    def get(self, path, form=None):
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        try:
            with urllib.request.urlopen(self.base + path, data, timeout=PATIENCE) as response:
                return response.status, response.read().decode(), response.headers
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode(), refused.headers
        except (OSError, http.client.HTTPException) as fault:
            return 0, str(fault), {}

    def open(self, max_length):
        status, text, _ = self.get(f"/api/v1/open_inference_session?max_length={max_length}")
        if status != 200:
            raise Failure(f"/api/v1/open_inference_session answered {status or 'nothing'}: {text[:200]}")
        answer = json.loads(text)
        if not answer["ok"]:
            raise Failure(f"a session cannot be opened: {answer}")
        return answer["session_id"]

    def close(self, session):
        self.get(f"/api/v1/close_inference_session?session_id={session}")

    def say(self, session, inputs, count):
        """One call of /api/v1/generate: what it answered, and the `Server-Timing` header."""
        form = {"session_id": session, "max_new_tokens": count, **({"inputs": inputs} if inputs else {})}
        status, text, headers = self.get("/api/v1/generate", form)
        if status != 200:
            raise Failure(f"/api/v1/generate answered {status or 'nothing'}: {text[:200]}")
        return json.loads(text), headers.get("server-timing") or ""


def failing(failure):
    """A check that has failed already."""
    raise failure


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def last_words(text):
    return " / ".join(plain(text).strip().splitlines()[-3:])[-400:]
