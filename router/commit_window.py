"""The commit window: the first tokens of the student's stream are held back until they have been judged.

Commit, extend or escalate: where a reviewer cannot tell yet, the window doubles, up to its bounds, and it is asked
again. The client sees one stream from its first byte, and the headers say whose it is.

A stream that is rejected is cancelled at once: a teacher may take long to begin, and what the student writes meanwhile
is thrown away. Escalation must not fail an answer, so the student is asked once more where no teacher can be had. With
`on_escalation = "reserve"` its stream is left unread instead until a teacher's has begun, and is the answer otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import msgspec

from policies.record import Draft, Held
from policies.window import MAX_WINDOW_REVIEWS, CommitWindow, WindowReview
from router.additions import LOGPROBS, Additions
from router.backends import Backend
from router.cascade import AskTeachers, Cascade, Judgement
from router.chat import ChatRequest
from router.draft_stream import DraftStream
from router.opening import Opened
from router.request_state import RequestState
from router.resilience.attempts import Attempt

AskStudent = Callable[[], Awaitable[tuple[Attempt, Opened]]]
"""Once more, for an answer that nobody reviews. Raises: BackendError."""


def review_of(cascade: Cascade, state: RequestState, request: ChatRequest, backend: Backend) -> Additions | None:
    """What has to be asked for so that a stream of this backend can be judged; None: it is no draft."""
    decider = state.generation.decider
    if decider.commit_window is None or not cascade.reviews(state, backend):
        return None
    wanted = LOGPROBS._replace(top_logprobs=decider.chain.measures.top_logprobs)
    return request.additions(wanted, keeps_text=False)


async def committed(
    cascade: Cascade,
    state: RequestState,
    answered: Attempt,
    opened: Opened,
    ask_teachers: AskTeachers[Opened],
    ask_student: AskStudent,
) -> tuple[Attempt, Opened]:
    """The student's stream if its beginning stands, else a teacher's; and the attempt that the caller is to end.

    Args:
        opened: holds a draft.
    Raises:
        BackendError: the student failed within the window, or when it was asked once more. The attempt has ended,
            nothing is open, nothing was sent.
    """
    window, draft = state.generation.decider.commit_window, opened.draft
    assert window is not None and draft is not None and state.evaluation is not None  # noqa: S101 - see `review_of`
    with ExitStack() as giving_up:
        giving_up.enter_context(answered)
        giving_up.callback(opened.close)
        if not await _is_rejected(cascade, state, draft, window):
            giving_up.pop_all()
            return answered, opened
        assert state.draft is not None  # noqa: S101 - it was judged
        features = state.evaluation.features
        cancels = window.on_escalation == "cancel" and not draft.is_whole  # what has ended needs no cancelling
        if cancels:
            state.draft = draft.cancel(state.draft, features)
            answered.done()
        found = await cascade.teachers_answer(state, answered.backend, ask_teachers)
        if found is not None:
            if not (cancels or draft.is_whole):  # to what has ended nothing is added
                state.draft = draft.thrown_away(state.draft, features)
            return found
        if cancels:
            state.draft = _asked_again(state)
            return await ask_student()
        giving_up.pop_all()
        return answered, opened


async def _is_rejected(cascade: Cascade, state: RequestState, draft: DraftStream, window: CommitWindow) -> bool:
    """Hold the stream back until its reviewers know. Notes in `state` what they said. Raises: BackendError."""
    assert state.evaluation is not None  # noqa: S101 - see `review_of`
    reviews: list[WindowReview] = []
    wider: CommitWindow | None = window
    while True:
        await draft.hold(window)
        wider = None if draft.is_full or len(reviews) == MAX_WINDOW_REVIEWS - 1 else window.grown()
        shown = draft.draft(state.evaluation.features, extendable=wider is not None)
        judged = cascade.judged(state, await cascade.measured(state, shown, draft.answer(shown)))
        reviews.append(_review(judged, draft))
        if judged.action != "extend" or wider is None:
            assert state.draft is not None  # noqa: S101 - it was judged
            held = Held(held_s=reviews[-1].held_s, reviews=tuple(reviews))
            state.draft = msgspec.structs.replace(state.draft, window=held)
            return judged.action == "escalate"
        window = wider


def _review(judged: Judgement, draft: DraftStream) -> WindowReview:
    vote = judged.vote
    review = WindowReview(tokens=draft.tokens, held_s=round(draft.held_s, 6), action=judged.action)
    if vote is None:
        return review
    return msgspec.structs.replace(
        review, policy=vote.policy, reason=vote.reason, score=vote.score, threshold=vote.threshold
    )


def _asked_again(state: RequestState) -> Draft:
    draft = state.draft
    assert draft is not None and draft.window is not None  # noqa: S101 - it was judged
    return msgspec.structs.replace(draft, window=msgspec.structs.replace(draft.window, asked_again=True))
