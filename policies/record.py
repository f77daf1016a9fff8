"""The lines of a traffic log, read by the router, replay and the trainer.

Every request leaves one `DecisionRecord`. What is learned about its answer later is kept beside it, as annotations:
people's judgements (`FeedbackRecord`) and what the other model answered (`ShadowRecord`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from policies.base import RequestFeatures, Route, RouteDecision
from policies.chain import Vote
from policies.draft_signals import DraftSignals
from policies.grading import Grader
from policies.window import WindowReview

SCHEMA_VERSION = 1

CaptureLevel = Literal["none", "metadata", "full"]
CAPTURE_LEVELS: tuple[CaptureLevel, ...] = ("none", "metadata", "full")
"""From the strictest to the one that keeps most."""
StatedPurpose = Literal["traffic", "eval", "shadow", "judge", "canary"]
"""What a client may say that a request is for."""
Purpose = Literal[StatedPurpose, "embedding"]
"""Only `traffic` can ever become training data. `embedding`: a request to /v1/embeddings, which no policy routes."""
Outcome = Literal["ok", "degraded", "client_error", "backend_error", "client_disconnected", "timeout", "rejected"]


def strictest(*levels: CaptureLevel) -> CaptureLevel:
    """Which of several wishes about capture wins."""
    return min(levels, key=CAPTURE_LEVELS.index)


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens as the backend counted them."""

    prompt_tokens: int
    """All of the input, what came from a prompt cache or was written to one included."""
    completion_tokens: int
    """All of the output, reasoning included."""
    cached_tokens: int = 0
    """Of the prompt: read from a cache."""
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    """Of the prompt: written to a cache, at a price of its own."""


