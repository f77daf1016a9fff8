"""Keys: whom they are, what they may do, and when they end, through real gateways on real sockets."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import pytest

from router.admission.commands import now
from router.admission.key_file import KeyFile
from router.admission.keys import SCOPES, Scope, new_key
from tests.contract.conftest import StartGateway
from tests.contract.tenants import (
    AUTH,
    KEYS,
    WaitUntil,
    ask,
    error_of,
)


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def add_key(file: KeyFile, tenant: str, scopes: tuple[Scope, ...] = SCOPES) -> str:
    with file.editing() as entries:
        key, text = new_key(name=tenant, tenant=tenant, scopes=scopes, created=now(), expires=None)
        entries.append(key)
    return text


def test_key_of_the_file_is_served_and_every_official_client_sends_it_in_its_way(
    start_gateway: StartGateway, key_file: KeyFile
) -> None:
    key = add_key(key_file, "gamma")
    gateway = start_gateway(KEYS, rest=f'{AUTH}keys_file = "{key_file.path}"')
    gateway.client(key).chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}])
    assert gateway.records()[-1].tenant == "gamma"
    with anthropic.Anthropic(base_url=gateway.origin, api_key=key, max_retries=0) as client:
        client.messages.create(model="auto", max_tokens=10, messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(anthropic.AuthenticationError):
            client.with_options(api_key="locum_wrong").messages.create(
                model="auto", max_tokens=10, messages=[{"role": "user", "content": "hi"}]
            )
    assert ask(gateway).status_code == 200
    assert [record.tenant for record in gateway.records()] == ["gamma", "gamma", "default", "acme"]


def test_keys_are_added_expired_and_revoked_without_a_restart(
    start_gateway: StartGateway, key_file: KeyFile, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=f'[auth]\nkeys_file = "{key_file.path}"')
    first, second = add_key(key_file, "one"), add_key(key_file, "two")
    wait_until(lambda: ask(gateway, key=second).status_code == 200)
    assert ask(gateway, key=first).status_code == 200
    with key_file.editing() as entries:
        entries[0] = msgspec.structs.replace(entries[0], revoked=now())
        entries[1] = msgspec.structs.replace(entries[1], expires=now() - timedelta(seconds=1))
    wait_until(lambda: ask(gateway, key=first).status_code == 403)
    refused = [ask(gateway, key=key) for key in (first, second)]
    assert [error_of(response)["code"] for response in refused] == ["key_revoked", "key_expired"]
    assert gateway.records()[-1].outcome == "rejected"
    key_file.path.write_text("damaged")
    assert error_of(ask(gateway, key=first))["code"] == "key_revoked"


def test_key_may_do_only_what_its_scopes_say(start_gateway: StartGateway, key_file: KeyFile) -> None:
    inference = add_key(key_file, "acme", ("inference",))
    feedback = add_key(key_file, "acme", ("feedback",))
    admin = add_key(key_file, "ops", ("admin",))
    gateway = start_gateway(rest=f'[auth]\nkeys_file = "{key_file.path}"')
    answered = ask(gateway, key=inference)
    judgement = {"decision_id": answered.headers["x-router-decision-id"], "score": 1.0}

    def status(path: str, key: str, body: dict[str, Any] | None = None) -> int:
        method = "GET" if body is None else "POST"
        headers = {"authorization": f"Bearer {key}"}
        return httpx.request(method, gateway.origin + path, json=body, headers=headers).status_code

    assert [status("/v1/feedback", key, judgement) for key in (inference, feedback, admin)] == [403, 200, 403]
    assert [status("/v1/models", key) for key in (inference, feedback, admin)] == [200, 403, 403]
    assert [status("/admin/policy", key) for key in (inference, feedback, admin)] == [403, 403, 200]
    assert [ask(gateway, key=key).status_code for key in (feedback, admin)] == [403, 403]


def test_tenant_has_its_models_tags_and_bound_on_the_log(start_gateway: StartGateway) -> None:
    gateway = start_gateway(
        KEYS,
        rest=f'{AUTH}[aliases]\nfast = "student"\n[tenants.acme]\nallowed_models = ["fast", "auto"]\n'
        'capture = "metadata"\ntags = {team = "search", tier = "gold"}',
    )
    assert {model.id for model in gateway.client("key-of-acme").models.list()} == {"fast", "auto"}
    assert len(list(gateway.client("key-of-beta").models.list())) == 4
    refused = ask(gateway, model="teacher")
    assert (refused.status_code, error_of(refused)["code"]) == (403, "model_not_allowed")
    ask(gateway, "a secret", router={"tags": {"tier": "silver"}})
    record = gateway.records()[-1]
    assert record.tags == {"team": "search", "tier": "silver"}
    assert (record.capture, record.request) == ("metadata", None)
    ask(gateway, key="key-of-beta")
    assert gateway.records()[-1].capture == "full"
