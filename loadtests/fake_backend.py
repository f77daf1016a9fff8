"""A fake OpenAI-compatible backend: fast enough not to be the bottleneck, faithful to vLLM's bytes, and able to fail.

It serves `/v1/chat/completions` and `/v1/completions` (plain and stream, `n` up to 16), `/v1/responses`,
`/v1/messages`, `/v1/embeddings`, `/v1/models`, `/health` and `/metrics`. A request chooses its behaviour by its model
name, or, because a gateway rewrites `model`, by `[[directive]]` at the start of its last user message (or of `prompt`
or `input`). Directives compose with `-` or `+`: `fake-tokens-50-gap-0.05`, `fault-reset-mid-3+tokens-20`; a message's
directive wins over the model's. Any other name must be a served model, else the answer is vLLM's 404.

| directive | what happens |
|---|---|
| `fake` | a healthy answer of 8 tokens at once |
| `fake-tokens-50` | 50 tokens; `max_tokens` still cuts, with finish_reason `length` |
| `fake-prompt-tokens-900` | `usage.prompt_tokens` says 900 |
| `fake-delay-0.2` | 0.2 s until the first byte |
| `fake-gap-0.05` | 0.05 s between two stream chunks |
| `fake-finish-length` | that finish_reason |
| `fake-logprob-2.5` | logprobs, when asked for: -2.5 for every token, -9 for the stop token of a plain answer |
| `fake-sparse` | absent members are left out of plain answers, as llama.cpp does, and not spelled `null` |
| `fake-calls-2` | two calls of the request's tools behind the text of a chat answer |
| `fake-reasoning-3` | three tokens of `reasoning` before the text of a chat answer |
| `fake-strict` | 400 for options that only vLLM knows (`return_token_ids`) |
| `fake-echo` | the answer is the last user message, directive included |
| `fake-fixed` | constant `id` and `created`, so that two answers are equal byte for byte |
| `fake-extra` | unknown members, odd spacing, numbers like 2.50 and 1E+2, escapes, raw unicode, a duplicate key |
| `fake-crlf` | stream lines end in CR LF |
| `fake-split` | the answer is cut into small pieces at odd bytes |
| `fake-merge` | three stream events to a segment |
| `fake-heartbeat` | a comment line before every stream event |
| `fake-odd` | extra, crlf, split and heartbeat together |
| `fake-wide-4000` | 4,000 more characters in every token |
| `fake-hints` | 100 Continue and 103 Early Hints before the answer |
| `fake-trailers` | the body is chunked and has a trailer |
| `fake-surplus` | a whole second answer that nobody asked for follows on the connection |
| `fake-times-2` | a fault strikes only the first 2 requests with these directives |
| `fault-500` | any 4xx or 5xx, vLLM's error JSON with an integer `code` |
| `fault-502-html` | that status with an HTML page |
| `fault-429-retry-after-7` | `Retry-After: 7`; goes with any status |
| `fault-401-string` | vLLM's 401, where `error` is a string |
| `fault-400-context` | vLLM's overflow error: `param` "input_tokens" |
| `fault-reset` | TCP reset before any byte |
| `fault-close` | the connection is closed before any byte, as in the keep-alive race |
| `fault-hang` | no byte, ever |
| `fault-slow-headers` | 0.2 s after each header line; `fault-slow-headers-1.5` sets the time |
| `fault-garbage` | HTTP 200 and neither JSON nor events |
| `fault-html` | HTTP 200 with an HTML page |
| `fault-empty-answer` | HTTP 200 and an empty text |
| `fault-empty-stream` | HTTP 200 and no event |
| `fault-error-frame` | HTTP 200 whose first event (or whole plain body) is an error; then `[DONE]`, as vLLM does |
| `fault-error-frame-mid-3` | the same after 3 content chunks |
| `fault-reset-mid-3` | TCP reset after 3 content chunks (a plain answer: after half of its body) |
| `fault-truncate-3` | the connection is closed after 3 content chunks, without the end of the HTTP body |
| `fault-cut-3` | the HTTP body ends correctly after 3 content chunks: no finish_reason, no `[DONE]` |
| `fault-hang-mid-3` | silence after 3 content chunks |
| `fault-lost-choice` | with `n` above 1: the last choice never finishes, and there is no `[DONE]` |
| `fault-endless-event-3` | after 3 content chunks one event that goes on for 48 MiB and never ends |
| `fault-no-done` | everything but `[DONE]` |

What tests read: `GET /_last?n=K` (the last requests and their answers, byte for byte in base64; oldest first),
`GET /_last/body` and `/_last/response` (the newest, raw), `GET /_stats` (requests, in_flight, completed, aborted = the
client left early, faulted, connections, by_model, by_status), `POST /_reset`. `/health`, `/metrics` and these are not
counted.

In a test: `async with FakeBackend() as backend`, or `with BackendThread() as backend` where the test itself is
synchronous; `backend.base_url` ends in `/v1`, `backend.state` holds the counts and `state.received` the requests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from types import TracebackType

import click

from loadtests.fake.protocol import BackendProtocol
from loadtests.fake.state import HEARS_AT_START, BackendState, Hearing, Received
from loadtests.loop import run

__all__ = ["BackendThread", "FakeBackend", "Received"]

DEFAULT_MODELS = ("student", "teacher")
DEFAULT_WINDOW_TOKENS = 8192
KEPT_REQUESTS = 64
START_TIMEOUT_S = 10.0
LISTEN_BACKLOG = 1024


class FakeBackend:
    """The backend inside the running event loop; port 0 takes a free one."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        models: tuple[str, ...] = DEFAULT_MODELS,
        window_tokens: int = DEFAULT_WINDOW_TOKENS,
        api_key: str | None = None,
        keep: int = KEPT_REQUESTS,
        signature: str | None = None,
        hearing: Hearing = HEARS_AT_START,
    ) -> None:
        """`signature`: the first word of every answer, by which a test tells two backends apart. `hearing`:
        which directives in messages count; of two backends behind a gateway one may hear none and be always well."""
        self.state = BackendState(models, window_tokens, api_key, keep, signature, hearing)
        self._host = host
        self.port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None

    @property
    def origin(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    async def start(self) -> None:
        """Raises: OSError: the port is taken."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: BackendProtocol(self.state, self._tasks, self._transports),
            self._host,
            self.port,
            backlog=LISTEN_BACKLOG,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut every connection, as a killed backend would; it can be started again."""
        if self._server is None:
            return
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in tuple(self._transports):
            transport.abort()
        await asyncio.sleep(0)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> FakeBackend:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class BackendThread:
    """The backend on an event loop of its own in a thread, for synchronous tests and clients."""

    def __init__(
        self,
        *,
        port: int = 0,
        models: tuple[str, ...] = DEFAULT_MODELS,
        window_tokens: int = DEFAULT_WINDOW_TOKENS,
        api_key: str | None = None,
        signature: str | None = None,
    ) -> None:
        self._backend = FakeBackend(
            port=port, models=models, window_tokens=window_tokens, api_key=api_key, signature=signature
        )
        self._started = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="fake-backend", daemon=True)

    @property
    def state(self) -> BackendState:
        return self._backend.state

    @property
    def origin(self) -> str:
        return self._backend.origin

    @property
    def base_url(self) -> str:
        return self._backend.base_url

    def __enter__(self) -> BackendThread:
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S):
            raise TimeoutError("the fake backend did not start")
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_TIMEOUT_S)

    def _run(self) -> None:
        run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            await self._backend.start()
        except OSError as exc:
            self._error = exc
            return
        finally:
            self._started.set()
        await self._stop.wait()
        await self._backend.stop()


