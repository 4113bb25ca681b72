"""Makes the seeded models of the reference swarm, a BLOOM and a Llama of four blocks: models.py OUTDIR [NAME...]

Tokens that are no plain text (special ones, bytes, accents) have output weights too small to be chosen, so that a reply is ASCII, never
ends by itself, and its text tells its tokens apart. The seeds were chosen so that the best two logits are never near each other.
"""
import pathlib
import re
import sys

import torch
from transformers import BloomConfig, BloomForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

sys.path.append(str(pathlib.Path(__file__).parent.parent / "golden"))
import make_models  # noqa: E402

VOCAB, HIDDEN, BLOCKS = make_models.VOCAB, 64, 4
PREFIXES = {"tiny-bloom": "tiny-bloom-petals", "tiny-llama": "tiny-llama-hf"}


def unwritten(tokenizer):
    """Ids that must never be chosen: all but printable ASCII without `<`, where a leading space is `Ġ` or `▁`."""
    plain = re.compile(r"[Ġ▁]?[!-;=-~]+|[Ġ▁]+")
    return [id for id in range(VOCAB) if not plain.fullmatch(tokenizer.convert_ids_to_tokens(id))]


def muted(model, tokenizer):
    with torch.no_grad():
        model.get_output_embeddings().weight[unwritten(tokenizer)] *= 0.05
    return model


def bloom(seed, gain=2.5, embedding=1.0):
    config = BloomConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, n_layer=BLOCKS, n_head=8, bos_token_id=1, eos_token_id=2, pad_token_id=3, unk_token_id=0,
        seq_length=2048,
    )
    return make_models.spread(BloomForCausalLM(config), seed, gain, embedding, torch.float32)


def llama(seed, gain=2.5, embedding=1.0):
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=172, num_hidden_layers=BLOCKS, num_attention_heads=8, num_key_value_heads=4,
        max_position_embeddings=2048, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )
    return make_models.spread(LlamaForCausalLM(config), seed, gain, embedding, torch.float32)


def save_bloom(model, folder):
    """Like bigscience's files: one pickled state dict whose names lack the `transformer.` prefix."""
    model.transformer.save_pretrained(folder, safe_serialization=False)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"BloomModel"', '"BloomForCausalLM"'))


def save_llama(model, folder):
    """In shards, so that who needs the embeddings alone can leave files alone."""
    model.save_pretrained(folder, max_shard_size="300KB", safe_serialization=True)


MODELS = {
    "tiny-bloom": (bloom, {"seed": 19, "gain": 2.2}, make_models.bloom_tokenizer, save_bloom),
    "tiny-llama": (llama, {"seed": 10, "gain": 1.0}, make_models.llama_tokenizer, save_llama),
}


def main():
    out = pathlib.Path(sys.argv[1])
    torch.set_num_threads(1)
    for name in sys.argv[2:] or MODELS:
        make, settings, tokenizer, save = MODELS[name]
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = tokenizer()
        tokenizer.save_pretrained(folder)
        model = muted(make(**settings), tokenizer)
        save(model, folder)
        GenerationConfig.from_model_config(model.config).save_pretrained(folder)
        print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, {VOCAB - len(unwritten(tokenizer))} tokens it writes with")


if __name__ == "__main__":
    main()
