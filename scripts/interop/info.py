"""What servers say of themselves at this moment: info.py INITIAL_PEER, with lines of JSON on its standard input.

Each line is {"peers": [IDS]}; the answer, a line too, is {"free": {ID: cache_tokens_available}}, in the server's own count.
Ends with its daemon when its standard input closes.
"""
import asyncio
import json
import os
import signal
import sys
import traceback

import node  # noqa: F401  (makes hivemind fit petals, and keeps both on this machine)

from hivemind import P2P, MSGPackSerializer, PeerID
from hivemind.proto import runtime_pb2
from petals.server.handler import CACHE_TOKENS_AVAILABLE, TransformerConnectionHandler

PATIENCE = 30  # seconds for one answer


async def free(p2p, peer):
    stub = TransformerConnectionHandler.get_stub(p2p, PeerID.from_base58(peer))
    said = await asyncio.wait_for(stub.rpc_info(runtime_pb2.ExpertUID()), PATIENCE)
    return MSGPackSerializer.loads(said.serialized_info)[CACHE_TOKENS_AVAILABLE]


async def answer_all(answers, initial):
    p2p = await P2P.create(initial_peers=[initial], dht_mode="client")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        peers = json.loads(line)["peers"]
        said = await asyncio.gather(*(free(p2p, peer) for peer in peers))
        print(json.dumps({"free": dict(zip(peers, said))}), file=answers, flush=True)


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    try:
        asyncio.run(answer_all(answers, sys.argv[1]))
    except BaseException:
        traceback.print_exc()
    finally:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
