"""What the stock Python client says of a swarm: client.py MODEL_FOLDER PREFIX INITIAL_PEER, with lines of JSON on its standard input.

Each line is {"ids": [...], "max_new_tokens": N}; the answer, a line too, is {"ids": [...], "seconds": S}, greedy, end of text ignored.
{"steps": N} measures N one-token steps through all blocks, without embeddings and logits: {"steps_per_s": R, "p50_ms": T}.
hivemind leaves processes behind: this one leads a group of its own, and ends with it when its standard input closes.
"""
import json
import os
import signal
import statistics
import sys
import time

import node  # noqa: F401  (makes hivemind fit petals, and keeps both on this machine)

import psutil
import torch
from petals import AutoDistributedModelForCausalLM


def generate(model, ids, max_new_tokens):
    begun = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(torch.tensor([ids]), max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    return {"ids": out[0, len(ids) :].tolist(), "seconds": round(time.perf_counter() - begun, 3)}


def speed(model, steps):
    times = []
    with torch.inference_mode(), model.transformer.h.inference_session(max_length=steps + 32) as session:
        state = torch.randn(1, 1, model.config.hidden_size)
        for _ in range(steps + 20):
            begun = time.perf_counter()
            session.step(state)
            times.append(time.perf_counter() - begun)
    times = times[20:]
    return {"steps_per_s": round(steps / sum(times), 1), "p50_ms": round(1000 * statistics.median(times), 2)}


def main():
    folder, prefix, peer = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    model = AutoDistributedModelForCausalLM.from_pretrained(
        folder, initial_peers=[peer], dht_prefix=prefix, torch_dtype=torch.float32, show_route=False
    )
    for line in sys.stdin:
        asked = json.loads(line)
        answer = speed(model, asked["steps"]) if "steps" in asked else generate(model, **asked)
        print(json.dumps(answer), file=answers, flush=True)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
