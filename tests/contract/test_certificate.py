"""A certificate on a real gateway: where its standing is told, and what happens when it is void."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_admin import AUTH, ENVIRON, QUESTION, Admin
from tests.policies.test_certificate import table

Wait = Callable[[Callable[[], bool]], None]


def document(folder: Path, on_void: str, **certificate: Any) -> str:
    entry = table(folder, on_void, **certificate)
    lines = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in entry.items()]
    return "\n".join([AUTH.format(folder=folder / "admin"), "[[routing.policies]]", *lines])


def test_gateway_tells_that_a_certificate_is_valid(
    start_gateway: StartGateway, tmp_path: Path, wait_until: Wait
) -> None:
    rest = document(tmp_path, "teacher", student="student", teacher="teacher")
    gateway = start_gateway(environ=ENVIRON, rest=rest)
    wait_until(lambda: gateway.metric('router_certificate_valid{policy="cascade"}') == 1)
    assert httpx.get(f"{gateway.origin}/readyz").json()["certificates"] == {"cascade": "valid"}
    (told,) = Admin(gateway, tmp_path).ask("GET", "policy").json()["certificates"]
    assert (told["policy"], told["status"], told["causes"], told["n"]) == ("cascade", "valid", [], 900)
    headers = {"authorization": "Bearer client-key-1"}
    answer = httpx.post(f"{gateway.origin}/v1/chat/completions", json=QUESTION, headers=headers)
    assert answer.headers["x-router-route"] == "student"


def test_gateway_asks_the_teacher_when_a_certificate_is_void_and_the_policy_says_so(
    start_gateway: StartGateway, tmp_path: Path, wait_until: Wait
) -> None:
    rest = document(tmp_path, "teacher", student="student", teacher="another-teacher")
    gateway = start_gateway(environ=ENVIRON, rest=rest)
    wait_until(lambda: httpx.get(f"{gateway.origin}/readyz").json()["certificates"] == {"cascade": "void"})
    assert gateway.metric('router_certificate_valid{policy="cascade"}') == 0
    (told,) = Admin(gateway, tmp_path).ask("GET", "policy").json()["certificates"]
    assert (told["status"], told["causes"], told["on_void"]) == ("void", ["teacher_changed"], "teacher")
    headers = {"authorization": "Bearer client-key-1"}
    answer = httpx.post(f"{gateway.origin}/v1/chat/completions", json=QUESTION, headers=headers)
    assert (answer.headers["x-router-route"], answer.headers["x-router-reason"]) == ("teacher", "certificate_void")


def test_certificate_stays_void_over_a_restart_until_it_is_acknowledged(
    start_gateway: StartGateway, tmp_path: Path, wait_until: Wait
) -> None:
    rest = document(tmp_path, "teacher", student="student", teacher="teacher", created_s=1.7e9, first_s=1.6e9)
    headers = {"authorization": "Bearer client-key-1"}

    def routes(gateway: RunningGateway) -> str:
        answer = httpx.post(f"{gateway.origin}/v1/chat/completions", json=QUESTION, headers=headers)
        return answer.headers["x-router-route"]

    first = start_gateway(environ=ENVIRON, rest=rest)
    assert routes(first) == "student"
    admin = Admin(first, tmp_path / "admin")
    refused = admin.ask("POST", "certificates/acknowledge", json={"policy": "cascade", "comment": "nothing"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_acknowledgeable")
    assert admin.ask("POST", "drift/reference").status_code == 200  # somebody says that the traffic has changed
    wait_until(lambda: routes(first) == "teacher")
    (told,) = admin.ask("GET", "policy").json()["certificates"]
    assert (told["causes"], [event["what"] for event in told["events"]]) == (["drift"], ["reference"])
    first.stop()

    second = start_gateway(environ=ENVIRON, rest=rest)
    assert routes(second) == "teacher"  # from the first request on
    admin = Admin(second, tmp_path / "admin")
    short = admin.ask("POST", "certificates/acknowledge", json={"policy": "cascade", "comment": ""})
    assert short.status_code == 400
    unknown = admin.ask("POST", "certificates/acknowledge", json={"policy": "difficulty", "comment": "x"})
    assert unknown.status_code == 404
    answer = admin.ask("POST", "certificates/acknowledge", json={"policy": "cascade", "comment": "looked at 50"})
    assert (answer.json()["status"], answer.json()["acknowledged"]["by"]) == ("valid", "ann")
    assert routes(second) == "student"
    entry = next(each for each in reversed(admin.audit()) if each["result"] == "ok")
    assert entry["action"] == "certificate.acknowledge" and "looked at 50" in entry["detail"]
    second.stop()

    third = start_gateway(environ=ENVIRON, rest=rest)
    assert routes(third) == "student"
    assert third.metric('router_certificate_valid{policy="cascade"}') == 1
