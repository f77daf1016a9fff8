"""Costs of usage objects as the providers send them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from policies.record import Usage
from router.answers import meaning_of
from router.config_file import parse
from router.dialects.messages.native import message_meaning
from router.dialects.responses.native import RESPONSES_API
from router.pricing import Price, price_of

LISTED = Price(3.0, 15.0, cached_input_usd=0.3, cache_write_usd=3.75, reasoning_usd=20.0)
"""USD per million tokens, all of them different."""


def chat(usage: dict[str, Any]) -> Usage | None:
    body = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "Hi"}}], "usage": usage}
    meaning = meaning_of(msgspec.json.encode(body))
    return meaning.usage if meaning else None


def messages(usage: dict[str, Any]) -> Usage | None:
    body = {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "usage": usage}
    meaning = message_meaning(msgspec.json.encode(body), detailed=False)
    return meaning.usage if meaning else None


def responses(usage: dict[str, Any]) -> Usage | None:
    body = {"object": "response", "status": "completed", "output": [], "usage": usage}
    meaning = RESPONSES_API.meaning_of(msgspec.json.encode(body), detailed=False)
    return meaning.usage if meaning else None


OPENAI_CACHED = {
    "prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0},
}  # fmt: skip
OPENAI_REASONING = {
    "prompt_tokens": 75, "completion_tokens": 1186, "total_tokens": 1261,
    "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 1024},
}  # fmt: skip
OPENAI_CACHE_WRITES = {
    "prompt_tokens": 2000, "completion_tokens": 10, "total_tokens": 2010,
    "prompt_tokens_details": {"cached_tokens": 500, "cache_write_tokens": 1200},
}  # fmt: skip
XAI_REASONING = {
    "prompt_tokens": 199, "completion_tokens": 50, "total_tokens": 609, "prompt_tokens_details": {"cached_tokens": 163},
    "completion_tokens_details": {"reasoning_tokens": 360, "audio_tokens": 0},
}  # fmt: skip
DEEPSEEK = {
    "prompt_tokens": 320, "completion_tokens": 90, "total_tokens": 410, "prompt_cache_hit_tokens": 256,
    "prompt_cache_miss_tokens": 64, "prompt_tokens_details": {"cached_tokens": 256},
}  # fmt: skip
VLLM = {"prompt_tokens": 31, "total_tokens": 39, "completion_tokens": 8, "prompt_tokens_details": None}
ANTHROPIC_WRITE = {
    "input_tokens": 21, "cache_creation_input_tokens": 188_086, "cache_read_input_tokens": 0, "output_tokens": 393,
    "cache_creation": {"ephemeral_5m_input_tokens": 188_086, "ephemeral_1h_input_tokens": 0}, "service_tier": "standard",
}  # fmt: skip
ANTHROPIC_READ = ANTHROPIC_WRITE | {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 188_086}
ANTHROPIC_THINKING = {"input_tokens": 40, "output_tokens": 900, "output_tokens_details": {"thinking_tokens": 800}}
RESPONSES = {
    "input_tokens": 328, "input_tokens_details": {"cached_tokens": 128}, "output_tokens": 252,
    "output_tokens_details": {"reasoning_tokens": 192}, "total_tokens": 580,
}  # fmt: skip


@pytest.mark.parametrize(
    ("read", "usage", "micro_usd"),
    [
        (chat, OPENAI_CACHED, 86 * 3 + 1920 * 0.3 + 300 * 15),
        (chat, OPENAI_REASONING, 75 * 3 + 162 * 15 + 1024 * 20),
        (chat, OPENAI_CACHE_WRITES, 300 * 3 + 500 * 0.3 + 1200 * 3.75 + 10 * 15),
        (chat, XAI_REASONING, 36 * 3 + 163 * 0.3 + 50 * 15 + 360 * 20),
        (chat, DEEPSEEK, 64 * 3 + 256 * 0.3 + 90 * 15),
        (chat, VLLM, 31 * 3 + 8 * 15),
        (messages, ANTHROPIC_WRITE, 21 * 3 + 188_086 * 3.75 + 393 * 15),
        (messages, ANTHROPIC_READ, 21 * 3 + 188_086 * 0.3 + 393 * 15),
        (messages, ANTHROPIC_THINKING, 40 * 3 + 100 * 15 + 800 * 20),
        (responses, RESPONSES, 200 * 3 + 128 * 0.3 + 60 * 15 + 192 * 20),
    ],
)
def test_cost_is_what_the_provider_charges_for_its_usage_object(
    read: Any, usage: dict[str, Any], micro_usd: float
) -> None:
    found = read(usage)
    assert found is not None
    assert LISTED.cost_usd(found) == pytest.approx(micro_usd / 1e6, rel=1e-12)


def test_cost_is_that_of_input_and_output_when_no_other_price_is_known() -> None:
    found = chat(OPENAI_CACHED | {"completion_tokens_details": {"reasoning_tokens": 200}})
    assert found is not None
    assert Price(3.0, 15.0).cost_usd(found) == pytest.approx((2006 * 3 + 300 * 15) / 1e6)


def test_cost_is_never_negative_when_counts_contradict_each_other() -> None:
    odd = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=500, reasoning_tokens=70, cache_write_tokens=900)
    assert Price(1.0, 1.0, 0.0, 0.0, 0.0).cost_usd(odd) == 0.0


CONFIG = """
[student]
base_url = "http://127.0.0.1:1/v1"
machine_usd_per_hour = 1.8
[[student.replicas]]
base_url = "http://127.0.0.1:2/v1"
[[student.replicas]]
base_url = "http://127.0.0.1:3/v1"
machine_usd_per_hour = 0.6
[teacher]
base_url = "http://127.0.0.1:4/v1"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
price_usd_per_1m_cached_input_tokens = 1.25
[[teacher.fallbacks]]
base_url = "http://127.0.0.1:5/v1"
price_usd_per_1m_input_tokens = 0.5
price_usd_per_1m_output_tokens = 2.0
price_usd_per_1m_reasoning_tokens = 3.0
[[teacher.fallbacks]]
base_url = "http://127.0.0.1:6/v1"
"""


def test_every_teacher_and_replica_has_its_own_price_when_configured() -> None:
    config = parse(CONFIG.replace('base_url = "http://127.0.0.1:1/v1"\n', "", 1))
    assert [price_of(teacher) for _, teacher in config.teacher.in_order()] == [
        Price(2.5, 10.0, cached_input_usd=1.25),
        Price(0.5, 2.0, reasoning_usd=3.0),
        None,
    ]
    assert [replica.machine_usd_per_hour for _, replica in config.student.endpoints()] == [1.8, 0.6]


def test_configuration_is_refused_when_a_price_has_no_effect() -> None:
    text = CONFIG.replace('base_url = "http://127.0.0.1:1/v1"\n', "", 1).replace(
        "price_usd_per_1m_output_tokens = 10.0\n", "", 1
    )
    with pytest.raises(ValueError, match=r"teacher.price_usd_per_1m_output_tokens.*cached_input"):
        parse(text)
