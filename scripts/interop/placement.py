"""What the stock server of Petals says of made-up swarms: which blocks one that comes takes, and whether one that is there moves.

    sh scripts/interop/install.sh
    ~/.cache/corolla/petals-reference/bin/python scripts/interop/placement.py > tests/fixtures/golden/placement.txt

A line is a swarm: blocks of the model, the balance quality asked for, servers as name:first:end:throughput (the first of them is asked),
how many blocks one that comes wants and where it begins, and `move` or `stay`. The order in which the rule imagines the others to move
is left to chance in Petals; here it is that of their names.
"""
import logging
import random
import signal

import node

node.give_back_names()

import numpy  # noqa: E402
from petals.data_structures import RemoteModuleInfo, ServerInfo, ServerState  # noqa: E402
from petals.server import block_selection  # noqa: E402

SWARMS = 400


def in_order(names):
    names.sort()


def too_long(*_):
    raise TimeoutError


def infos(blocks, servers):
    """The swarm as the DHT has it."""
    found = [RemoteModuleInfo(uid=f"m.{block}", servers={}) for block in range(blocks)]
    for name, (start, end, throughput) in servers.items():
        for block in range(start, end):
            found[block].servers[name] = ServerInfo(ServerState.ONLINE, throughput, start_block=start, end_block=end)
    return found


def swarm(chance):
    """Half of them as servers would come one by one, half anyhow."""
    blocks = chance.choice([2, 3, 4, 6, 8, 12, 24])
    servers, orderly = {}, chance.random() < 0.5
    for nth in range(chance.randint(1, 12)):
        length = chance.randint(1, max(1, blocks - 1))
        start = chance.randint(0, blocks - length)
        if orderly:
            start = block_selection.choose_best_blocks(length, infos(blocks, servers))[0]
        throughput = chance.choice([1.0, 2.5, round(chance.uniform(0.1, 100.0), 3), chance.uniform(0.1, 100.0)])
        servers[f"{chance.randrange(16**6):06x}{nth}"] = (start, start + length, throughput)
    if orderly and len(servers) > 2 and chance.random() < 0.7:  # some have gone since
        for name in chance.sample(sorted(servers), chance.randint(1, len(servers) // 2)):
            del servers[name]
    return blocks, servers


def main():
    logging.disable(logging.CRITICAL)
    numpy.random.shuffle = in_order
    signal.signal(signal.SIGALRM, too_long)
    chance = random.Random(7)
    written = 0
    while written < SWARMS:
        blocks, servers = swarm(chance)
        own = chance.choice(sorted(servers))
        quality = chance.choice([0.75, 0.75, 0.95, 0.3])
        count = chance.randint(1, blocks)
        first = block_selection.choose_best_blocks(count, infos(blocks, servers))[0]
        signal.alarm(2)
        try:
            moves = block_selection.should_choose_other_blocks(own, infos(blocks, servers), quality)
        except TimeoutError:
            continue  # the reference itself does not come to an end
        finally:
            signal.alarm(0)
        names = [own] + sorted(set(servers) - {own})
        places = " ".join(":".join(map(str, (name, *servers[name]))) for name in names)
        print(blocks, quality, places, f"{count}@{first}", "move" if moves else "stay", sep=" | ")
        written += 1


if __name__ == "__main__":
    main()
