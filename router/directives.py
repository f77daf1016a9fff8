"""What a client tells the router: the body object `router` and the `x-router-*` headers. Both are stripped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from policies.base import Chunk
from policies.record import CaptureLevel, StatedPurpose
from router.errors import InvalidRequest

HEADER_PREFIX = b"x-router-"
MAX_CHUNKS = 256

Confidence = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Directives(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of `router`. Every one is optional; null counts as absent."""

    retrieved_chunks: Annotated[tuple[Chunk, ...], msgspec.Meta(max_length=MAX_CHUNKS)] | None = None
    """Evidence for the routing decision; not added to the prompt."""
    retrieval_confidence: Confidence | None = None
    """P(the retrieved context is sufficient), if the application knows it."""
    route: Literal["auto", "student", "teacher"] | None = None
    session: ShortText | None = None
    train: CaptureLevel | None = None
    """The most that the traffic log may keep of this request."""
    purpose: StatedPurpose | None = None
    """What the request is for; anything but `traffic` can never become training data."""
    explain: bool | None = None
    explore: bool | None = None
    """False: the route of this request is not drawn by lot."""
    tags: Annotated[dict[ShortText, ShortText], msgspec.Meta(max_length=16)] | None = None


NONE = Directives()
BOOLEANS = frozenset({"explain", "explore"})
_FROM_HEADER = {
    b"x-router-retrieval-confidence": "retrieval_confidence",
    b"x-router-route": "route",
    b"x-router-session": "session",
    b"x-router-train": "train",
    b"x-router-purpose": "purpose",
    b"x-router-explain": "explain",
    b"x-router-explore": "explore",
}
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")


def read(body: Mapping[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> Directives:
    """Merge the body's `router` object with the headers; the body wins.

    Raises:
        InvalidRequest: an unknown key or a bad value; `param` names the key or header.
    """
    from_headers = _header_values(headers)
    given = body.get("router")
    if given is None and not from_headers:
        return NONE
    if given is not None and not isinstance(given, dict):
        raise InvalidRequest("router must be an object.", param="router")
    for name, (key, value) in from_headers.items():
        _convert({key: value}, param=name)
    merged = {key: value for key, value in from_headers.values()}
    merged.update({key: value for key, value in (given or {}).items() if value is not None or key not in merged})
    return _convert(merged, param="router")


def _header_values(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}
    for name, value in headers:
        if not name.startswith(HEADER_PREFIX):
            continue
        key = _FROM_HEADER.get(name)
        if key is None:
            continue  # x-router headers of other services are stripped like ours
        header = name.decode("ascii")
        found[header] = (key, _scalar(key, value.decode("latin-1").strip(), header))
    return found


def _scalar(key: str, text: str, header: str) -> Any:
    if key not in ("retrieval_confidence", *BOOLEANS):
        return text
    try:
        value = json.loads(text.lower())
    except (ValueError, RecursionError):
        value = None
    if value is None or (key in BOOLEANS and value in (0, 1)):
        value = {"1": True, "0": False}.get(text)
    if value is None:
        expected = "a number from 0 to 1" if key == "retrieval_confidence" else "true or false"
        raise InvalidRequest(f"{header} must be {expected}.", param=header)
    return value


def _convert(values: dict[str, Any], *, param: str) -> Directives:
    try:
        return msgspec.convert(values, Directives)
    except UnicodeError as exc:
        raise InvalidRequest(f"{param} has text that is not Unicode.", param=param) from exc
    except msgspec.ValidationError as exc:
        message = str(exc)
        where = param
        found = _PATH.search(message)
        if found is not None:
            message = message[: found.start()]
            if param == "router":
                where += found["path"].replace("[...]", "").replace("[", ".").replace("]", "")
        raise InvalidRequest(f"{where}: {message}.", param=where) from exc
