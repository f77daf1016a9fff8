"""What somebody who has never seen the demo is told before and while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from serving.demo.questions import question_bank
from serving.demo.results import Result

PLAN = """\
What happens, and how long it takes on two idle cores without a GPU:
  models    fetch the student, convert it for vLLM{teacher_model}: 1 to 2 min, once
  start     vLLM with the student{teacher_start};
            a local encoder reads Python's docstrings: 1 to 2 min
  gateway   locum serve, configured as you would: 10 s
  requests  {questions} questions, each to the model that the policies choose:
            {requests}
Ctrl-C stops all of it and reports what is done; the next run goes on with the
models and embeddings that are there.
"""


def plan(*, local_teacher: bool) -> str:
    """What a stranger is told before anything starts."""
    return PLAN.format(
        teacher_model="; fetch the teacher, 1.1 GB" if local_teacher else "",
        teacher_start=", llama.cpp with the teacher" if local_teacher else "",
        questions=len(question_bank()),
        requests="about 5 min, nearly all of it the teacher's" if local_teacher else "as fast as your API",
    )


def standing(results: Sequence[Result], total: int, elapsed_s: float) -> str:
    """How far the requests are, who answered, and how long the rest takes at this speed."""
    done = len(results)
    routes = Counter(result.route or "nobody" for result in results)
    shares = ", ".join(
        f"{count} by the {route}" if route != "nobody" else f"{count} failed" for route, count in sorted(routes.items())
    )
    left_s = elapsed_s / done * (total - done)
    return f"{done} of {total} ({shares}), about {left_s:.0f} s left"
