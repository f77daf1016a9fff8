"""What a gateway under test is: how it is installed and started, and how a client speaks to it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import msgspec

Setting = Literal["alone", "pair", "cascade", "replicas"]
"""How a gateway is configured: one upstream; a first upstream and a second one to fall back to; a first one whose
drafts are judged before they are passed on; and `pair` (or two equal replicas) with everything that it has to keep
away from a dead upstream."""

FIRST_TOKEN_TIMEOUT_S = 1.5
IDLE_TIMEOUT_S = 1.5
REQUEST_TIMEOUT_S = 3.0
"""What a gateway is configured to wait for an upstream, where it can be: first event, gap in a stream, plain answer."""
FAILURES_TO_EJECT, EJECTED_FOR_S = 2, 3
"""In the setting `replicas`: after so many failures in a row an upstream is left alone for so long."""


class Upstreams(msgspec.Struct, frozen=True):
    """The two fake backends. The first obeys directives, the second is always well."""

    first_url: str
    second_url: str
    first_model: str = "student"
    second_model: str = "teacher"


class Launch(msgspec.Struct, frozen=True):
    """One configured process, and how to address it."""

    command: tuple[str, ...]
    ready_path: str
    model: str
    headers: dict[str, str] = {}
    path: str = "/v1/chat/completions"
    ready_timeout_s: float = 60.0
    tells_origin: bool = False
    """The port we chose only tells, as JSON, at which `origin` the gateway really listens."""


class NotInstalled(RuntimeError):
    """The gateway cannot be had here; the message says why."""


class NotApplicable(RuntimeError):
    """The gateway has nothing that a case could be about; the message says why."""


class System(Protocol):
    """A gateway."""

    name: str
    about: str
    """Version-independent: what was started, with which options that matter."""

    @property
    def version(self) -> str: ...

    def install(self, cache: Path) -> None:
        """Make it available; quick when it is. Raises: NotInstalled."""

    def launch(self, setting: Setting, port: int, upstreams: Upstreams, folder: Path) -> Launch:
        """Write its configuration to `folder`. Raises: NotApplicable."""

    def check_stoppable(self) -> None:
        """Raises: NotApplicable: it has no process of its own that could be told to stop."""
