"""Lets the CUDA build of torch be imported on a machine without CUDA: stub_cuda.py VENV

The wheel names eight CUDA libraries that a CPU run never calls. For each one this builds an empty stand-in (right name, right symbol
versions, every function returns 1) beside torch's own libraries. Needs gcc and readelf (binutils).
"""
import collections
import pathlib
import re
import subprocess
import sys
import tempfile

STAND_INS = {
    "libcublas.so.12": r"cublas(?!Lt)",
    "libcublasLt.so.12": r"cublasLt",
    "libcudnn.so.8": r"cudnn",
    "libcufft.so.11": r"cufft",
    "libcurand.so.10": r"curand",
    "libcusolver.so.11": r"cusolver",
    "libcusparse.so.12": r"cusparse(?!Lt)",
    "libnccl.so.2": r"p?nccl",
}


def missing_symbols(folder):
    """(symbol, version or None) of everything torch's libraries expect from elsewhere."""
    for library in sorted(folder.glob("lib*torch*.so")):
        table = subprocess.run(["readelf", "-W", "--dyn-syms", library], capture_output=True, text=True, check=True).stdout
        for name in re.findall(r" UND +(\S+)", table):
            symbol, _, version = name.partition("@")
            yield symbol, version or None


def build(soname, symbols, versioned, target):
    with tempfile.TemporaryDirectory() as work:
        source = pathlib.Path(work, "stub.c")
        source.write_text("".join(f"int {symbol}(void) {{ return 1; }}\n" for symbol in sorted(symbols)))
        command = ["gcc", "-w", "-shared", "-fPIC", "-o", target, source, f"-Wl,-soname,{soname}"]
        if versioned:
            script = pathlib.Path(work, "versions")
            script.write_text(f"{soname} {{ global: {' '.join(symbol + ';' for symbol in sorted(versioned))} }};\n")
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)


def main():
    folder = next(pathlib.Path(sys.argv[1]).glob("lib/python3*/site-packages/torch/lib"))
    wanted, versioned = collections.defaultdict(set), collections.defaultdict(set)
    for symbol, version in missing_symbols(folder):
        for soname, pattern in STAND_INS.items():
            if version == soname or (version is None and re.match(pattern, symbol)):
                wanted[soname].add(symbol)
                if version:
                    versioned[soname].add(symbol)
    for soname in STAND_INS:
        target = folder / soname
        target.unlink(missing_ok=True)
        build(soname, wanted[soname], versioned[soname], target)
        print(f"{soname}: {len(wanted[soname])} symbols")


if __name__ == "__main__":
    main()
