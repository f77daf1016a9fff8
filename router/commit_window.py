"""The commit window: the first tokens of the student's stream are held back until they have been judged.

The client sees one stream from its first byte, and the headers say whose it is. A stream that is rejected is not cut
off at once but left unread until a teacher's stream has begun, and closed then: it is what the client gets if the
teachers fail, for escalation must not fail an answer. What the student writes meanwhile is bounded by what a connection
reads ahead, and its cost is counted with the draft.
"""

from __future__ import annotations

from contextlib import ExitStack

from router.additions import LOGPROBS, Additions
from router.backends import Backend
from router.cascade import AskTeachers, Cascade
from router.chat import ChatRequest
from router.opening import Opened
from router.outcome import RequestState
from router.resilience.attempts import Attempt


def review_of(cascade: Cascade, state: RequestState, request: ChatRequest, backend: Backend) -> Additions | None:
    """What has to be asked for so that a stream of this backend can be judged; None: it is no draft."""
    if state.generation.decider.commit_window is None or not cascade.reviews(state, backend):
        return None
    return request.additions(LOGPROBS, keeps_text=False)


async def committed(
    cascade: Cascade, state: RequestState, answered: Attempt, opened: Opened, ask: AskTeachers[Opened]
) -> tuple[Attempt, Opened]:
    """The student's stream if its beginning stands, else a teacher's; and the attempt that the caller is to end.

    Args:
        opened: holds a draft.
    Raises:
        BackendError: the student failed within the window. The attempt has ended, nothing is open, nothing was sent.
    """
    window, draft = state.generation.decider.commit_window, opened.draft
    assert window is not None and draft is not None and state.evaluation is not None  # noqa: S101 - see `review_of`
    with ExitStack() as giving_up:
        giving_up.enter_context(answered)
        giving_up.callback(opened.close)
        await draft.hold(window)
        features = state.evaluation.features
        if cascade.escalates(state, draft.draft(features)):
            found = await cascade.teachers_answer(state, answered.backend, ask)
            if found is not None:
                assert state.draft is not None  # noqa: S101 - it was judged
                state.draft = draft.thrown_away(state.draft, features)
                return found
        giving_up.pop_all()
        return answered, opened
