#!/bin/sh
# Checks the build with CUDA on a machine that has none: check-cuda.sh [--kernels]
#   (nothing)   lints and type-checks what feature `cuda` changes. Where there is no nvcc, one that writes empty kernels stands in
#   --kernels   compiles candle's kernels, with nvcc from pinned PyPI wheels where none is on the PATH (110 MB to fetch, 420 MB on disk)
# An nvcc on the PATH is used as it is, and compiles the kernels in any case. No GPU is needed, and none is used: what runs on one this cannot tell.
#   CUDA_COMPUTE_CAP   which GPUs the kernels are for (default 80: Ampere and newer)
#   COROLLA_CACHE      where nvcc is kept (default: $XDG_CACHE_HOME/corolla, else ~/.cache/corolla)
set -eu

me=check-cuda
by_hand="Or install the CUDA toolkit so that nvcc is on the PATH."
# shellcheck source=scripts/wheels.sh
. "$(dirname -- "$0")/wheels.sh"
cd -- "$repo"

toolkit=$cache/cuda-nvcc-13.0.88
pins="nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"

# shellcheck disable=SC2329 # called by keep
finish() {
    chmod +x "$1"/bin/* "$1"/nvvm/bin/*
    ln -s libcudart.so.13 "$1/lib/libcudart.so"
    ln -s lib "$1/lib64"
}

# A compiler that says its version and leaves empty files where kernels would be.
stand_in() {
    mkdir -p -- "$1"
    cat >"$1/nvcc.new" <<'EOF'
#!/bin/sh
case " $* " in *' --version '*) printf '%s\n' 'nvcc stand-in' '-' '-' 'Cuda compilation tools, release 13.0, V13.0.88' && exit ;; esac
while [ $# -gt 0 ]; do
    case $1 in
        -o) : >"$2" ;;
        --output-directory) folder=$2 ;;
        *.cu) source=${1##*/} ;;
    esac
    shift
done
if [ -n "${folder:-}" ]; then : >"$folder/${source%.cu}.ptx"; fi
EOF
    chmod +x "$1/nvcc.new"
    mv -f -- "$1/nvcc.new" "$1/nvcc"
}

# Everything runs through here: what it was, and how long it took.
step() {
    say "$*"
    begun=$(date +%s)
    "$@" || exit
    say "done in $(($(date +%s) - begun)) s"
}

mode=${1:-}
case $mode in
    '' | --kernels) ;;
    *) fail "unknown option $mode" "Known is --kernels." ;;
esac

target=target/cuda/kernels # apart from the usual one, which other features would build anew; apart from the one with empty kernels
if command -v nvcc >/dev/null 2>&1; then
    say "using $(command -v nvcc): $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')"
elif [ -z "$mode" ]; then
    say "there is no nvcc; kernels stay empty (see --kernels)"
    target=target/cuda/check
    stand_in "$repo/$target/stand-in"
    PATH=$repo/$target/stand-in:$PATH
else
    is_kept "$toolkit" "$pins" || keep "$toolkit" "$pins" 110 420 'nvidia/cu13/*'
    PATH=$toolkit/bin:$PATH
    export CUDA_HOME="$toolkit"
fi
export PATH

step cargo clippy --locked --target-dir "$target" --workspace --all-targets --features cuda -- -D warnings
