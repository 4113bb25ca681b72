"""Writes what transformers alone says about the models of the reference swarm: golden.py MODELS_DIR OUTFILE"""
import json
import os
import pathlib
import sys

os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"  # AMX kernels end in an illegal instruction on some virtual machines

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import models

NEW_TOKENS = 64
LEAST_MARGIN = 5e-3
LONG = (
    "In the morning the light comes through the window and the kettle sings in the kitchen. A language model reads the words that came "
    "before and guesses the word that comes next. When the rain stopped we walked along the shore and counted the boats. "
)
PROMPTS = [
    "The garden at the end of the road",
    "Hello",
    "A swarm of servers",
    "Where does the river go?",
    "2 + 2 = ",
    "I",
    "def area(radius):\n    return 3.14159 * radius ** 2\n",
    "fn main() { println!(\"{}\", total); }",
    "Où est la crêperie « Chez Zoë » ? Straße 12, naïve café",
    "😀👍🏽 日本語",
    "one, two, three, four, five, six, seven",
    "  two  spaces  and a tab\t",
    "In 1969 two people walked on the Moon.",
    "Dear Sir or Madam,\n\nI am writing",
    "{\"name\": \"value\", \"list\": [1, 2, 3]}",
    "ALL CAPITALS ARE LOUD",
    "The train leaves at 07:35 and arrives at 10:20; a ticket costs 18.40.",
    "El niño soñó con un pingüino",
    LONG,
    LONG * 4,
]
# What is said in the calls of one session, and how many tokens are asked for; None goes on without new words.
SESSIONS = [
    [("The garden at the end of the road", 16), ("Nobody knows why.", 24), (None, 24)],
    [("Good evening!", 1), ("How many people live here?", 31), (None, 1), ("So it is", 31)],
]


def greedy(model, ids, count):
    """Ids with a cache, one at a time, and how far apart the best two were at each."""
    given, past, new, margins = torch.tensor([ids]), None, [], []
    with torch.inference_mode():
        for _ in range(count):
            out = model(given, past_key_values=past, use_cache=True)
            past, best = out.past_key_values, out.logits[0, -1].topk(2)
            margins.append(round((best.values[0] - best.values[1]).item(), 5))
            new.append(best.indices[0].item())
            given = torch.tensor([[new[-1]]])
        logits = model(torch.tensor([ids + new[:-1]])).logits[0, len(ids) - 1 :]
    assert logits.argmax(-1).tolist() == new, "one pass without a cache says otherwise"
    return new, margins


def noise(rough, model, ids, new):
    """How far computing in bf16 moves a logit, at most, at each of the steps."""
    with torch.inference_mode():
        given = torch.tensor([ids + new[:-1]])
        moved = (rough(given).logits.float() - model(given).logits).abs().amax(-1)
    return [round(value, 4) for value in moved[0, len(ids) - 1 :].tolist()]


def logprobs(model, ids):
    """How probable each token of a prompt is after those before it."""
    with torch.inference_mode():
        rows = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    return [round(rows[at, token].item(), 5) for at, token in enumerate(ids[1:])]


def pieces(tokenizer, ids, new):
    """The text that each new token adds."""
    texts = [tokenizer.decode(ids + new[:count], clean_up_tokenization_spaces=False) for count in range(len(new) + 1)]
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:]))
    return [after[len(before) :] for before, after in zip(texts, texts[1:])]


def case(model, rough, tokenizer, prompt):
    ids = tokenizer(prompt).input_ids
    new, margins = greedy(model, ids, NEW_TOKENS)
    return {
        "prompt": prompt, "prompt_ids": ids, "new_ids": new, "pieces": pieces(tokenizer, ids, new), "margins": margins,
        "prompt_logprobs": logprobs(model, ids), "bf16_noise": noise(rough, model, ids, new),
    }


def session(model, tokenizer, script):
    """Later words are encoded without special tokens and follow all that was said."""
    ids, calls = [], []
    for inputs, count in script:
        ids = ids + (tokenizer(inputs, add_special_tokens=not ids).input_ids if inputs else [])
        new, margins = greedy(model, ids, count)
        calls.append({"inputs": inputs, "max_new_tokens": count, "new_ids": new, "pieces": pieces(tokenizer, ids, new), "margins": margins})
        ids = ids + new
    return {"calls": calls}


def golden(folder, name):
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    rough = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    result = {
        "dht_prefix": models.PREFIXES[name],
        "blocks": models.BLOCKS,
        "cases": [case(model, rough, tokenizer, prompt) for prompt in PROMPTS],
        "sessions": [session(model, tokenizer, script) for script in SESSIONS],
    }
    calls = result["cases"] + [call for one in result["sessions"] for call in one["calls"]]
    least = min(min(call["margins"]) for call in calls)
    variety = min(len(set(case["new_ids"])) for case in result["cases"])
    return result, least, variety


def main():
    torch.set_num_threads(1)
    folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    result = {"made_with": {"torch": torch.__version__, "transformers": transformers.__version__}, "models": {}}
    for name in models.MODELS:
        result["models"][name], least, variety = golden(folder / name, name)
        assert least >= LEAST_MARGIN, f"{name}: the best two logits come as near as {least}"
        print(f"{name}: best two logits at least {least} apart, at least {variety} different tokens in a reply")
    out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
