"""`[student.vllm]`: what is accepted, and which raw flags are refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving.options import OWNED_FLAGS, REFUSED_FLAGS, VllmOptions, VllmSettings


@pytest.mark.parametrize("flag", [*OWNED_FLAGS, *REFUSED_FLAGS])
def test_extra_args_refuse_every_flag_that_is_owned_or_dangerous(flag: str) -> None:
    with pytest.raises(ValidationError, match=r"extra_args"):
        VllmOptions(model="m", extra_args=(flag, "x"))


@pytest.mark.parametrize(
    "spelling",
    ["--trust_remote_code", "--trust-remote", "--tru", "--port=9", "--api_key=x", "-qawq", "-tp2", "--config=f.yaml"],
)
def test_extra_args_refuse_a_flag_when_it_is_spelled_another_way(spelling: str) -> None:
    with pytest.raises(ValidationError, match=r"is set by the option|is refused"):
        VllmOptions(model="m", extra_args=(spelling,))


def test_extra_args_name_the_option_to_use_when_a_flag_is_owned() -> None:
    with pytest.raises(ValidationError, match="set by the option `context_window_tokens`"):
        VllmOptions(model="m", extra_args=("--max-model-len", "10"))


def test_extra_args_refuse_a_positional_that_would_be_taken_for_the_model() -> None:
    with pytest.raises(ValidationError, match="is not a flag"):
        VllmOptions(model="m", extra_args=("other-model",))


def test_extra_args_accept_foreign_flags_and_negative_numbers() -> None:
    arguments = ("--max-num-batched-tokens", "4096", "--seed", "-1", "--quantization-config", "{}")
    assert VllmOptions(model="m", extra_args=arguments).extra_args == arguments


@pytest.mark.parametrize(
    "wrong",
    [{"port": 0}, {"max_model_len": 10}, {"quantization": "int3"}, {"served_model_name": "a b"}, {"host": "--x"}],
)
def test_options_refuse_wrong_values_and_unknown_keys(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        VllmOptions.model_validate({"model": "m", **wrong})


def test_every_option_has_a_description_for_the_configuration_table() -> None:
    assert all(field.description for field in VllmOptions.model_fields.values())


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8101/v1"),
        ("0.0.0.0", "http://127.0.0.1:8101/v1"),
        ("::1", "http://[::1]:8101/v1"),
    ],
)
def test_base_url_reaches_the_child_over_loopback_when_it_listens_on_a_wildcard(host: str, url: str) -> None:
    assert VllmOptions(model="m", host=host).base_url == url


@pytest.mark.parametrize(
    ("options", "ports"), [({}, (8101, 8102)), ({"port": 65535}, (65535, 65534)), ({"second_port": 9000}, (8101, 9000))]
)
def test_settings_name_two_ports_that_take_turns(options: dict[str, int], ports: tuple[int, int]) -> None:
    assert VllmSettings.model_validate(options).ports == ports


def test_settings_are_refused_when_both_ports_are_one() -> None:
    with pytest.raises(ValidationError, match="second_port: 8101 is `port` as well"):
        VllmSettings(second_port=8101)


def test_settings_know_no_model_but_options_require_one() -> None:
    with pytest.raises(ValidationError, match="model"):
        VllmSettings.model_validate({"model": "m"})
    with pytest.raises(ValidationError, match="model"):
        VllmOptions.model_validate({})
