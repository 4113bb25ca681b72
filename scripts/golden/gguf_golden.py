"""Makes the tiny GGUF files and their golden file, and compares transformers with llama.cpp on them: gguf_golden.py MODELS_DIR GOLDEN_DIR

llama.cpp reads F32 copies in a scratch folder: over F16 matrices it rounds activations to f16 too.
"""
import pathlib
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import golden
import smollm2
import to_gguf

# file, checkpoint, type, blocks: small enough to be committed
FILES = [("tiny-llama.f16.gguf", "tiny-llama", "F16", 3), ("tiny-bloom-1.f16.gguf", "tiny-bloom", "F16", 1)]


def as_stored(folder, kind, blocks):
    """The checkpoint with matrices rounded as the file stores them, and only its first blocks."""
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    inner = model.transformer if hasattr(model, "transformer") else model.model
    stack = "h" if hasattr(inner, "h") else "layers"
    setattr(inner, stack, getattr(inner, stack)[:blocks])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and kind == "F16":
                parameter.copy_(parameter.half())
    return model


def generations(model, tokenizer, name):
    for label, prompt in golden.prompts(name):
        ids = tokenizer(prompt).input_ids
        new, logits, margin = golden.greedy(model, ids)
        assert margin >= 1e-3, (name, label, margin)
        yield {
            "name": label, "prompt": prompt, "prompt_ids": ids, "new_ids": new, "min_top2_margin": golden.plain(torch.tensor(margin)),
            "last_logits": golden.plain(logits),
        }


def against_llama_cpp(path, cases):
    theirs = smollm2.load(path)
    for case in cases:
        ids = theirs.tokenize(case["prompt"].encode(), add_bos=True, special=False)
        if ids != case["prompt_ids"]:
            print(f"  {case['name']}: llama.cpp tokenizes differently: {ids} instead of {case['prompt_ids']}")
        theirs.reset()
        theirs.eval(case["prompt_ids"])
        difference = abs(smollm2.last_logits(theirs) - torch.tensor(case["last_logits"]).numpy()).max()
        new, _ = smollm2.greedy(theirs, case["prompt_ids"])
        same = next((step for step, pair in enumerate(zip(new, case["new_ids"])) if pair[0] != pair[1]), len(new))
        print(f"  {case['name']}: {same} of {len(new)} ids the same, logits within {difference:.1e}, least margin {case['min_top2_margin']:.4f}")


def main():
    models, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    torch.set_num_threads(1)
    files = []
    with tempfile.TemporaryDirectory() as scratch:
        for file, name, kind, blocks in FILES:
            to_gguf.convert(models / name, models / file, kind, blocks)
            model = as_stored(models / name, kind, blocks)
            cases = list(generations(model, AutoTokenizer.from_pretrained(models / name), name))
            files.append({"file": file, "checkpoint": name, "matrices": kind, "blocks": blocks, "cases": cases})
        for name in ("tiny-bloom", "tiny-llama", "tiny-llama3"):
            copy = pathlib.Path(scratch, f"{name}.gguf")
            to_gguf.convert(models / name, copy)
            model = as_stored(models / name, "F32", None)
            print(name)
            against_llama_cpp(copy, generations(model, AutoTokenizer.from_pretrained(models / name), name))
        for entry in files:
            print(entry["file"])
            against_llama_cpp(models / entry["file"], entry["cases"])
    golden.write(out / "gguf.json", {"made_with": golden.made_with() | {"script": "scripts/golden/gguf_golden.py"}, "files": files})


if __name__ == "__main__":
    main()
