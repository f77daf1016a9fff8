"""`[student.vllm]`: how vLLM is launched and supervised."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Quantization = Literal["awq", "awq_marlin", "gptq", "gptq_marlin", "fp8", "compressed-tensors"]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]

OWNED_FLAGS = {
    "--model": "model",
    "--served-model-name": "served_model_name",
    "--host": "host",
    "--port": "port",
    "--api-key": "api_key_env",
    "--max-model-len": "context_window_tokens",
    "--dtype": "dtype",
    "--quantization": "quantization",
    "-q": "quantization",
    "--gpu-memory-utilization": "gpu_memory_utilization",
    "--tensor-parallel-size": "tensor_parallel_size",
    "-tp": "tensor_parallel_size",
    "--max-num-seqs": "max_num_seqs",
    "--max-logprobs": "max_logprobs",
    "--enforce-eager": "enforce_eager",
    "--no-enforce-eager": "enforce_eager",
    "--enable-prefix-caching": "enable_prefix_caching",
    "--no-enable-prefix-caching": "enable_prefix_caching",
    "--shutdown-timeout": "shutdown_timeout_s",
}
"""vLLM's flag -> the option that sets it; a second spelling of one setting is refused."""

REFUSED_FLAGS = {
    "--trust-remote-code": "runs code from the model's folder",
    "--config": "could set any flag unseen; write the flags here",
    "--uds": "the gateway speaks TCP to the student",
    "--root-path": "the gateway expects /v1 and /health at the root",
    "--headless": "starts no API",
    "--grpc": "starts no HTTP API",
    "--ssl-keyfile": "the student stays on loopback or a private network; put TLS in front of the gateway",
    "--ssl-certfile": "the student stays on loopback or a private network; put TLS in front of the gateway",
    "--middleware": "loads code by name",
    "--tool-parser-plugin": "loads code by name",
    "--reasoning-parser-plugin": "loads code by name",
    "--logits-processors": "loads code by name",
    "--worker-cls": "loads code by name",
    "--worker-extension-cls": "loads code by name",
    "--allowed-local-media-path": "lets requests read files of this machine",
    "--enable-log-requests": "writes prompts to the log",
    "--enable-log-outputs": "writes answers to the log",
    "--enable-log-deltas": "writes answers to the log",
}
"""vLLM's flag -> why it cannot be given in `extra_args`."""

SHORTEST_ABBREVIATION = 4
"""argparse takes `--tru` for `--trust-remote-code`; prefixes from this length (dashes included) are refused too."""


