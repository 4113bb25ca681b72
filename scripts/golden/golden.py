"""Writes what transformers says about the tiny checkpoints, computed in f32: golden.py MODELS_DIR OUTDIR [NAME...]"""
import json
import pathlib
import platform
import sys

import numpy
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 64
LEAST_MARGIN = 1e-2
PROMPTS = {
    "ascii": "The garden at the end of the road",
    "accents and emoji": "Où est la crêperie « Chez Zoë » ? Straße 12, naïve café… 😀👍🏽 日本語",
    "code": "def area(radius):\n    if radius < 0:\n        raise ValueError(\"radius\")\n    return 3.14159 * radius ** 2\n",
    "long": (
        "In the morning the light comes through the window and the kettle sings in the kitchen. A language model reads the words that came "
        "before and guesses the word that comes next. When the rain stopped we walked along the shore and counted the boats: one, two, "
        "three, four, five, six, seven. How many people live here? About 1200 in winter and 4500 in summer, says the old teacher."
    ),
    "one token": {"tiny-bloom": "A", "tiny-llama": "", "tiny-llama3": ""},
}
CONVERSATIONS = {
    "one question": [{"role": "user", "content": "Where does the river go?"}],
    "system and three turns": [
        {"role": "system", "content": "  You are brief. \n"},
        {"role": "user", "content": "Good morning!"},
        {"role": "assistant", "content": " Good morning. "},
        {"role": "user", "content": "How many boats?\n"},
    ],
    "marks that must not be escaped": [
        {"role": "user", "content": "Is <b>1 & 2</b> \"bold\"? {{ no }} {% set %} 'ça' 😀"},
        {"role": "assistant", "content": "Yes: <b>\n\n\tand more"},
        {"role": "user", "content": "Thanks </s> [/ASK]"},
    ],
    "nothing to answer": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}],
    "wrong order": [{"role": "user", "content": "Hello"}, {"role": "user", "content": "Hello?"}],
}


def plain(tensor):
    """Nested lists of the shortest decimals that read back as the same f32."""
    if tensor.ndim == 0:
        return float(str(numpy.float32(tensor.item())))
    return [plain(row) for row in tensor]


def greedy(model, ids):
    """64 tokens with a cache, one at a time; logits of the last prompt position; the closest that the best two ever were."""
    given, past, new, margins, first = torch.tensor([ids]), None, [], [], None
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            out = model(given, past_key_values=past, use_cache=True)
            logits, past = out.logits[0, -1], out.past_key_values
            first = logits if first is None else first
            best = logits.topk(2)
            margins.append((best.values[0] - best.values[1]).item())
            new.append(best.indices[0].item())
            given = torch.tensor([[new[-1]]])
    return new, first, min(margins)


def at_once(model, ids, new):
    """The same tokens from one pass without a cache; the logits must agree with the steps."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids + new[:-1]])).logits[0, len(ids) - 1 :]
    assert logits.argmax(-1).tolist() == new


def hidden(model, ids):
    """What flows between embeddings, blocks and final norm, seen from outside by hooks."""
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    norm = model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm
    seen = {}
    hooks = [
        blocks[0].register_forward_pre_hook(lambda _, given: seen.update(embeddings=given[0])),
        blocks[0].register_forward_hook(lambda _, given, out: seen.update(block_0=out[0])),
        norm.register_forward_pre_hook(lambda _, given: seen.update(last_block=given[0])),
        norm.register_forward_hook(lambda _, given, out: seen.update(normed=out)),
    ]
    with torch.inference_mode():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return {name: plain(seen[name][0]) for name in ("embeddings", "block_0", "last_block", "normed")}


def chat(tokenizer):
    for name, messages in CONVERSATIONS.items():
        case = {"name": name, "messages": messages, "add_generation_prompt": name != "nothing to answer"}
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=case["add_generation_prompt"])
            ids = tokenizer(text, add_special_tokens=False).input_ids
            yield case | {"text": text, "ids": ids}
        except Exception as error:
            yield case | {"error": str(error)}


def prompts(name):
    for label, prompt in PROMPTS.items():
        yield label, prompt if isinstance(prompt, str) else prompt[name]


def golden(folder, name):
    model = AutoModelForCausalLM.from_pretrained(folder / name, torch_dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / name)
    cases = []
    for label, prompt in prompts(name):
        ids = tokenizer(prompt).input_ids
        new, logits, margin = greedy(model, ids)
        at_once(model, ids, new)
        assert margin >= LEAST_MARGIN, (name, label, margin)
        text = tokenizer.decode(new, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        cases.append({
            "name": label, "prompt": prompt, "prompt_ids": ids, "new_ids": new, "text": text, "min_top2_margin": margin,
            "last_logits": plain(logits),
        })
    probe = {"case": cases[0]["name"], "ids": cases[0]["prompt_ids"], **hidden(model, cases[0]["prompt_ids"])}
    result = {"made_with": made_with(), "model": name, "decoding": "greedy, end of text ignored, f32", "cases": cases, "hidden": probe}
    if tokenizer.chat_template:
        result["chat"] = list(chat(tokenizer))
    return result


def made_with():
    return {
        "script": "scripts/golden/golden.py", "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write(path, value):
    """JSON with a line for each leaf list, so that a change shows where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(layout(value) + "\n", encoding="utf8")


def layout(value, indent=""):
    flat = json.dumps(value, ensure_ascii=False)
    nested = isinstance(value, (dict, list)) and any(isinstance(inner, (dict, list)) for inner in (value.values() if isinstance(value, dict) else value))
    if not nested and not (isinstance(value, dict) and len(flat) > 140):
        return flat
    deeper = indent + " "
    if isinstance(value, dict):
        inner = [f"{deeper}{json.dumps(key, ensure_ascii=False)}: {layout(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + layout(item, deeper) for item in value) + f"\n{indent}]"


def main():
    torch.set_num_threads(1)
    folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for name in sys.argv[3:] or ("tiny-bloom", "tiny-llama", "tiny-llama3"):
        result = golden(folder, name)
        write(out / f"{name}.json", result)
        print(name, "smallest margin", min(case["min_top2_margin"] for case in result["cases"]))


if __name__ == "__main__":
    main()
