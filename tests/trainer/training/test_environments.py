"""Jobs in another interpreter: what they are handed, what comes back, and that none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer import environment_install, environments
from trainer.environment_install import STAMP, ensure
from trainer.environments import run_job
from trainer.jobs import protocol
from trainer.stage import StageError

ROOT = Path(__file__).parents[3]


def quiet(done: int, total: int | None, unit: str) -> None:
    return


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules are jobs too, with this interpreter standing for the training environment."""
    folder = tmp_path / "root"
    (folder / "jobs_of_test").mkdir(parents=True)
    for name in environments.PACKAGES:
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.setattr(environments, "__file__", str(folder / "trainer_is_here" / "environments.py"))
    monkeypatch.setattr(environments, "PACKAGES", (*environments.PACKAGES, "jobs_of_test"))
    monkeypatch.setattr(environments, "_checked", lambda source, python, modules: python)
    return folder / "jobs_of_test"


def run(jobs: Path, code: str, progress=quiet) -> dict[str, object]:
    body = "\n    ".join(code.strip().splitlines())
    (jobs / "job.py").write_text(
        "import errno, os, signal, sys, msgspec\nfrom trainer.jobs import protocol\nfrom trainer.stage import StageError\n"
        f"def run(spec, progress):\n    {body}\n"
        "if __name__ == '__main__':\n    sys.exit(protocol.main(dict, run))\n"
    )
    return run_job("train", "jobs_of_test.job", {"n": 3}, python=sys.executable, progress=progress)


def test_job_gets_its_spec_and_returns_its_result_whatever_libraries_print(jobs: Path) -> None:
    seen: list[tuple[int, int | None, str]] = []
    code = """
print("a library speaks")
os.write(1, b"in its own way")
progress(1, 2, "steps")
return {"twice": 2 * spec["n"]}
"""
    assert run(jobs, code, lambda *each: seen.append(each)) == {"twice": 6}
    assert seen == [(1, 2, "steps")]


def test_job_sees_the_projects_packages_and_nothing_else_of_this_environment(jobs: Path) -> None:
    code = "import trainer.stage\nreturn {'home': os.environ['PYTHONPATH'], 'safe': sys.flags.safe_path, 'first': sys.path[0]}"
    found = run(jobs, code)
    assert str(found["home"]).endswith("packages") and os.pathsep not in str(found["home"])
    assert found["safe"] and found["first"] == found["home"]


