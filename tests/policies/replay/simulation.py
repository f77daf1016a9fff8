"""Traffic with known truth: both models' answers to every request are simulated, and a log shows what a gateway saw."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Route
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt
from policies.cascade import Cascade
from policies.chain import PolicyChain
from policies.drafts.score import DraftScore
from policies.record import FeedbackRecord, Grade, ShadowRecord
from policies.replay.columns import ROW_FIELDS, STUDENT, TEACHER, UNKNOWN, Columns
from policies.replay.columns import Flags as FlagArray
from policies.replay.source import Log
from policies.retrieval_confidence import RetrievalConfidence

Floats = NDArray[np.float64]
STUDENT_USD, TEACHER_USD = 0.0001, 0.003
SLOPE, INTERCEPT = 3.0, 2.0
DEFAULTS: dict[str, Any] = {
    "propensity": 1.0, "review_propensity": 1.0, "answered": True, "full": True, "reviewable": True, "has_text": True, "route": STUDENT,
    "decided": STUDENT, "student_window_tokens": 8192, "prompt_tokens": UNKNOWN, "similarity_count": UNKNOWN,
    "requested_output_tokens": 100, "approx_prompt_tokens": 100, "prompt_bytes": 400, "message_count": 1,
    "used_prompt_tokens": 100, "used_completion_tokens": 50, "latency_s": 1.0,
}  # fmt: skip
FLOAT_FIELDS = frozenset(each.name for each in fields(Columns) if str(each.type) == "Floats")


def columns_with(size: int, **given: Any) -> Columns:
    """Columns of plausible requests, with some fields given as arrays or values."""
    values: dict[str, Any] = {"ids": np.arange(1, size + 1), "created_s": 1e9 + np.arange(size) * 60.0} | given
    filled = {}
    for name in ROW_FIELDS:
        kind = next(str(each.type) for each in fields(Columns) if each.name == name)
        dtype = {"Ints": np.int64, "Codes": np.int32, "Small": np.int8, "Flags": np.bool_, "Floats": np.float64}[kind]
        default = DEFAULTS.get(name, np.nan if kind == "Floats" else 0)
        filled[name] = np.broadcast_to(np.asarray(values.get(name, default), dtype), (size,)).copy()
    ragged = {name: np.asarray(given.get(name, []), np.float64) for name in ("scores", "similarities", "prefix_means")}
    return Columns(**filled, **ragged, names=("traffic", "default", "student", "teacher"), tag_sets=((),))


def sigmoid(value: Floats) -> Floats:
    result: Floats = 1.0 / (1.0 + np.exp(-value))
    return result


@dataclass(frozen=True)
class World:
    """Requests with what either model would answer to them."""

    confidence: Floats
    logprob: Floats
    length: Floats
    student_right: Floats
    teacher_right: Floats
    student_usd: Floats
    teacher_usd: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> World:
        """Harder requests have a lower retrieval confidence and a lower logprob, and the student fails on them more
        often than the teacher. The dependence is no straight line: a linear model of it is wrong."""
        confidence, noise = rng.random(size), rng.normal(size=size)
        logprob = -np.abs(0.6 * (1 - confidence) ** 2 + 0.35 * np.abs(noise))
        p_student = 0.25 + 0.7 * sigmoid(9 * (confidence - 0.45) + 4 * (logprob + 0.5)) * (
            0.8 + 0.2 * np.cos(7 * confidence)
        )
        p_teacher = 0.95 - 0.15 * np.sin(3 * confidence) ** 2
        length = rng.lognormal(4.0, 0.4, size)
        return cls(
            confidence=confidence,
            logprob=logprob,
            length=length,
            student_right=(rng.random(size) < np.clip(p_student, 0, 1)).astype(np.float64),
            teacher_right=(rng.random(size) < p_teacher).astype(np.float64),
            student_usd=STUDENT_USD * length / 50,
            teacher_usd=TEACHER_USD * length / 50 * rng.uniform(0.9, 1.5, size),
        )

    def __len__(self) -> int:
        return len(self.confidence)


@dataclass(frozen=True)
class Document:
    """What a policy document comes down to here: escalate below a confidence, and drafts above a risk."""

    escalate_below: float
    threshold: float | None = None

    def chain(self) -> PolicyChain:
        reviewers = []
        if self.threshold is not None:
            cascade = Cascade(threshold=self.threshold)
            fitted = CalibratorArtefact(
                calibrator=Platt(slope=SLOPE, intercept=INTERCEPT), raw=MEAN_LOGPROB, source="simulation", n=1,
                n_sufficient=1, ece=0.0, reliability=(),
            )  # fmt: skip
            cascade._score = DraftScore(calibrator=fitted, silent=None)
            reviewers.append(cascade)
        return PolicyChain(
            [RetrievalConfidence(escalate_below=self.escalate_below)],
            reviewers=reviewers,
            version="simulated",
            default_route="student",
            on_policy_error="teacher",
        )

    def student_first(self, world: World) -> FlagArray:
        return world.confidence >= self.escalate_below

    def escalates(self, world: World) -> FlagArray:
        """What the review says of the draft, whether there is one or not."""
        if self.threshold is None:
            return np.zeros(len(world), np.bool_)
        return 1.0 - sigmoid(SLOPE * world.logprob + INTERCEPT) > self.threshold

    def quality(self, world: World) -> float:
        kept = self.student_first(world) & ~self.escalates(world)
        return float(np.where(kept, world.student_right, world.teacher_right).mean())

    def loss(self, world: World) -> float:
        return float(world.teacher_right.mean()) - self.quality(world)

    def share(self, world: World) -> float:
        return float((self.student_first(world) & ~self.escalates(world)).mean())

    def cost(self, world: World) -> float:
        first, escalated = self.student_first(world), self.escalates(world)
        return float((first * world.student_usd + (~first | escalated) * world.teacher_usd).mean())


def shadowed_log(
    rng: np.random.Generator, world: World, logged: Document, *, hard_share: float, easy_share: float
) -> Log:
    """Deterministic routing; a sample of either model's answers is put to the other one, hard requests more often."""
    first, escalated = logged.student_first(world), logged.escalates(world)
    by_student = first & ~escalated
    drafted = first & (logged.threshold is not None)
    columns = columns_with(
        len(world),
        student=2,
        teacher=3,
        tenant=1,
        route=np.where(by_student, STUDENT, TEACHER),
        decided=np.where(first, STUDENT, TEACHER),
        retrieval_confidence=world.confidence,
        has_draft=drafted,
        draft_logprob=np.where(drafted, world.logprob, np.nan),
        draft_tokens=np.where(drafted, 50, 0),
        draft_cost_usd=np.where(drafted, world.student_usd, np.nan),
        answer_logprob=np.where(by_student, world.logprob, np.nan),
        cost_usd=first * world.student_usd * (by_student | drafted) + ~by_student * world.teacher_usd,
        counterfactual_cost_usd=np.where(by_student, TEACHER_USD * world.length / 50, world.teacher_usd),
        used_completion_tokens=np.where(by_student, world.length, world.length * 1.2),
    )
    propensity = np.where(world.confidence < 0.5, hard_share, easy_share)
    drawn = np.flatnonzero(rng.random(len(world)) < propensity)
    shadows = [
        _shadow(columns, world, row, propensity[row], "teacher" if by_student[row] else "student")
        for row in drawn.tolist()
    ]
    return Log(columns, shadows)