async def serve_until_signalled(backend: FakeBackend) -> None:
    """Run until SIGINT or SIGTERM; says where it listens."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await backend.start()
    click.echo(f"fake backend ready at {backend.base_url} serving {', '.join(backend.state.models)}")
    sys.stdout.flush()
    await stopped.wait()
    await backend.stop()


@click.command(epilog="Example: python -m loadtests.fake_backend --port 8101 --model student --window-tokens 8192")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8101, show_default=True, help="0 takes a free port.")
@click.option("--model", "models", multiple=True, default=DEFAULT_MODELS, show_default=True, help="May be repeated.")
@click.option(
    "--window-tokens", type=click.IntRange(1), default=DEFAULT_WINDOW_TOKENS, show_default=True, help="`max_model_len`."
)
@click.option("--api-key-env", help="Environment variable with the key that `/v1` then requires.")
def main(host: str, port: int, models: tuple[str, ...], window_tokens: int, api_key_env: str | None) -> None:
    """Serve fake models whose delays and faults the requests choose by model name or `[[directive]]`."""
    api_key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not api_key:
        raise click.BadParameter(f"the environment variable {api_key_env} is not set", param_hint="--api-key-env")
    backend = FakeBackend(host=host, port=port, models=models, window_tokens=window_tokens, api_key=api_key)
    try:
        run(serve_until_signalled(backend))
    except OSError as exc:
        raise click.ClickException(f"cannot listen on {host}:{port}: {exc.strerror}; choose another --port") from exc


if __name__ == "__main__":
    main()
