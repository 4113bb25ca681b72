#!/usr/bin/env python3
"""One configuration on every backend: run.py COROLLA LIBTORCH_BUILD [MODEL_FOLDER...]

COROLLA is a plain build, LIBTORCH_BUILD one with feature `libtorch`. With only the word behind `backend` changed, the command line,
the HTTP API and the page must not know the difference: same tokens, same answers. Then what is wrong must be said in a sentence, with
exit code 2 and nothing half-started. Further models (in Hugging Face layout) are tried beside the tiny ones.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

HOUSE = pathlib.Path(__file__).resolve().parents[2]
PROMPT = "The garden was full of flowers"
TOKENS = 32
failed = []


def check(what, passed, seen=""):
    print(f"{'passed' if passed else 'FAILED'}  {what}{'' if passed else f': {seen}'}", flush=True)
    if not passed:
        failed.append(what)


class Stage:
    """A folder with the libtorch build under its plug-in name, and configurations."""

    def __init__(self, folder, corolla, plug_in):
        self.folder, self.corolla = pathlib.Path(folder), corolla
        (self.folder / "corolla-tch").symlink_to(plug_in)
        self.environment = {**os.environ, "COROLLA_BACKENDS": str(folder)}
        self.environment.pop("LD_LIBRARY_PATH", None)

    def config(self, model, backend, more=""):
        file = self.folder / "corolla.toml"
        file.write_text(
            f'listen = "127.0.0.1:0"\n[[models]]\nid = "m"\npath = "{model}"\nbackend = "{backend}"\ndtype = "f32"\ncache_tokens = 2048\n{more}'
        )
        return str(file)

    def run(self, *arguments, **environment):
        return subprocess.run(
            [self.corolla, *arguments], capture_output=True, text=True, timeout=600, env={**self.environment, **environment}, check=False
        )

    def generate(self, config):
        done = self.run("generate", "--config", config, "--json", "--ignore-eos", "--prompt", PROMPT, "--max-new-tokens", str(TOKENS))
        return json.loads(done.stdout)["ids"] if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr}"

    def refusal(self, what, words, command, *arguments, **environment):
        done = self.run(command, *arguments, **environment)
        said = done.stderr.strip()
        right = done.returncode == 2 and all(word in said for word in words) and "listening" not in said and done.stdout == ""
        check(f"{command}: {what}", right, f"exit code {done.returncode}, {said!r}, {done.stdout!r}")


def wait_until_ready(address):
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/health/ready", timeout=30)
            return
        except urllib.error.HTTPError:
            time.sleep(0.2)
    sys.exit(f"{address} is not ready after two minutes")


def served(stage, config):
    """What the API says of a model: its list of models, and a reply."""
    server = subprocess.Popen([stage.corolla, "serve", "--config", config], stderr=subprocess.PIPE, text=True, env=stage.environment)
    try:
        found = next((it for line in server.stderr if (it := re.search(r"listening on (http://\S+)", line))), None)
        if not found:
            return f"the server ended with exit code {server.wait()}"
        address = found[1]
        wait_until_ready(address)
        form = urllib.parse.urlencode({"inputs": PROMPT, "max_new_tokens": TOKENS}).encode()
        reply = json.load(urllib.request.urlopen(f"{address}/api/v1/generate", form, timeout=300))
        models = json.load(urllib.request.urlopen(f"{address}/api/v1/models", timeout=30))
        page = urllib.request.urlopen(address, timeout=30).read()
        return reply, models, page
    finally:
        server.terminate()
        server.wait(timeout=60)


def same_on_every_backend(stage, models):
    for model in models:
        wanted = stage.generate(stage.config(model, "candle-cpu"))
        check(f"{model.name}: candle-cpu gives {TOKENS} tokens", isinstance(wanted, list) and len(wanted) == TOKENS, wanted)
        for backend, more in [("tch", ""), ("auto", ""), ("candle-cpu", 'blocks_backend = "tch"'), ("tch", 'blocks_backend = "candle-cpu"')]:
            found = stage.generate(stage.config(model, backend, more))
            check(f"{model.name}: {backend} {more} gives the same", found == wanted, found)
        answers = [served(stage, stage.config(model, backend)) for backend in ("candle-cpu", "tch", "auto")]
        check(f"{model.name}: API and page do not know the difference", answers[0] == answers[1] == answers[2], answers)


def what_is_wrong_is_said(stage, model):
    config = stage.config(model, "tch")
    stand_in = stage.folder / "other"
    stand_in.mkdir()
    source = stage.folder / "empty.c"
    source.write_text("")
    subprocess.run(["cc", "-shared", "-o", stand_in / "libtorch_cpu.so", source], check=True)
    broken = {"LD_LIBRARY_PATH": str(stand_in)}
    for command in (["check-config"], ["serve"], ["generate", "--prompt", "a"], ["score", "--prompt", "a"]):
        stage.refusal("a libtorch without what is needed", ["corolla-tch", "undefined symbol"], *command, "--config", config, **broken)
    # The same question as of the 2.12 that was found to load and compute garbage, answered as that one does.
    source.write_text("unsigned long long aoti_torch_abi_version(void) { return 0x020c000000000000ull; }")
    subprocess.run(["cc", "-shared", "-o", stand_in / "libold.so", source], check=True)
    old = {"LD_PRELOAD": str(stand_in / "libold.so")}
    stage.refusal("another libtorch", ["libtorch 2.12.0 was found", "2.13", "make libtorch"], "check-config", "--config", config, **old)
    nowhere = {"COROLLA_BACKENDS": str(stand_in)}
    stage.refusal("no build with libtorch", ["no corolla-tch", "make libtorch"], "check-config", "--config", config, **nowhere)
    stage.refusal(
        "a dtype that libtorch is not used for", ['dtype = "bf16"', "f32"], "check-config", "--config", config, "--dtype", "bf16"
    )
    stage.refusal("no build with CUDA", ["corolla-cuda", "make cuda"], "check-config", "--config", stage.config(model, "candle-cuda"))
    doctor = stage.run("doctor", "--config", stage.config(model, "tch"))
    check("doctor names the libtorch that runs", doctor.returncode == 0 and "libtorch 2.13" in doctor.stdout, doctor.stdout + doctor.stderr)


def main():
    corolla, plug_in, *further = sys.argv[1:]
    tiny = [HOUSE / "tests/fixtures/models" / name for name in ("tiny-bloom", "tiny-llama")]
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(folder, os.path.abspath(corolla), os.path.abspath(plug_in))
        same_on_every_backend(stage, tiny + [pathlib.Path(model).resolve() for model in further])
        what_is_wrong_is_said(stage, tiny[0])
    print(f"{len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
