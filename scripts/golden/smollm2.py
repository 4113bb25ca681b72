"""Writes what llama.cpp says about the small chat model: smollm2.py MODEL.gguf OUTDIR

Needs llama-cpp-python 0.3.36 (see README.md). One thread, f32 cache, no flash attention, no repacked weights, so that a run
repeats itself exactly, on other processors too as far as their vector width allows.
"""
import hashlib
import json
import pathlib
import platform
import sys

import llama_cpp
import numpy
from jinja2.sandbox import ImmutableSandboxedEnvironment

NEW_TOKENS = 64
# Chosen so that an f32 computation is never nearer to a tie than 0.02 (smollm2_f32.py); where it leaves llama.cpp, `top5` shows why.
PROMPTS = [
    ("capital", "The capital of France is"),
    ("accents", "Le café de la gare était fermé, mais l'hôtel à côté"),
    ("poem", "Roses are red,\nViolets are blue,\n"),
    ("python", "import numpy as np\n\ndef softmax(x):\n"),
    ("list", "Three things to know about bees:\n1."),
]
CHATS = [
    ("chat sky", [{"role": "user", "content": "Why is the sky blue?"}]),
    ("chat haiku", [{"role": "user", "content": "Write a haiku about rain."}]),
    ("chat emoji", [{"role": "user", "content": "What does 😀 mean?"}]),
    ("chat translate", [{"role": "user", "content": "Translate to French: Good morning, my friend."}]),
    ("chat recipe", [
        {"role": "system", "content": "You are a cook. Answer in two sentences."},
        {"role": "user", "content": "How do I boil an egg?"},
    ]),
]
# Rendered only, not continued.
LONGER_CHATS = [
    ("turns", [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada! How can I help you today?"},
        {"role": "user", "content": "What is my name?"},
    ]),
    ("marks", [
        {"role": "system", "content": ""},
        {"role": "user", "content": "  <b>\"1\" & '2'</b>\n"},
        {"role": "assistant", "content": "<|im_end|> {{ no }}"},
        {"role": "user", "content": "Ça va ? 😀"},
    ]),
]
TEXTS = [
    "", "a", " ", "Hello world", " Hello  world ", "HELLO\tworld\r\n\r\n  next\n\n\n", "    indented\n\tand tabbed\n        more",
    "don't we'll I'm they've DON'T", "1 12 123 1234 12345 3.14159 1,000,000 0x1F 2026-11-22", "١٢٣ ½ ² Ⅷ",
    "naïve café Ångström Straße œuvre", "cafe\u0301 vs café", "😀 👍🏽 👩‍👩‍👧‍👦 🇫🇷", "日本語のテキスト、中文文本。한국어 텍스트", "Привет, мир! Γειά σου Κόσμε",
    "مرحبا بالعالم שלום עולם", "ไทย हिन्दी", "def f(x):\n    return {k: v**2 for k, v in x.items() if k != 'a'}\n",
    "if (a && b || !c) { i++; } // end\n#include <stdio.h>\n", "https://example.org/path?q=1&r=%20#top", "e = mc² ≈ ∑∫√∞ → ≠",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", "text <|endoftext|> text", "<|im_start", "< | im_end | >",
    "\u00a0non\u2003breaking\u200bspaces\ufeff", "\x00\x07\x1b[0m", "x" * 70, "ab " * 30, "....!!!???---___***", "\U0010ffff\ue000 private",
    "Supercalifragilisticexpialidocious antidisestablishmentarianism", "line one\nline two\n\nline four\n",
]


def rendered(model, messages):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(model.metadata["tokenizer.chat_template"])
    return template.render(messages=messages, add_generation_prompt=True, bos_token="<|im_start|>", eos_token="<|im_end|>")


def last_logits(model):
    row = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return numpy.ctypeslib.as_array(row, shape=(model.n_vocab(),)).copy()


def greedy(model, ids):
    model.reset()
    model.eval(ids)
    new, top5 = [], []
    for _ in range(NEW_TOKENS):
        logits = last_logits(model)
        best = numpy.argsort(-logits, kind="stable")[:5].tolist()
        top5.append([[token, round(float(logits[token]), 5)] for token in best])
        new.append(best[0])
        model.eval([best[0]])
    return new, top5


def made_with():
    features = llama_cpp.llama_print_system_info().decode()
    return {
        "script": "scripts/golden/smollm2.py", "python": platform.python_version(), "llama-cpp-python": llama_cpp.__version__,
        "features": [part.split("=")[0].strip(" :") for part in features.removeprefix("CPU : ").split("|") if part.strip()],
        "settings": "n_threads 1, f32 cache, no flash attention, no extra buffer types, prompt in one batch",
    }


def load(path):
    f32 = 0
    parameters = llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = False
    llama_cpp.llama_cpp.llama_model_default_params = lambda: parameters
    return llama_cpp.Llama(
        str(path), n_ctx=1024, n_batch=1024, n_ubatch=1024, n_threads=1, n_threads_batch=1, type_k=f32, type_v=f32, flash_attn=False,
        verbose=False,
    )


def generations(model):
    for name, prompt, messages in [(n, p, None) for n, p in PROMPTS] + [(n, rendered(model, m), m) for n, m in CHATS]:
        ids = model.tokenize(prompt.encode(), add_bos=False, special=True)
        new, top5 = greedy(model, ids)
        case = {"name": name, "prompt": prompt, "prompt_ids": ids, "new_ids": new}
        if messages:
            case["messages"] = messages
        yield case | {"text": model.detokenize(new, special=True).decode("utf8", "replace"), "top5": json.dumps(top5)}


def tokenizations(model):
    for text in TEXTS:
        ids = model.tokenize(text.encode(), add_bos=False, special=True)
        plain = model.tokenize(text.encode(), add_bos=False, special=False)
        yield {"text": text, "ids": ids} | ({"plain_ids": plain} if plain != ids else {})


def renderings(model):
    for name, messages in CHATS + LONGER_CHATS:
        prompt = rendered(model, messages)
        yield {"name": name, "messages": messages, "prompt": prompt, "ids": model.tokenize(prompt.encode(), add_bos=False, special=True)}


def lines(cases):
    """One line for each field of each case."""
    for case in cases:
        fields = [f'"{key}": {value if key == "top5" else json.dumps(value, ensure_ascii=False)}' for key, value in case.items()]
        yield "  {\n   " + ",\n   ".join(fields) + "\n  }"


def write(path, head, cases):
    fields = [f' "{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in head.items()]
    path.write_text("{\n" + ",\n".join(fields) + ',\n "cases": [\n' + ",\n".join(lines(cases)) + "\n ]\n}\n", encoding="utf8")


def main():
    path, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    model = load(path)
    head = {"made_with": made_with(), "model": path.name, "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    write(out / "smollm2.json", head | {"decoding": "greedy by largest logit, end of text ignored"}, generations(model))
    write(out / "smollm2-tokens.json", head, tokenizations(model))
    write(out / "smollm2-chat.json", head, renderings(model))


if __name__ == "__main__":
    main()
