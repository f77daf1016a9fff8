"""TLS on both sides: clients of the gateway, and the gateway as a client of its backends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from router import server
from router.config import ConfigError
from router.config_file import parse
from tests.contract.conftest import CONFIG, RunningGateway, StartGateway, chats
from tests.security.attacks import BODY, MESSAGES, everything, responses
from tests.security.certificates import NEEDED, Authority, Pair

pytestmark = NEEDED
PLAIN = {"model": "auto", "messages": MESSAGES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("gateway")


def tls_table(pair: Pair, **more: str) -> str:
    values = {"cert_file": pair.cert, "key_file": pair.key, **more}
    return "[server.tls]\n" + "".join(f'{key} = "{value}"\n' for key, value in values.items())


def client_context(authority: Authority, shown: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    return context


@contextmanager
def over_tls(gateway: RunningGateway, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    plain = socket.create_connection(("127.0.0.1", int(gateway.origin.rpartition(":")[2])), timeout=20)
    with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
        yield client


def ask(gateway: RunningGateway, context: ssl.SSLContext) -> bytes:
    with over_tls(gateway, context) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (len(BODY), BODY)
        )
        return everything(client)


def test_clients_are_served_over_tls_and_in_no_other_way(
    start_gateway: StartGateway, authority: Authority, pair: Pair
) -> None:
    gateway = start_gateway(rest=tls_table(pair))
    assert [answer.status for answer in responses(ask(gateway, client_context(authority)))] == [200]
    with pytest.raises(httpx.HTTPError):
        httpx.get(gateway.origin + "/healthz")  # plain HTTP


def test_request_that_is_not_http_gets_its_400_over_tls(
    start_gateway: StartGateway, authority: Authority, pair: Pair
) -> None:
    gateway = start_gateway(rest=tls_table(pair))
    with over_tls(gateway, client_context(authority)) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert [answer.status for answer in responses(everything(client))] == [400]


def test_old_protocol_version_is_refused(start_gateway: StartGateway, authority: Authority, pair: Pair) -> None:
    gateway = start_gateway(rest=tls_table(pair, min_version="1.3"))
    old = client_context(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        ask(gateway, old)
    assert ask(gateway, client_context(authority)).startswith(b"HTTP/1.1 200 ")


def test_client_without_a_certificate_of_the_ca_is_refused_when_one_is_asked_for(
    start_gateway: StartGateway, student: BackendThread, authority: Authority, folder: Path, pair: Pair
) -> None:
    gateway = start_gateway(rest=tls_table(pair, client_ca_file=authority.cert))
    foreign = Authority(folder, "foreign").issue("client")
    for shown in (None, foreign):
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            assert ask(gateway, client_context(authority, shown))
    assert chats(student) == 0
    assert ask(gateway, client_context(authority, authority.issue("client"))).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("key", ["cert_file", "key_file", "client_ca_file"])
def test_gateway_does_not_start_when_a_file_of_its_tls_cannot_be_used(
    tmp_path: Path, pair: Pair, authority: Authority, key: str
) -> None:
    broken = tmp_path / "broken.pem"
    for content in (None, "planted-content-of-a-key"):
        if content is not None:
            broken.write_text(content)
        values = {"client_ca_file": authority.cert, key: str(broken)}
        table = tls_table(Pair(values.pop("cert_file", pair.cert), values.pop("key_file", pair.key)), **values)
        config = parse(f'[student]\nbase_url = "http://a/v1"\n[teacher]\nbase_url = "http://b/v1"\n{table}')
        with pytest.raises(ConfigError, match=r"server\.tls") as caught:
            server.bind(config.server)
        assert "planted-content" not in str(caught.value)


class TlsBackend:
    """A TLS front before a fake backend: bytes go through in both directions."""

    def __init__(self, behind: BackendThread, context: ssl.SSLContext) -> None:
        self._port = int(behind.base_url.rpartition(":")[2].partition("/")[0])
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        listening = asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        return f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.wait(
            [asyncio.create_task(_pump(reader, forth)), asyncio.create_task(_pump(back, writer))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        forth.close()
        writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except (ConnectionError, ssl.SSLError):
        return


@pytest.fixture
def tls_backend(teacher: BackendThread, authority: Authority) -> Iterator[str]:
    """A teacher that shows a certificate, and wants one."""
    shown = authority.issue("teacher")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.cert, shown.key)
    context.load_verify_locations(authority.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    with TlsBackend(teacher, context) as url:
        yield url


def test_backend_of_an_own_ca_is_called_and_probed_with_the_certificate_that_it_wants(
    start_gateway: StartGateway, tls_backend: str, authority: Authority
) -> None:
    own = authority.issue("gateway-as-client")
    table = f'[teacher.tls]\nca_file = "{authority.cert}"\ncert_file = "{own.cert}"\nkey_file = "{own.key}"'
    gateway = start_gateway(teacher_url=tls_backend, teacher=table)
    assert gateway.post({**PLAIN, "model": "teacher"}).status_code == 200
    assert httpx.get(gateway.origin + "/readyz").json()["teacher"]["reachable"] is True


@pytest.mark.parametrize("trusted", [False, True], ids=["unknown_ca", "no_client_certificate"])
def test_backend_is_not_used_when_tls_fails(
    start_gateway: StartGateway, tls_backend: str, teacher: BackendThread, authority: Authority, trusted: bool
) -> None:
    table = f'[teacher.tls]\nca_file = "{authority.cert}"' if trusted else ""
    gateway = start_gateway(teacher_url=tls_backend, teacher=table)
    answer = gateway.post({**PLAIN, "model": "teacher"})
    assert answer.status_code == 503
    assert chats(teacher) == 0
    assert httpx.get(gateway.origin + "/readyz").json()["teacher"]["reachable"] is False


def test_backend_is_not_used_when_its_certificate_is_for_another_host(
    start_gateway: StartGateway, teacher: BackendThread, authority: Authority
) -> None:
    shown = authority.issue("elsewhere", address="127.0.0.2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.cert, shown.key)
    with TlsBackend(teacher, context) as url:
        gateway = start_gateway(teacher_url=url, teacher=f'[teacher.tls]\nca_file = "{authority.cert}"')
        assert gateway.post({**PLAIN, "model": "teacher"}).status_code == 503
    assert chats(teacher) == 0


@pytest.mark.parametrize(("given", "missing"), [("cert_file", "key_file"), ("key_file", "cert_file")])
def test_half_of_a_client_certificate_is_refused(given: str, missing: str) -> None:
    values = {"server": "", "student": "", "rest": "", "student_url": "http://a/v1", "teacher_url": "https://b/v1"}
    values |= {"student_model": "s", "teacher_model": "t", "log_dir": ""}
    text = CONFIG.format(**values, teacher=f'[teacher.tls]\n{given} = "some.pem"')
    with pytest.raises(ConfigError, match=rf"teacher\.tls\.{missing}"):
        parse(text)
