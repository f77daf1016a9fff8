"""A late alarm on real vLLM: the teacher goes on within the very message that the student began."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router.config_file import parse
from tests.contract.conftest import RunningGateway
from tests.slow.test_additions_real import asked, direct, text_of, through

pytestmark = pytest.mark.slow

CONFIG = """
[server]
port = 0
[student]
base_url = "{student}"
[teacher]
base_url = "{student}"
model = "student"
continuation = "final_message"
[log]
dir = "{log}"
[[routing.policies]]
type = "tests.contract.reviewers:Watcher"
action = "continue"
from_tokens = 12
"""


@pytest.fixture(scope="module")
def gateway(student_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    running = RunningGateway(parse(CONFIG.format(student=student_url, log=tmp_path_factory.mktemp("traffic"))), {})
    running.start()
    yield running
    running.stop()


def test_continued_answer_is_the_one_that_the_model_would_have_written(
    gateway: RunningGateway, student_url: str
) -> None:
    """Student and teacher are one model, and decode greedily: where one stops the other writes the same words."""
    question = [{"role": "user", "content": "Count from one to twenty in words."}]
    body = asked(stream=True, messages=question, max_tokens=48)
    expected = text_of(direct(student_url, body).content)
    routed = through(gateway, {**body, "model": "auto"})
    record = gateway.records()[-1]
    assert record.draft is not None and record.draft.window is not None
    late = record.draft.window.late
    assert late is not None and late.usage is not None
    assert late.action == "continue"
    assert record.usage is not None
    assert record.usage.completion_tokens <= 48 + late.tokens
    routed_text = text_of(routed.content)
    same = next((at for at, pair in enumerate(zip(routed_text, expected, strict=False)) if pair[0] != pair[1]), None)
    assert same is None or same > len(expected) // 2  # bf16 and another batch may turn a close choice
    assert routed.content.count(b"data: [DONE]") == 1
    assert routed.content.count(b'"role":"assistant"') == 1
