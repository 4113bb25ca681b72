#!/bin/sh
# Makes the environment of the golden scripts: install.sh VENV   (CPython 3.11, gcc, binutils; 0.9 GB of wheels, 2 GB on disk, ten minutes)
set -eu
venv=${1:?usage: install.sh VENV}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python3.11 -m venv "$venv"
CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF" "$venv/bin/pip" install --no-deps -r "$here/requirements.txt"
"$venv/bin/python" "$here/stub_cuda.py" "$venv"
"$venv/bin/python" -W ignore -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
