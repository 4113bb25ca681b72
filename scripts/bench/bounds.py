"""How many rows of an LM head 4 bits leave to be computed, by the bound on what rounding took: bounds.py MODEL.gguf

Once for SmolLM2's head and 200 states of texts that it makes up, once for rows of BLOOM-176B's width as the example wide_head makes
them (12,000 of them). A row counts whose upper bound comes up to the highest score. The environment is that of scripts/golden.
"""
import math
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))
import smollm2_f32

GROUP = 64
STATES = 200
DIRECTIONS = 16
# As in adapters/candle/src/cpu/screen/bounds.rs, for 2^18 rows.
TIMES = math.sqrt(2 * math.log(2) * (66 + 18))


def grouped(numbers):
    return torch.nn.functional.pad(numbers, (0, -numbers.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))


def rounded(weight, dither):
    """The rows in 4 bits, and the scales of their groups."""
    numbers, dither = grouped(weight), grouped(dither)
    scale = (numbers.abs().amax(-1, keepdim=True) / 7.5).clamp_min(1e-30)
    whole = (numbers / scale + 7.5 + dither).round().clamp(0, 15)
    return (scale * (whole - 7.5 - dither)).flatten(1)[:, :weight.shape[1]], scale[..., 0]


def left(name, weight, states, bases):
    plain, _ = rounded(weight, torch.zeros(weight.shape[1]))
    dithered, scales = rounded(weight, torch.rand(weight.shape[1]) - 0.5)
    lost = weight - plain
    length = lost.norm(dim=1)
    known = {whose: (basis, lost @ basis) for whose, basis in bases.items()}
    beside = {whose: (length.pow(2) - inside.pow(2).sum(1)).clamp_min(0).sqrt() for whose, (_, inside) in known.items()}
    counts = {}
    for x in states:
        best = (weight @ x).max()
        count = lambda bound, upper: counts.setdefault(bound, []).append(int((upper >= best).sum()))
        count("Cauchy and Schwarz", plain @ x + length * x.norm())
        for whose, (basis, of_rows) in known.items():
            inside = basis.T @ x
            outside = beside[whose] * (x - basis @ inside).norm()
            count(f"the same beside {DIRECTIONS} directions of {whose}", plain @ x + of_rows @ inside + outside)
        count("dither", dithered @ x + TIMES * (scales.pow(2) @ grouped(x).pow(2).sum(-1) / 12).sqrt())
    for bound, some in counts.items():
        some = torch.tensor(some, dtype=torch.float)
        print(f"{name}, {bound}: {some.mean():.0f} of {len(weight)} rows on average, half the time up to {some.median():.0f}", flush=True)


def main_directions(vectors):
    return torch.linalg.eigh(vectors.T @ vectors)[1][:, -DIRECTIONS:]


@torch.no_grad()
def small(path):
    model = smollm2_f32.load(path).eval()
    weight = model.lm_head.weight.bfloat16().float()
    start = torch.randint(0, len(weight), (16, 1))
    texts = model.generate(
        start, attention_mask=torch.ones_like(start), do_sample=True, top_k=40, max_new_tokens=127, min_new_tokens=127, pad_token_id=0)
    states = model.model(texts).last_hidden_state.flatten(0, 1)
    states = states[torch.randperm(len(states))].bfloat16().float()
    bases = {"states": main_directions(states[STATES:]), "rows": main_directions(weight)}
    left("SmolLM2", weight, states[:STATES], bases)


def wide(rows=12000, cols=14336):
    size = 0.02 * torch.exp(0.3 * torch.randn(cols))
    weight = 0.3 * size * torch.randn(cols) + torch.exp(0.25 * torch.randn(rows, 1)) * size * torch.randn(rows, cols)
    weight = weight.bfloat16().float()
    likely = 7 * weight[:20] / weight[:20].norm(dim=1, keepdim=True) + torch.randn(20, cols)
    left("BLOOM-176B's width, likely states", weight, likely, {})
    left("BLOOM-176B's width, states without a pattern", weight, torch.randn(20, cols), {})


if __name__ == "__main__":
    torch.manual_seed(1)
    small(sys.argv[1])
    wide()
