#!/usr/bin/env python3
"""GGUF files to measure with: llama_shapes.py FOLDER SMALL_CHAT_MODEL [--large]. Nothing is written that is there already.

The small chat model in other types (rounded again from its Q4_1 file: good for speed, not for quality), 0.6 GB; with --large, models of
seeded random numbers in the shapes of TinyLlama-1.1B, BLOOM-560m and BLOOM-1b7 as well, 13 GB. Rounding is llama.cpp's own.
"""
import ctypes
import pathlib
import sys

import gguf
import llama_cpp
import numpy as np

SEED = 20240607
TYPES = {"BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q4_K_M": 15}  # LLAMA_FTYPE_MOSTLY_*

QUIET = llama_cpp.llama_log_callback(lambda *_: None)  # it would tell of every tensor


def quantise(source, target, kind):
    if target.exists():
        return
    print(f"shapes: making {target.name}", file=sys.stderr, flush=True)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = TYPES[kind], True, 2
    part = target.with_suffix(".part")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), params):
        raise SystemExit(f"llama.cpp could not write {target}")
    part.rename(target)


def numbers(rng, shape, deviation=0.02):
    """bf16 bits of normal numbers, a row at a time so that memory stays small."""
    rows = np.empty(shape, dtype=np.uint16)
    for row in rows:
        row[:] = (rng.standard_normal(shape[1], dtype=np.float32) * np.float32(deviation)).view(np.uint32) >> 16
    return rows


class Writer:
    def __init__(self, path, family, **settings):
        self.path, self.part, self.rng = path, path.with_suffix(".part"), np.random.default_rng(SEED)
        self.file = gguf.GGUFWriter(str(self.part), family)
        for name, value in settings.items():
            getattr(self.file, f"add_{name}")(value)
        self.file.add_tokenizer_model("no_vocab")

    def matrix(self, name, rows, cols):
        bits = numbers(self.rng, (rows, cols))
        self.file.add_tensor(name, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)

    def vector(self, name, length, value):
        self.file.add_tensor(name, np.full(length, value, dtype=np.float32))

    def close(self):
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file()
        self.file.close()
        self.part.rename(self.path)


def llama(path):
    hidden, inner, kv, vocab, blocks = 2048, 5632, 256, 32000, 22
    w = Writer(path, "llama", embedding_length=hidden, feed_forward_length=inner, block_count=blocks, head_count=32, head_count_kv=4,
               context_length=2048, layer_norm_rms_eps=1e-5, vocab_size=vocab, rope_dimension_count=64)
    w.matrix("token_embd.weight", vocab, hidden)
    w.matrix("output.weight", vocab, hidden)
    w.vector("output_norm.weight", hidden, 1)
    for i in range(blocks):
        for name, rows, cols in [("attn_q", hidden, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden), ("attn_output", hidden, hidden),
                                 ("ffn_gate", inner, hidden), ("ffn_up", inner, hidden), ("ffn_down", hidden, inner)]:
            w.matrix(f"blk.{i}.{name}.weight", rows, cols)
        w.vector(f"blk.{i}.attn_norm.weight", hidden, 1)
        w.vector(f"blk.{i}.ffn_norm.weight", hidden, 1)
    w.close()


def bloom(path, hidden):
    vocab, blocks = 250880, 24
    w = Writer(path, "bloom", embedding_length=hidden, feed_forward_length=4 * hidden, block_count=blocks, head_count=16, head_count_kv=16,
               context_length=2048, layer_norm_eps=1e-5, vocab_size=vocab)
    w.matrix("token_embd.weight", vocab, hidden)
    for name in ("token_embd_norm", "output_norm"):
        w.vector(f"{name}.weight", hidden, 1)
        w.vector(f"{name}.bias", hidden, 0)
    for i in range(blocks):
        for name, rows, cols in [("attn_qkv", 3 * hidden, hidden), ("attn_output", hidden, hidden), ("ffn_up", 4 * hidden, hidden),
                                 ("ffn_down", hidden, 4 * hidden)]:
            w.matrix(f"blk.{i}.{name}.weight", rows, cols)
            w.vector(f"blk.{i}.{name}.bias", rows, 0)
        for name in ("attn_norm", "ffn_norm"):
            w.vector(f"blk.{i}.{name}.weight", hidden, 1)
            w.vector(f"blk.{i}.{name}.bias", hidden, 0)
    w.close()


def main():
    folder, small = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    llama_cpp.llama_log_set(QUIET, ctypes.c_void_p(0))
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"smollm2": small}
    large = [("llama-1.1b", llama, []), ("bloom-560m", bloom, [1024]), ("bloom-1b7", bloom, [2048])]
    for name, make, sizes in large if "--large" in sys.argv[3:] else []:
        sources[name] = folder / f"{name}.BF16.gguf"
        if not sources[name].exists():
            make(sources[name], *sizes)
    for name, source in sources.items():
        for kind in TYPES if name == "smollm2" else ["Q8_0", "Q4_0"]:
            if (name, kind) != ("smollm2", "Q4_1"):
                quantise(source, folder / f"{name}.{kind}.gguf", kind)
    link = folder / "smollm2.Q4_1.gguf"
    if not link.exists():
        link.symlink_to(small.resolve())


if __name__ == "__main__":
    main()