class TokenIds(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids as the backend counted them: text is never tokenized again for training."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    """With the stop token, where the model ended by itself."""


class LateEnding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A late alarm: the client read the student's stream already when its score rose."""

    tokens: int
    """Of the student's answer that had come when it rang."""
    action: Literal["mark", "continue", "none"]
    """What was done. `none`: nothing, for `cause`; the stream went on as the student wrote it."""
    cause: str | None = None
    """Why it was not continued: `call_begun`, `not_text`, `structured_output`, `no_room`, `not_kept`, or what the
    teachers failed of. `abandoned`, with `continue`: a teacher was asked, and the client left before its first
    event."""
    alarm: RouteDecision
    """What rang, with score and threshold."""
    silence_s: float | None = None
    """What the client waited between the student's last event and the teacher's first."""
    teacher: str | None = None
    """The model that went on."""
    usage: Usage | None = None
    """Of the teacher's part; the record's `usage` is the sum of this and the draft's."""
    cost_usd: float | None = None
    """Of the teacher's part; in the record's `cost_usd`."""


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a commit window did with a stream."""

    held_s: float
    """How long the first event waited until the last review had spoken."""
    reviews: tuple[WindowReview, ...] = ()
    """All of them, the one that decided last."""
    asked_again: bool = False
    """The draft was cancelled, no teacher could be had, and the student wrote the answer once more: `text`, `usage` and
    `cost_usd` are those of the draft, which was thrown away."""
    late: LateEnding | None = None


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A student's answer that a cascade has judged, delivered or not."""

    text: str | None = None
    """Only at capture level `full`."""
    mean_logprob: float | None = None
    """Over the tokens of the answer without its stop token, nats; None when the backend gave none."""
    tokens: int = 0
    """Completion tokens, the stop token included."""
    finish_reason: str | None = None
    prefix: bool = False
    """Only the beginning of a stream was judged: text, mean and tokens are those of its first part."""
    extendable: bool = False
    """The commit window could still have grown."""
    usage: Usage | None = None
    """As the backend counted, a second sample included; of a stream that had not told it, all tokens that came and the
    estimate of the prompt."""
    cost_usd: float | None = None
    """What the draft cost, its second sample included; part of the record's `cost_usd` as well, unless that is unknown.
    When the client leaves while the teacher is asked, it is all that is known."""
    signals: DraftSignals | None = None
    """What was measured of it, and what it was judged by; None: by a release that measured nothing but the mean."""
    sample_usage: Usage | None = None
    """Of the second sample, where one was asked for; part of `usage`. Estimated where it came too late."""
    sample_cost_usd: float | None = None
    """Of the second sample; part of `cost_usd`."""
    escalated: bool = False
    review: RouteDecision | None = None
    """The decision of the reviewing policy, with score and threshold; None when all of them abstained."""
    window: Held | None = None
    """Of a stream."""

    @property
    def thrown_away(self) -> bool:
        """Whether the answer is another one, although it may be the student's too."""
        return self.window is not None and self.window.asked_again

    @property
    def continued(self) -> LateEnding | None:
        """How a teacher went on from it, where one did."""
        late = self.window.late if self.window is not None else None
        return late if late is not None and late.action == "continue" else None


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, from its features to its outcome. Durations in seconds, money in USD.

    `cost_usd` and `counterfactual_cost_usd` are None when a price or the usage is unknown: unreported is not 0.
    The counterfactual is what the teacher would have charged for the same token counts.
    """

    schema: int
    """SCHEMA_VERSION of the writer."""
    decision_id: str
    created_s: float
    """Unix time at which the request arrived."""
    endpoint: str
    stream: bool
    requested_model: str
    decision: RouteDecision
    """What the policies chose."""
    votes: tuple[Vote, ...] = ()
    features: RequestFeatures | None = None
    """Texts are emptied below capture level `full`."""
    route: Route | None = None
    """The backend that produced the answer; None when none did."""
    reason: str
    """The decision's reason, or `fallback_<cause>`."""
    degraded: str | None = None
    fallback_cause: str | None = None
    status: int
    outcome: Outcome
    error_code: str | None = None
    finish_reason: str | None = None
    student: str
    """Student bundle id, before bundles the model name."""
    teacher: str
    usage: Usage | None = None
    cost_usd: float | None = None
    counterfactual_cost_usd: float | None = None
    machine_usd: float | None = None
    """Measured: the time that the student's machines spent on the request, failed attempts and drafts that were
    thrown away included, at the price of a machine-hour. None: that price is unknown."""
    machine_priced: bool = False
    """The student has no token prices: `machine_usd` is its part of `cost_usd`. Otherwise it is no part of it."""
    ttft_s: float | None = None
    tpot_s: float | None = None
    """Mean time per output token after the first."""
    latency_s: float
    overhead_s: float
    """Time from the end of the request body to the call of the backend."""
    tenant: str = "default"
    session: str | None = None
    subject: str | None = None
    """Keyed hash of the person that the client names (`safety_identifier`, `user`, Anthropic's `metadata.user_id`),
    by which `locum log forget` finds all records of one. The name itself is nowhere but in `request`."""
    tags: dict[str, str] = {}
    purpose: Purpose = "traffic"
    capture: CaptureLevel
    distillation: Literal["allowed", "conditional", "denied"] = "denied"
    """The teacher's licence flag at the time of the request."""
    request: str | None = None
    """The request body, a JSON text, exactly as the client sent it; only at capture level `full`."""
    completion: str | None = None
    """The answer's text; only at capture level `full`."""
    token_ids: TokenIds | None = None
    """Of the answer; only at capture level `full`, where the backend gives them and the answer has one choice."""
    backend_fingerprint: str | None = None
    """`system_fingerprint` and `model` of the answer, as the backend states them."""
    mean_logprob: float | None = None
    """Of the answer's tokens without the stop token, where it was asked for."""
    draft: Draft | None = None
    """The student's answer that a cascade reviewed."""


class FeedbackRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="feedback"):
    """A judgement on an answer, joined to its `DecisionRecord` by `decision_id`; the last one of a kind counts."""

    schema: int
    decision_id: str
    created_s: float
    tenant: str = "default"
    score: float | None = None
    """In [0, 1]: 1 = good."""
    label: str | None = None
    """The right answer as the label of a task, in the form that a grader compares."""
    correction: str | None = None
    """A better answer by a human; training prefers it to the teacher's tokens."""
    source: str = ""
    """Who judged: `human`, `user`, `grader`, ..."""


