#!/usr/bin/env python3
"""Decoding and prefill with keys and values in f32, bf16 and q8: kv_cache.py GREEDY MODEL [--before GREEDY] [--threads N...] [--prompts N...] [--rounds 5]

GREEDY is the example of corolla-candle; `--before` one of an older build, whose KV cache is f32. All run in turns, forwards and backwards, as
whole processes. Ratios are of one round, to the older build where there is one and else to f32; medians of them are printed. Tokens that
are the same are counted up to the first that differs.
"""
import argparse
import random
import statistics

from kernels import ours, same

TOKENS = 48


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("greedy")
    parser.add_argument("model")
    parser.add_argument("--before")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 1500])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    forms = [("before", args.before, "f32")] if args.before else []
    forms += [(name, args.greedy, name) for name in ("f32", "bf16", "q8")]
    print(f"{TOKENS} greedy tokens after each prompt; medians of {args.rounds} rounds.\n")
    print("| threads | prompt | `kv_cache` | prefill, tokens/s | ratio | decode, tokens/s | ratio | same tokens |")
    print("|---|---|---|---|---|---|---|---|")
    for threads in args.threads:
        for prompt in args.prompts:
            rng = random.Random(7)
            ids = [str(rng.randrange(3, 30000)) for _ in range(prompt)]
            rounds = []
            for nth in range(args.rounds):
                order = forms if nth % 2 == 0 else forms[::-1]
                rounds.append({name: ours(greedy, args.model, TOKENS, threads, ids, KV_CACHE=kv_cache) for name, greedy, kv_cache in order})
            first = forms[0][0]
            for name, _, _ in forms:
                median = lambda of: statistics.median(of(one[name], one[first]) for one in rounds)  # noqa: E731
                print(f"| {threads} | {prompt} | {name} | {prompt / median(lambda a, b: a['prompt_s']):.0f} "
                      f"| {median(lambda a, b: b['prompt_s'] / a['prompt_s']):.2f} | {median(lambda a, b: a['tokens_per_s']):.1f} "
                      f"| {median(lambda a, b: a['tokens_per_s'] / b['tokens_per_s']):.2f} "
                      f"| {median(lambda a, b: same(a['tokens'], b['tokens'])):.0f} of {TOKENS} |", flush=True)


if __name__ == "__main__":
    main()
