"""`locum policy` against an HTTP server that says what a gateway says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from router.cli import main

CURRENT = {
    "version": 3, "created_s": 1_700_000_000.0, "source": "api", "author": "ann", "comment": "why", "restores": None,
    "file_sha256": "0", "sha256": "0", "document": {"routing": {}, "server": {}},
}  # fmt: skip


class Gateway(ThreadingHTTPServer):
    """Answers with `answers[(method, path)]` = (status, object), and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, str | None, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, self.headers["authorization"], body))
        status, content = self.server.answers[(self.command, self.path)]
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_PUT = do_POST = do_GET  # noqa: N815 - http.server finds methods by name

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def run(gateway: Gateway | None, *arguments: str, key: str | None = "the-admin-key-1") -> Result:
    url = ["--url", gateway.url] if gateway else ["--url", "http://127.0.0.1:1"]
    command, *rest = arguments
    return CliRunner().invoke(main, ["policy", command, *url, "--key-env", "KEY", *rest], env={"KEY": key})


def test_what_get_prints_can_be_edited_and_put(gateway: Gateway, tmp_path: Path) -> None:
    gateway.answers[("GET", "/admin/policy")] = (200, CURRENT)
    gateway.answers[("PUT", "/admin/policy")] = (200, {**CURRENT, "version": 4})
    printed = run(gateway, "get")
    (tmp_path / "policy.json").write_text(printed.output)
    installed = run(gateway, "put", str(tmp_path / "policy.json"), "-m", "because")
    assert (printed.exit_code, installed.exit_code) == (0, 0)
    assert installed.output.startswith("version 4")
    _, _, key, body = gateway.asked[-1]
    assert key == "Bearer the-admin-key-1"
    assert body == {"document": CURRENT["document"], "expected_version": 3, "comment": "because"}


def test_put_of_a_bare_document_needs_the_version(gateway: Gateway, tmp_path: Path) -> None:
    gateway.answers[("GET", "/admin/policy")] = (200, CURRENT)
    gateway.answers[("PUT", "/admin/policy")] = (200, CURRENT)
    (tmp_path / "bare.json").write_text('{"routing": {}}')
    assert run(gateway, "put", str(tmp_path / "bare.json")).exit_code == 2
    assert run(gateway, "put", str(tmp_path / "bare.json"), "--expect", "7").exit_code == 0
    assert gateway.asked[-1][3]["expected_version"] == 7
    assert run(gateway, "put", str(tmp_path / "bare.json"), "--force").exit_code == 0
    assert gateway.asked[-1][3]["expected_version"] == 3


def refusal(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": "c"}}


@pytest.mark.parametrize(("status", "code"), [(409, 1), (503, 1), (429, 1), (400, 2), (401, 2)])
def test_refusal_is_told_in_the_gateways_words(gateway: Gateway, tmp_path: Path, status: int, code: int) -> None:
    gateway.answers[("PUT", "/admin/policy")] = (status, refusal("one\ntwo"))
    (tmp_path / "p.json").write_text(json.dumps(CURRENT))
    result = run(gateway, "put", str(tmp_path / "p.json"))
    assert (result.exit_code, result.stderr) == (code, "error: one\nerror: two\n")


def test_validate_prints_the_difference_and_fails_when_it_is_invalid(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(CURRENT))
    effect = {
        "records": 10, "changed": 2, "teacher_share_before": 0.1, "teacher_share_after": 0.3,
        "moves": {"student -> teacher: low_confidence": 2}, "without_text": 0,
    }  # fmt: skip
    change = {"key": "routing.default_route", "before": "student", "after": "teacher"}
    good = {"valid": True, "problems": [], "current_version": 3, "diff": [change], "effect": effect}
    gateway.answers[("POST", "/admin/policy/validate")] = (200, good)
    result = run(gateway, "validate", str(tmp_path / "p.json"))
    assert result.exit_code == 0
    assert 'routing.default_route: "student" -> "teacher"' in result.output
    assert "10.0% -> 30.0%" in result.output
    bad = {"valid": False, "problems": ["routing.policies.0.type: unknown"], "current_version": 3}
    gateway.answers[("POST", "/admin/policy/validate")] = (200, bad)
    result = run(gateway, "validate", str(tmp_path / "p.json"))
    assert (result.exit_code, "problem: routing.policies.0.type: unknown" in result.output) == (1, True)


def test_history_diff_and_rollback_ask_for_what_was_given(gateway: Gateway) -> None:
    summary = {key: value for key, value in CURRENT.items() if key != "document"}
    listed = {"current": 3, "versions": [summary, {**summary, "version": 2, "comment": ""}]}
    gateway.answers[("GET", "/admin/policy/history?limit=2")] = (200, listed)
    gateway.answers[("GET", "/admin/policy/diff?from=1&to=3")] = (200, {"from": 1, "to": 3, "changes": []})
    gateway.answers[("POST", "/admin/policy/rollback")] = (200, {**CURRENT, "version": 4})
    lines = run(gateway, "history", "--limit", "2").output.splitlines()
    assert [line[:11] for line in lines] == ["* version 3", "  version 2"]
    assert run(gateway, "diff", "--from", "1", "--to", "3").output == "version 1 -> 3\nno changes\n"
    assert run(gateway, "rollback", "--to", "2").exit_code == 0
    assert gateway.asked[-1][3] == {"comment": "", "to": 2}


def test_command_ends_with_1_when_nobody_or_something_else_answers(gateway: Gateway) -> None:
    assert run(None, "get").exit_code == 1
    gateway.answers[("GET", "/admin/policy")] = (200, b"<html>")
    result = run(gateway, "get")
    assert (result.exit_code, "not JSON" in result.stderr) == (1, True)


def test_unset_key_and_broken_file_are_wrong_input(gateway: Gateway, tmp_path: Path) -> None:
    assert run(gateway, "get", key=None).exit_code == 2
    (tmp_path / "p.json").write_text("{")
    assert run(gateway, "validate", str(tmp_path / "p.json")).exit_code == 2