def _shadow(columns: Columns, world: World, row: int, propensity: float, asked: Route) -> ShadowRecord:
    of_student = asked == "student"
    return ShadowRecord(
        schema=1,
        decision_id=f"{int(columns.ids[row]):032x}",
        created_s=float(columns.created_s[row]) + 1.0,
        student="student",
        teacher="teacher",
        delivered="teacher" if of_student else "student",
        asked=asked,
        propensity=float(propensity),
        status="ok",
        cost_usd=float((world.student_usd if of_student else world.teacher_usd)[row]),
        mean_logprob=float(world.logprob[row]) if of_student else None,
        grades=(
            Grade(grader="exact", student=float(world.student_right[row]), teacher=float(world.teacher_right[row])),
        ),
    )


def log_with_explored_drafts(rng: np.random.Generator, world: World, logged: Document, *, epsilon: float) -> Log:
    """The lot is about the draft where the student was chosen, else about the route; what was delivered is judged."""
    first, flipped = logged.student_first(world), rng.random(len(world)) < epsilon
    drawn_for_student = ~first & flipped  # and not reviewed
    drafted = first
    kept = np.where(first, ~logged.escalates(world) ^ flipped, drawn_for_student)
    own = np.where(flipped, epsilon, 1 - epsilon)
    columns = columns_with(
        len(world),
        student=2,
        teacher=3,
        tenant=1,
        route=np.where(kept, STUDENT, TEACHER),
        decided=np.where(first | drawn_for_student, STUDENT, TEACHER),
        propensity=np.where(first, 1.0, own),
        review_propensity=np.where(first, own, 1.0),
        retrieval_confidence=world.confidence,
        has_draft=drafted,
        draft_escalated=drafted & ~kept,
        draft_logprob=np.where(drafted, world.logprob, np.nan),
        draft_tokens=np.where(drafted, 50, 0),
        draft_cost_usd=np.where(drafted, world.student_usd, np.nan),
        answer_logprob=np.where(kept, world.logprob, np.nan),
        cost_usd=(drafted | kept) * world.student_usd + ~kept * world.teacher_usd,
        counterfactual_cost_usd=np.where(kept, TEACHER_USD * world.length / 50, world.teacher_usd),
        used_completion_tokens=world.length,
    )
    scores = np.where(kept, world.student_right, world.teacher_right)
    feedback = [
        FeedbackRecord(schema=1, decision_id=f"{row + 1:032x}", created_s=2e9, tenant="default", score=float(score))
        for row, score in enumerate(scores.tolist())
    ]
    return Log(columns, [], feedback)


def explored_log(rng: np.random.Generator, world: World, logged: Document, *, epsilon: float) -> Log:
    """A share of the requests goes the other way, by lot; what was delivered is judged."""
    wanted = logged.student_first(world)
    first = wanted ^ (rng.random(len(world)) < epsilon)
    columns = columns_with(
        len(world),
        student=2,
        teacher=3,
        tenant=1,
        route=np.where(first, STUDENT, TEACHER),
        decided=np.where(first, STUDENT, TEACHER),
        propensity=np.where(first == wanted, 1 - epsilon, epsilon),
        retrieval_confidence=world.confidence,
        cost_usd=np.where(first, world.student_usd, world.teacher_usd),
        counterfactual_cost_usd=np.where(first, TEACHER_USD * world.length / 50, world.teacher_usd),
        used_completion_tokens=world.length,
    )
    scores = np.where(first, world.student_right, world.teacher_right)
    feedback = [
        FeedbackRecord(schema=1, decision_id=f"{row + 1:032x}", created_s=2e9, tenant="default", score=float(score))
        for row, score in enumerate(scores.tolist())
    ]
    return Log(columns, [], feedback)
