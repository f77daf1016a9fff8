"""The contract between the gateway and a policy: what a policy sees, what it may ask for, what it answers.

A `Policy` decides before anything is generated; a `Reviewer` judges the student's draft afterwards (a cascade).

A policy is a pure function of `RequestFeatures`. Whatever costs time (exact token counts, embeddings) is a
`Signal`: the policy names the one it needs, the gateway measures it off the event loop within a latency budget
and asks again. Recorded features therefore replay offline to the same decision, without a model.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import msgspec
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from policies.draft_signals import DraftSignal
    from policies.record import Draft

Route = Literal["student", "teacher"]


class PolicyConfigError(ValueError):
    """A policy cannot be built from its options. The message names the option and the fix."""


class Signal(enum.StrEnum):
    """A measurement that is too slow to take for every request."""

    PROMPT_TOKENS = "prompt_tokens"
    CHUNK_SIMILARITIES = "chunk_similarities"
    PROMPT_EMBEDDING = "prompt_embedding"


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What the teacher's answer to one request is expected to take out of the day's budget, and what that is worth."""

    price: float
    """Of one unit of `cost`, in score: an escalation has to be `price * cost` above its threshold. At least 0."""
    cost: float
    """Expected, in thousands of tokens or in USD, as the budget is."""
    tokens: float
    """Expected of the teacher's answer itself."""


