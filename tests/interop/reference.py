"""The reference side: the Python environment, the models with their golden replies, and swarms that can be hurt."""
import atexit
import datetime
import hashlib
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"
HERE = SCRIPTS / "interop"
STARTING = 240  # seconds; ten on a quiet machine
MADE_OF = [HERE / "models.py", HERE / "golden.py", HERE / "requirements.txt", SCRIPTS / "golden/make_models.py", SCRIPTS / "golden/corpus.txt"]


class Failure(Exception):
    """A check that did not hold, in a sentence."""


LIVING = []  # processes and swarms that this process has started


def start(command, **settings):
    """A process that leads a session of its own (the kernel shares the processors out among sessions) and does not outlive this one."""
    settings = {"stdin": subprocess.DEVNULL, "text": True, "start_new_session": True, **settings}
    process = subprocess.Popen([str(word) for word in command], **settings)
    LIVING.append(process)
    return process


def end(process):
    """Ends a process and all that it has started."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    if process in LIVING:
        LIVING.remove(process)


@atexit.register
def end_all():
    for one in list(LIVING):
        one.end() if isinstance(one, Swarm) else end(one)


def prepare():
    """The folder of the models and what transformers says about them; makes what is missing or was made by other scripts."""
    installed = subprocess.run([HERE / "install.sh"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    if installed.returncode:
        sys.exit(installed.returncode)  # it has said why
    venv = pathlib.Path(installed.stdout.strip())
    key = hashlib.sha256(b"".join(file.read_bytes() for file in MADE_OF)).hexdigest()[:12]
    folder = venv.parent / f"interop-{key}"
    golden = folder / "golden.json"
    if not golden.exists():
        folder.mkdir(parents=True, exist_ok=True)
        run = [venv / "bin/python", "-W", "ignore"]
        subprocess.run([*run, HERE / "models.py", folder], check=True)
        subprocess.run([*run, HERE / "golden.py", folder, folder / "golden.new"], check=True)
        (folder / "golden.new").rename(golden)
    models = json.loads(golden.read_text())["models"]
    for name, model in models.items():
        model.update(name=name, folder=folder / name)
    return venv, models


class Swarm:
    """Servers of one model on loopback; ends with the `with` block."""

    def __init__(self, model, ranges, logs, *flags):
        self.model, self.logs = model, logs
        self.hurt = set()
        command = [HERE / "swarm.py", "--model", model["folder"], "--prefix", model["dht_prefix"], "--ranges", ranges, "--logs", logs, *flags]
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        LIVING.append(self)

    def __enter__(self):
        ready, _, _ = select.select([self.process.stdout], [], [], STARTING)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            why = f"ended with code {self.process.poll()}" if ready else f"was not ready after {STARTING} s"
            self.__exit__()
            raise Failure(f"the swarm {why}; logs in {self.logs}")
        self.facts = json.loads(line)
        self.servers = {server["name"]: server for server in self.facts["servers"]}
        return self

    def __exit__(self, *_):
        self.end()
        self.process.stdout.close()
        if self in LIVING:
            LIVING.remove(self)

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()

    def signal(self, server, number):
        """To all processes of a server at once: the machine is gone, stands still, or goes on."""
        os.killpg(server["pid"], number)
        (self.hurt.discard if number == signal.SIGCONT else self.hurt.add)(server["name"])

    def sessions(self):
        """(time opened, server, blocks) of every session that is open, as the servers themselves log it."""
        event = re.compile(r"^(\w+ +\d+ [\d:.]+) .*rpc_inference\.(open|close)\(blocks=(\S+?), remote_peer=(\S+)\)", re.M)
        found = []
        for server in self.servers.values():
            opened = {}
            for when, what, blocks, peer in event.findall(pathlib.Path(server["log"]).read_text(errors="replace")):
                times = opened.setdefault((blocks, peer), [])
                if what == "open":
                    times.append(datetime.datetime.strptime(f"2000 {when}", "%Y %b %d %H:%M:%S.%f"))
                elif times:
                    times.pop(0)
            found += [(time, server, blocks) for (blocks, _), times in opened.items() for time in times]
        return sorted(found, key=lambda one: one[0])

    def in_use(self, block):
        """The healthy server where a session through `block` was opened last."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for _, server, blocks in reversed(self.sessions()):
                start, end = map(int, blocks.split(":"))
                if start <= block < end and server["name"] not in self.hurt:
                    return server
            time.sleep(0.02)
        raise Failure(f"no healthy server has a session through block {block}; logs in {self.logs}")

    def all_closed(self, seconds=5):
        """Waits until no server that answers has a session open."""
        deadline = time.monotonic() + seconds
        while open_ones := [(server["name"], blocks) for _, server, blocks in self.sessions() if server["name"] not in self.hurt]:
            if time.monotonic() > deadline:
                raise Failure(f"{len(open_ones)} sessions are still open after {seconds} s: {open_ones[:4]}")
            time.sleep(0.05)


class Python:
    """A script of scripts/interop that answers one request after the other."""

    def __init__(self, venv, swarm, script, *arguments):
        self.script, self.log = script, swarm.logs / f"{script.removesuffix('.py')}.log"
        command = [venv / "bin/python", "-W", "ignore", HERE / script, *arguments, swarm.facts["initial_peers"][0]]
        environment = {**os.environ, "SWARM_SOCKETS": swarm.facts["sockets"], "TMPDIR": swarm.facts["sockets"]}
        with open(self.log, "w") as log:
            self.process = start(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.process)

    def ask(self, **what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], STARTING)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            raise Failure(f"{self.script} did not answer; see {self.log}")
        return json.loads(line)


class Client(Python):
    """The stock Python client."""

    def __init__(self, venv, swarm):
        super().__init__(venv, swarm, "client.py", swarm.model["folder"], swarm.model["dht_prefix"])


class Info(Python):
    """Asks servers how they are at this moment; what they announce in the DHT is older."""

    def __init__(self, venv, swarm):
        super().__init__(venv, swarm, "info.py")
        self.peers = {server["peer"]: name for name, server in swarm.servers.items()}

    def free(self):
        """Cache tokens that each server could give away."""
        answer = self.ask(peers=list(self.peers))
        return {self.peers[peer]: tokens for peer, tokens in answer["free"].items()}
