"""Looks for seeds whose greedy output is varied and never near a tie: search.py NAME FIRST LAST GAIN EMBEDDING"""
import sys

import torch

import golden
import make_models


def main():
    name, first, last, gain, embedding = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])
    torch.set_num_threads(1)
    make, _, tokenizer, _ = make_models.MODELS[name]
    ids = [tokenizer()(prompt).input_ids for _, prompt in golden.prompts(name)]
    best = []
    for seed in range(first, last):
        model = make(seed=seed, gain=gain, embedding=embedding)
        margin, variety = 1e9, make_models.VOCAB
        for prompt in ids:
            new, logits, least = golden.greedy(model, prompt)
            margin, variety = min(margin, least), min(variety, len(set(new)))
            if margin < golden.LEAST_MARGIN:
                break
        else:
            best.append((variety, margin, seed, logits.std().item()))
    for variety, margin, seed, size in sorted(best, reverse=True)[:5]:
        print(f"seed {seed}: at least {variety} distinct tokens in 64, least margin {margin:.4f}, logits' deviation {size:.2f}")


if __name__ == "__main__":
    main()
