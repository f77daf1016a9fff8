"""How good the answers are, estimated from the sample that was graded: by route, tag or student, with intervals.

    estimates = Estimates(by="tag:team")
    for record in ...:
        estimates.add(record, shadows, judgement)   # what is known about one request
    for part in estimates.report(): ...

A request is drawn for shadowing with a known probability, so its grades count 1 / propensity times and the estimates
hold for all traffic, not for the sample. A label that came by feedback grades both answers, also when it came after the
grades. What people say in feedback is a sample that chose itself: it is kept apart and not weighed. Sums of two logs,
or of two days, add up.

What routing costs in quality is measured where it can be lost: on requests that the student answered, both answers
are graded, and the mean difference times the student's share is the loss against all-teacher. It is paired, so the
interval is that of the difference and not of two means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from policies.base import Route
from policies.intervals import Estimate, Kind, Moments, combined, missing, proportion
from policies.quality.judgements import Judgement
from policies.quality.regrading import with_label
from policies.record import DecisionRecord, Grade, ShadowRecord

ROUTES: tuple[Route, ...] = ("student", "teacher")
BY = ("route", "student", "reason", "grader")
"""What the estimates may be split by, beside `tag:KEY`."""
ALL = "all"
MAX_PARTS = 100
"""Values of a tag that are told apart; the rest is `other`."""
MIN_LABELS = 30
"""Of equal weight. Below, an estimate says nothing, and is not given."""
PRECISION = 0.01
"""Half a width of an interval that is narrow enough to act on: one point."""
LABELS_FROM_NOTHING = 9604
"""Labels for +-1 point when nothing is known yet: of a share of one half, the worst case."""


@dataclass
class Side:
    """Requests that one model answered."""

    requests: int = 0
    student: Moments = field(default_factory=Moments)
    """Scores of the student's answers to them, delivered or not."""
    teacher: Moments = field(default_factory=Moments)
    difference: Moments = field(default_factory=Moments)
    """Student minus teacher, on the same request."""
    feedback: Moments = field(default_factory=Moments)
    """Scores that people gave to what was delivered."""
    drawn: Counter[str] = field(default_factory=Counter)
    """Requests that were drawn for the other model, by how that ended."""

    def add_shadow(self, shadow: ShadowRecord, grade: Grade | None) -> None:
        self.drawn[shadow.status] += 1
        if grade is None:
            return
        weight = 1.0 / shadow.propensity
        for moments, score in ((self.student, grade.student), (self.teacher, grade.teacher)):
            if score is not None:
                moments.add(score, weight)
        if grade.student is not None and grade.teacher is not None:
            self.difference.add(grade.student - grade.teacher, weight)


@dataclass
class JudgeCounts:
    """How a judge that compares both answers behaves."""

    pairwise: int = 0
    """Comparisons in both orders."""
    consistent: int = 0
    preferred: Counter[str] = field(default_factory=Counter)
    bias: Moments = field(default_factory=Moments)
    """Score of the student's answer when it is shown first, minus when it is shown second."""

    def add(self, grade: Grade) -> None:
        if grade.preferred is not None:
            self.preferred[grade.preferred] += 1
        if grade.consistent is not None:
            self.pairwise += 1
            self.consistent += grade.consistent
        if grade.student_when_first is not None and grade.student_when_second is not None:
            self.bias.add(grade.student_when_first - grade.student_when_second)


@dataclass
class Part:
    """Some of the traffic, e.g. that of one tag."""

    name: str
    sides: dict[Route, Side] = field(default_factory=lambda: {route: Side() for route in ROUTES})
    judge: JudgeCounts = field(default_factory=JudgeCounts)
    graders: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        return sum(side.requests for side in self.sides.values())

    def share(self, route: Route) -> float:
        return self.sides[route].requests / self.requests if self.requests else 0.0

    def delivered(self, route: Route) -> Estimate | None:
        """Quality of what this model delivered, by shadow grades."""
        side = self.sides[route]
        return _estimate(side.student if route == "student" else side.teacher, "score")

    def mix(self) -> Estimate | None:
        """Quality of what clients got; None where one of the two sides has too few labels."""
        return self._over_routes({route: self.delivered(route) for route in ROUTES})

    def all_of(self, route: Route) -> Estimate | None:
        """Quality if this model had answered everything."""
        return self._over_routes(
            {r: _estimate(side.student if route == "student" else side.teacher, "score") for r, side in self._each()}
        )

    def loss(self) -> Estimate | None:
        """All-teacher minus what clients got, on all requests; negative where the student is better."""
        if not self.sides["student"].requests:
            return None
        difference = self.parity("student")
        return None if difference is None else combined([(-self.share("student"), difference)])

    def parity(self, route: Route) -> Estimate | None:
        """Student minus teacher, on the requests that this model answered."""
        return _estimate(self.sides[route].difference, "difference")

    def missing(self) -> int:
        """About how many more graded requests give the loss to +-1 point."""
        difference = self.sides["student"].difference.estimate("difference")
        if difference is None:
            return LABELS_FROM_NOTHING
        return missing(difference, PRECISION / max(self.share("student"), 0.01))

    def _each(self) -> Iterator[tuple[Route, Side]]:
        return iter(self.sides.items())

    def _over_routes(self, estimates: dict[Route, Estimate | None]) -> Estimate | None:
        parts = [(self.share(route), each) for route, each in estimates.items() if self.sides[route].requests]
        known = [(share, each) for share, each in parts if each is not None]
        return combined(known) if known and len(known) == len(parts) else None

    def as_json(self) -> dict[str, Any]:
        """All figures; an estimate with too few labels is null."""
        drawn = sum((side.drawn for side in self.sides.values()), Counter[str]())
        differences = [side.difference for side in self.sides.values()]
        judge = self.judge
        return {
            "name": self.name,
            "requests": {route: side.requests for route, side in self._each()},
            "student_share": self.share("student"),
            "quality": {
                "student": _json(self.delivered("student")),
                "teacher": _json(self.delivered("teacher")),
                "mix": _json(self.mix()),
                "all_teacher": _json(self.all_of("teacher")),
                "all_student": _json(self.all_of("student")),
            },
            "quality_loss": _json(self.loss()),
            "parity": {f"{route}_answered": _json(self.parity(route)) for route in ROUTES},
            "feedback": {route: _json(_estimate(side.feedback, "score")) for route, side in self._each()},
            "labels": {
                "shadow": sum(each.n for each in differences),
                "shadow_effective": round(sum(each.effective_n for each in differences), 1),
                "on_student_answers": self.sides["student"].difference.n,
                "feedback": sum(side.feedback.n for side in self.sides.values()),
                "missing_for_1_point": self.missing(),
                "by_grader": dict((+self.graders).most_common()),
            },
            "drawn": dict(drawn.most_common()),
            "coverage": proportion(drawn["ok"], drawn.total()).as_json() if drawn else None,
            "judge": {
                "pairwise": judge.pairwise,
                "consistent": proportion(judge.consistent, judge.pairwise).as_json() if judge.pairwise else None,
                "preferred": dict(judge.preferred),
                "position_bias": _json(_estimate(judge.bias, "difference")),
            },
        }


