"""The configuration is a contract: what is accepted, and what an error says."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.config import ConfigError, load, parse

SMALLEST = '[student]\nbase_url = "http://127.0.0.1:8101/v1"\n[teacher]\nbase_url = "https://teacher.example/v1"\n'
EXAMPLE = Path(__file__).parents[2] / "deploy" / "locum.example.toml"


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, source="locum.toml")
    return str(caught.value)


def test_example_is_accepted_as_it_stands() -> None:
    config = load(EXAMPLE)
    assert config.student.context_window_tokens == 8192
    assert [table["type"] for table in config.routing.policies] == [
        "long_context", "retrieval_confidence", "long_reasoning",
    ]  # fmt: skip


def test_smallest_file_is_two_urls_and_runs_the_three_policies() -> None:
    config = parse(SMALLEST)
    assert [policy.name for policy in config.routing.build_policies()] == [
        "long_context", "retrieval_confidence", "long_reasoning",
    ]  # fmt: skip
    assert config.teacher.distillation == "denied"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (SMALLEST + "colour = 1", "teacher.colour"),
        (SMALLEST + "idle_timeout_s = 0", "teacher.idle_timeout_s"),
        (SMALLEST + '[server]\nport = "http"', "server.port"),
        (SMALLEST + '[server]\nhost = "0.0.0.0"', "server.host"),
        (SMALLEST + "[server]\nworkers = 2", "server.workers"),
        (SMALLEST + '[state]\nurl = "redis://127.0.0.1"', "state.url"),
        (SMALLEST + '[log]\ncapture = "all"', "log.capture"),
        (SMALLEST + '[[routing.policies]]\nname = "x"', "routing.policies"),
        (SMALLEST + '[[routing.policies]]\ntype = "nope"', "routing.policies.0.type"),
        (
            SMALLEST + '[[routing.policies]]\ntype = "long_context"\nmargin_tokens = -1',
            "routing.policies.0.margin_tokens",
        ),
        (SMALLEST + '[[routing.policies]]\ntype = "no_such_module:Policy"', "routing.policies.0.type"),
        ("[student]\n[teacher]\nbase_url = 'http://t/v1'", "student"),
        (SMALLEST.replace("http://127", "ftp://127"), "student.base_url"),
        (SMALLEST.replace("http://127", "http://user:secret@127"), "student.base_url"),
        (SMALLEST.replace("127.0.0.1:8101", "169.254.169.254"), "student.base_url"),
        ("[student", "not TOML"),
    ],
)
def test_error_names_the_file_and_the_exact_key(text: str, key: str) -> None:
    assert f"locum.toml: {key}" in problems(text)


def test_every_problem_is_reported_at_once() -> None:
    message = problems(SMALLEST + "a = 1\nb = 2")
    assert "teacher.a" in message
    assert "teacher.b" in message


@pytest.mark.parametrize("line", ['api_key_env = "sk-very-secret-1"', 'api_key = "sk-very-secret-1"'])
def test_secret_is_not_repeated_when_it_was_written_into_the_file(line: str) -> None:
    assert "sk-very-secret-1" not in problems(SMALLEST + line)


def test_unset_secret_is_named_by_key_and_variable() -> None:
    config = parse(SMALLEST + 'api_key_env = "MY_KEY"')
    assert config.unset_secrets({}) == ["teacher.api_key_env: the environment variable MY_KEY is not set"]
    assert config.unset_secrets({"MY_KEY": "x"}) == []
