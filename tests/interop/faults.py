"""What happens to a reply when its servers do not live as long as it does."""
import re
import signal
import time

from reference import Failure

FROZEN_FOR = 5  # tokens after the freeze until the frozen server goes on
NO_ROUTE_SECONDS = 60


def most_varied(model):
    """The golden reply in which a lost or doubled token would show best."""
    return max(model["cases"], key=lambda case: len(set(case["new_ids"])))


class Story:
    """After 10 tokens the server in use at the end of the chain is killed, after 20 the one in use at its beginning freezes, and after 30
    the one that took over from it is killed too. With `hosts` of each block two, the frozen one goes on a little before that, since nobody
    else would be left; with three it stays frozen."""

    def __init__(self, swarm, hosts=2):
        self.swarm, self.told, self.frozen, self.thaw_at = swarm, [], None, None
        self.thaws = hosts < 3
        self.chapters = [(10, self.kill_last), (20, self.freeze_first), (30, self.kill_first)]
        self.seen, self.pauses, self.since = 0, [], time.monotonic()

    def kill_last(self):
        self.hurt(3, signal.SIGKILL, "killed")

    def freeze_first(self):
        self.frozen = self.hurt(0, signal.SIGSTOP, "frozen")
        if self.thaws:
            self.thaw_at = self.seen + FROZEN_FOR

    def kill_first(self):
        self.hurt(0, signal.SIGKILL, "killed")

    def hurt(self, block, number, word):
        server = self.swarm.in_use(block)
        self.swarm.signal(server, number)
        self.told.append(f"{server['name']} {word} at {self.seen}")
        return server

    def tokens(self, count):
        """Called whenever more tokens have come."""
        now = time.monotonic()
        self.pauses.append(now - self.since)
        self.seen, self.since = count, now
        if self.thaw_at is not None and count >= self.thaw_at:
            self.swarm.signal(self.frozen, signal.SIGCONT)
            self.thaw_at = None
        while self.chapters and count >= self.chapters[0][0] and self.thaw_at is None:
            self.chapters.pop(0)[1]()
        self.since = time.monotonic()

    def end(self):
        if self.chapters or self.thaw_at is not None:
            raise Failure(f"the reply ended before the story did: {', '.join(self.told)}")
        if len(self.swarm.hurt) != (2 if self.thaws else 3):
            raise Failure(f"not every fault hit a server of its own: {', '.join(self.told)}")
        return f"{', '.join(self.told)}; longest pause {max(self.pauses):.1f} s"


def steps(model, house, swarm, hosts=2):
    """One session, one token a call, so that each fault happens between two given tokens."""
    case, story, failovers = most_varied(model), Story(swarm, hosts), []
    with house.serve() as server:
        session = server.open(512)
        for nth, piece in enumerate(case["pieces"]):
            answer, _ = server.say(session, case["prompt"] if nth == 0 else None, 1)
            if not answer["ok"] or answer["outputs"] != piece:
                raise Failure(f"token {nth}: {answer} instead of {piece!r} after {', '.join(story.told)}")
            failovers += answer["route"]["failovers"]
            story.tokens(nth + 1)
        server.close(session)
        swarm.all_closed()
    check_told(failovers, len(story.told))
    return story.end()


def check_told(failovers, hurt):
    """A reply tells of every server that was hurt while it was in use: why it was lost, and who took over."""
    if len({failover["lost"]["peer"] for failover in failovers}) < hurt:
        raise Failure(f"{hurt} servers were hurt, the replies tell of {failovers}")
    for failover in failovers:
        if not failover["why"] or not failover["by"] or failover["pause_ms"] <= 0:
            raise Failure(f"what a reply tells of a failover is not all there is to it: {failover}")


def stream(model, house, swarm):
    """One reply that is being written while its servers fail."""
    case, story = most_varied(model), Story(swarm)
    whole = "".join(case["pieces"])
    ends = [len("".join(case["pieces"][:count])) for count in range(len(case["pieces"]) + 1)]
    text = ""
    for text in house.stream(case["prompt"], len(case["pieces"])):
        if not (whole + "\n").startswith(text):
            raise Failure(f"{text[-40:]!r} is not how the reply goes on, after {', '.join(story.told)}")
        story.tokens(sum(end <= len(text) for end in ends) - 1)
    if text.rstrip("\n") != whole:
        raise Failure(f"{len(text)} of {len(whole)} characters came")
    return story.end()


def no_route(model, house, swarm):
    """The only server of the last blocks goes away in mid-session: a typed error that names them, in time."""
    case = most_varied(model)
    with house.serve() as server:
        session = server.open(512)
        said = ""
        for nth in range(6):
            answer, _ = server.say(session, None if nth else case["prompt"], 1)
            said += answer.get("outputs", "")
        if said != "".join(case["pieces"][:6]):
            raise Failure(f"before the fault: {answer}")
        swarm.signal(swarm.in_use(3), signal.SIGKILL)
        begun = time.monotonic()
        answer, _ = server.say(session, None, 1)
        waited = time.monotonic() - begun
        check_words(answer.get("traceback", str(answer)), waited)
    done = house.run("generate", "--json", "--max-new-tokens", 4, "--prompt", "Hello")
    if done.returncode == 0:
        raise Failure("`corolla generate` succeeded without a route")
    check_words(done.stderr, 0)
    return f"after {waited:.1f} s: {answer['traceback'][:100]}"


def check_words(said, waited):
    if waited > NO_ROUTE_SECONDS:
        raise Failure(f"the error came after {waited:.0f} s: {said}")
    if not re.search(r"\b2\b\D{1,5}\b[34]\b", said):
        raise Failure(f"the error does not name blocks 2 and 3: {said.strip()[-300:]}")
