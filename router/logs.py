"""The process's own log: text or JSON lines on stderr, each with the request that it belongs to, none with content.

A traceback is written without the messages of its exceptions and without local values: a message often quotes what
could not be handled, which may be a prompt. Type, file, line and function stay.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
import weakref
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, Protocol

from policies.record import DecisionRecord

LogFormat = Literal["text", "json"]
MAX_CAUSES = 5
access = logging.getLogger("locum.access")


class Logged(Protocol):
    """A request that lines are written for."""

    @property
    def decision_id(self) -> str: ...

    @property
    def route(self) -> str | None: ...


_current: ContextVar[weakref.ref[Logged] | None] = ContextVar("request", default=None)
"""Weak: timers that a request started keep its context, and must not keep its body in memory."""


def belong_to(request: Logged) -> None:
    """What this task logs from now on, and the tasks that it starts, belongs to the request."""
    _current.set(weakref.ref(request))


def log_to_stderr(level: str, form: LogFormat = "text") -> None:
    """Take over the root logger, and what would otherwise write tracebacks by itself."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("uvicorn", "httpx", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def log_access(record: DecisionRecord, policy: str) -> None:
    """One line a request."""
    tokens = {} if (usage := record.usage) is None else {
        "input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens,
    }  # fmt: skip
    fields = {
        "endpoint": record.endpoint, "status": record.status, "outcome": record.outcome, "reason": record.reason,
        "policy": policy, "stream": record.stream, "degraded": record.degraded, "student": record.student,
        **tokens, "cost_usd": record.cost_usd, "latency_s": round(record.latency_s, 6),
        "overhead_s": round(record.overhead_s, 6), "ttft_s": None if record.ttft_s is None else round(record.ttft_s, 6),
    }  # fmt: skip
    access.info("request", extra={"fields": {name: value for name, value in fields.items() if value is not None}})


class TextFormatter(logging.Formatter):
    """For people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # another handler may have left its own text there
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = _message(record)
        text = super().formatMessage(record)
        fields = {**_request_fields(), **_extra_fields(record)}
        return f"{text} {' '.join(f'{name}={value}' for name, value in fields.items())}" if fields else text

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(_traceback(ei[1]))


class JsonFormatter(logging.Formatter):
    """For programs: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger": record.name,
            "message": _message(record),
            **_request_fields(),
            **_extra_fields(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = type(record.exc_info[1]).__name__
            line["traceback"] = _traceback(record.exc_info[1])
        return json.dumps(line, default=str)


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    # asyncio adds the task and the future, with the message of their exception.
    return message.partition("\n")[0] if record.name == "asyncio" else message


def _request_fields() -> dict[str, str]:
    found = _current.get()
    request = found() if found is not None else None
    return {} if request is None else {"decision_id": request.decision_id, "route": request.route or "none"}


def _extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _traceback(error: BaseException | None) -> list[str]:
    """The innermost exception first, as they were raised: types and places, no messages."""
    chain: list[BaseException] = []
    while error is not None and error not in chain and len(chain) < MAX_CAUSES:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = []
    for each in reversed(chain):
        frames = traceback.extract_tb(each.__traceback__)
        lines.append(type(each).__name__)
        lines += [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}' for frame in frames]
    return lines


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger("locum").critical("uncaught exception", exc_info=(kind, error or kind(), trace))
