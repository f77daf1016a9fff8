"""The admin API on a real gateway: who gets in, what is written down, and the endpoints beside the policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.conftest import RunningGateway, StartGateway

KEY = "admin-key-0123456789"
PLANTED = "sk-planted-secret-value"
ENVIRON = {"KEYS": "acme=client-key-1", "ADMIN": f"ann={KEY}"}
AUTH = '[auth]\nkeys_env = "KEYS"\nadmin_key_env = "ADMIN"\n[admin]\ndir = "{folder}"'
QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


class Admin:
    """A gateway, and the admin's HTTP client."""

    def __init__(self, gateway: RunningGateway, folder: Path) -> None:
        self.gateway = gateway
        self.folder = folder

    def ask(self, method: str, path: str, *, key: str | None = KEY, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        return httpx.request(
            method, f"{self.gateway.origin}/admin/{path}", headers=headers, timeout=30, trust_env=False, **options
        )

    def put(self, document: dict[str, Any], *, expected: int, **options: Any) -> httpx.Response:
        return self.ask("PUT", "policy", json={"document": document, "expected_version": expected}, **options)

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]


@pytest.fixture
def admin(start_gateway: StartGateway, tmp_path: Path) -> Admin:
    folder = tmp_path / "admin"
    return Admin(start_gateway(environ=ENVIRON, rest=AUTH.format(folder=folder)), folder)


def test_admin_api_is_closed_to_whoever_has_no_admin_key(admin: Admin) -> None:
    answers = [
        admin.ask("GET", "policy", key=None),
        admin.ask("GET", "status", key="client-key-1"),
        admin.put({"routing": {}}, expected=0, key=PLANTED),
    ]
    assert [answer.status_code for answer in answers] == [401, 403, 401]
    assert answers[0].json()["error"]["code"] == "invalid_api_key"
    assert [(entry["action"], entry["result"]) for entry in admin.audit()] == [("wrong_key", "refused")] * 3
    assert PLANTED not in (admin.folder / "audit.jsonl").read_text()


def test_address_is_not_listened_to_when_it_guesses(admin: Admin) -> None:
    statuses = [admin.ask("GET", "policy", key=f"wrong-key-{n:08}").status_code for n in range(12)]
    assert statuses[:10] == [401] * 10
    late = admin.ask("GET", "policy")
    assert late.status_code == 429
    assert int(late.headers["retry-after"]) >= 1


def test_there_is_no_admin_api_when_no_key_is_configured(gateway: RunningGateway) -> None:
    answer = httpx.get(f"{gateway.origin}/admin/policy", headers={"authorization": "Bearer none"}, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
    ],
)  # fmt: skip
def test_request_that_a_foreign_page_could_send_is_refused(admin: Admin, headers: dict[str, str], status: int) -> None:
    answer = admin.ask("POST", "policy/rollback", content=b"{}", headers=headers)
    assert answer.status_code == status
    assert not any(name.startswith("access-control-") for name in answer.headers)


def test_body_is_bounded_and_its_mistakes_are_named(admin: Admin) -> None:
    assert admin.ask("POST", "policy/validate", json={"document": {}, "comment": "x" * 2**20}).status_code == 413
    unknown = admin.ask("POST", "policy/rollback", json={"version": 3})
    assert unknown.status_code == 400
    assert "version" in unknown.json()["error"]["message"]
    headers = {"content-type": "application/json"}
    broken = admin.ask("POST", "policy/rollback", content=b'{"to": ', headers=headers)
    assert broken.json()["error"]["code"] == "invalid_json"


def test_actions_are_written_down_with_who_and_what(admin: Admin) -> None:
    admin.put({"routing": {"default_route": "teacher"}}, expected=0)
    admin.put({"routing": {"default_route": "teacher"}}, expected=0)
    admin.put({"routing": {"default_route": "both"}}, expected=1)
    lines = admin.audit()
    assert [
        (e["actor"], e["key_end"], e["action"], e["result"], e["from_version"], e["to_version"]) for e in lines
    ] == [
        ("ann", "6789", "policy.put", "ok", 0, 1),
        ("ann", "6789", "policy.put", "refused", 1, None),
        ("ann", "6789", "policy.put", "refused", 1, None),
    ]
    told = admin.ask("GET", "audit?limit=2").json()
    assert (told["chain"], told["total"], len(told["entries"])) == ("intact", 3, 2)
    assert told["entries"][0]["sequence"] == 3
    assert KEY not in json.dumps(told)


def test_nothing_is_done_when_it_cannot_be_written_down(admin: Admin) -> None:
    admin.folder.write_text("in the way")
    answer = admin.put({"routing": {"default_route": "teacher"}}, expected=0)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "audit_unavailable")
    assert admin.ask("GET", "policy").json()["version"] == 0


def test_explain_tells_every_vote_of_a_version_without_asking_a_model(admin: Admin) -> None:
    strict = {"routing": {"policies": [{"type": "retrieval_confidence", "escalate_below": 0.9}]}}
    admin.put(strict, expected=0)
    request = {**QUESTION, "router": {"retrieval_confidence": 0.7}}
    now = admin.ask("POST", "explain", json=request).json()
    assert (now["decision"]["route"], now["decision"]["reason"]) == ("teacher", "low_confidence")
    before = admin.ask("POST", "explain?version=0", json=request).json()
    assert before["decision"]["route"] == "student"
    assert [vote["policy"] for vote in before["votes"]] == ["long_context", "retrieval_confidence", "long_reasoning"]
    assert admin.ask("POST", "explain?version=9", json=request).status_code == 404
    assert admin.gateway.records() == []


def test_status_tells_what_is_in_force(admin: Admin) -> None:
    status = admin.ask("GET", "status").json()
    assert status["policy"]["version"] == 0
    assert status["policy"]["name"].startswith("file-")
    assert status["policy"]["rejected"] is None
    assert status["student"] == {"bundle": "student", "requests": 0}
    assert "client-key-1" not in json.dumps(status)


def test_students_are_listed_and_refused_with_the_reason(start_gateway: StartGateway, tmp_path: Path) -> None:
    folder, registry = tmp_path / "admin", tmp_path / "students"
    gateway = start_gateway(
        environ=ENVIRON,
        rest=AUTH.format(folder=folder),
        student_url="",
        student=f'registry = "{registry}"\n[student.vllm]\nport = 35090',
    )
    admin = Admin(gateway, folder)
    assert admin.ask("GET", "students").json()["bundles"] == []
    missing = admin.ask("POST", "students/promote", json={"bundle_id": "tiny-000000000001"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "bundle_not_found")
    nothing = admin.ask("POST", "students/rollback", json={"reason": "too slow"})
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "promotion_refused")
    assert [(entry["action"], entry["result"]) for entry in admin.audit()] == [
        ("student.promote", "refused"),
        ("student.rollback", "refused"),
    ]


def test_there_are_no_students_when_there_is_no_registry(admin: Admin) -> None:
    answer = admin.ask("GET", "students")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_registry")
