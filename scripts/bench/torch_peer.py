"""Greedy decoding with Python torch, one run as one JSON line: torch_peer.py MODEL THREADS PROMPT_TOKENS NEW_TOKENS

f32, with a KV cache, transformers' own model; as in its generate(), only the last position of the prompt goes through the head. A short run
before the measured one reads all weights and starts the threads. The first new token belongs to the prefill; end tokens do not end it.
"""
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402


def prompt(tokens):
    return [3 + (i * 7919) % 1000 for i in range(tokens)]


def decode(model, ids, new_tokens):
    """(seconds of the prefill, seconds of the rest, new ids)"""
    marks, new, cache, step = [time.perf_counter()], [], None, torch.tensor([ids])
    while len(new) < new_tokens:
        answer = model(step, cache=cache, use_cache=True, logits_to_keep=1)
        cache, step = answer.cache, answer.logits[:, -1:].argmax(-1)
        new.append(step.item())
        marks.append(time.perf_counter())
    return marks[1] - marks[0], marks[-1] - marks[1], new


def main():
    threads, prompt_tokens, new_tokens = map(int, sys.argv[2:5])
    if prompt_tokens < 1 or new_tokens < 2:
        sys.exit("at least one token of prompt and two new ones are needed")
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    with torch.no_grad():
        decode(model, prompt(4), 2)
        prefill_s, rest_s, ids = decode(model, prompt(prompt_tokens), new_tokens)
    print(json.dumps({
        "prefill_s": round(prefill_s, 4), "decode_tokens_per_s": round((new_tokens - 1) / rest_s, 2), "ids": ids,
        "torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads(),
    }))


if __name__ == "__main__":
    main()
