"""Makes a model of a real one's shape with seeded random weights, to measure speed with: shape_model.py OUT bloom-560m|tiny|llama-1.1b

All are in f16, as BLOOM-560m is published (2 bytes for each of its 559 million parameters); the Llama has TinyLlama's shape.

Every token is a word, `t7` is token 7, so that a prompt's text spells its token ids: "t3 t922 t841" is [3, 922, 841].
Needs numpy and safetensors.
"""
import json
import pathlib
import sys

import numpy
from safetensors.numpy import save_file

SHAPES = {  # n_layer, hidden_size, n_head, vocab_size
    "bloom-560m": (24, 1024, 16, 250880),
    "tiny": (4, 64, 8, 2048),
}
LLAMAS = {  # layers, hidden_size, intermediate_size, heads, heads with keys and values, vocab_size
    "llama-1.1b": (22, 2048, 5632, 32, 4, 32000),
}
SEED, GAIN, EMBEDDING = 1, 3.5, 0.05  # a gain above one keeps a token's own embedding, which is the head as well, from winning every time
SPECIAL = ["<unk>", "<s>", "</s>"]


def weights(blocks, hidden, vocab):
    """Matrices keep the size of what they carry (times GAIN), norms stay near one, biases near zero."""
    generator = numpy.random.default_rng(SEED)

    def noise(*shape):
        return generator.standard_normal(shape, dtype=numpy.float32)

    def norm(name):
        yield f"{name}.weight", 1 + noise(hidden) * numpy.float32(0.1)
        yield f"{name}.bias", noise(hidden) * numpy.float32(0.1)

    def linear(name, rows, columns):
        yield f"{name}.weight", noise(rows, columns) * numpy.float32(GAIN / columns**0.5)
        yield f"{name}.bias", noise(rows) * numpy.float32(0.1)

    yield "word_embeddings.weight", noise(vocab, hidden) * numpy.float32(EMBEDDING)
    yield from norm("word_embeddings_layernorm")
    for block in range(blocks):
        yield from norm(f"h.{block}.input_layernorm")
        yield from linear(f"h.{block}.self_attention.query_key_value", 3 * hidden, hidden)
        yield from linear(f"h.{block}.self_attention.dense", hidden, hidden)
        yield from norm(f"h.{block}.post_attention_layernorm")
        yield from linear(f"h.{block}.mlp.dense_h_to_4h", 4 * hidden, hidden)
        yield from linear(f"h.{block}.mlp.dense_4h_to_h", hidden, 4 * hidden)
    yield from norm("ln_f")


def llama_weights(blocks, hidden, inner, heads, kv, vocab):
    """Each matrix keeps the size of what it carries, norms are one."""
    generator = numpy.random.default_rng(SEED)

    def matrix(name, rows, columns):
        yield f"{name}.weight", (generator.standard_normal((rows, columns), dtype=numpy.float32) / columns**0.5)

    def norm(name):
        yield f"{name}.weight", numpy.ones(hidden, numpy.float32)

    yield from matrix("model.embed_tokens", vocab, hidden)
    yield from matrix("lm_head", vocab, hidden)
    yield from norm("model.norm")
    for block in range(blocks):
        layer = f"model.layers.{block}"
        yield from norm(f"{layer}.input_layernorm")
        yield from norm(f"{layer}.post_attention_layernorm")
        for name, rows in ("q", hidden), ("k", hidden // heads * kv), ("v", hidden // heads * kv), ("o", hidden):
            yield from matrix(f"{layer}.self_attn.{name}_proj", rows, hidden)
        for name, rows, columns in ("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner):
            yield from matrix(f"{layer}.mlp.{name}_proj", rows, columns)


def llama_config(blocks, hidden, inner, heads, kv, vocab):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": blocks, "num_attention_heads": heads, "num_key_value_heads": kv,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048, "vocab_size": vocab,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    }


def config(blocks, hidden, heads, vocab):
    return {
        "architectures": ["BloomForCausalLM"], "model_type": "bloom", "torch_dtype": "float16",
        "n_layer": blocks, "hidden_size": hidden, "n_head": heads, "vocab_size": vocab, "seq_length": 2048,
        "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "hidden_dropout": 0.0, "layer_norm_epsilon": 1e-5,
        "slow_but_exact": False, "pretraining_tp": 1, "use_cache": True,
        "unk_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    }


def tokenizer(vocab):
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    words = SPECIAL + [f"▁t{id}" for id in range(len(SPECIAL), vocab)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": id, "content": token} | flags for id, token in enumerate(SPECIAL)],
        "pre_tokenizer": spaces, "decoder": spaces,
        "model": {"type": "WordLevel", "unk_token": SPECIAL[0], "vocab": {word: id for id, word in enumerate(words)}},
    }


def main():
    out, shape = pathlib.Path(sys.argv[1]), sys.argv[2]
    out.mkdir(parents=True, exist_ok=True)
    sizes = LLAMAS.get(shape) or SHAPES[shape]
    vocab = sizes[-1]
    files = {
        "config.json": llama_config(*sizes) if shape in LLAMAS else config(*sizes),
        "tokenizer.json": tokenizer(vocab),
        "tokenizer_config.json": {"unk_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2]},
    }
    for name, contents in files.items():
        (out / name).write_text(json.dumps(contents, ensure_ascii=False, indent=1) + "\n", encoding="utf8")
    made = llama_weights(*sizes) if shape in LLAMAS else weights(sizes[0], sizes[1], vocab)
    tensors = {name: numbers.astype(numpy.float16) for name, numbers in made}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    print(f"{out}: {sum(tensor.size for tensor in tensors.values())} parameters")


if __name__ == "__main__":
    main()
