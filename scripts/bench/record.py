#!/usr/bin/env python3
"""Runs a measurement and writes what it prints into a document: record.py DOCUMENT NAME [VARIABLE=VALUE...] COMMAND [ARGUMENT...]

What the command prints, in Markdown, takes the place of what stands between `<!-- measured: NAME -->` and `<!-- end -->`, after a line that
says when and on what machine. Nothing is written where the command fails. It runs in a scheduler's group of its own, ahead of other
sessions of the machine where that is allowed (sched_autogroup: there `nice` does nothing between sessions), and can be stopped with Ctrl-C.
"""
import datetime
import os
import pathlib
import re
import subprocess
import sys


def processor():
    """The processor, and what of it the kernels use."""
    said = pathlib.Path("/proc/cpuinfo").read_text()
    find = lambda key: (re.search(rf"^{key}\s*: (.*)$", said, re.M) or [None, ""])[1].strip()  # noqa: E731
    name = find("model name") or "a processor without a name"
    if name == "AMD EPYC":  # as some virtual machines call it, without a number
        name += f" (family {find('cpu family')}, model {find('model')})"
    flags = find("flags").split()
    sets = [text for flag, text in (("avx512f", "AVX-512"), ("avx512_vnni", "VNNI"), ("avx512_bf16", "BF16")) if flag in flags]
    return f"{name}, {' '.join(sets) or 'without AVX-512'}"


def machine():
    memory = int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / 2**20
    virtual = ", a virtual machine" if "hypervisor" in pathlib.Path("/proc/cpuinfo").read_text() else ""
    return f"{len(os.sched_getaffinity(0))} cores of {processor()}, {memory:.0f} GiB, Linux {os.uname().release.split('-')[0]}{virtual}"


def revision(document):
    """The commit, and whether more than the document itself differs from it."""
    git = lambda *args: subprocess.run(["git", *args], cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, check=False).stdout.strip()  # noqa: E731
    commit = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){document}")
    return f"{commit}{', changed' if changed else ''}" if commit else "no git"


def ahead():
    """A group of its own for the scheduler."""
    os.setsid()
    try:
        pathlib.Path("/proc/self/autogroup").write_text("-15")
    except OSError:
        pass  # no such groups, or not allowed: then it shares


def run(command, environment):
    """What the command prints, shown as it comes."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=ahead, env={**os.environ, **environment}) as process:
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line.rstrip())
        except KeyboardInterrupt:
            os.killpg(process.pid, 15)
            sys.exit(130)
    if process.returncode:
        sys.exit(f"record: {command[0]} ended with code {process.returncode}; nothing was written")
    return "\n".join(lines).strip("\n")


def split(document, name):
    """What stands before and after the place of that name."""
    parts = re.split(rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end -->)", document.read_text(), flags=re.S)
    if len(parts) != 4:
        sys.exit(f"record: {document} must have one place `<!-- measured: {name} -->` that ends with `<!-- end -->`")
    return parts[0] + parts[1], parts[2] + parts[3]


def put(document, name, text):
    before, after = split(document, name)
    part = document.with_suffix(".part")
    part.write_text(f"{before}{text}\n{after}")
    part.rename(document)


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    document, name, command = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    environment = {}
    while "=" in command[0]:
        key, value = command.pop(0).split("=", 1)
        environment[key] = value
    split(document, name)  # before hours of work, not after
    about = f"{datetime.date.today()}, {machine()}, load {os.getloadavg()[0]:.1f} before; Corolla {revision(document)}."
    said = run(command, environment)
    put(document, name, f"{about}\n\n{said}")


if __name__ == "__main__":
    main()
