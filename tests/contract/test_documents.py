"""The live policy document on a real gateway: every request is decided by one version, and answers carry it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies import artefact
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt
from router.config_file import parse
from tests.contract.conftest import CONFIG, RunningGateway, StartGateway
from tests.contract.test_admin import AUTH, ENVIRON, QUESTION, Admin
from tests.contract.test_disconnect import WaitUntil
from tests.router.state.conftest import RedisServer, start_redis

CLIENT = {"authorization": "Bearer client-key-1"}
TO_TEACHER = {"routing": {"default_route": "teacher", "policies": []}}
TO_STUDENT = {"routing": {"default_route": "student", "policies": []}}


@pytest.fixture
def admin(start_gateway: StartGateway, tmp_path: Path) -> Admin:
    folder = tmp_path / "admin"
    return Admin(start_gateway(environ=ENVIRON, rest=AUTH.format(folder=folder)), folder)


def ask(gateway: RunningGateway, body: dict[str, Any] = QUESTION) -> httpx.Response:
    return gateway.post(body, headers=CLIENT)


def test_put_decides_the_next_request_and_answers_carry_the_version(admin: Admin) -> None:
    assert ask(admin.gateway).headers["x-router-policy-version"].startswith("file-")
    answer = admin.put(TO_TEACHER, expected=0)
    assert (answer.status_code, answer.json()["version"], answer.headers["etag"]) == (200, 1, '"1"')
    routed = ask(admin.gateway)
    assert routed.headers["x-router-route"] == "teacher"
    assert routed.headers["x-router-policy-version"].startswith("v1-")
    assert admin.gateway.records()[-1].decision.version == routed.headers["x-router-policy-version"]
    ready = httpx.get(f"{admin.gateway.origin}/readyz").json()
    assert ready["policy"] == {"version": 1, "rejected_version": None, "on_disk": True}
    assert admin.gateway.metric('router_policy_version_info{source="api",version="1"}') == 1


def test_put_needs_the_version_that_it_replaces(admin: Admin) -> None:
    missing = admin.ask("PUT", "policy", json={"document": TO_TEACHER})
    assert (missing.status_code, missing.json()["error"]["code"]) == (428, "precondition_required")
    first = admin.ask("PUT", "policy", json={"document": TO_TEACHER}, headers={"if-match": '"0"'})
    assert first.json()["version"] == 1
    late = admin.ask("PUT", "policy", json={"document": TO_STUDENT}, headers={"if-match": '"0"'})
    assert (late.status_code, late.json()["current_version"], late.json()["error"]["code"]) == (
        409,
        1,
        "version_conflict",
    )
    forced = admin.ask("PUT", "policy", json={"document": TO_STUDENT}, headers={"if-match": "*"})
    assert forced.json()["version"] == 2
    contradiction = admin.put(TO_TEACHER, expected=1, headers={"if-match": '"2"'})
    assert contradiction.status_code == 400
    assert admin.ask("PUT", "policy", json={"document": {}}, headers={"if-match": '"x"'}).status_code == 400


def test_bad_document_never_replaces_a_good_one(admin: Admin, tmp_path: Path) -> None:
    (tmp_path / "calibrator.json").write_text('{"sha256": "0", "kind": "edited"}')
    documents: list[dict[str, Any]] = [
        {"routing": {"policies": [{"type": "no_such_policy"}]}},
        {"routing": {"policies": [{"type": "long_context", "no_such_option": 1}]}},
        {"routing": {"policies": [{"type": "retrieval_confidence", "calibrator": str(tmp_path / "missing.json")}]}},
        {"routing": {"policies": [{"type": "retrieval_confidence", "calibrator": str(tmp_path / "calibrator.json")}]}},
        {"routing": {"policies": [{"type": "os:system"}]}},
        {"routing": {"policies": [{"type": "long_context"}, {"type": "long_context"}]}},
    ]
    for document in documents:
        answer = admin.put(document, expected=0)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_policy_document"), document
        assert "routing.policies." in answer.json()["error"]["message"]
        tried = admin.ask("POST", "policy/validate", json={"document": document}).json()
        assert (tried["valid"], len(tried["problems"])) == (False, 1)
    assert admin.ask("GET", "policy").json()["version"] == 0
    assert ask(admin.gateway).status_code == 200


def test_validate_changes_nothing_and_tells_the_difference_and_the_effect(admin: Admin, wait_until: WaitUntil) -> None:
    for confidence in (0.3, 0.7, 0.9):
        ask(admin.gateway, {**QUESTION, "router": {"retrieval_confidence": confidence}})
    wait_until(lambda: len(admin.gateway.records()) == 3)
    stricter = {"routing": {"policies": [{"type": "retrieval_confidence", "escalate_below": 0.8}]}}
    tried = admin.ask("POST", "policy/validate", json={"document": stricter}).json()
    assert tried["valid"] is True
    assert {change["key"] for change in tried["diff"]} >= {"routing.order", "routing.policies.long_context"}
    assert (tried["effect"]["records"], tried["effect"]["changed"]) == (3, 1)
    assert tried["effect"]["moves"] == {"student -> teacher: low_confidence": 1}
    assert admin.ask("GET", "policy").json()["version"] == 0


def test_history_diff_and_rollback_go_back_to_the_file(admin: Admin) -> None:
    admin.put(TO_TEACHER, expected=0)
    admin.put(TO_STUDENT, expected=1)
    versions = admin.ask("GET", "policy/history").json()
    assert [(each["version"], each["author"]) for each in versions["versions"]] == [(2, "ann"), (1, "ann"), (0, "file")]
    assert admin.ask("GET", "policy/1").json()["document"]["routing"]["default_route"] == "teacher"
    assert admin.ask("GET", "policy/7").status_code == 404
    difference = admin.ask("GET", "policy/diff?from=1&to=2").json()
    assert difference["changes"] == [{"key": "routing.default_route", "before": "teacher", "after": "student"}]
    back = admin.ask("POST", "policy/rollback", json={"to": 0}).json()
    assert (back["version"], back["restores"], back["source"]) == (3, 0, "rollback")
    assert ask(admin.gateway).headers["x-router-policy-version"].startswith("v3-")


def test_bounds_change_with_the_document(admin: Admin) -> None:
    assert ask(admin.gateway, {**QUESTION, "user": "x" * 2_000}).status_code == 200
    admin.put({"routing": {}, "server": {"max_body_bytes": 1024}}, expected=0)
    assert ask(admin.gateway, {**QUESTION, "user": "x" * 2_000}).status_code == 413


def test_limits_of_tenants_change_with_the_document(admin: Admin) -> None:
    assert [ask(admin.gateway).status_code for _ in range(3)] == [200] * 3
    answer = admin.put({"routing": {}, "tenants": {"acme": {"requests_per_minute": 1, "tags": None}}}, expected=0)
    assert answer.status_code == 200, answer.text
    assert [ask(admin.gateway).status_code for _ in range(2)] == [200, 429]
    kept = admin.put({"routing": {"default_route": "teacher"}}, expected=1).json()  # says nothing about tenants
    assert kept["document"]["tenants"]["acme"]["requests_per_minute"] == 1
    admin.put({"routing": {}, "tenants": {}}, expected=2)
    assert ask(admin.gateway).status_code == 200


def test_cascade_reviews_drafts_from_the_version_that_adds_it(admin: Admin, tmp_path: Path) -> None:
    fitted = CalibratorArtefact(
        calibrator=Platt(slope=2.0, intercept=3.0), raw=MEAN_LOGPROB, source="test", n=200, n_sufficient=150,
        ece=0.02, reliability=(),
    )  # fmt: skip
    artefact.write(tmp_path / "calibrator.json", fitted)
    cascade = {"type": "cascade", "threshold": 0.1, "calibrator": str(tmp_path / "calibrator.json")}
    unsure = {**QUESTION, "messages": [{"role": "user", "content": "[[fake-logprob-1.5]]"}]}
    assert ask(admin.gateway, unsure).headers["x-router-route"] == "student"
    answer = admin.put({"routing": {"policies": [cascade]}}, expected=0)
    assert answer.status_code == 200, answer.text
    routed = ask(admin.gateway, unsure)
    assert (routed.headers["x-router-route"], routed.headers["x-router-policy"]) == ("teacher", "cascade")
    admin.put(TO_STUDENT, expected=1)
    assert ask(admin.gateway, unsure).headers["x-router-route"] == "student"


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_is_of_one_version_while_the_document_is_swapped_under_load(admin: Admin, stream: bool) -> None:
    gateway = admin.gateway
    responses: list[httpx.Response] = []
    stop = threading.Event()
    slow = {
        "model": "auto", "stream": stream,
        "messages": [{"role": "user", "content": "[[fake-delay-0.01-gap-0.002]]"}],
    }  # fmt: skip

    def keep_asking() -> None:
        while not stop.is_set():
            responses.append(ask(gateway, slow))

    clients = [threading.Thread(target=keep_asking) for _ in range(4)]
    for client in clients:
        client.start()
    for turn in range(6):
        seen, deadline = len(responses), time.monotonic() + 20
        while len(responses) < seen + 6:
            assert time.monotonic() < deadline, "no answers come"
            time.sleep(0.005)
        assert admin.put(TO_TEACHER if turn % 2 == 0 else TO_STUDENT, expected=turn).status_code == 200
    stop.set()
    for client in clients:
        client.join()
    records = {record.decision_id: record for record in gateway.records()}
    expected = {"v1": "teacher", "v2": "student", "v3": "teacher", "v4": "student", "v5": "teacher"}
    seen_versions = set()
    for response in responses:
        assert response.status_code == 200
        version = response.headers["x-router-policy-version"]
        record = records[response.headers["x-router-decision-id"]]
        assert (record.decision.version, record.outcome) == (version, "ok")
        name = version.partition("-")[0]
        seen_versions.add(name)
        if name in expected:
            assert response.headers["x-router-route"] == record.route == expected[name]
    assert len(seen_versions) >= 5


def test_restart_goes_on_with_the_last_version(start_gateway: StartGateway, tmp_path: Path) -> None:
    rest = AUTH.format(folder=tmp_path / "admin")
    first = Admin(start_gateway(environ=ENVIRON, rest=rest), tmp_path / "admin")
    first.put(TO_TEACHER, expected=0)
    second = Admin(start_gateway(environ=ENVIRON, rest=rest), tmp_path / "admin")
    assert ask(second.gateway).headers["x-router-policy-version"].startswith("v1-")
    assert second.put(TO_STUDENT, expected=1).json()["version"] == 2


@pytest.fixture
def from_file(student: BackendThread, teacher: BackendThread, tmp_path: Path) -> Iterator[tuple[Admin, Path, str]]:
    """A gateway that follows its configuration file."""
    values = {
        "server": "", "student": "", "teacher": "", "student_model": "student", "teacher_model": "teacher",
        "student_url": student.base_url, "teacher_url": teacher.base_url, "log_dir": str(tmp_path / "traffic"),
        "rest": AUTH.format(folder=tmp_path / "admin"),
    }  # fmt: skip
    text = CONFIG.format(**values)
    path = tmp_path / "locum.toml"
    path.write_text(text)
    gateway = RunningGateway(parse(text), ENVIRON, path=path)
    gateway.start()
    yield Admin(gateway, tmp_path / "admin"), path, text
    gateway.stop()


def test_edit_of_the_file_is_in_force_and_written_down(
    from_file: tuple[Admin, Path, str], wait_until: WaitUntil
) -> None:
    admin, path, text = from_file
    path.write_text(text + '\n[routing]\ndefault_route = "teacher"\npolicies = []\n')
    wait_until(lambda: ask(admin.gateway).headers["x-router-route"] == "teacher")
    path.write_text("[routing")
    wait_until(lambda: (admin.ask("GET", "status").json()["file"]["last_reload"] or {}).get("result") == "refused")
    assert ask(admin.gateway).headers["x-router-policy-version"].startswith("v1-")
    wait_until(lambda: len(admin.audit()) == 2)
    assert [(entry["actor"], entry["result"]) for entry in admin.audit()] == [("file", "ok"), ("file", "refused")]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = start_redis()
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


def replica_of(start: StartGateway, redis: RedisServer, folder: Path, more: str = "") -> Admin:
    state = f'\n[state]\nurl = "{redis.tcp_url}"\ntimeout_s = 2.0\n'
    rest = AUTH.format(folder=folder) + state + more
    return Admin(start(environ=ENVIRON, rest=rest, log_dir=str(folder / "traffic")), folder)


def version_of(admin: Admin) -> str:
    return ask(admin.gateway).headers["x-router-policy-version"].partition("-")[0]


def test_every_replica_follows_and_goes_on_without_the_store(
    start_gateway: StartGateway, redis: RedisServer, tmp_path: Path, wait_until: WaitUntil
) -> None:
    one, two = (replica_of(start_gateway, redis, tmp_path / name) for name in ("one", "two"))
    assert one.put(TO_TEACHER, expected=0).status_code == 200
    wait_until(lambda: version_of(two) == "v1")
    assert two.put(TO_STUDENT, expected=0).json()["current_version"] == 1
    redis.stop()
    refused = two.put(TO_STUDENT, expected=1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "state_unavailable")
    assert refused.headers["retry-after"]
    assert (version_of(one), version_of(two)) == ("v1", "v1")
    redis.start()  # and it has forgotten everything
    wait_until(lambda: two.put(TO_STUDENT, expected=1).status_code == 200)
    wait_until(lambda: (version_of(one), version_of(two)) == ("v2", "v2"))
    late = replica_of(start_gateway, redis, tmp_path / "late")
    assert version_of(late) == "v2"


def test_replica_that_cannot_use_a_version_keeps_its_own_and_says_so(
    start_gateway: StartGateway, redis: RedisServer, tmp_path: Path, wait_until: WaitUntil
) -> None:
    named = '\n[[routing.policies]]\ntype = "policies.long_context:LongContext"\n'
    one = replica_of(start_gateway, redis, tmp_path / "one", named)
    two = replica_of(start_gateway, redis, tmp_path / "two")
    one.put({"routing": {"policies": [{"type": "policies.long_context:LongContext", "margin_tokens": 7}]}}, expected=0)

    def policy_of(admin: Admin) -> Any:
        return httpx.get(f"{admin.gateway.origin}/readyz").json()["policy"]

    assert policy_of(one)["version"] == 1
    wait_until(lambda: policy_of(two)["rejected_version"] == 1)
    assert policy_of(two)["version"] == 0
    assert version_of(two) == "file"
    assert two.gateway.metric('router_policy_apply_failures_total{cause="not_buildable"}') == 1
    assert "does not name it" in two.ask("GET", "status").json()["policy"]["rejected"]["problem"]
    assert two.put(TO_TEACHER, expected=1).json()["version"] == 2
    wait_until(lambda: (version_of(one), version_of(two)) == ("v2", "v2"))
    assert policy_of(two)["rejected_version"] is None