class Estimates:
    """Collects requests, in any order."""

    def __init__(self, by: str | None = None) -> None:
        """
        Args:
            by: one of BY or `tag:KEY`; None: all traffic in one part.
        Raises:
            ValueError: it is neither.
        """
        if by is not None and by not in BY and not (by.startswith("tag:") and len(by) > len("tag:")):
            raise ValueError(f"by: {by!r} is none of {', '.join(BY)} and tag:KEY")
        self.by = by
        self._all = Part(ALL)
        self._parts: dict[str, Part] = {}

    def add(
        self, record: DecisionRecord, shadows: Iterable[ShadowRecord] = (), judgement: Judgement | None = None
    ) -> None:
        """One request. What nobody answered, and what is no traffic, does not count; nor does an answer that the
        student began and a teacher ended: a judgement on it is one on neither."""
        if record.purpose != "traffic" or record.outcome not in ("ok", "degraded") or record.route is None:
            return
        if record.draft is not None and record.draft.continued is not None:
            return
        shadows = [shadow for shadow in shadows if shadow.delivered == record.route]
        if judgement is not None and judgement.label is not None:
            shadows = [with_label(shadow, record, judgement.label) for shadow in shadows]
        of_shadow = [(shadow, counted(shadow.grades)) for shadow in shadows]
        grader = next((grade.grader for _, grade in of_shadow if grade is not None), "none")
        parts = [self._all] if self.by is None else [self._all, self._part(_name(self.by, record, grader))]
        for part in parts:
            side = part.sides[record.route]
            side.requests += 1
            if judgement is not None and judgement.score is not None:
                side.feedback.add(judgement.score)
            for shadow, grade in of_shadow:
                side.add_shadow(shadow, grade)
                for each in shadow.grades:
                    part.graders[each.grader] += each.is_scored
                    part.judge.add(each)

    def _part(self, name: str) -> Part:
        if name not in self._parts and len(self._parts) >= MAX_PARTS:
            name = "other"
        if name not in self._parts:
            self._parts[name] = Part(name)
        return self._parts[name]

    @property
    def total(self) -> Part:
        return self._all

    @property
    def parts(self) -> list[Part]:
        """The largest first."""
        return sorted(self._parts.values(), key=lambda part: (-part.requests, part.name))

    def as_json(self) -> dict[str, Any]:
        return {"by": self.by, "total": self._all.as_json(), "parts": [part.as_json() for part in self.parts]}


def counted(grades: Iterable[Grade]) -> Grade | None:
    """The grade that stands for a request: the first that scores both answers, else the first that scores one.

    The order is that of the configuration: whoever lists several graders for a tag trusts the first one most.
    """
    scored = [grade for grade in grades if grade.is_scored]
    both = (grade for grade in scored if grade.student is not None and grade.teacher is not None)
    return next(both, scored[0] if scored else None)


def _name(by: str, record: DecisionRecord, grader: str) -> str:
    match by:
        case "route":
            return str(record.route)
        case "student":
            return record.student
        case "reason":
            return record.reason
        case "grader":
            return grader
        case _:
            return record.tags.get(by.removeprefix("tag:"), "none")


def _estimate(moments: Moments, kind: Kind) -> Estimate | None:
    """None when there are too few labels to say something."""
    return moments.estimate(kind) if moments.effective_n >= MIN_LABELS else None


def _json(estimate: Estimate | None) -> dict[str, float | int] | None:
    return None if estimate is None else estimate.as_json()
