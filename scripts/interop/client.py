"""What the stock Python client says of a swarm: client.py MODEL_FOLDER PREFIX INITIAL_PEER, with lines of JSON on its standard input.

Each line is {"ids": [...], "max_new_tokens": N}; the answer, a line too, is {"ids": [...], "seconds": S}, greedy, end of text ignored.
{"steps": N} measures N one-token steps through all blocks, without embeddings and logits: {"steps_per_s": R, "p50_ms": T}.
{"talk": [N, ...], "ids": [...]} generates in one session of several calls, {"beams": N, "ids": [...], "max_new_tokens": M} by beam search, each
beside transformers alone: {"ids": [...], "wanted": [...]}.
{"states": [...ids...]} runs all blocks over a prompt without a cache, beside transformers alone: {"apart": D}, as a part of the largest number.
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


class Alone:
    """The same model in transformers; loaded when it is asked for the first time."""

    def __init__(self, folder):
        self.folder, self.model = folder, None

    def __call__(self):
        if not self.model:
            from transformers import AutoModelForCausalLM

            self.model = AutoModelForCausalLM.from_pretrained(self.folder, torch_dtype=torch.float32).eval()
        return self.model


def talk(model, alone, ids, talk):
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = []
    with torch.inference_mode(), model.inference_session(max_length=len(ids) + sum(talk) + 1) as session:
        for nth, count in enumerate(talk):
            inputs = torch.tensor([ids]) if nth == 0 else None
            out = model.generate(inputs, max_new_tokens=count, session=session, **settings)
            found += out[0, len(ids) if nth == 0 else 0 :].tolist()
    return {"ids": found, "wanted": generate(alone(), ids, sum(talk))["ids"]}


def beams(model, alone, ids, beams, max_new_tokens):
    settings = {"num_beams": beams, "max_new_tokens": max_new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        found, wanted = (one.generate(torch.tensor([ids]), **settings)[0, len(ids) :].tolist() for one in (model, alone()))
    return {"ids": found, "wanted": wanted}


def states(model, alone, ids):
    seen = {}
    layers = alone().transformer.h if hasattr(alone(), "transformer") else alone().model.layers
    hooks = [
        layers[0].register_forward_pre_hook(lambda _, args, kwargs: seen.update(before=args[0] if args else kwargs["hidden_states"]), with_kwargs=True),
        layers[-1].register_forward_hook(lambda _, args, out: seen.update(after=out[0])),
    ]
    with torch.inference_mode():
        alone()(torch.tensor([ids]))
        for hook in hooks:
            hook.remove()
        apart = (model.transformer.h(seen["before"]) - seen["after"]).abs().max() / seen["after"].abs().max()
    return {"apart": apart.item()}


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
    alone = Alone(folder)
    for line in sys.stdin:
        asked = json.loads(line)
        if "steps" in asked:
            answer = speed(model, asked["steps"])
        elif "talk" in asked:
            answer = talk(model, alone, **asked)
        elif "beams" in asked:
            answer = beams(model, alone, **asked)
        elif "states" in asked:
            answer = states(model, alone, asked["states"])
        else:
            answer = generate(model, **asked)
        print(json.dumps(answer), file=answers, flush=True)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
