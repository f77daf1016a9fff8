"""Real models, started once a session and shared: the student on vLLM, the teacher on llama.cpp's server.

    student_url, teacher_url      base URLs up to and including /v1 (models `student` and `teacher`)
    two_bundles                   a registry with the student as it is and a copy with a third of its layers left out
    serving_python                the interpreter that has both (LOCUM_SERVING_PYTHON, else .venv-serving)
    student_model, teacher_model  the prepared models, from the cache ($LOCUM_CACHE)

Each server is pinned to one core, so that two of them do not fight on a small machine. Files with tests
of the shared servers run in one process of pytest-xdist (tests/conftest.py), so that each server is started once; the
others run in another one beside it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.bundles import write_bundle
from serving.launch import clean_environment
from serving.models import PreparedModel, prepare_student, prepare_teacher
from serving.options import VllmOptions
from serving.registry import Registry
from serving.student import StudentProcess
from serving.supervisor import Event, Supervisor
from serving.teacher import TeacherOptions, TeacherProcess
from tests.serving.bundles import bundle_fields, manifest_fields

ROOT = Path(__file__).parents[2]
STUDENT_WINDOW_TOKENS = 512
"""Small: what does not fit into it is read by a teacher that takes seconds for a hundred tokens."""
TIMEOUT_S = 900
STUDENT_CORE, TEACHER_CORE = 0, 1
OWN_CORE = TEACHER_CORE
"""Of servers that a test starts for itself: the teacher's, which has little to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Loading a model takes a minute and more: the default limit of a test is too short for the first one."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def core(number: int) -> int:
    """That core, or the last one there is."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[min(number, len(cores) - 1)]


@pytest.fixture(scope="session")
def serving_python() -> str:
    python = Path(os.environ.get("LOCUM_SERVING_PYTHON") or ROOT / ".venv-serving" / "bin" / "python")
    if not python.exists():
        message = f"{python} does not exist: run `make install-serving`, or set LOCUM_SERVING_PYTHON"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return str(python)


@pytest.fixture(scope="session")
def student_model(serving_python: str) -> PreparedModel:
    return prepare_student(_report, python=serving_python)


@pytest.fixture(scope="session")
def teacher_model() -> PreparedModel:
    return prepare_teacher(_report)


@pytest.fixture(scope="session")
def student_url(student_model: PreparedModel, serving_python: str) -> Iterator[str]:
    options = VllmOptions(
        model=str(student_model.path),
        port=free_port(),
        python=serving_python,
        context_window_tokens=STUDENT_WINDOW_TOKENS,
        cpu_omp_threads_bind=str(core(STUDENT_CORE)),
        shutdown_timeout_s=5.0,
    )
    with running(lambda: StudentProcess(options, observer=_show)):
        yield options.base_url


@pytest.fixture(scope="session")
def teacher_url(teacher_model: PreparedModel, serving_python: str) -> Iterator[str]:
    options = TeacherOptions(
        model=str(teacher_model.path), port=free_port(), python=serving_python, cpu_cores=(core(TEACHER_CORE),)
    )
    with running(lambda: TeacherProcess(options, observer=_show)):
        yield options.base_url


PRUNE = """
import sys, torch
from transformers import AutoModelForCausalLM
source, target, kept = sys.argv[1], sys.argv[2], [int(layer) for layer in sys.argv[3].split(",")]
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
model.model.layers = torch.nn.ModuleList(model.model.layers[layer] for layer in kept)
for position, layer in enumerate(model.model.layers):
    layer.self_attn.layer_idx = position
model.config.num_hidden_layers = len(kept)
if getattr(model.config, "layer_types", None):
    model.config.layer_types = model.config.layer_types[: len(kept)]
model.save_pretrained(target)
"""
KEPT_LAYERS = ",".join(str(layer) for layer in range(30) if layer % 3 != 1)


@pytest.fixture
def two_bundles(student_model: PreparedModel, serving_python: str, tmp_path: Path) -> tuple[Registry, str, str]:
    """(registry, id of the whole model, id of the pruned one)."""
    registry = Registry(tmp_path / "students")
    ids = []
    for name in ("whole", "pruned"):
        folder = tmp_path / name
        shutil.copytree(student_model.path, folder / "model")
        if name == "pruned":
            for weights in (folder / "model").glob("*.safetensors*"):
                weights.unlink()
            arguments = [str(student_model.path), str(folder / "model"), KEPT_LAYERS]
            subprocess.run([serving_python, "-c", PRUNE, *arguments], check=True, env=clean_environment())
        write_bundle(folder, bundle_fields(name), manifest_fields())
        ids.append(registry.add(folder).bundle_id)
    return registry, ids[0], ids[1]


@contextmanager
def running(build: Callable[[], Supervisor]) -> Iterator[Supervisor]:
    """A supervised process, ready, on an event loop of its own: fixtures and tests may be sync or async."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        process = build()
        asyncio.run_coroutine_threadsafe(process.start(), loop).result()
        try:
            asyncio.run_coroutine_threadsafe(process.ready(), loop).result()
            yield process
        finally:
            asyncio.run_coroutine_threadsafe(process.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _report(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _show(event: Event) -> None:
    _report(f"[{event.elapsed_s:6.1f} s] {event.name} {event.state}: {event.message}")
