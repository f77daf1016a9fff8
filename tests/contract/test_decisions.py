"""`/admin/summary` and `/admin/decisions` on a real gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.conftest import RunningGateway, StartGateway

ENVIRON = {"KEYS": "acme=client-key-1", "ADMIN": "ann=admin-key-0123456789"}
AUTH = '[auth]\nkeys_env = "KEYS"\nadmin_key_env = "ADMIN"\n[admin]\ndir = "{folder}"\nshow_texts = {texts}'
SECRET = "a question that is nobody's business"


def get(gateway: RunningGateway, path: str) -> httpx.Response:
    headers = {"authorization": "Bearer admin-key-0123456789"}
    return httpx.get(f"{gateway.origin}/admin/{path}", headers=headers, timeout=30, trust_env=False)


def ask(gateway: RunningGateway) -> str:
    body: Any = {"model": "student", "messages": [{"role": "user", "content": SECRET}]}
    answer = gateway.post(body, headers={"authorization": "Bearer client-key-1"})
    assert answer.status_code == 200
    return answer.headers["x-router-decision-id"]


@pytest.mark.parametrize("texts", ["false", "true"])
def test_texts_are_shown_only_when_the_configuration_allows_it(
    start_gateway: StartGateway, tmp_path: Path, texts: str
) -> None:
    gateway = start_gateway(environ=ENVIRON, rest=AUTH.format(folder=tmp_path / "admin", texts=texts))
    identity = ask(gateway)
    (row,) = get(gateway, "decisions").json()["decisions"]
    assert (row["decision_id"], row["route"], row["policy"]) == (identity, "student", "request")
    shown = [
        get(gateway, f"decisions/{identity}?position={row['position']}"),
        get(gateway, f"decisions/{identity}"),
        get(gateway, "decisions?q=nobody"),
    ]
    assert [answer.status_code for answer in shown] == [200] * 3
    assert (SECRET in shown[0].text, shown[0].json()["texts"]) == (
        (True, "shown") if texts == "true" else (False, "hidden")
    )
    assert (SECRET in shown[1].text) == (texts == "true")
    assert len(shown[2].json()["decisions"]) == (texts == "true")
    looks = [entry["action"] for entry in get(gateway, "audit").json()["entries"]]
    assert looks == ["decision.read_texts"] * (2 if texts == "true" else 0)


def test_summary_and_decisions_name_what_is_wrong(start_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = start_gateway(environ=ENVIRON, rest=AUTH.format(folder=tmp_path / "admin", texts="false"))
    ask(gateway)
    summary = get(gateway, "summary").json()
    assert summary["requests"] == {"total": 1, "student": 1, "teacher": 0, "none": 0}
    assert get(gateway, "summary?window_s=x").json()["error"]["param"] == "window_s"
    assert get(gateway, "decisions?cursor=x").json()["error"]["param"] == "cursor"
    missing = get(gateway, f"decisions/{'0' * 32}")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "decision_not_found")
