"""Writes tensors in BLOCKWISE_8BIT as hivemind and bitsandbytes make them, and what they read from them again: blockwise.py OUTFILE

hivemind 1.1.12 wants what bitsandbytes returns since 0.42; petals 2.2 pins 0.41.1, which returns a list. So bring another one:

    V=$(scripts/interop/install.sh); B=$(mktemp -d)
    $V/bin/python -m pip install --no-deps --target $B bitsandbytes==0.45.5
    PYTHONPATH=$B $V/bin/python -W ignore scripts/interop/blockwise.py tests/fixtures/wire/blockwise.json

The code book is the same in all buffers and stands in the file once: a buffer is its `head`, the code book, its `indices`. Numbers are the
hex of little-endian elements of the tensor's type; of what is long, only those from position `from` on. There is no tensor of zeros: it
ends this bitsandbytes in a segmentation fault.
"""
import json
import pathlib
import sys

import node  # noqa: F401  (makes hivemind whole, and keeps it on this machine)

import bitsandbytes
import hivemind
import torch
from hivemind.compression.serialization import deserialize_torch_tensor, serialize_torch_tensor
from hivemind.proto.runtime_pb2 import CompressionType

BLOCK, CODES, SHOWN = 4096, 256, 64


def tensors():
    """By name; what is random is seeded."""
    torch.manual_seed(5)
    spread = torch.randn(3, 8) * torch.tensor([[1e-3], [1.0], [300.0]])
    yield "float32", spread
    yield "float16", spread.half()
    yield "bfloat16", spread.bfloat16()
    yield "one_value", torch.full((2, 2), -0.1)
    yield "extremes_float16", torch.tensor([65504.0, -65504.0, 6e-8, 0.0, 1.0]).half()
    long = torch.randn(BLOCK + 4)
    long[BLOCK:] *= 50  # a scale of its own
    yield "two_blocks_bfloat16", long.bfloat16()


def hexadecimal(tensor):
    """Of the last elements."""
    return tensor.flatten()[-SHOWN:].view(torch.uint8).numpy().tobytes().hex()


def main():
    book, vectors = None, {}
    for name, tensor in tensors():
        packed = serialize_torch_tensor(tensor, CompressionType.BLOCKWISE_8BIT)
        decoded = deserialize_torch_tensor(packed)
        start = 16 + 4 * -(-tensor.numel() // BLOCK)
        head, codes, indices = packed.buffer[:start], packed.buffer[start : start + 4 * CODES], packed.buffer[start + 4 * CODES :]
        assert len(indices) == tensor.numel() and book in (None, codes), "the layout is another one"
        assert decoded.dtype == tensor.dtype and decoded.shape == tensor.shape
        book = codes
        vectors[name] = {
            "dtype": packed.dtype, "size": list(packed.size), "head": head.hex(), "indices": indices.hex(),
            "from": max(0, tensor.numel() - SHOWN), "input": hexadecimal(tensor), "decoded": hexadecimal(decoded),
        }
        error, largest = (decoded.double() - tensor.double()).abs().max().item(), tensor.double().abs().max().item()
        print(f"{name}: {tensor.numel()} elements, off by {error:.4g} at most, where the largest is {largest:.4g}")
    made_with = {"hivemind": hivemind.__version__, "bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__}
    out = {"made_with": made_with, "codebook": book.hex(), "tensors": vectors}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
