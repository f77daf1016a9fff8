"""llama.cpp's own OpenAI-compatible server on one GGUF file. Executed by the interpreter that has xllamacpp.

    python llama_server.py --model FILE.gguf --port 8102 [--slots 2 --window-tokens 4096 ...]

Serves /v1/chat/completions (plain and streams with usage), /v1/models, /health and /metrics; a client that
disconnects cancels its generation. The API key comes from the environment variable LLAMA_API_KEY. Runs until SIGTERM.
"""

# mypy: ignore-errors
# Its imports live in the serving environment, where mypy does not run.

import argparse
import os
import signal
import sys

import xllamacpp


def main() -> int:
    options = _arguments()
    # Blocked before the server starts its threads, so that they inherit it and only sigwait below sees the signal.
    stop_signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    server = xllamacpp.Server(_parameters(options))
    sys.stderr.write(f"listening on {server.listening_address}\n")
    signal.sigwait(stop_signals)
    sys.stderr.write("stopping\n")
    sys.stderr.flush()
    # The server's destructor waits for running generations; whoever sent the signal wants them gone.
    os._exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", default="teacher")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--window-tokens", type=int, default=4096, help="context of one slot")
    parser.add_argument("--threads", type=int, default=0, help="0: llama.cpp decides")
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--prompt-cache-mib", type=int, default=512)
    return parser.parse_args()


def _parameters(options: argparse.Namespace) -> "xllamacpp.CommonParams":
    parameters = xllamacpp.CommonParams()
    parameters.model.path = options.model
    parameters.model_alias = {options.alias}
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.slots * options.window_tokens
    parameters.n_gpu_layers = options.gpu_layers
    # Off: it would shrink the window instead of failing when memory is short.
    parameters.fit_params = False
    parameters.cache_ram_mib = options.prompt_cache_mib
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = False
    parameters.ui = False
    if options.threads:
        parameters.cpuparams.n_threads = options.threads
        parameters.cpuparams_batch.n_threads = options.threads
    key = os.environ.pop("LLAMA_API_KEY", "")
    if key:
        parameters.api_keys = [key]
    return parameters


if __name__ == "__main__":
    sys.exit(main())
