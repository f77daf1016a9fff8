"""Questions about a log and their answers: one `Session` keeps the columns of one log between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from policies.base import PolicyConfigError, StudentDefaults
from policies.chain import PolicyChain
from policies.replay.estimators import Estimator
from policies.replay.replay import NothingToReplay, Replay, Selection, scorer_of
from policies.replay.report import Report
from policies.replay.source import Log, LogReader, Progress
from policies.traffic.reader import decisions
from router.config import RoutingConfig
from router.config_file import describe_problem
from router.routing import build_chain

MAX_VALUES = 201


class WrongQuestion(ValueError):
    """What was asked cannot be answered; the message names the key and the fix."""


WRONG: tuple[type[Exception], ...] = (WrongQuestion,)
EMPTY: tuple[type[Exception], ...] = (NothingToReplay,)


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One option of one policy, at several values."""

    policy: str
    option: str
    values: list[float]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """All that an answer depends on beside the log."""

    folder: str
    active: dict[str, Any]
    """`routing` of the document in force."""
    candidate: dict[str, Any] | None = None
    student: StudentDefaults | None = None
    only_student: str | None = None
    """Bundle id whose records count; None: the newest record's."""
    since_s: float | None = None
    until_s: float | None = None
    tags: dict[str, str] = {}
    sweep: Sweep | None = None
    estimator: Estimator = "dr"


class Session:
    """Answers questions about one log after the other. Not for several threads."""

    def __init__(
        self, *, max_records: int | None = None, jobs: int = 1, progress: Progress = lambda count: None
    ) -> None:
        """
        Args:
            max_records: of the newest that are looked at; None: all.
            jobs: processes that may read the log.
        """
        self._max_records = max_records
        self._jobs = jobs
        self._progress = progress
        self._reader: tuple[object, LogReader] | None = None
        self._replay: tuple[object, Log, Replay] | None = None

    def answer(self, question: Question) -> dict[str, Any]:
        """Raises: WrongQuestion, NothingToReplay, TrafficError, OSError."""
        active = chain_of(question.active, question.student, "active")
        replay = self._replay_of(question, active)
        baseline = replay.report(active)
        candidate, rows = None, None
        document = question.candidate if question.candidate is not None else question.active
        if question.candidate is not None:
            candidate = replay.report(chain_of(question.candidate, question.student, "document"))
        if question.sweep is not None:
            rows = [
                {"value": value, "report": report.as_json()}
                for value, report in _swept(replay, document, question.sweep, question.student)
            ]
        warnings = [*replay.warnings, *baseline.warnings]
        if candidate is not None:
            warnings += [each for each in candidate.warnings if each not in warnings]
        return {
            "records": replay.records,
            "window_s": replay.evidence.window_s,
            "labels": replay.labels,
            "baseline": baseline.as_json(),
            "candidate": candidate.as_json() if candidate is not None else None,
            "sweep": rows,
            "warnings": warnings,
        }

    def _replay_of(self, question: Question, active: PolicyChain) -> Replay:
        """Made again when the log, the selection or the document in force has changed."""
        source = (question.folder, active.version)
        if self._reader is None or self._reader[0] != source:
            self._reader = (
                source,
                LogReader(
                    Path(question.folder),
                    score_text=scorer_of(active),
                    max_records=self._max_records,
                    jobs=self._jobs,
                    progress=self._progress,
                ),
            )
        log = self._reader[1].read()
        selection = Selection(
            since_s=question.since_s,
            until_s=question.until_s,
            tags=tuple(sorted(question.tags.items())),
            student=question.only_student,
        )
        wanted = (source, selection, question.estimator)
        if self._replay is None or self._replay[0] != wanted or self._replay[1] is not log:
            made = Replay(
                log,
                active,
                selection,
                estimator=question.estimator,
                records=lambda: decisions(Path(question.folder)),
                progress=self._progress,
            )
            self._replay = wanted, log, made
        return self._replay[2]


def chain_of(routing: dict[str, Any], student: StudentDefaults | None, name: str) -> PolicyChain:
    """Raises: WrongQuestion."""
    try:
        return build_chain(RoutingConfig.model_validate(routing), student)
    except ValidationError as exc:
        problems = "; ".join(describe_problem(error) for error in exc.errors(include_url=False))
        raise WrongQuestion(f"{name}.routing: {problems}") from exc
    except PolicyConfigError as exc:
        raise WrongQuestion(f"{name}.routing.policies.{exc}") from exc


def _swept(
    replay: Replay, routing: dict[str, Any], sweep: Sweep, student: StudentDefaults | None
) -> list[tuple[float, Report]]:
    """Raises: WrongQuestion: no such policy or option, or a value that it refuses."""
    if len(sweep.values) > MAX_VALUES:
        raise WrongQuestion(f"sweep.values: at most {MAX_VALUES}")
    tables = [dict(table) for table in routing.get("policies", RoutingConfig().model_dump()["policies"])]
    found = [table for table in tables if table.get("type") == sweep.policy and table.get("mode") != "shadow"]
    if not found:
        types = ", ".join(str(table.get("type")) for table in tables)
        raise WrongQuestion(f"sweep.policy: the document has no policy {sweep.policy!r}; it has {types}")
    rows = []
    for value in sweep.values:
        found[0][sweep.option] = int(value) if _is_integer(found[0], sweep.option, value) else value
        rows.append((value, replay.report(chain_of({**routing, "policies": tables}, student, "sweep"))))
    return rows


def _is_integer(table: dict[str, Any], option: str, value: float) -> bool:
    """JSON has one kind of number: 16.0 is 16 for an option that counts."""
    return float(value).is_integer() and not isinstance(table.get(option), float) and abs(value) > 1