class Grade(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one grader thinks of the two answers to a request. Scores are in [0, 1], 1 = good; None = no score."""

    grader: str
    """Its name, and against what it compares: `exact/teacher` measures agreement with the teacher, not correctness."""
    student: float | None = None
    teacher: float | None = None
    preferred: Literal["student", "teacher", "tie"] | None = None
    """Whose answer a judge of both prefers; `tie` also when it contradicts itself."""
    consistent: bool | None = None
    """Whether a judge preferred the same answer in both orders; None: it did not see both orders."""
    student_when_first: float | None = None
    """The judge's score of the student's answer in the order that shows it first: with the next one, the judge's
    bias for a position."""
    student_when_second: float | None = None
    compares: Grader | None = None
    """How a grader with a name of its own compares texts; None: its name says it, or it compares none."""
    tolerance: float | None = None
    """Of its numbers, where it is not the usual one."""

    @property
    def is_scored(self) -> bool:
        """Whether it says anything of either answer."""
        return self.student is not None or self.teacher is not None


ShadowStatus = Literal[
    "ok",
    "error",
    "timeout",
    "skipped_budget",
    "skipped_queue",
    "skipped_load",
    "skipped_unavailable",
    "skipped_unsupported",
    "skipped_shutdown",
]
"""`skipped_<cause>`: the request was drawn and the other model was not asked. Such records tell how much of the
sample is missing: what the `ok` ones say holds for the rest only as far as the cause has nothing to do with quality."""


class ShadowRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="shadow"):
    """What the other model answered to a request that was drawn for it, and how both answers were graded.

    Joined to its `DecisionRecord` by `decision_id`. It has a kind of its own, and nothing that trains reads it.
    """

    schema: int
    decision_id: str
    """Of the request that was answered."""
    created_s: float
    """Unix time at which the other model was asked, or would have been."""
    tenant: str = "default"
    session: str | None = None
    tags: dict[str, str] = {}
    purpose: StatedPurpose = "shadow"
    student: str
    """Student bundle id, before bundles the model name."""
    teacher: str
    """The teacher's model."""
    delivered: Route
    """Who answered the client."""
    asked: Route
    """The other one."""
    propensity: float
    """Probability with which this request was drawn, in (0, 1]: a mean over the sample weighs it by 1/propensity."""
    status: ShadowStatus
    completion: str | None = None
    """The other answer's text; only at capture level `full`, which is the only one that is shadowed."""
    finish_reason: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    """None: a price or the usage is unknown."""
    mean_logprob: float | None = None
    """Over the other answer's tokens, nats; None when the backend gave none."""
    backend_fingerprint: str | None = None
    latency_s: float | None = None
    """Of the other answer, from the call to its last byte."""
    grades: tuple[Grade, ...] = ()
    judge_usage: Usage | None = None
    """Of all calls of a judge together."""
    judge_cost_usd: float | None = None
    predicted: float | None = None
    """P(the student's answer is inadequate) as the policies gave it, with which the truth can be compared."""


AnyRecord = DecisionRecord | FeedbackRecord | ShadowRecord

encode = msgspec.json.Encoder().encode
_decision = msgspec.json.Decoder(DecisionRecord).decode
_annotation = msgspec.json.Decoder(FeedbackRecord | ShadowRecord).decode
_ANNOTATION_START = b'{"kind":"'
decode = _decision


def is_annotation(payload: bytes) -> bool:
    """Whether the line of a log belongs to a decision record instead of being one."""
    return payload.startswith(_ANNOTATION_START)


def decode_any(payload: bytes) -> AnyRecord:
    """One record of a traffic log. Raises: msgspec.DecodeError (a ValidationError among them)."""
    return _annotation(payload) if is_annotation(payload) else _decision(payload)
