"""The configuration is a contract: what is accepted, and what an error says."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.config import ConfigError
from router.config_file import load, parse
from serving.options import VllmOptions, VllmSettings

SMALLEST = '[student]\nbase_url = "http://127.0.0.1:8101/v1"\n[teacher]\nbase_url = "https://teacher.example/v1"\n'
VLLM = '[teacher]\nbase_url = "https://teacher.example/v1"\n[student.vllm]\nmodel = "folder"\n'
REGISTRY = '[teacher]\nbase_url = "https://teacher.example/v1"\n[student]\nregistry = "r"\n[student.vllm]\n'
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
    assert [policy.name for policy in config.routing.build_policies().policies] == [
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
        (SMALLEST + "[server]\nworkers = 0", "server.workers"),
        (SMALLEST + '[state]\nurl = "redis://:secret@127.0.0.1"', "state.url"),
        (SMALLEST + '[log]\ncapture = "all"', "log.capture"),
        (SMALLEST + '[[routing.policies]]\nname = "x"', "routing.policies.0.type"),
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
        ("[student]\n[teacher]\nbase_url = 'http://t/v1'", "student.base_url"),
        (VLLM + "port = 99999", "student.vllm.port"),
        (VLLM + 'extra_args = ["--port=1"]', "student.vllm.extra_args"),
        (VLLM + "colour = 1", "student.vllm.colour"),
        (VLLM + 'host = "169.254.169.254"', "student.vllm.host"),
        (VLLM + 'api_key_env = "sk-very-secret"', "student.vllm.api_key_env"),
        (VLLM.replace("[student.vllm]", "[student]\nbase_url = 'http://s/v1'\n[student.vllm]"), "student.base_url"),
        (SMALLEST.replace("[teacher]", 'registry = "r"\n[teacher]'), "student.registry: needs"),
        (REGISTRY + 'model = "folder"', "student.vllm.model: excludes"),
        (REGISTRY + "port = 99999", "student.vllm.port"),
        (REGISTRY + "colour = 1", "student.vllm.colour"),
        (REGISTRY.replace('"r"', '"r"\nbase_url = "http://s/v1"'), "student.base_url: excludes"),
        (REGISTRY.replace('"r"', '"r"\ntokenizer = "t"'), "student.tokenizer: excludes"),
        (REGISTRY.replace('"r"', '""'), "student.registry"),
        (VLLM.replace('model = "folder"', ""), "student.vllm.model"),
        (SMALLEST + '[aliases]\nauto = "teacher"', "aliases.auto"),
        (SMALLEST + '[aliases]\nstudent = "student"', "aliases.student"),
        (SMALLEST + '[aliases]\n"" = "auto"', 'aliases."": the name'),
        (SMALLEST + '[aliases]\n"a\\nb" = "auto"', 'aliases."a\\nb": the name'),
        (SMALLEST + '[aliases]\ngpt = "gpt"', "aliases.gpt"),
        (SMALLEST + 'model = "a\\u0000b"', "teacher.model"),
    ],
)
def test_error_names_the_file_and_the_exact_key(text: str, key: str) -> None:
    assert f"locum.toml: {key}" in problems(text)


def test_registry_serves_bundles_with_settings_that_name_no_model() -> None:
    student = parse(REGISTRY + "port = 8123").student
    assert type(student.vllm) is VllmSettings
    assert student.base_url == "http://127.0.0.1:8123/v1"
    assert student.model_folder is None
    with_model = parse(VLLM).student
    assert isinstance(with_model.vllm, VllmOptions)
    assert with_model.model_folder == Path("folder")


def test_every_problem_is_reported_at_once() -> None:
    message = problems(SMALLEST + "a = 1\nb = 2")
    assert "teacher.a" in message
    assert "teacher.b" in message


JWT = "eyJ" + "A" * 150


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ('api_key_env = "sk-very-secret-1"', "sk-very-secret-1"),
        ('api_key = "sk-very-secret-1"', "sk-very-secret-1"),
        (f'api_key_env = "{JWT}"', JWT[:20]),
        ('api_key_env = ["sk-very-secret-1"]', "very-secret"),
        ("api_key_env = 1234567890123456", "1234567"),
        ('[auth]\nkeys_env = "tenant=very-secret-1"', "very-secret"),
        ("[auth]\nadmin_key_env = 1234567890123456", "1234567"),
    ],
)
def test_secret_is_not_repeated_when_it_was_written_into_the_file(line: str, secret: str) -> None:
    assert secret not in problems(SMALLEST + line)
    assert secret not in problems(VLLM.replace("[student", f"{line}\n[student"))


@pytest.mark.parametrize(
    "line", [f'api_key_env = "{JWT}"', 'api_key_env = ["sk-very-secret"]', "api_key_env = 12345678"]
)
def test_secret_is_not_repeated_when_it_was_written_for_the_child(line: str) -> None:
    message = problems(VLLM + line)
    assert "student.vllm.api_key_env" in message
    assert not any(secret in message for secret in (JWT[:20], "very-secret", "1234"))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999/v1", "http://127.0.0.1:0/v1", "http://127.0.0.1:/v1", "http://127.0.0.1:x/v1",
        "http://127.0.0.1:1/v1 HTTP/1.1", "http://a b:1/v1", " http://127.0.0.1/v1", "http://127.0.0.1/v1\\n",
        "http://127.0.0.1/v1\\t", "http://127.0.0.1/\\u007f", "http://127.0.0.1/中", "http://bücher.example/v1",
        "http://[::1/v1", "http://@host/v1", "http://a<b/v1", "http://host/v1?a=b", "http://host/v1#a", "host/v1", "",
    ],
)  # fmt: skip
def test_base_url_is_refused_by_its_key_when_it_cannot_be_called(url: str) -> None:
    assert "locum.toml: teacher.base_url: " in problems(SMALLEST.replace("https://teacher.example/v1", url))


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "169.254.0.1.", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]",
        "[::a9fe:a9fe]", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518", "[fe80::1]", "[fe80::1%25eth0]",
        "[fd00:ec2::254]", "100.100.100.200", "metadata.google.internal", "Metadata.Google.Internal.",
    ],
)  # fmt: skip
def test_base_url_is_refused_when_it_spells_a_metadata_service(host: str) -> None:
    message = problems(SMALLEST.replace("127.0.0.1:8101", host))
    assert "locum.toml: student.base_url: link-local" in message


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "[::1]:8101",
        "[::ffff:10.0.0.1]",
        "[fd00::1]",
        "my_service:80",
        "xn--bcher-kva.example",
        "2130706433",
    ],
)
def test_base_url_of_another_host_is_accepted(host: str) -> None:
    assert parse(SMALLEST.replace("127.0.0.1:8101", host)).student.base_url == f"http://{host}/v1"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('[server]\nport = "8080"', "server.port"),
        ("[server]\nport = true", "server.port"),
        ("[server]\nport = 8080.0", "server.port"),
        ('[server]\ndrain_timeout_s = "3"', "server.drain_timeout_s"),
        ("[server]\ndrain_timeout_s = true", "server.drain_timeout_s"),
        ('price_usd_per_1m_input_tokens = "2.5"', "teacher.price_usd_per_1m_input_tokens"),
        ("price_usd_per_1m_input_tokens = true", "teacher.price_usd_per_1m_input_tokens"),
        ("price_usd_per_1m_input_tokens = nan", "teacher.price_usd_per_1m_input_tokens"),
        ("context_window_tokens = true", "teacher.context_window_tokens"),
        ("[routing]\nfall_back_when_student_forced = 1", "routing.fall_back_when_student_forced"),
        ('[routing]\nfall_back_when_student_forced = "yes"', "routing.fall_back_when_student_forced"),
    ],
)
def test_value_of_another_type_is_refused(line: str, key: str) -> None:
    assert f"locum.toml: {key}: " in problems(SMALLEST + line)


def test_whole_number_is_accepted_when_a_fraction_is_possible() -> None:
    config = parse(SMALLEST + "price_usd_per_1m_input_tokens = 2\nrequest_timeout_s = 30")
    assert config.teacher.price_usd_per_1m_input_tokens == 2.0
    assert config.teacher.request_timeout_s == 30.0


def test_alias_with_dots_and_slashes_is_accepted() -> None:
    aliases = '[aliases]\n"gpt-4.1-mini" = "auto"\n"org/model:latest" = "teacher"'
    assert parse(SMALLEST + aliases).aliases == {"gpt-4.1-mini": "auto", "org/model:latest": "teacher"}


def test_options_of_the_child_become_the_student_s() -> None:
    config = parse(VLLM + 'port = 8123\napi_key_env = "CHILD_KEY"\ncontext_window_tokens = 2048')
    assert config.student.base_url == "http://127.0.0.1:8123/v1"
    assert config.student.api_key_env == "CHILD_KEY"
    assert config.student.context_window_tokens == 2048


def test_unset_secret_is_named_by_key_and_variable() -> None:
    config = parse(SMALLEST + 'api_key_env = "MY_KEY"')
    assert config.unset_secrets({}) == ["teacher.api_key_env: the environment variable MY_KEY is not set"]
    assert config.unset_secrets({"MY_KEY": "x"}) == []
