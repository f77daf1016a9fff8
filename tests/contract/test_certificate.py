"""A certificate on a real gateway: where its standing is told, and what happens when it is void."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx

from tests.contract.conftest import StartGateway
from tests.contract.test_admin import AUTH, ENVIRON, QUESTION, Admin
from tests.policies.test_certificate import table

Wait = Callable[[Callable[[], bool]], None]


def document(folder: Path, on_void: str, **certificate: str) -> str:
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
