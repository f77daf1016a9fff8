"""Replicas and further teachers as users write them down."""

from __future__ import annotations

import pytest

from router.config import ConfigError
from router.config_file import parse

TEACHER = """
[teacher]
base_url = "https://first.example/v1"
model = "large"
api_key_env = "FIRST_KEY"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
first_token_timeout_s = 12.0
distillation = "allowed"
[teacher.tls]
ca_file = "/etc/first.pem"
"""
STUDENT = '[student]\nbase_url = "http://127.0.0.1:8101/v1"\n'
REPLICAS = """
[student]
model = "mine"
api_key_env = "SHARED_KEY"
[[student.replicas]]
base_url = "http://127.0.0.1:8101/v1"
[[student.replicas]]
name = "second rack"
base_url = "http://127.0.0.1:8102/v1/"
api_key_env = "OTHER_KEY"
"""


def test_replicas_are_the_same_student_at_several_addresses() -> None:
    config = parse(REPLICAS + TEACHER)
    assert [(name, c.base_url, c.model, c.api_key_env) for name, c in config.student.endpoints()] == [
        ("student-1", "http://127.0.0.1:8101/v1", "mine", "SHARED_KEY"),
        ("second rack", "http://127.0.0.1:8102/v1", "mine", "OTHER_KEY"),
    ]
    assert ("student.replicas.1.api_key_env", "OTHER_KEY") in config.secret_env_names()


def test_single_student_needs_no_replicas() -> None:
    ((name, endpoint),) = parse(STUDENT + TEACHER).student.endpoints()
    assert (name, endpoint.base_url) == ("student", "http://127.0.0.1:8101/v1")


def test_further_teachers_have_their_own_models_keys_prices_and_licences() -> None:
    config = parse(
        STUDENT
        + TEACHER
        + """
[[teacher.fallbacks]]
base_url = "https://second.example/v1"
model = "other"
api_key_env = "SECOND_KEY"
price_usd_per_1m_input_tokens = 3.0
[[teacher.fallbacks]]
name = "last"
base_url = "https://third.example/v1"
"""
    )
    first, second, third = config.teacher.in_order()
    assert [first[0], second[0], third[0]] == ["teacher", "teacher-2", "last"]
    other = second[1]
    assert (other.base_url, other.model, other.api_key_env) == ("https://second.example/v1", "other", "SECOND_KEY")
    assert (other.price_usd_per_1m_input_tokens, other.price_usd_per_1m_output_tokens) == (3.0, None)
    assert (other.distillation, other.first_token_timeout_s, other.fallbacks) == ("denied", 12.0, ())
    assert (first[1].tls.ca_file, other.tls.ca_file) == ("/etc/first.pem", None)
    assert third[1].api_key_env is None  # the first teacher's key is nobody else's business
    assert ("teacher.fallbacks.0.api_key_env", "SECOND_KEY") in config.secret_env_names()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (REPLICAS.replace("[student]", '[student]\nbase_url = "http://127.0.0.1:1/v1"'), "student.base_url: excludes"),
        (REPLICAS + '[student.vllm]\nmodel = "/m"\n', "student.vllm: excludes"),
        (REPLICAS.replace("8102/v1/", "0/v1"), "student.replicas.1.base_url: must have a port"),
        (REPLICAS.replace("8101/v1", "0/v1"), "student.replicas.0.base_url: must have a port"),
        (REPLICAS.replace("second rack", "student-1"), "student.replicas.name: 'student-1' names two"),
        (REPLICAS.replace("OTHER_KEY", "sk-secret"), "student.replicas.1.api_key_env: must be the name"),
        (REPLICAS + "weight = 3\n", "student.replicas.1.weight: unknown key"),
        ("[student]\nreplicas = []\n", "student.base_url: is missing"),
        ('[student]\nreplicas = "http://x/v1"\n', "student.replicas"),
        ("[student]\nreplicas = [1]\n", "student.replicas.0"),
        (STUDENT + 'spread = "random"\n', "student.spread"),
    ],
)
def test_wrong_replicas_are_refused_by_their_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text + TEACHER)
    assert message in str(caught.value)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("breaker", "consecutive_failures = 0"),
        ("breaker", "error_rate = 1.5"),
        ("retries", "budget_ratio = -0.1"),
        ("retries", "max_per_request = 11"),
        ("spill", "max_kv_usage = 0.0"),
        ("hedging", "quantile = 2.0"),
        ("hedging", "on = true"),
    ],
)
def test_wrong_limits_are_refused_by_their_key(table: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"resilience\.{table}\.{key.split(maxsplit=1)[0]}"):
        parse(f"{STUDENT}{TEACHER}[resilience.{table}]\n{key}\n")
