"""`locum serve`, `check` and `explain` as an operator meets them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from loadtests.fake_backend import BackendThread
from router.cli import main
from router.config_file import parse
from tests.policies.test_cascade import fitted

SMALLEST = '[student]\nbase_url = "{student}"\n[teacher]\nbase_url = "http://127.0.0.1:9/v1"\n'


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "locum.toml"
    text = SMALLEST.format(student="http://127.0.0.1:9/v1").replace(
        "[teacher]", "context_window_tokens = 2048\n[teacher]"
    )
    path.write_text(text)
    return path


def request_file(tmp_path: Path, **members: object) -> str:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], **members}))
    return str(path)


def test_check_prints_a_configuration_that_is_accepted_again(config_file: Path) -> None:
    result = CliRunner().invoke(main, ["check", "-c", str(config_file)])
    assert result.exit_code == 0, result.output
    assert parse(result.stdout) == parse(config_file.read_text())


def test_check_never_prints_a_secret_and_warns_when_it_is_unset(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.write_text(config_file.read_text() + 'api_key_env = "SECRET_OF_TEST"\n')
    assert "warning" in CliRunner().invoke(main, ["check", "-c", str(config_file)]).stderr
    monkeypatch.setenv("SECRET_OF_TEST", "planted-secret-1")
    result = CliRunner().invoke(main, ["check", "--json", "-c", str(config_file)])
    assert "planted-secret-1" not in result.output
    assert json.loads(result.stdout)["teacher"]["api_key_env"] == "SECRET_OF_TEST"


def test_check_warns_when_a_calibrator_has_no_threshold_of_its_own(config_file: Path, tmp_path: Path) -> None:
    fitted(tmp_path / "own.json")
    cascade = f'[[routing.policies]]\ntype = "cascade"\ncalibrator = {json.dumps(str(tmp_path / "own.json"))}\n'
    config_file.write_text(f"{config_file.read_text()}\n{cascade}")
    result = CliRunner().invoke(main, ["check", "-c", str(config_file)])
    assert result.exit_code == 0
    assert "no_threshold" in result.stderr
    config_file.write_text(config_file.read_text() + "threshold = 0.3\n")
    assert "no_threshold" not in CliRunner().invoke(main, ["check", "-c", str(config_file)]).stderr


PRICES = "price_usd_per_1m_input_tokens = 2.5\nprice_usd_per_1m_output_tokens = 10.0\n"


@pytest.mark.parametrize(
    ("student", "warned"),
    [
        ("", True),
        ("price_usd_per_1m_input_tokens = 0.02\n", True),
        (PRICES, False),
        ("machine_usd_per_hour = 1.5\n", False),
    ],
)
def test_check_warns_when_only_the_teacher_has_prices(config_file: Path, student: str, warned: bool) -> None:
    text = config_file.read_text().replace("[teacher]", f"{student}[teacher]")
    config_file.write_text(text)
    assert "has prices" not in CliRunner().invoke(main, ["check", "-c", str(config_file)]).stderr
    config_file.write_text(text + PRICES)
    result = CliRunner().invoke(main, ["check", "-c", str(config_file)])
    assert result.exit_code == 0
    assert ("warning: student: the teacher has prices and the student has none" in result.stderr) == warned


def test_check_names_the_replica_whose_machine_has_no_price(config_file: Path) -> None:
    replicas = "".join(
        f'[[student.replicas]]\nname = "{name}"\nbase_url = "http://{name}.example/v1"\n{price}'
        for name, price in (("a", "machine_usd_per_hour = 1.0\n"), ("b", ""))
    )
    config_file.write_text(f'[student]\n{replicas}[teacher]\nbase_url = "http://127.0.0.1:9/v1"\n{PRICES}')
    assert "the student (b) has none" in CliRunner().invoke(main, ["check", "-c", str(config_file)]).stderr


@pytest.mark.parametrize("command", ["check", "serve"])
def test_wrong_key_is_exit_code_2_and_named(config_file: Path, command: str) -> None:
    config_file.write_text(config_file.read_text() + "colour = 3\n")
    result = CliRunner().invoke(main, [command, "-c", str(config_file)])
    assert result.exit_code == 2
    assert "teacher.colour" in result.stderr


def test_serve_refuses_to_start_when_a_named_secret_is_unset(config_file: Path) -> None:
    config_file.write_text(config_file.read_text() + 'api_key_env = "SECRET_THAT_IS_UNSET"\n')
    result = CliRunner().invoke(main, ["serve", "-c", str(config_file)])
    assert result.exit_code == 2
    assert "SECRET_THAT_IS_UNSET" in result.stderr


def test_explain_shows_every_vote_without_calling_a_backend(config_file: Path, tmp_path: Path) -> None:
    request = request_file(tmp_path, router={"retrieval_confidence": 0.2}, max_tokens=4000)
    result = CliRunner().invoke(main, ["explain", "--json", "-c", str(config_file), request])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["decision"]["policy"] == "long_context"
    votes = {vote["policy"]: vote for vote in shown["votes"]}
    assert votes["retrieval_confidence"]["route"] == "teacher"
    assert votes["retrieval_confidence"]["score"] == pytest.approx(0.8)
    assert votes["retrieval_confidence"]["threshold"] == pytest.approx(0.45)
    assert set(votes) == {"long_context", "retrieval_confidence", "long_reasoning"}


def test_explain_prints_a_table_for_people(config_file: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["explain", "-c", str(config_file), request_file(tmp_path)])
    assert result.exit_code == 0
    assert "route student" in result.stdout
    assert "retrieval_confidence" in result.stdout


def test_explain_names_the_field_when_the_request_is_wrong(config_file: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["explain", "-c", str(config_file), request_file(tmp_path, messages=[])])
    assert result.exit_code == 2
    assert "messages" in result.stderr


def test_explain_asks_the_backend_for_its_window_when_the_file_does_not_say(tmp_path: Path) -> None:
    with BackendThread(models=("student",), window_tokens=100) as student:
        config = tmp_path / "locum.toml"
        config.write_text(SMALLEST.format(student=student.base_url))
        request = request_file(tmp_path, max_tokens=200)
        result = CliRunner().invoke(main, ["explain", "--json", "-c", str(config), request])
        assert json.loads(result.stdout)["decision"]["policy"] == "long_context"
        assert student.state.completed <= 1  # the question for its models


def start_serving(config: Path, cwd: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(config)],
        stderr=subprocess.PIPE, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"listens on (http://\S+)", line)
        if found:
            return process, found[1]
    raise AssertionError(f"serve ended with {process.wait()}")


@pytest.mark.system
def test_serve_finishes_a_running_stream_and_leaves_when_it_is_told_to(tmp_path: Path) -> None:
    with BackendThread(models=("student",)) as student:
        config = tmp_path / "locum.toml"
        config.write_text(SMALLEST.format(student=student.base_url) + "[server]\nport = 0\n")
        process, url = start_serving(config, tmp_path)
        body = {
            "model": "auto", "stream": True,
            "messages": [{"role": "user", "content": "[[fake-tokens-8-gap-0.05]]"}],
        }  # fmt: skip
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=20) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert "data: [DONE]" in rest
        assert process.wait(20) == 0


def test_serve_says_which_key_to_change_when_the_port_is_taken(tmp_path: Path) -> None:
    with BackendThread(models=("student",)) as student:
        config = tmp_path / "locum.toml"
        port = student.origin.rpartition(":")[2]
        config.write_text(SMALLEST.format(student=student.base_url) + f'[server]\nport = {port}\n[log]\ndir = ""\n')
        result = CliRunner().invoke(main, ["serve", "-c", str(config)])
        assert result.exit_code == 2
        assert "server.port" in result.stderr


@pytest.mark.system
def test_no_traffic_reaches_the_log_of_the_process_or_the_metrics(tmp_path: Path) -> None:
    planted = ["prompt-planted-7", "key-planted-7", "session-planted-7", "tag-planted-7"]
    with BackendThread(models=("student",)) as student:
        config = tmp_path / "locum.toml"
        config.write_text(
            SMALLEST.format(student=student.base_url)
            + '[server]\nport = 0\n[log]\ndir = ""\n[auth]\nkeys_env = "TEST_KEYS"'
        )
        env = {**os.environ, "TEST_KEYS": "acme=key-planted-7"}
        process = subprocess.Popen(
            [sys.executable, "-c", "from router.cli import main; main()", "serve", "--log-level", "debug", "-c", str(config)],
            stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**env, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert process.stderr is not None
        url = ""
        seen: list[str] = []
        while not url:
            seen.append(process.stderr.readline())
            found = re.search(r"listens on (http://\S+)", seen[-1])
            url = found[1] if found else ""
        client = httpx.Client(base_url=url, timeout=20, headers={"authorization": "Bearer key-planted-7"})
        for content in ("prompt-planted-7", "[[fault-500]] prompt-planted-7"):
            body = {
                "model": "auto", "messages": [{"role": "user", "content": content}],
                "router": {"session": "session-planted-7", "tags": {"team": "tag-planted-7"}},
            }  # fmt: skip
            client.post("/v1/chat/completions", json=body)
        client.post("/v1/chat/completions", content=b'{"prompt-planted-7')
        metrics = client.get("/metrics").text
        process.send_signal(signal.SIGTERM)
        seen += process.stderr.readlines()
        process.wait(20)
    text = "".join(seen) + metrics
    assert "router_requests_total" in metrics
    assert not [word for word in planted if word in text]
