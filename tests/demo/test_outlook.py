from __future__ import annotations

from collections.abc import Callable

import pytest

from serving.demo.outlook import plan, standing
from serving.demo.questions import question_bank
from serving.demo.results import Result


def test_standing_tells_who_answered_and_how_long_the_rest_takes(make_result: Callable[..., Result]) -> None:
    results = [make_result(), make_result(), make_result(route="teacher"), make_result(route=None, ok=False)]
    assert standing(results, 10, 20.0) == "4 of 10 (1 failed, 2 by the student, 1 by the teacher), about 30 s left"


@pytest.mark.parametrize("local", [True, False])
def test_plan_promises_a_download_only_when_the_teacher_is_local(local: bool) -> None:
    text = plan(local_teacher=local)
    assert f"{len(question_bank())} questions" in text
    assert ("1.1 GB" in text) == local
