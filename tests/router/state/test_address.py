"""The URLs of the shared state, and what is refused with the fix."""

from __future__ import annotations

import pytest

from router.config import ConfigError
from router.config.state import RedisAddress, redis_address
from router.config_file import parse
from router.metrics import Metrics
from router.state import open_store
from router.state.failover import FailoverStore
from router.state.memory import MemoryStore

SMALLEST = "[student]\nbase_url = 'http://s/v1'\n[teacher]\nbase_url = 'http://t/v1'\n[state]\n"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1", RedisAddress("127.0.0.1", 6379, None, 0, None, tls=False)),
        ("redis://gateway@redis.internal:6380/3", RedisAddress("redis.internal", 6380, None, 3, "gateway", tls=False)),
        ("rediss://[::1]:7000/", RedisAddress("::1", 7000, None, 0, None, tls=True)),
        ("unix:///run/redis/redis.sock", RedisAddress(None, 0, "/run/redis/redis.sock", 0, None, tls=False)),
        ("unix://me@/a%20b.sock?db=2", RedisAddress(None, 0, "/a b.sock", 2, "me", tls=False)),
    ],
)
def test_address_is_taken_from_the_url(url: str, address: RedisAddress) -> None:
    assert redis_address(url) == address


@pytest.mark.parametrize(
    ("lines", "key", "fix"),
    [
        ('url = "redis://:hunter2@127.0.0.1"', "state.url", "password_env"),
        ('url = "rediss://me:hunter2@127.0.0.1:6379/0"', "state.url", "password_env"),
        ('url = "unix:///tmp/s?password=hunter2"', "state.url", "password_env"),
        ('url = "http://127.0.0.1"', "state.url", "redis://HOST:PORT/DB"),
        ('url = "redis://"', "state.url", "redis://127.0.0.1:6379/0"),
        ('url = "redis://127.0.0.1:0"', "state.url", "port"),
        ('url = "redis://127.0.0.1:99999"', "state.url", "port"),
        ('url = "redis://127.0.0.1/x"', "state.url", "database"),
        ('url = "redis://127.0.0.1?db=1"', "state.url", "query"),
        ('url = "redis://169.254.169.254"', "state.url", "host"),
        ('url = "unix://relative/path"', "state.url", "whole path"),
        ('url = "unix:///a?timeout=1"', "state.url", "?db=DB"),
        (
            'url = "redis://127.0.0.1"\npassword_env = "hunter2"',
            "state.password_env",
            "name of an environment variable",
        ),
        ('password_env = "REDIS_PASSWORD"', "state.password_env", "memory://"),
        ('url = "redis://127.0.0.1"\ntls_ca_file = "/ca.pem"', "state.tls_ca_file", "rediss://"),
        ('key_prefix = "a b"', "state.key_prefix", "letters"),
        ('on_failure = {limits = "ajar"}', "state.on_failure.limits", "'open' or 'closed'"),
    ],
)
def test_wrong_settings_are_refused_with_the_fix_and_without_the_secret(lines: str, key: str, fix: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(SMALLEST + lines)
    (problem,) = refused.value.problems
    assert problem.startswith(f"{key}: ")
    assert fix in problem
    assert "hunter2" not in problem


def test_password_that_is_not_set_is_found_before_serving() -> None:
    config = parse(SMALLEST + 'url = "redis://127.0.0.1"\npassword_env = "REDIS_PASSWORD"')
    assert config.unset_secrets({}) == [
        *(problem for problem in config.unset_secrets({}) if "state" not in problem),
        "state.password_env: the environment variable REDIS_PASSWORD is not set",
    ]


def test_store_is_made_without_a_connection() -> None:
    assert isinstance(open_store(parse(SMALLEST), Metrics(), environ={}), MemoryStore)
    redis = parse(SMALLEST + 'url = "redis://127.0.0.1:1"')
    assert isinstance(open_store(redis, Metrics(), environ={}), FailoverStore)
