"""What the stock Python client says of a swarm: client.py MODEL_FOLDER PREFIX INITIAL_PEER, with lines of JSON on its standard input.

Each line is {"ids": [...], "max_new_tokens": N}; the answer, a line too, is {"ids": [...], "seconds": S}, greedy, end of text ignored.
{"steps": N} measures N one-token steps through all blocks, without embeddings and logits: {"steps_per_s": R, "p50_ms": T}.
{"talk": [N, ...], "ids": [...]} generates in one session of several calls, {"beams": N, "ids": [...], "max_new_tokens": M} by beam search, each
beside transformers alone: {"ids": [...], "wanted": [...]}.
{"states": [...ids...]} runs all blocks over a prompt without a cache, beside transformers alone: {"apart": D}, as a part of the largest number.
{"tune": "ptune" or "deep_ptune", "rows": [[...ids...], ...], "length": N, "steps": M} trains N prompts on those rows, beside transformers alone
with the same prompts at every step: {"losses": [...], "loss_apart": D, "grads_apart": D}, both as parts, the worst of all steps.
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
    layers = layers_of(alone())
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


def layers_of(alone):
    return alone.transformer.h if hasattr(alone, "transformer") else alone.model.layers


def logits_alone(alone, ids, prompt, deep):
    """What the model says after `prompt`, [positions, width], with `deep` prompts, [positions, blocks * width] or None, before each block."""
    count, blocks = len(prompt), layers_of(alone)
    embeds = torch.cat([prompt.expand(len(ids), -1, -1), alone.get_input_embeddings()(ids)], dim=1)

    def before(nth):
        added = deep.view(count, len(blocks), -1)[:, nth]

        def add(_, args, kwargs):
            states = args[0] if args else kwargs.pop("hidden_states")
            return (torch.cat([states[:, :count] + added, states[:, count:]], dim=1), *args[1:]), kwargs

        return add

    hooks = [block.register_forward_pre_hook(before(nth), with_kwargs=True) for nth, block in enumerate(blocks) if deep is not None]
    logits = alone(inputs_embeds=embeds).logits[:, count:]
    for hook in hooks:
        hook.remove()
    return logits


def loss_of(logits, ids):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def tune(swarm, alone, tune, rows, length, steps):
    """Prompt tuning as the authors' notebooks do it: weights in the swarm are frozen, prompts are the client's own."""
    torch.manual_seed(7)
    folder, prefix, peer = swarm
    model = AutoDistributedModelForCausalLM.from_pretrained(
        folder, initial_peers=[peer], dht_prefix=prefix, torch_dtype=torch.float32, show_route=False, max_retries=2, tuning_mode=tune,
        pre_seq_len=length,
    )
    ids, losses, loss_apart, grads_apart = torch.tensor(rows), [], 0.0, 0.0
    trained = [parameter for _, parameter in sorted(model.named_parameters()) if parameter.requires_grad]
    if len(trained) != 1 + (tune == "deep_ptune"):
        raise ValueError(f"{len(trained)} parameters are trained")
    optimizer = torch.optim.Adam(trained, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model(ids).logits, ids)
        loss.backward()
        # In order of their names: deep prompts stand before those that enter the first block.
        mine = [parameter.detach().clone().requires_grad_() for parameter in trained]
        wanted = loss_of(logits_alone(alone(), ids, mine[-1], mine[0] if len(mine) > 1 else None), ids)
        wanted.backward()
        losses.append(loss.item())
        loss_apart = max(loss_apart, abs(loss.item() / wanted.item() - 1))
        for parameter, other in zip(trained, mine):
            grads_apart = max(grads_apart, ((parameter.grad - other.grad).abs().max() / other.grad.abs().max()).item())
        optimizer.step()
    return {"losses": losses, "loss_apart": loss_apart, "grads_apart": grads_apart}


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
        if "tune" in asked:
            answer = tune((folder, prefix, peer), alone, **asked)
        elif "steps" in asked:
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
