"""Converts a tiny checkpoint to GGUF with llama.cpp's names and layouts: to_gguf.py FOLDER OUT.gguf [F32|F16|BF16] [BLOCKS]

Matrices get the type asked for, everything with one dimension stays F32. BLOCKS keeps only the first so many.
"""
import json
import pathlib
import sys

import gguf
import numpy
import torch
from transformers import AutoModelForCausalLM

LLAMA = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
BLOOM = {
    "transformer.word_embeddings": "token_embd", "transformer.word_embeddings_layernorm": "token_embd_norm",
    "transformer.ln_f": "output_norm", "input_layernorm": "attn_norm", "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def neighbours(values, heads):
    """Rotary pairs from halves of a head (transformers) to neighbours (llama.cpp)."""
    rows = values.shape[0]
    return values.reshape(heads, 2, rows // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def apart(values, heads):
    """Fused attention from q, k, v by head (BLOOM) to all of q, all of k, all of v (llama.cpp)."""
    rows = values.shape[0]
    return values.reshape(heads, 3, rows // heads // 3, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)


def tensors(model, blocks):
    """(name, values) in llama.cpp's layout; a tied head is left out."""
    config = model.config
    names = BLOOM if config.model_type == "bloom" else LLAMA
    for name, parameter in model.named_parameters():
        path, kind = name.rsplit(".", 1)
        values = parameter.detach().float().numpy()
        if path in names:
            yield f"{names[path]}.{kind}", values
            continue
        block, part = path.split("layers." if config.model_type == "llama" else "h.", 1)[1].split(".", 1)
        if int(block) >= blocks:
            continue
        if part == "self_attn.q_proj":
            values = neighbours(values, config.num_attention_heads)
        elif part == "self_attn.k_proj":
            values = neighbours(values, config.num_key_value_heads)
        elif part == "self_attention.query_key_value":
            values = apart(values, config.n_head)
        yield f"blk.{block}.{names[part]}.{kind}", values


def rope_factors(config):
    """Llama 3's scaling as llama.cpp wants it: what each rotary frequency is divided by."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    width = config.hidden_size // config.num_attention_heads
    plain = config.rope_theta ** -(torch.arange(0, width, 2).float() / width)
    return (plain / scaled).numpy()


def describe(writer, config, blocks):
    writer.add_block_count(blocks)
    writer.add_embedding_length(config.hidden_size)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "bloom":
        writer.add_context_length(config.seq_length)
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_head_count(config.n_head)
        writer.add_head_count_kv(config.n_head)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_context_length(config.max_position_embeddings)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_theta)


def add_tokenizer(writer, folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf8"))
    model, special = tokenizer["model"], {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    marked = model["byte_fallback"]  # the SentencePiece kind
    types = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    if marked:
        types = [gguf.TokenType.BYTE if len(token) == 6 and token.startswith("<0x") else kind for token, kind in zip(tokens, types)]
        types[special["<unk>"]] = gguf.TokenType.UNKNOWN
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(position) for position in range(len(tokens))])  # an earlier merge scores higher
        writer.add_add_space_prefix(True)
        writer.add_unk_token_id(special["<unk>"])
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe" if "<|begin_of_text|>" in special else "gpt-2")
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(special[settings["bos_token"]])
    writer.add_eos_token_id(special[settings["eos_token"]])
    writer.add_add_bos_token("TemplateProcessing" in json.dumps(tokenizer["post_processor"]))
    if "chat_template" in settings:
        writer.add_chat_template(settings["chat_template"])


def convert(folder, out, kind="F32", blocks=None):
    folder = pathlib.Path(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    config = model.config
    blocks = blocks or config.num_hidden_layers
    writer = gguf.GGUFWriter(out, config.model_type)
    writer.add_name(folder.name)
    writer.add_file_type({"F32": gguf.LlamaFileType.ALL_F32, "F16": gguf.LlamaFileType.MOSTLY_F16, "BF16": gguf.LlamaFileType.MOSTLY_BF16}[kind])
    describe(writer, config, blocks)
    add_tokenizer(writer, folder)
    stored = gguf.GGMLQuantizationType[kind]
    for name, values in tensors(model, blocks):
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(name, numpy.ascontiguousarray(values))
        else:
            writer.add_tensor(name, gguf.quantize(numpy.ascontiguousarray(values), stored), raw_dtype=stored)
    if getattr(config, "rope_scaling", None):
        writer.add_tensor("rope_freqs.weight", rope_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    convert(sys.argv[1], sys.argv[2], *sys.argv[3:4], *(int(count) for count in sys.argv[4:5]))