@pytest.mark.system
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise StageError('train.epochs: the fix')", "^train.epochs: the fix$"),
        ("sys.stderr.write('why it died\\n'); sys.exit(3)", r"(?s)exit code 3.*why it died"),
        ("raise ValueError('bug')", "(?s)jobs_of_test.job failed.*ValueError: bug"),
        ("raise OSError(errno.ENOSPC, 'No space left on device', 'model.bin')", "disk is full at model.bin"),
        (
            "raise RuntimeError('[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can\\'t allocate memory')",
            "out of memory",
        ),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate')", "lower train.micro_batch_size"),
        ("raise MemoryError()", "out of memory"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "most likely out of memory"),
        ("os._exit(0)", "ended without a result"),
    ],
)
def test_job_error_names_the_cause(jobs: Path, code: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        run(jobs, code)


@pytest.mark.system
def test_job_and_its_children_die_when_the_parent_is_killed(tmp_path: Path) -> None:
    parent_file = tmp_path / "parent.py"
    parent_file.write_text(
        "import sys\nfrom pathlib import Path\nfrom trainer import environments\n"
        "environments._checked = lambda source, python, modules: python\n"
        "environments._link_packages = lambda folder: Path(sys.argv[1])\n"
        "show = lambda *each: print(each[2], flush=True)\n"
        "environments.run_job('train', 'sleeper', {}, python=sys.executable, progress=show)\n"
    )
    (tmp_path / "sleeper.py").write_text(
        "import os, subprocess, sys, time\nfrom trainer.jobs import protocol\n"
        "def run(spec, progress):\n    child = subprocess.Popen(['sleep', '600'])\n"
        "    progress(0, None, f'{os.getpid()} {child.pid}')\n    time.sleep(600)\n"
        "if __name__ == '__main__':\n    sys.exit(protocol.main(dict, run))\n"
    )
    for name in environments.PACKAGES:
        (tmp_path / name).symlink_to(ROOT / name)
    with subprocess.Popen(
        [sys.executable, str(parent_file), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        pids = [int(each) for each in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_interpreter_is_refused_with_its_setting_when_it_lacks_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_QUANTIZE_PYTHON", "/nowhere/python")
    with pytest.raises(StageError, match="LOCUM_QUANTIZE_PYTHON: '/nowhere/python' cannot be run"):
        run_job("quantize", "trainer.jobs.versions", {}, progress=quiet)
    with pytest.raises(StageError, match=r"environments\.quantize_python.*lacks.*llmcompressor"):
        run_job("quantize", "trainer.jobs.versions", {}, python=sys.executable, progress=quiet)


def fake_pip(folder: Path, monkeypatch: pytest.MonkeyPatch, *, code: int = 0) -> list[list[str]]:
    """Installs nothing; notes what would be run."""
    commands: list[list[str]] = []

    def install(command, environment, on_line, *, must_succeed=True) -> None:
        commands.append(command)
        if "venv" in command:
            (folder / "bin").mkdir(parents=True, exist_ok=True)
            (folder / "bin" / "python").write_text("")
        elif code:
            raise StageError("the environment train cannot be installed")
        on_line("Collecting torch==2.13.0")

    monkeypatch.setattr(environment_install, "_run", install)
    monkeypatch.setenv("LOCUM_TORCH", "cpu")
    return commands


def test_environment_is_installed_from_its_lock_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = fake_pip(tmp_path / ".venv-train", monkeypatch)
    seen: list[tuple[int, int | None, str]] = []
    python = ensure("train", lambda *each: seen.append(each), parent=tmp_path)
    assert python == tmp_path / ".venv-train" / "bin" / "python"
    assert "--require-hashes" in commands[1] and commands[1][-1].endswith("locks/train.txt")
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1]
    assert ensure("train", quiet, parent=tmp_path) == python
    assert [command[2] for command in commands] == ["venv", "pip", "compileall"]


def test_environment_is_installed_again_when_it_is_half_done_or_the_lock_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = fake_pip(tmp_path / ".venv-train", monkeypatch, code=1)
    with pytest.raises(StageError, match="cannot be installed"):
        ensure("train", quiet, parent=tmp_path)
    assert not (tmp_path / ".venv-train" / STAMP).exists()
    commands = fake_pip(tmp_path / ".venv-train", monkeypatch)
    ensure("train", quiet, parent=tmp_path)
    assert len(commands) == 3
    (tmp_path / ".venv-train" / STAMP).write_text("of another list")
    ensure("train", quiet, parent=tmp_path)
    assert len(commands) == 6


def test_gpu_build_is_pinned_to_the_same_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = fake_pip(tmp_path / ".venv-quantize", monkeypatch)
    monkeypatch.setenv("LOCUM_TORCH", "gpu")
    ensure("quantize", quiet, parent=tmp_path)
    assert "--require-hashes" not in commands[1] and commands[1][-1].endswith("pins.txt")
    monkeypatch.setenv("LOCUM_TORCH", "tpu")
    with pytest.raises(StageError, match="LOCUM_TORCH is 'tpu'"):
        ensure("quantize", quiet, parent=tmp_path)


def test_locks_are_complete_and_hashed() -> None:
    for environment in environment_install.ENVIRONMENTS.values():
        text = environment.lock.read_text()
        assert text.count("--hash=sha256:") >= text.count("==") > 50
        for module in environment.modules:
            assert f"\n{module}==" in text, (environment.name, module)


def test_explain_names_only_what_an_operator_can_mend() -> None:
    assert protocol.explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert protocol.explain(OSError(2, "No such file")) is None
