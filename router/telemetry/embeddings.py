"""The trace of a request for embeddings: a server span, and below it the admission and every call of a model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from policies.record import Usage
from router.telemetry import conventions as names
from router.telemetry.calls import Begun, Trace, Value
from router.telemetry.instruments import Attributes

if TYPE_CHECKING:
    from router.embeddings.outcome import EmbeddingState

LOCAL_PROVIDER = "sentence_transformers"
"""Of a model in this process: the conventions leave the name of a provider that they do not list free."""


class Local(NamedTuple):
    """A call of a model in this process, in monotonic time."""

    model: str
    started_s: float
    ended_s: float
    cause: str | None


class EmbeddingTrace(Trace):
    """Follows one request."""

    def __init__(self, state: EmbeddingState, path: str, begun: Begun) -> None:
        super().__init__(begun, path, created_s=state.created_s, started_s=state.started_s)
        self._state = state
        self._local: Local | None = None

    def computed(self, model: str, started_s: float, cause: str | None) -> None:
        """A model in this process has been asked.

        Args:
            cause: why it has not answered.
        """
        self._local = Local(model, started_s, time.monotonic(), cause)

    def end(self) -> None:
        """Write everything down."""
        now_s, state, record = time.monotonic(), self._state, self._state.record
        good = [call for call in self._calls.values() if call.cause is None]
        answer, usage = good[-1] if good else None, record.usage if record is not None else None
        about = self._about_request()
        if state.body_read_s is not None and state.called_s is not None:
            self._phase("admit", state.body_read_s, state.called_s)
        for call in self._calls.values():
            self._end_call(call, now_s, usage if call is answer else None, about)
        if self._local is not None:
            self._end_local(self._local, usage, about)
        self._end(record, now_s, answer.backend.config if answer is not None else None)

    def _about_request(self) -> dict[str, Value | None]:
        request = self._state.request
        if request is None:
            return {}
        return {names.ENCODING_FORMATS: [request.encoding], names.DIMENSIONS: request.dimensions}

    def _end_local(self, local: Local, usage: Usage | None, about: dict[str, Value | None]) -> None:
        attributes: Attributes = {
            names.OPERATION: self._operation,
            names.PROVIDER: LOCAL_PROVIDER,
            names.REQUEST_MODEL: local.model,
        }
        if self._instruments is not None:
            duration_s = local.ended_s - local.started_s
            self._instruments.call(attributes, duration_s=duration_s, first_chunk_s=None, cause=local.cause)
        tokens = self._note_tokens(attributes, usage)
        name = f"{self._operation} {local.model}"
        more = {**attributes, **about, **tokens, names.ERROR_TYPE: local.cause}
        self._phase(name, local.started_s, local.ended_s, more)
