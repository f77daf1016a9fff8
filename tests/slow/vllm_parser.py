"""Parses command lines as vLLM does. Run by the interpreter that has vLLM; reads and prints JSON."""

import json
import sys

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.utils.argparse_utils import FlexibleArgumentParser

try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args


def parse(argv: list[str]) -> dict[str, object]:
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
    validate_parsed_serve_args(arguments)
    engine = AsyncEngineArgs.from_cli_args(arguments)
    if engine.quantization is not None and engine.quantization not in QUANTIZATION_METHODS:
        raise ValueError(f"vLLM knows no quantization {engine.quantization!r}")
    return {
        "model": engine.model,
        "served_model_name": arguments.served_model_name,
        "host": arguments.host,
        "port": arguments.port,
        "api_key": arguments.api_key,
        "trust_remote_code": engine.trust_remote_code,
        "max_model_len": engine.max_model_len,
        "dtype": engine.dtype,
        "quantization": engine.quantization,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "max_num_seqs": engine.max_num_seqs,
        "max_logprobs": engine.max_logprobs,
        "enforce_eager": engine.enforce_eager,
        "enable_prefix_caching": engine.enable_prefix_caching,
        "shutdown_timeout": arguments.shutdown_timeout,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
    }


if __name__ == "__main__":
    print("PARSED " + json.dumps([parse(argv) for argv in json.load(sys.stdin)]))