class VllmSettings(BaseModel):
    """How vLLM is started, whatever model it serves. Everything that is left out is vLLM's own default.

    With a registry of bundles the model is the promoted bundle's, and only these settings are configured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    served_model_name: str = Field(
        "student", min_length=1, max_length=256, pattern=r"^[^\s-][^\s]*$", description="The name it is served under."
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        pattern=r"^[^\s-][^\s]*$",
        description="Address that vLLM listens on; keep it private: its key does not guard every path.",
    )
    port: int = Field(8101, ge=1, le=65535, description="Port that vLLM listens on.")
    second_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="With a registry: the port that takes turns with `port` when the student is replaced; default: "
        "`port` + 1.",
    )
    python: str | None = Field(
        None,
        description="Interpreter that has vLLM; default: `.venv-serving/bin/python` below the current folder when it "
        "exists, else the running one.",
    )
    api_key_env: str | None = Field(
        None, description="Environment variable with the key that vLLM asks for; it reaches vLLM by environment."
    )
    context_window_tokens: int | None = Field(
        None, ge=16, description="Prompt and output together (`--max-model-len`); default: the model's own length."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Type of weights and activations; `auto` is what the model says."
    )
    quantization: Quantization | None = Field(
        None,
        description="How the weights are quantized; default: what the model's config.json says. W8A8 and W4A16 by "
        "llm-compressor are `compressed-tensors`; `fp8` also quantizes unquantized weights at start (GPU).",
    )
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Share of the GPU's memory for weights and KV cache; ignored by the CPU build."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs (CPU build: memory nodes) that share one copy.")
    max_num_seqs: int | None = Field(None, ge=1, description="Requests that are generated at once; more wait.")
    max_logprobs: int = Field(20, ge=0, description="Most logprobs that a request may ask for.")
    enforce_eager: bool | None = Field(
        None, description="Skip compilation; default: true on the CPU build, where compiling takes minutes."
    )
    enable_prefix_caching: bool | None = Field(None, description="Reuse the KV cache of common prompt beginnings.")
    cpu_kv_cache_gib: int = Field(1, ge=1, description="KV cache of the CPU build; ignored with a GPU.")
    cpu_omp_threads_bind: str | None = Field(
        None,
        pattern=r"^\d+(-\d+)?([,|]\d+(-\d+)?)*$",
        description="Cores of the CPU build, like `0-3` or `0,2`; with `|` between memory nodes; ignored with a GPU.",
    )
    startup_timeout_s: Seconds = Field(900.0, description="Time from launch until it must be ready.")
    shutdown_timeout_s: float = Field(
        30.0, ge=0, le=86_400, description="Time that running requests get after SIGTERM; then it is killed."
    )
    hang_timeout_s: Seconds = Field(60.0, description="A ready student whose /health fails this long is restarted.")
    max_restarts: int = Field(5, ge=0, description="Restarts within `restart_window_s`; one more crash is final.")
    restart_window_s: Seconds = Field(600.0, description="The window in which restarts are counted.")
    restart_backoff_s: Seconds = Field(1.0, description="Wait before the first restart; it doubles each time.")
    restart_backoff_max_s: Seconds = Field(60.0, description="Longest wait before a restart.")
    log_file: str | None = Field(None, description="vLLM's output is appended here as well.")
    extra_args: tuple[str, ...] = Field(
        (), description="More of vLLM's flags, as on its command line; those set by other options are refused."
    )

    @field_validator("extra_args")
    @classmethod
    def _only_foreign_flags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and not value[0].startswith("-"):
            raise ValueError(f"{value[0]!r} is not a flag; start with one like --max-num-batched-tokens")
        for arg in value:
            if arg.startswith("-") and not _is_number(arg):
                _refuse_owned(arg)
        return value

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.second_port == self.port:
            raise ValueError(f"second_port: {self.second_port} is `port` as well; two servers run during a promotion")
        return self

    @property
    def base_url(self) -> str:
        """Where the gateway reaches it: a wildcard address is reached over loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}/v1" if ":" in host else f"http://{host}:{self.port}/v1"

    @property
    def ports(self) -> tuple[int, int]:
        """The two ports that take turns during promotions; after the last port (65535) comes the one before it."""
        neighbour = self.port + 1 if self.port < 65535 else self.port - 1
        return self.port, self.second_port or neighbour


class VllmOptions(VllmSettings):
    """What one vLLM is started with: the settings and the model."""

    model: str = Field(min_length=1, description="Folder of the model in Hugging Face layout.")


def _refuse_owned(arg: str) -> None:
    """Raises ValueError for flags that have an option of their own or would open a hole, abbreviations included."""
    flag = arg.split("=", 1)[0]
    if flag.startswith("--"):
        flag = "--" + flag[2:].split(".", 1)[0].replace("_", "-")
    for owned, option in OWNED_FLAGS.items():
        if _means(flag, owned):
            raise ValueError(f"{arg!r} is set by the option `{option}`; use that")
    for refused, why in REFUSED_FLAGS.items():
        if _means(flag, refused):
            raise ValueError(f"{arg!r} is refused: {refused} {why}")


def _means(flag: str, full: str) -> bool:
    if not full.startswith("--"):
        # argparse reads `-qawq` as `-q awq`, and `-tp2` as `-tp 2`.
        return not flag.startswith("--") and flag.startswith(full)
    return flag == full or (len(flag) >= SHORTEST_ABBREVIATION and full.startswith(flag))


def _is_number(arg: str) -> bool:
    try:
        float(arg)
    except ValueError:
        return False
    return True