class Lot(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway draws for a request, so that exploration is a pure function and replays to the same route."""

    draw: float
    """Uniform in [0, 1), from the decision id alone."""
    share: float = 1.0
    """How much of the probability of exploring towards the teacher the budget leaves. It follows from requests that
    have ended, never from this one."""
    reviewed: bool = False
    """The student's answer would be judged by reviewers."""
    excluded: str | None = None
    """Why nothing may be drawn for this request, as a reason; None: it may."""


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements taken so far for one request."""

    prompt_tokens: int | None = None
    """Tokens of the prompt by the student's own vocabulary, the chat template estimated."""
    chunk_similarities: tuple[float, ...] | None = None
    """Raw cosine of the last user turn with each retrieved chunk, in the order of the chunks."""
    prompt_embedding: tuple[float, ...] | None = None
    """Unit-length embedding of the last user turn."""
    unavailable: tuple[Signal, ...] = ()
    """Asked for and not delivered: no provider is configured, it failed, or the latency budget ran out."""
    quote: Quote | msgspec.UnsetType = msgspec.UNSET
    """Only where a governor with a budget decides; not written elsewhere. So too the next one."""
    lot: Lot | msgspec.UnsetType = msgspec.UNSET
    scores: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    """What learned artefacts said of this request when it was decided, by their sha256. Only a replay sets it, from the
    votes of a record: the text that they looked at need not have been kept."""


class Chunk(msgspec.Struct, frozen=True):
    """One piece of retrieved text that the client shows as evidence."""

    text: str
    score: float | None = None
    """The retriever's own score; None when the client sent none."""
    id: str | None = None


NO_SIGNALS = Signals()


class RequestFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a policy may look at, extracted once per request.

    Counts are in the unit that their name ends in. `approx_*` values are estimates from text length: the
    student's tokenizer has not been asked (that is `signals.prompt_tokens`).
    """

    prompt_bytes: int
    """UTF-8 bytes of all text that becomes part of the prompt, tools included, retrieved chunks not."""
    message_count: int
    approx_prompt_tokens: int
    requested_output_tokens: int
    """`max_completion_tokens`, else `max_tokens`, else the configured `default_output_tokens`."""
    student_window_tokens: int | None = None
    """The student's context window; None while it is neither configured nor learned from the backend."""
    last_user_turn: str = ""
    chunks: tuple[Chunk, ...] = ()
    retrieval_attempted: bool = False
    """The client sent a list of chunks, empty or not: "I searched". False: nothing is known about a search."""
    retrieval_confidence: float | None = None
    """P(the retrieved context is sufficient), as the client states it; in [0, 1]."""
    reasoning_effort: str | None = None
    has_tools: bool = False
    has_response_format: bool = False
    has_images: bool = False
    tenant: str = "default"
    session: str | None = None
    tags: dict[str, str] = {}
    signals: Signals = NO_SIGNALS


class RouteDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Which model answers, and why. A policy fills the first five fields, the chain the rest."""

    route: Route
    reason: str
    """snake_case, out of the policy's closed set `reasons`."""
    score: float | None = None
    """P(the student is inadequate) in [0, 1]; higher always means teacher."""
    threshold: float | None = None
    """The policy escalates when score > threshold."""
    student_capable: bool = True
    """False when the student cannot serve the request at all (too long, missing capability): then there is no
    degraded answer by the student when the teacher is away."""
    policy: str = ""
    version: str = ""
    propensity: float = 1.0
    """Probability with which this route was chosen; below 1 only under exploration."""


class Abstain(msgspec.Struct, frozen=True, kw_only=True):
    """No opinion, with the reason and the score that led to it. A bare `None` says the same without detail."""

    reason: str
    score: float | None = None
    threshold: float | None = None


class Extend(msgspec.Struct, frozen=True, kw_only=True):
    """A reviewer cannot tell yet: it wants to see more of the stream. Counts only where the commit window may still
    grow (`Draft.extendable`), and is an abstention elsewhere. Later reviewers are not asked before it has grown."""

    reason: str
    score: float | None = None
    threshold: float | None = None


def escalate(
    reason: str, *, score: float | None = None, threshold: float | None = None, student_capable: bool = True
) -> RouteDecision:
    """The teacher should answer."""
    return RouteDecision(
        route="teacher", reason=reason, score=score, threshold=threshold, student_capable=student_capable
    )


@runtime_checkable
class Policy(Protocol):
    """What the chain calls. `PolicyModel` is a convenient base; a class with nothing but `decide` will do as well,
    the registry adds the rest (`policies/adapter.py`).

    A policy is built once, by `Class(**options)` with the options of its configuration table.
    """

    @property
    def name(self) -> str:
        """Stable snake_case name: it labels metrics and records."""
        ...

    @property
    def reasons(self) -> frozenset[str]:
        """Every reason that `decide` may give. Others are reported as `other`, so that labels stay bounded."""
        ...

    def optional_signals(self) -> frozenset[Signal]:
        """Signals that these options can lead to; the gateway refuses to start when nothing can provide them."""
        ...

    def needs(self, features: RequestFeatures) -> Signal | None:
        """A signal without which `decide` cannot decide well, or None. Called again after each one is measured;
        a signal in `features.signals.unavailable` will not come and must not be asked for again."""
        ...

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        """The decision, or an abstention so that the next policy speaks."""
        ...


@runtime_checkable
class Reviewer(Protocol):
    """A policy that judges the student's draft. It stands in `[[routing.policies]]` like the others; the chain asks it
    after generation, in the same order. A class with both `decide` and `review` is asked at both times. One that judges
    streams by their beginning has a `commit_window` as well, and one that needs more of a draft than its text and its
    logprobs has the members of a `MeasuringReviewer`. Where the window has a `late_alarm`, a method
    `alarm(features, progress) -> RouteDecision | Abstain | None` is asked behind it at every event: it must be quick,
    and `teacher` rings.
    """

    @property
    def name(self) -> str:
        """As of a `Policy`."""
        ...

    @property
    def reasons(self) -> frozenset[str]:
        """Every reason that `review` may give."""
        ...

    def review(self, features: RequestFeatures, draft: Draft) -> RouteDecision | Abstain | Extend | None:
        """`teacher`: the draft is thrown away and the teacher answers. `student`: the draft is the answer, whatever
        later reviewers would say. An abstention lets the next one speak; when all abstain the draft is the answer.
        `Extend`: ask again when there is more of the stream."""
        ...


@runtime_checkable
class MeasuringReviewer(Reviewer, Protocol):
    """A reviewer that judges by measurements which are not taken of every draft.

    As before generation: a policy is pure and names what it needs, the gateway measures it and asks again, and what was
    measured is in the record, so that the same decision can be taken from there.
    """

    @property
    def measures(self) -> DraftMeasures:
        """What these options may ask for."""
        ...

    def read(self, features: RequestFeatures, draft: Draft) -> Draft:
        """The draft with the signals that this reviewer takes from its text, and from that of the request: the record
        may keep neither. Called before `needs_draft` and again behind every measurement."""
        ...

    def needs_draft(self, features: RequestFeatures, draft: Draft) -> DraftSignal | None:
        """A measurement without which `review` cannot judge well, or None. One that is in `draft.signals.unavailable`
        will not come."""
        ...


class SecondSample(msgspec.Struct, frozen=True, kw_only=True):
    """How the student is asked once more."""

    temperature: float
    timeout_s: float
    max_inflight: int
    """Second samples at one time in one process; a draft that finds no room is judged without."""


class DraftMeasures(msgspec.Struct, frozen=True, kw_only=True):
    """What may be measured of a draft beside its text and the logprobs of its tokens."""

    top_logprobs: int = 0
    """How many of the most likely tokens the backend shall tell at every place."""
    second_sample: SecondSample | None = None


class StudentDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What the served student brings along for the policies; a policy's own options win.

    A policy with a method `for_student(defaults)` is replaced by what that returns (policies/registry.py).
    """

    bundle_id: str
    """As in `DecisionRecord.student`: the bundle, before bundles the model's name."""
    calibrator: Path | None = None
    """P(the student is right) from its mean logprob: the bundle's calibrator.json."""
    cascade_threshold: float | None = None
    """P(the student is wrong) above which the teacher answers."""
    certificate: Path | None = None
    """What is proven of that threshold: the bundle's certificate.json."""
    model_sha256: str | None = None
    """Of the served model, so that a calibrator still fits a bundle that differs in its thresholds only."""


class OptionsModel(BaseModel):
    """Options as pydantic fields: validated, documented, unknown ones refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def reasons(self) -> frozenset[str]:
        raise NotImplementedError


class ReviewerModel(OptionsModel):
    """Base for reviewers whose options are pydantic fields."""

    def review(self, features: RequestFeatures, draft: Draft) -> RouteDecision | Abstain | Extend | None:
        raise NotImplementedError


class PolicyModel(OptionsModel):
    """Base for policies whose options are pydantic fields."""

    def optional_signals(self) -> frozenset[Signal]:
        return frozenset()

    def needs(self, features: RequestFeatures) -> Signal | None:
        return None

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        raise NotImplementedError
