"""Makes the tiny seeded checkpoints that the golden files speak about: make_models.py OUTDIR [NAME...]

Weights are random, with a spread that keeps greedy output varied and its best two logits apart; the seeds were chosen by search.py.
"""
import json
import math
import pathlib
import sys

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BloomConfig, BloomForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB = 512
CORPUS = pathlib.Path(__file__).with_name("corpus.txt").read_text(encoding="utf8").splitlines(keepends=True)

CHAT_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] | trim + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{{- bos_token -}}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('user and assistant must take turns, and the user begins') -}}
    {%- endif -%}
    {%- if turn['role'] == 'user' -%}
        {{- '[ASK] ' + (system if loop.first else '') + turn['content'].strip() + ' [/ASK]' -}}
    {%- else -%}
        {{- ' ' + turn['content'].strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '\\n' -}}
{%- endif -%}
"""

# As Llama 3 splits: contractions, words, up to three digits, punctuation, line ends, spaces.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def trained(tokenizer, special, **options):
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, show_progress=False, **options)
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
    return tokenizer


def bloom_tokenizer():
    """Byte-level BPE; nothing is put in front of a prompt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trained(tokenizer, special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def llama_tokenizer():
    """BPE as converted from SentencePiece: spaces are marked, unknown characters fall back to bytes, `<s>` comes first."""
    mark = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    school = Tokenizer(models.BPE(unk_token="<unk>"))
    school.normalizer = mark
    school.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<unk>", "<s>", "</s>"]
    trained(school, special + [f"<0x{byte:02X}>" for byte in range(256)])
    learnt = json.loads(school.to_str())["model"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(learnt["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.normalizer = mark
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE, add_bos_token=True, add_eos_token=False,
    )


def llama3_tokenizer():
    """Byte-level BPE behind Llama 3's splitting rule; `<|begin_of_text|>` comes first."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    trained(tokenizer, special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B",
            special_tokens=[("<|begin_of_text|>", 0)],
        ),
    ])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", clean_up_tokenization_spaces=False,
    )


def spread(model, seed, gain, embedding, stored_as):
    """Fills every parameter in the order of its name: matrices keep the size of what they carry (times `gain`), norms stay near one.

    The values are those that `stored_as` can hold; the model stays in f32, with rotary frequencies as a loaded model has them.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "embed" in name and parameter.ndim == 2 or "lm_head" in name:
                parameter.copy_(noise * embedding)
            elif parameter.ndim == 2:
                parameter.copy_(noise * gain / math.sqrt(parameter.shape[1]))
            elif name.endswith("weight"):
                parameter.copy_(1 + noise * 0.1)
            else:
                parameter.copy_(noise * 0.1)
            parameter.copy_(parameter.to(stored_as))
    return model.eval()


def bloom(seed, gain=2.5, embedding=1.0):
    config = BloomConfig(
        vocab_size=VOCAB, hidden_size=48, n_layer=3, n_head=6, bos_token_id=1, eos_token_id=2, pad_token_id=3, unk_token_id=0,
        seq_length=2048,
    )
    return spread(BloomForCausalLM(config), seed, gain, embedding, torch.float16)


def llama(seed, gain=2.5, embedding=1.0):
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=76, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=1024, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )
    return spread(LlamaForCausalLM(config), seed, gain, embedding, torch.float32)


def llama3(seed, gain=2.5, embedding=1.0):
    """Of the four rotary frequencies one stays, one is in between and two are slowed down, all within the first 256 positions."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        max_position_embeddings=2048, rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=[1, 2], tie_word_embeddings=True,
        attention_bias=True, mlp_bias=True, rope_theta=500000.0,
        rope_scaling={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
    )
    return spread(LlamaForCausalLM(config), seed, gain, embedding, torch.bfloat16)


def save_bloom(model, folder):
    """Like bigscience's files: a pickled state dict whose names lack the `transformer.` prefix."""
    model.half().transformer.save_pretrained(folder, safe_serialization=False)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"architectures": ["BloomForCausalLM"]}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_sharded(model, folder):
    model.save_pretrained(folder, max_shard_size="140KB")
    assert len(list(folder.glob("model-*-of-00002.safetensors"))) == 2


def save_single(model, folder):
    model.bfloat16().save_pretrained(folder)


MODELS = {
    "tiny-bloom": (bloom, {"seed": 12}, bloom_tokenizer, save_bloom),
    "tiny-llama": (llama, {"seed": 20}, llama_tokenizer, save_sharded),
    "tiny-llama3": (llama3, {"seed": 8}, llama3_tokenizer, save_single),
}


def main():
    out = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or MODELS:
        make, settings, tokenizer, save = MODELS[name]
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        model = make(**settings)
        save(model, folder)
        tokenizer().save_pretrained(folder)
        GenerationConfig.from_model_config(model.config).save_pretrained(folder)
        size = sum(file.stat().st_size for file in folder.glob("*") if file.suffix in (".bin", ".safetensors"))
        print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, {size} bytes of weights")


if __name__ == "__main__":
    main()
