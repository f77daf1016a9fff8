"""Secrets are planted wherever the gateway can meet one, every error is provoked, and all that it wrote is searched."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import CONFIG
from tests.contract.test_odd_input import answering

pytestmark = pytest.mark.system
TENANT_KEY = "planted-tenant-key-7Rz"
ADMIN_KEY = "planted-admin-key-4Kw-long-enough"
STUDENT_KEY = "planted-student-key-9Xq"
TEACHER_KEY = "planted-teacher-key-2Mv"
REDIS_PASSWORD = "planted-redis-password-5Tc"
UNRELATED = "planted-unrelated-password-8Bn"
WRONG_KEY = "planted-wrong-key-of-a-client"
PROMPT = "planted-prompt-of-a-patient"
COMPLETION = "planted-completion"
EVERYWHERE = (TENANT_KEY, ADMIN_KEY, STUDENT_KEY, TEACHER_KEY, REDIS_PASSWORD, UNRELATED, WRONG_KEY)
"""In nothing that the gateway writes or answers."""
AT_REST = (*EVERYWHERE, PROMPT, COMPLETION)
"""In no log, no record at capture level `metadata`, and no error."""

REST = """
[auth]
keys_env = "PLANTED_KEYS"
admin_key_env = "PLANTED_ADMIN"
[admin]
dir = "{admin_dir}"
"""
FAULTS = (
    "500", "503-retry-after-1", "429", "401", "401-string", "402", "404", "400", "400-context", "422", "500-html", "reset", "close",
    "truncate-9", "reset-mid-1", "error-frame", "error-frame-mid-1", "empty-stream", "garbage", "no-done", "html", "lost-choice",
)  # fmt: skip
"""What a backend may do to an answer; those that hang are left out."""


QUOTING = '[[routing.policies]]\ntype = "tests.security.quoting:Quoting"\n'
"""A policy that raises what it was asked."""


class Served:
    """`locum serve` at its most talkative, and everything that it says."""

    def __init__(self, folder: Path, config: str, environ: dict[str, str]) -> None:
        self._path = folder / "locum.toml"
        self._path.write_text(config)
        self.output = folder / "output.txt"
        command = [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(self._path)]
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--log-level", "debug"],
                stdout=output,
                stderr=output,
                env={**os.environ, **environ},
                cwd=folder,
            )
        while " listens on " not in self.output.read_text():
            assert self._process.poll() is None, self.output.read_text()
            time.sleep(0.01)
        line = next(line for line in self.output.read_text().splitlines() if " listens on " in line)
        self.origin = line.split()[-1]

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def write_config(folder: Path, student_url: str, teacher_url: str, more: str = "", *, log_format: str = "text") -> str:
    return CONFIG.format(
        server=f'body_timeout_s = 1.0\nmax_body_bytes = 65536\nlog_format = "{log_format}"\naccess_log = true', student='api_key_env = "PLANTED_STUDENT"',
        teacher='api_key_env = "PLANTED_TEACHER"', student_url=student_url, teacher_url=teacher_url,
        student_model="student", teacher_model="teacher", log_dir=folder / "traffic",
        rest=REST.format(admin_dir=folder / "admin") + more,
    ).replace("[log]", '[log]\ncapture = "metadata"')  # fmt: skip


ENVIRONMENT = {
    "PLANTED_KEYS": f"acme={TENANT_KEY}", "PLANTED_ADMIN": ADMIN_KEY, "PLANTED_STUDENT": STUDENT_KEY,
    "PLANTED_TEACHER": TEACHER_KEY, "PLANTED_REDIS": REDIS_PASSWORD, "DATABASE_PASSWORD": UNRELATED,
}  # fmt: skip


@pytest.fixture(params=["text", "json"])
def served(request: pytest.FixtureRequest, tmp_path: Path, student: BackendThread) -> Iterator[Served]:
    echo = f'{{"error":{{"message":"Incorrect API key provided: {TEACHER_KEY}"}}}}'.encode()
    with answering(b"HTTP/1.1 401 No\r\ncontent-length: %d\r\n\r\n%b" % (len(echo), echo)) as teacher_url:
        config = write_config(tmp_path, student.base_url, teacher_url, QUOTING, log_format=request.param)
        running = Served(tmp_path, config, ENVIRONMENT)
        yield running
        running.kill()


class Caller:
    """Asks, and keeps what was answered."""

    def __init__(self, origin: str) -> None:
        self._http = httpx.Client(base_url=origin, timeout=30, headers={"authorization": f"Bearer {TENANT_KEY}"})
        self.errors: list[str] = []
        self.heads: list[str] = []
        self.statuses: set[int] = set()

    def ask(self, method: str, path: str, **options: Any) -> None:
        answer = self._http.request(method, path, **options)
        self.statuses.add(answer.status_code)
        self.heads.append(str(answer.headers))
        if answer.status_code >= 400 or '"error"' in answer.text or path.startswith(("/metrics", "/readyz", "/admin")):
            self.errors.append(answer.text)

    def chat(self, text: str = "", **more: Any) -> None:
        body = {"model": "auto", "messages": [{"role": "user", "content": f"{PROMPT} {text}"}], **more}
        self.ask("POST", "/v1/chat/completions", json=body)


def provoke(caller: Caller) -> None:
    """Every kind of error that a client or a backend can cause."""
    for fault in FAULTS:
        for stream in (False, True):
            caller.chat(f"[[fake-{fault}]]", stream=stream)
            caller.chat(f"[[fake-{fault}]]", stream=stream, model="student", router={"explain": True})
    caller.chat(model="teacher")
    caller.chat(model="no-such-model")
    caller.chat(router={"route": "nowhere"})
    caller.chat(router={"retrieved_chunks": [{"text": PROMPT, "score": "high"}]})
    caller.chat(router={"explain": True, "retrieved_chunks": [{"text": PROMPT, "score": 0.1}]})
    caller.chat("x" * 70_000)
    caller.chat(max_tokens="many")
    caller.chat(tools=PROMPT)
    for body in (
        b"{",
        b'{"model": "auto", "messages": [{"role": "user", "content": "' + PROMPT.encode(),
        b"\xff" + PROMPT.encode(),
    ):
        for path in ("chat/completions", "completions", "responses", "messages", "feedback"):
            caller.ask("POST", f"/v1/{path}", content=body)
    for path, body in (
        ("completions", {"model": "auto", "prompt": {"text": PROMPT}}),
        ("responses", {"model": "auto", "input": PROMPT, "previous_response_id": "x"}),
        ("messages", {"model": "auto", "max_tokens": 5, "messages": [{"role": PROMPT, "content": PROMPT}]}),
        ("feedback", {"decision_id": "0" * 32, "correction": PROMPT}),
        ("feedback", {"decision_id": PROMPT, "score": 0.5}),
    ):
        caller.ask("POST", f"/v1/{path}", json=body)
    for header in ("authorization", "x-api-key", "api-key"):
        value = f"Bearer {WRONG_KEY}" if header == "authorization" else WRONG_KEY
        caller.ask("GET", "/v1/models", headers={"authorization": "", header: value})
        caller.ask("POST", "/v1/chat/completions", headers={"authorization": "", header: value}, json={"x": PROMPT})
    caller.ask("GET", "/v1/models/none")
    caller.ask("DELETE", "/v1/models")
    caller.ask("GET", "/nowhere", headers={"cookie": WRONG_KEY})


def administrate(caller: Caller) -> None:
    """Right and wrong, with both kinds of keys."""
    admin = {"authorization": f"Bearer {ADMIN_KEY}"}
    for headers in (admin, {}, {"authorization": f"Bearer {WRONG_KEY}"}):
        caller.ask("GET", "/admin/policy", headers=headers)
        caller.ask("GET", "/admin/policy/history", headers=headers)
        caller.ask("PUT", "/admin/policy", headers=headers, json={"routing": {"default_route": PROMPT}})
        caller.ask(
            "PUT", "/admin/policy", headers={**headers, "if-match": "0"}, json={"routing": {"default_route": "teacher"}}
        )
        caller.ask(
            "POST",
            "/admin/explain",
            headers=headers,
            json={"model": "auto", "messages": [{"role": "user", "content": 5}]},
        )
        caller.ask("GET", "/admin/status", headers=headers)
        caller.ask("GET", "/admin/audit", headers=headers)


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found(texts: dict[str, bytes], secrets: tuple[str, ...]) -> list[str]:
    return [
        f"{secret} in {name}" for name, content in texts.items() for secret in secrets if secret.encode() in content
    ]


@pytest.mark.timeout(300)  # some hundred requests, one after the other
def test_secrets_and_prompts_are_written_nowhere(served: Served, tmp_path: Path) -> None:
    caller = Caller(served.origin)
    provoke(caller)
    administrate(caller)
    served.reload()
    raw = socket.create_connection(("127.0.0.1", int(served.origin.rpartition(":")[2])), timeout=20)
    with raw:
        raw.sendall(f"POST /v1/x HTTP/1.1\r\nauthorization: Bearer {TENANT_KEY}\r\nbroken {PROMPT}\r\n\r\n".encode())
        caller.errors.append(raw.recv(65_536).decode())
    for path in ("/metrics", "/readyz", "/healthz"):
        caller.ask("GET", path, headers={"authorization": ""})
    served.stop()

    assert {200, 400, 401, 404, 405, 409, 413, 503} <= caller.statuses  # the errors did happen
    assert found({"headers": "\n".join(caller.heads).encode()}, AT_REST) == []
    errors = [text for text in caller.errors if "planted-prompt" not in text or not _is_quoted_back(text)]
    assert found({"errors": "\n".join(errors).encode()}, AT_REST) == []
    assert found({"output": served.output.read_bytes()}, AT_REST) == []
    assert b"Traceback" not in served.output.read_bytes()
    assert b"locum.access" in served.output.read_bytes()
    at_rest = below(tmp_path / "traffic") | below(tmp_path / "admin")
    assert any(name.endswith("audit.jsonl") for name in at_rest)
    assert any(json.dumps("metadata").encode() in content for content in at_rest.values())
    assert found(at_rest, AT_REST) == []


def test_password_of_a_redis_that_is_not_there_is_written_nowhere(tmp_path: Path, student: BackendThread) -> None:
    state = (
        '[state]\nurl = "redis://127.0.0.1:1/0"\npassword_env = "PLANTED_REDIS"\n[limits]\nrequests_per_minute = 100'
    )
    running = Served(tmp_path, write_config(tmp_path, student.base_url, student.base_url, state), ENVIRONMENT)
    try:
        caller = Caller(running.origin)
        caller.chat()
        administrate(caller)
        caller.ask("GET", "/readyz")
        running.stop()
    finally:
        running.kill()
    assert (
        found({"output": running.output.read_bytes(), "answers": "\n".join(caller.errors).encode()}, EVERYWHERE) == []
    )


def _is_quoted_back(text: str) -> bool:
    """A client sees its own wrong value again, shortened, where that helps: `default_route: ... not 'x'`."""
    return "invalid_policy_document" in text


def test_records_and_audit_log_can_be_read_by_their_owner_only(served: Served, tmp_path: Path) -> None:
    caller = Caller(served.origin)
    caller.chat()
    administrate(caller)
    served.stop()
    files = [path for folder in ("traffic", "admin") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path
