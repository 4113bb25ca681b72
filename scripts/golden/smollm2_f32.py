"""Writes what transformers says about the small chat model when its 4-bit weights are widened to f32: smollm2_f32.py MODEL.gguf GOLDEN_DIR

Continues the prompts of smollm2.json (made by smollm2.py before), so that rounding of activations in llama.cpp can be told from mistakes.
"""
import json
import pathlib
import sys

import gguf
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import golden

NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def field(reader, name):
    return reader.fields[name].contents()


def halves(weight, heads):
    """Rotary pairs from neighbours (llama.cpp) to halves of a head (transformers)."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def load(path):
    reader = gguf.GGUFReader(path)
    heads, groups = field(reader, "llama.attention.head_count"), field(reader, "llama.attention.head_count_kv")
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type)).float()
        if tensor.name in TOP:
            state[TOP[tensor.name]] = weight
            continue
        _, block, kind, _ = tensor.name.split(".")
        if kind in ("attn_q", "attn_k"):
            weight = halves(weight, heads if kind == "attn_q" else groups)
        state[f"model.layers.{block}.{NAMES[kind]}.weight"] = weight
    vocab, hidden = state["model.embed_tokens.weight"].shape
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"), num_attention_heads=heads, num_key_value_heads=groups,
        max_position_embeddings=field(reader, "llama.context_length"), tie_word_embeddings=True,
        rms_norm_eps=float(field(reader, "llama.attention.layer_norm_rms_epsilon")), rope_theta=float(field(reader, "llama.rope.freq_base")),
    )
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state)
    return model


def main():
    path, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    torch.set_num_threads(1)
    model = load(path)
    llama_cpp = json.loads((folder / "smollm2.json").read_text(encoding="utf8"))
    cases = []
    for case in llama_cpp["cases"]:
        new, logits, margin = golden.greedy(model, case["prompt_ids"])
        same = next((step for step, (ours, theirs) in enumerate(zip(new, case["new_ids"])) if ours != theirs), len(new))
        values, ids = logits.topk(16)
        cases.append({
            "name": case["name"], "prompt_ids": case["prompt_ids"], "new_ids": new, "min_top2_margin": golden.plain(torch.tensor(margin)),
            "same_as_llama_cpp": same, "last_logits_top16": [[int(token), golden.plain(value)] for token, value in zip(ids, values)],
        })
        print(case["name"], "smallest margin", margin, "same as llama.cpp for", same)
    head = {"made_with": golden.made_with() | {"script": "scripts/golden/smollm2_f32.py"}, "model_sha256": llama_cpp["model_sha256"]}
    golden.write(folder / "smollm2-f32.json", head | {"decoding": "greedy, end of text ignored, f32", "cases": cases})


if __name__ == "__main__":
    main()
