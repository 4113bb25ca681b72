"""Lets the CUDA build of torch be imported on a machine without CUDA: stub_cuda.py VENV

The wheel names some CUDA libraries that a CPU run never calls: eight in torch 2.3, twelve in torch 2.13. For each one this builds an empty
stand-in (right name, right symbol versions, every function returns 1) beside torch's own libraries. Needs gcc and readelf (binutils).
"""
import collections
import pathlib
import re
import subprocess
import sys
import tempfile

STAND_INS = {  # file name without the version: what its symbols begin with
    "libcublas.so": r"cublas(?!Lt)",
    "libcublasLt.so": r"cublasLt",
    "libcudnn.so": r"cudnn",
    "libcufft.so": r"cufft",
    "libcufile.so": r"cuFile",
    "libcurand.so": r"curand",
    "libcusolver.so": r"cusolver",
    "libcusparse.so": r"cusparse(?!Lt)",
    "libcusparseLt.so": r"cusparseLt",
    "libnccl.so": r"p?nccl",
    "libnvrtc.so": r"nvrtc",
    "libnvshmem_host.so": r"nvshmem",
}


def readelf(option, folder):
    for library in sorted(folder.glob("lib*torch*.so")):
        yield subprocess.run(["readelf", "-W", option, library], capture_output=True, text=True, check=True).stdout


def needed_libraries(folder):
    """The names (`libcudnn.so.9`) of the libraries to stand in for."""
    names = {name for table in readelf("--dynamic", folder) for name in re.findall(r"NEEDED.*\[(.+)\]", table)}
    return sorted(name for name in names if name.rpartition(".")[0] in STAND_INS)


def missing_symbols(folder):
    """(symbol, version or None) of everything torch's libraries expect from elsewhere."""
    for table in readelf("--dyn-syms", folder):
        for name in re.findall(r" UND +(\S+)", table):
            symbol, _, version = name.partition("@")
            yield symbol, version or None


def build(soname, symbols, target):
    """`symbols` maps a version (or None) to its symbols."""
    with tempfile.TemporaryDirectory() as work:
        source, script = pathlib.Path(work, "stub.c"), pathlib.Path(work, "versions")
        source.write_text("".join(f"int {symbol}(void) {{ return 1; }}\n" for symbol in sorted(set().union(*symbols.values()))))
        command = ["gcc", "-w", "-shared", "-fPIC", "-o", target, source, f"-Wl,-soname,{soname}"]
        versions = [version for version in symbols if version]
        if versions:
            script.write_text("".join(
                f"{version} {{ global: {' '.join(symbol + ';' for symbol in sorted(symbols[version]))} }};\n" for version in versions
            ))
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)


def main():
    folder = next(pathlib.Path(sys.argv[1]).glob("lib/python3*/site-packages/torch/lib"))
    missing = set(missing_symbols(folder))
    for soname in needed_libraries(folder):
        pattern = STAND_INS[soname.rpartition(".")[0]]
        symbols = collections.defaultdict(set)
        for symbol, version in missing:
            if version == soname or (not (version or "").startswith("lib") and re.match(pattern, symbol)):
                symbols[version].add(symbol)
        target = folder / soname
        target.unlink(missing_ok=True)
        build(soname, symbols, target)
        print(f"{soname}: {sum(map(len, symbols.values()))} symbols")


if __name__ == "__main__":
    main()
