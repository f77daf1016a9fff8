"""`rediss://`: the shared state over TLS, with a real redis-server and certificates of an own authority."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import exceptions

from router.config import ConfigError, StateConfig
from router.config_file import parse
from router.errors import StateUnavailable
from router.metrics import Metrics
from router.state import OpenStore, open_store
from router.state.base import Rate
from router.state.linked import LinkedStore
from router.state.redis import RedisWire
from tests.router.state.conftest import PATIENT_S, RedisServer, start_redis
from tests.security.certificates import NEEDED, Authority

pytestmark = NEEDED


class TlsRedis:
    """A redis-server that speaks TLS on a port of its own, and who has signed its certificate."""

    def __init__(self, folder: Path, authority: Authority, *, address: str = "127.0.0.1") -> None:
        pair = authority.issue(f"redis-{address}", address=address)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.server: RedisServer = start_redis(
            "--tls-port", str(self.port), "--tls-cert-file", pair.cert, "--tls-key-file", pair.key,
            "--tls-ca-cert-file", authority.cert, "--tls-auth-clients", "no",
        )  # fmt: skip

    def config(self, ca_file: str | None) -> StateConfig:
        url = f"rediss://127.0.0.1:{self.port}/0"
        return StateConfig(url=url, tls_ca_file=ca_file, timeout_s=PATIENT_S, key_prefix=f"tls-{time.monotonic_ns()}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def tls_redis(folder: Path, authority: Authority) -> Iterator[TlsRedis]:
    running = TlsRedis(folder, authority)
    yield running
    running.server.stop()


def store(config: StateConfig) -> LinkedStore:
    return LinkedStore(RedisWire(config, {}), timeout_s=config.timeout_s)


async def verdict_on(store: LinkedStore | OpenStore) -> str | None:
    """Why the store cannot be used; None: it can. On a busy machine the first handshakes may take too long."""
    deadline_s = time.monotonic() + PATIENT_S
    while store.failure == "timeout" and time.monotonic() < deadline_s:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.02)
    return store.failure


async def test_state_is_shared_over_tls(tls_redis: TlsRedis, authority: Authority) -> None:
    config = tls_redis.config(authority.cert)
    claim = [Rate("tenant/a/requests", 2.0, 1.0)]
    async with store(config) as one, store(config) as other:
        assert [await verdict_on(each) for each in (one, other)] == [None, None]
        found = [await each.admit(claim, holder=f"h{n}") for n, each in enumerate((one, other, one))]
    assert [verdict.admitted for verdict in found] == [True, True, False]
    assert tls_redis.server.command("--scan", "--pattern", f"*{config.key_prefix}*") != ""


@pytest.mark.parametrize("own_authority", [False, True], ids=["system", "other"])
async def test_certificate_that_is_not_trusted_is_named_and_refused(
    tls_redis: TlsRedis, folder: Path, own_authority: bool
) -> None:
    config = tls_redis.config(Authority(folder, "other").cert if own_authority else None)
    async with store(config) as refused:
        assert await verdict_on(refused) == "the certificate of Redis is not trusted (state.tls_ca_file)"
        with pytest.raises(StateUnavailable, match="certificate of Redis"):
            await refused.admit([Rate("tenant/a/requests", 2.0, 1.0)], holder="h")


async def test_certificate_for_another_host_is_not_trusted(folder: Path, authority: Authority) -> None:
    elsewhere = TlsRedis(folder, authority, address="127.0.0.2")
    try:
        async with store(elsewhere.config(authority.cert)) as refused:
            assert await verdict_on(refused) == "the certificate of Redis is not trusted (state.tls_ca_file)"
    finally:
        elsewhere.server.stop()


@pytest.mark.parametrize("mode", ["open", "closed"])
async def test_gateway_goes_on_as_it_is_configured_when_the_certificate_is_not_trusted(
    tls_redis: TlsRedis, folder: Path, mode: str
) -> None:
    ca_file = Authority(folder, f"for-{mode}").cert
    url = f"rediss://127.0.0.1:{tls_redis.port}/0"
    text = f'[state]\nurl = "{url}"\ntls_ca_file = "{ca_file}"\n[state.on_failure]\nlimits = "{mode}"\n'
    config = parse(f'[student]\nbase_url = "http://a/v1"\n[teacher]\nbase_url = "http://b/v1"\n{text}')
    metrics = Metrics()
    claim = [Rate("tenant/a/requests", 1.0, 1.0)]
    async with open_store(config, metrics) as state:
        assert await verdict_on(state) is not None
        if mode == "closed":
            with pytest.raises(StateUnavailable, match="certificate of Redis"):
                await state.admit(claim, holder="h")
        else:  # by this process's own counters
            assert [(await state.admit(claim, holder=f"h{n}")).admitted for n in range(2)] == [True, False]
    assert metrics.registry.get_sample_value("router_state_up") == 0


async def test_authorities_of_the_system_are_not_trusted_beside_the_named_one(
    tls_redis: TlsRedis, folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL's own variable stands for the system's store."""
    monkeypatch.setenv("SSL_CERT_FILE", authority.cert)
    async with store(tls_redis.config(None)) as by_system:
        assert await verdict_on(by_system) is None
    async with store(tls_redis.config(Authority(folder, "only").cert)) as by_name:
        assert await verdict_on(by_name) == "the certificate of Redis is not trusted (state.tls_ca_file)"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_file_of_authorities_that_cannot_be_used_is_an_error_of_the_configuration(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    config = StateConfig(url="rediss://127.0.0.1:1/0", tls_ca_file=str(path))
    with pytest.raises(ConfigError, match=r"state\.tls_ca_file"):
        RedisWire(config, {})


def test_failure_of_tls_is_told_apart_from_one_of_the_network() -> None:
    wire = RedisWire(StateConfig(url="redis://127.0.0.1:1/0"), {})
    error = exceptions.ConnectionError("Error 1 connecting")
    error.__context__ = ssl.SSLError(1, "alert handshake failure")
    assert wire.reason_of(error) == "no TLS connection to Redis can be made"
    assert wire.reason_of(exceptions.ConnectionError("refused")) == "Redis cannot be reached"
