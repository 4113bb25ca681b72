"""Times the LM head in Python torch: torch_head.py MODEL.safetensors TENSOR THREADS [copied]

The head is mapped, as bf16, or copied to memory of torch's own. `ready` is written when it was read once; then each line that comes in,
the name of a way to multiply, is answered with the milliseconds of one product with a bf16 state and the best token of it.
"""
import json
import struct
import sys
import time

import torch


def head(path, name):
    with open(path, "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        tensor = json.loads(file.read(length))[name]
    if tensor["dtype"] != "BF16":
        sys.exit(f"{name} is in {tensor['dtype']}, BF16 is wanted")
    start, end = tensor["data_offsets"]
    bytes_ = torch.from_file(path, shared=True, size=8 + length + end, dtype=torch.uint8)
    return bytes_[8 + length + start:].view(torch.bfloat16).view(tensor["shape"])


WAYS = {
    "mv": torch.mv,
    "linear": lambda weight, x: torch.nn.functional.linear(x[None], weight)[0],
    "matmul": lambda weight, x: torch.matmul(weight, x[:, None])[:, 0],
}


def main():
    torch.set_num_threads(int(sys.argv[3]))
    weight = head(sys.argv[1], sys.argv[2])
    if sys.argv[4:] == ["copied"]:
        weight = weight.clone()
    torch.manual_seed(1)
    with torch.no_grad():
        for way in WAYS.values():
            way(weight, torch.randn(weight.shape[1]).to(torch.bfloat16)).argmax()
        print("ready", torch.__version__, flush=True)
        for line in sys.stdin:
            x = torch.randn(weight.shape[1]).to(torch.bfloat16)
            started = time.perf_counter()
            token = WAYS[line.strip()](weight, x).argmax().item()
            print(f"{(time.perf_counter() - started) * 1e3:.3f} {token}", flush=True)


if __name__ == "__main__":
    main()
