"""What a request asks the fake backend to do: delays, shapes and faults, read from a model name or a message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

Fault = Literal[
    "status",
    "reset",
    "close",
    "truncate",
    "cut",
    "hang",
    "error_frame",
    "empty_stream",
    "garbage",
    "endless",
    "lost_choice",
]

MESSAGE_DIRECTIVE = re.compile(r"\[\[([^\]\s]{1,200})\]\]")
"""A directive in a message's text; gateways rewrite `model`, so this is the part that survives."""
Heard = Literal["at_start", "anywhere", "never"]
"""Where in a message's text a directive counts. `anywhere` suits gateways that put words before the client's."""


class ScenarioError(ValueError):
    """A name starts like a directive and holds a word that is none."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One request's behaviour. The defaults are a quick, healthy answer; see `loadtests.fake_backend`'s table."""

    source: str = ""
    """The directives it was read from."""
    tokens: int = 8
    prompt_tokens: int | None = None
    """Reported in `usage`; None counts four bytes of text as a token."""
    delay_s: float = 0.0
    gap_s: float = 0.0
    finish_reason: str = "stop"
    logprob: float = -0.25
    """Of every token, when the request asks for logprobs."""
    fault: Fault | None = None
    after_chunks: int | None = None
    """Content chunks sent before the fault; None means before the first byte of the body."""
    status: int = 200
    error: Literal["vllm", "string", "context", "html"] = "vllm"
    retry_after_s: int | None = None
    times: int | None = None
    """The fault strikes this many requests with the same directive, then the answers are healthy."""
    slow_headers_s: float = 0.0
    no_done: bool = False
    extra: bool = False
    crlf: bool = False
    split: bool = False
    merge: bool = False
    heartbeat: bool = False
    fixed: bool = False
    echo: bool = False
    sparse: bool = False
    calls: int = 0
    """Tool calls behind the text of a chat answer."""
    reasoning: int = 0
    """Tokens of reasoning before it."""
    strict: bool = False
    """Options that only vLLM knows are refused with 400."""
    wide_chars: int = 0
    """Added to every token."""
    hints: bool = False
    """Interim answers (100 and 103) come before the answer."""
    trailers: bool = False
    surplus: bool = False
    """A whole second answer that nobody asked for follows on the same connection."""

    @property
    def is_instant(self) -> bool:
        """True when a plain answer can be written in one go."""
        return self.fault in (None, "status", "garbage") and not (
            self.delay_s or self.slow_headers_s or self.split or self.hints or self.trailers or self.surplus
        )

    def healthy(self) -> Scenario:
        """The same without its fault, for when `times` has run out."""
        return msgspec.structs.replace(
            self,
            source=f"{self.source} (healthy)",
            fault=None,
            after_chunks=None,
            status=200,
            no_done=False,
            slow_headers_s=0.0,
        )


Change = dict[str, Any]
"""Fields of `Scenario` that one directive sets."""

_NUMBER = r"(\d+(?:\.\d+)?)"


def _flag(**fields: Any) -> Callable[[re.Match[str]], Change]:
    return lambda match: fields


def _fault(fault: Fault, **fields: Any) -> Callable[[re.Match[str]], Change]:
    def change(match: re.Match[str]) -> Change:
        after = match.group(1) if match.re.groups and match.group(1) is not None else None
        return {"fault": fault, "after_chunks": None if after is None else int(after), **fields}

    return change


def _field(name: str, convert: Callable[[str], Any]) -> Callable[[re.Match[str]], Change]:
    return lambda match: {name: convert(match.group(1))}


_DIRECTIVES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Change]], ...] = tuple(
    (re.compile(pattern + r"(?=[-+]|$)"), change)
    for pattern, change in (
        (r"fake|fault", _flag()),
        (r"tokens-(\d+)", _field("tokens", int)),
        (r"prompt-tokens-(\d+)", _field("prompt_tokens", int)),
        (rf"delay-{_NUMBER}", _field("delay_s", float)),
        (rf"gap-{_NUMBER}", _field("gap_s", float)),
        (rf"logprob-{_NUMBER}", _field("logprob", lambda text: -float(text))),
        (r"finish-([a-z_]+)", _field("finish_reason", str)),
        (r"times-(\d+)", _field("times", int)),
        (r"401-string", _flag(fault="status", status=401, error="string")),
        (r"400-context", _flag(fault="status", status=400, error="context")),
        (r"([45]\d\d)-html", lambda m: {"fault": "status", "status": int(m.group(1)), "error": "html"}),
        (r"([45]\d\d)", lambda m: {"fault": "status", "status": int(m.group(1))}),
        (r"retry-after-(\d+)", _field("retry_after_s", int)),
        (r"reset-mid-(\d+)", _fault("reset")),
        (r"reset", _fault("reset")),
        (r"close", _fault("close")),
        (r"truncate-(\d+)", _fault("truncate")),
        (r"cut-(\d+)", _fault("cut")),
        (r"hang-mid-(\d+)", _fault("hang")),
        (r"hang", _fault("hang")),
        (r"error-frame-mid-(\d+)", _fault("error_frame")),
        (r"error-frame", _fault("error_frame")),
        (r"no-done", _flag(no_done=True)),
        (r"empty-stream", _fault("empty_stream")),
        (r"empty-answer", _flag(tokens=0)),
        (r"garbage", _fault("garbage")),
        (r"html", _flag(fault="status", status=200, error="html")),
        (r"endless-event-(\d+)", _fault("endless")),
        (r"lost-choice", _fault("lost_choice", no_done=True)),
        (rf"slow-headers-{_NUMBER}", _field("slow_headers_s", float)),
        (r"slow-headers", _flag(slow_headers_s=0.2)),
        (r"extra", _flag(extra=True)),
        (r"crlf", _flag(crlf=True)),
        (r"split", _flag(split=True)),
        (r"merge", _flag(merge=True)),
        (r"heartbeat", _flag(heartbeat=True)),
        (r"odd", _flag(extra=True, crlf=True, split=True, heartbeat=True)),
        (r"fixed", _flag(fixed=True)),
        (r"echo", _flag(echo=True)),
        (r"sparse", _flag(sparse=True)),
        (r"strict", _flag(strict=True)),
        (r"calls-(\d+)", _field("calls", int)),
        (r"reasoning-(\d+)", _field("reasoning", int)),
        (r"wide-(\d+)", _field("wide_chars", int)),
        (r"hints", _flag(hints=True)),
        (r"trailers", _flag(trailers=True)),
        (r"surplus", _flag(surplus=True)),
    )
)


def is_directive(name: str) -> bool:
    """Whether a model name speaks to the fake backend rather than naming a served model."""
    return name in ("fake", "fault") or name.startswith(("fake-", "fault-", "fake+", "fault+"))


def parse(*names: str) -> Scenario:
    """The scenario of one or several directives; of two that set the same field the later wins.

    Raises:
        ScenarioError: naming the words that mean nothing.
    """
    fields: Change = {}
    for name in names:
        position = 0
        while position < len(name):
            for pattern, change in _DIRECTIVES:
                match = pattern.match(name, position)
                if match:
                    fields.update(change(match))
                    position = match.end() + 1
                    break
            else:
                raise ScenarioError(f"unknown directive {name[position:]!r} in {name!r}")
    return Scenario(source=" ".join(names), **fields)
