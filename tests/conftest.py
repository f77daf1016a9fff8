"""What every test has in common."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from httpx._transports import default
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a busy one is slow, not wrong
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Every httpx client reads the system's certificates, 50 ms of CPU for clients that speak to loopback."""
    made = default.create_ssl_context
    default.create_ssl_context = cache(made)
    yield
    default.create_ssl_context = made
