"""Policies by name and by class, complete or with nothing but `decide`."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from policies.adapter import adapt, snake_case
from policies.base import Policy, RequestFeatures, RouteDecision, Signal, escalate
from policies.registry import DEFAULT_POLICY_TYPES, PolicyConfigError, available, build, build_all

SEEN = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)


class OnlyDecides:
    def decide(self, features: RequestFeatures) -> RouteDecision | None:
        return escalate("vip") if features.tenant == "vip" else None


class HTTPRouteByHour:
    reasons = ("night",)

    def __init__(self, *, from_hour: int, to_hour: int = 6) -> None:
        if from_hour > 23:
            raise ValueError("from_hour must be an hour")
        self.hours = (from_hour, to_hour)

    def needs(self, features: RequestFeatures) -> Signal | None:
        return Signal.PROMPT_TOKENS

    def optional_signals(self) -> set[Signal]:
        return {Signal.PROMPT_TOKENS}

    def decide(self, features: RequestFeatures) -> None:
        return None


class TakesAnything(OnlyDecides):
    name = "anything"

    def __init__(self, **options: Any) -> None:
        self.options = options


@pytest.fixture
def third_party() -> Iterator[str]:
    module = types.ModuleType("some_plugin")
    for each in (OnlyDecides, HTTPRouteByHour, TakesAnything):
        setattr(module, each.__name__, each)
    module.constant = 3  # type: ignore[attr-defined]
    module.raises = lambda: 1 / 0  # type: ignore[attr-defined]
    sys.modules["some_plugin"] = module
    yield "some_plugin"
    del sys.modules["some_plugin"]


def test_default_policies_are_installed_and_built() -> None:
    assert set(DEFAULT_POLICY_TYPES) <= set(available())
    built, reviewers, *_ = build_all([{"type": name} for name in DEFAULT_POLICY_TYPES])
    assert reviewers == []
    assert [policy.name for policy in built] == list(DEFAULT_POLICY_TYPES)
    assert all(isinstance(policy, Policy) for policy in built)


def test_class_with_nothing_but_decide_becomes_a_policy(third_party: str) -> None:
    policy = build("some_plugin:OnlyDecides", {})
    assert isinstance(policy, Policy)
    assert policy.name == "only_decides"
    assert policy.reasons == frozenset()
    assert policy.needs(SEEN) is None
    assert policy.optional_signals() == frozenset()
    assert policy.decide(SEEN) is None


def test_members_that_a_class_has_are_kept(third_party: str) -> None:
    policy = build("some_plugin:HTTPRouteByHour", {"from_hour": 22})
    assert policy.name == "http_route_by_hour"
    assert policy.reasons == {"night"}
    assert policy.needs(SEEN) is Signal.PROMPT_TOKENS
    assert policy.optional_signals() == {Signal.PROMPT_TOKENS}


def test_complete_policy_is_not_wrapped() -> None:
    policy = build("long_context", {})
    assert adapt(policy, type_name="long_context") is policy


def test_options_reach_a_class_that_takes_any(third_party: str) -> None:
    assert build("some_plugin:TakesAnything", {"a": 1, "b": [2]}).name == "anything"


@pytest.mark.parametrize(
    ("type_name", "options", "message"),
    [
        ("some_plugin:HTTPRouteByHour", {}, "from_hour: is required by policy"),
        ("some_plugin:HTTPRouteByHour", {"from_hour": 1, "until": 2}, "until: unknown option .* from_hour, to_hour"),
        ("some_plugin:HTTPRouteByHour", {"from_hour": 99}, "type: .* cannot be built: ValueError: from_hour must"),
        ("some_plugin:OnlyDecides", {"x": 1}, "x: unknown option of policy .* its options are: none"),
        ("some_plugin:raises", {}, "type: .* cannot be built: ZeroDivisionError"),
        ("some_plugin:Missing", {}, "type: cannot import 'some_plugin:Missing': AttributeError"),
        ("some_plugin:constant", {}, "type: 'some_plugin:constant' is not a class"),
        ("no_such_plugin:X", {}, "type: cannot import 'no_such_plugin:X'.* PYTHONPATH"),
        ("no_such_policy", {}, "type: unknown policy 'no_such_policy'; installed are .*long_context"),
        ("collections:OrderedDict", {}, "type: 'collections:OrderedDict' is not a policy: it has no method decide"),
        ("long_context", {"windw": 1}, "windw: unknown option of policy 'long_context'"),
        ("long_context", {"margin_tokens": "many"}, "margin_tokens: "),
    ],
)
def test_errors_name_the_key_and_the_fix(
    third_party: str, type_name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PolicyConfigError, match=f"^{message}"):
        build(type_name, options)


def test_document_errors_carry_the_index_of_the_table() -> None:
    with pytest.raises(PolicyConfigError, match=r"^1\.margin_tokens: "):
        build_all([{"type": "long_reasoning"}, {"type": "long_context", "margin_tokens": -1}])
    with pytest.raises(PolicyConfigError, match=r"^1\.type: a policy named 'long_context' is already"):
        build_all([{"type": "long_context"}, {"type": "long_context"}])


class AsyncDecide:
    async def decide(self, features: RequestFeatures) -> None: ...


class BadName(OnlyDecides):
    name = "Not Snake"


class NameIsAMethod(OnlyDecides):
    def name(self) -> str:
        return "x"


class BadReasons(OnlyDecides):
    reasons = frozenset({"Took 3.2 s"})


class OneReason(OnlyDecides):
    reasons = "vip"


class ManyReasons(OnlyDecides):
    reasons = frozenset(f"reason_{index}" for index in range(65))


@pytest.mark.parametrize(
    ("policy_class", "message"),
    [
        (AsyncDecide, "decide must be a plain method"),
        (BadName, "its name 'Not Snake' must be snake_case"),
        (NameIsAMethod, "must be snake_case"),
        (BadReasons, "'Took 3.2 s' is not"),
        (OneReason, "reasons must be a set of strings"),
        (ManyReasons, "at most 64 snake_case strings; there are 65"),
    ],
)
def test_members_of_the_wrong_kind_are_refused(policy_class: Any, message: str) -> None:
    with pytest.raises(PolicyConfigError, match=message):
        adapt(policy_class(), type_name="plugin:Class")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("TagRoute", "tag_route"), ("HTTPRoute2Go", "http_route2_go"), ("simple", "simple"), ("A", "a")],
)
def test_names_come_out_in_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected
