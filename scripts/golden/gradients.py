"""Writes what torch says of gradients through the blocks of the tiny checkpoints, in f32: gradients.py MODELS_DIR OUTFILE [NAME...]

What goes in is not random but made by a formula that the tests know too, so that the file holds results alone.
"""
import pathlib
import sys

import torch
from golden import made_with, plain, write
from transformers import AutoModelForCausalLM

MASK = 2**64 - 1
# name, rows, positions, rows of the deep prompts, their positions
CASES = [("prompts of every row", 2, 5, 2, 3), ("a prompt for all rows", 3, 3, 1, 1)]


def noise(count, seed):
    """Numbers in -1..1, as `testkit::local_model::noise` makes them."""
    state, numbers = ((seed + 1) * 0x9E3779B97F4A7C15 & MASK) | 1, []
    for _ in range(count):
        state ^= state << 13 & MASK
        state ^= state >> 7
        state ^= state << 17 & MASK
        numbers.append((state >> 40) / 2**23 - 1)
    return numbers


def states(seed, *shape):
    return torch.tensor(noise(torch.Size(shape).numel(), seed), dtype=torch.float32).reshape(shape)


def gradients(model, rows, positions, prompt_rows, prompt_positions):
    """Derivatives of the sum of what leaves the last block, each number times one of `noise`, by what enters the first and by the prompts."""
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    width = model.config.hidden_size
    hidden = states(1, rows, positions, width).requires_grad_()
    given = [states(10 + nth, prompt_rows, prompt_positions, width) for nth in range(len(blocks))]
    # A prompt of its own for each row: servers leave the sum over rows that share one to the client.
    prompts = [prompt.expand(rows, -1, -1).clone().requires_grad_() for prompt in given]

    def enters(nth):
        def replace(_, args):
            x = hidden if nth == 0 else args[0]
            return (torch.cat([x[:, :prompt_positions] + prompts[nth], x[:, prompt_positions:]], dim=1), *args[1:])

        return replace

    seen = {}
    hooks = [block.register_forward_pre_hook(enters(nth)) for nth, block in enumerate(blocks)]
    hooks.append(blocks[-1].register_forward_hook(lambda _, args, out: seen.update(out=out[0])))
    model(torch.zeros(rows, positions, dtype=torch.long), use_cache=False)
    for hook in hooks:
        hook.remove()
    (seen["out"] * states(2, rows, positions, width)).sum().backward()
    return hidden.grad, [prompt.grad for prompt in prompts]


def cases(folder, name):
    model = AutoModelForCausalLM.from_pretrained(folder / name, torch_dtype=torch.float32, attn_implementation="eager").eval()
    for label, *shape in CASES:
        by_hidden, by_prompts = gradients(model, *shape)
        assert all(grad.isfinite().all() for grad in [by_hidden, *by_prompts])
        yield {"name": label, "shape": shape, "hidden": plain(by_hidden.flatten(0, 1)), "prompts": [plain(grad.flatten(0, 1)) for grad in by_prompts]}


def main():
    torch.set_num_threads(1)
    folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    models = {name: list(cases(folder, name)) for name in sys.argv[3:] or ("tiny-bloom", "tiny-llama", "tiny-llama3")}
    write(out, {"made_with": made_with() | {"script": "scripts/golden/gradients.py"}, "models": models})
    print(out, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
