"""Asks the student a fixed labelled set, on a schedule: one replica of the gateway at a time, when there is room.

The items are no traffic: they leave no decision record, and a gateway in between learns that they are an evaluation.
Rounds are kept in the shared state and, since `memory://` forgets, in a file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from policies.base import Route
from policies.corpus import Corpus
from policies.grading import is_right
from policies.quality.regression import Drop, Item, RegressionError, Round, drops, load_items
from router.additions import NOTHING
from router.backends import Backend
from router.chat import ChatRequest
from router.config.drift import RegressionConfig
from router.errors import BackendError, LocumError, StateUnavailable, VersionConflict
from router.generations import Generations
from router.metrics import Metrics
from router.plain import fetch
from router.quality.judge import mark
from router.quality.lease import Lease
from router.resilience.pool import Pool
from router.state.base import Store

logger = logging.getLogger(__name__)

DOCUMENT = "quality/regression"
LEASE = "quality/regression"
LEASE_S = 120.0
CHECK_S = 30.0
BUSY_INFLIGHT = 4
"""Requests of clients at every replica of the student from which on items wait."""
BUSY_WAIT_S = 1.0
MAX_BUSY_S = 60.0
"""An item waits no longer: a student that is never idle is asked nevertheless."""
MAX_RESPONSE_BYTES = 8 * 2**20
HISTORY_FILE = "regression-history.jsonl"
"""In `admin.dir`."""
KEPT_ROUNDS = 100


class Runner:
    """Asks one model the whole set."""

    def __init__(
        self,
        config: RegressionConfig,
        *,
        generations: Generations,
        teacher: Pool,
        metrics: Metrics,
        registry: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """
        Args:
            registry: folder of the bundles, which say what a student was trained on.
        """
        self._config = config
        self._registry = registry
        self._generations = generations
        self._teacher = teacher
        self._metrics = metrics
        self._environ = environ

    async def round(self, route: Route) -> Round:
        """Raises: RegressionError: the set cannot be used, or the model cannot be asked now."""
        items = await asyncio.to_thread(load_items, Path(self._config.file), self._config.max_items)
        generation = self._generations.current
        pool = generation.student if route == "student" else self._teacher
        if not pool.exists or not pool.usable:
            raise RegressionError(f"the {route} cannot be asked now")
        corpus = await asyncio.to_thread(self._corpus, generation.bundle_id)
        apart = items if corpus is None else [item for item in items if not corpus.has(item.messages)]
        if not apart:
            raise RegressionError(f"{self._config.file}: {generation.bundle_id} was trained on all of its items")
        model = generation.bundle_id if route == "student" else self._teacher.config.model
        started_s, outcomes = time.time(), dict[str, bool | None]()
        generation.enter()
        try:
            async with self._connection(pool) as backend:
                places = asyncio.Semaphore(self._config.max_concurrency)
                async with asyncio.TaskGroup() as tasks:
                    for item in apart:
                        await places.acquire()
                        await self._wait_for_room(pool)
                        work = tasks.create_task(self._ask(backend, item, outcomes))
                        work.add_done_callback(lambda _: places.release())
        finally:
            generation.leave()
        return Round(
            started_s=started_s,
            duration_s=time.time() - started_s,
            route=route,
            model=model,
            right=tuple(name for name, right in outcomes.items() if right is True),
            wrong=tuple(name for name, right in outcomes.items() if right is False),
            failed=sum(right is None for right in outcomes.values()),
            left_out=None if corpus is None else len(items) - len(apart),
        )

    def _corpus(self, bundle_id: str) -> Corpus | None:
        """What the student was trained on, where its bundle says so."""
        try:
            return Corpus.read(Path(self._registry) / bundle_id) if self._registry is not None else None
        except OSError as exc:
            logger.warning("regression: what %s was trained on cannot be read: %s", bundle_id, exc.strerror)
            return None

    def _connection(self, pool: Pool) -> Backend:
        """To the model's first replica, beside the connections of live traffic."""
        live = pool.replicas[0].backend
        config = live.config.model_copy(update={"max_connections": self._config.max_concurrency})
        backend = Backend(live.route, config, self._environ, name=live.name)
        mark(backend, "eval")
        return backend

    async def _wait_for_room(self, pool: Pool) -> None:
        waited_s = 0.0
        while waited_s < MAX_BUSY_S and all(replica.inflight >= BUSY_INFLIGHT for replica in pool.replicas):
            await asyncio.sleep(BUSY_WAIT_S)
            waited_s += BUSY_WAIT_S

    async def _ask(self, backend: Backend, item: Item, outcomes: dict[str, bool | None]) -> None:
        body = {
            "model": backend.route,
            "messages": item.messages,
            "temperature": 0,
            "max_tokens": self._config.max_output_tokens,
        }
        right: bool | None = None
        try:
            reply = await fetch(
                backend, ChatRequest.parse(json.dumps(body).encode(), []), [], NOTHING,
                detailed=False, limit_bytes=MAX_RESPONSE_BYTES, limit_s=backend.config.request_timeout_s,
            )  # fmt: skip
            if reply.meaning is not None:
                right = is_right(reply.meaning.text, item.label, item.grader)
        except LocumError as error:
            logger.info("regression: the %s gave no answer: %s", backend.name, _cause(error))
        outcomes[item.identity] = right
        outcome = "error" if right is None else "right" if right else "wrong"
        self._metrics.regression_items.labels(outcome).inc()


class Regression:
    """The schedule. One instance a process; `run` in a task of its own."""

    def __init__(
        self,
        config: RegressionConfig,
        runner: Runner,
        *,
        store: Store,
        metrics: Metrics,
        folder: Path,
        student: Callable[[], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            folder: of the history's file.
            student: bundle id of the one that serves now.
        """
        self._config = config
        self._runner = runner
        self._store = store
        self._lease = Lease(store, LEASE, lease_s=LEASE_S)
        self._metrics = metrics
        self._file = folder / HISTORY_FILE
        self._student = student
        self._clock = clock
        self._complained = ""
        self.rounds: list[Round] = []
        """The newest first."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.once()
            except StateUnavailable:
                self._metrics.state_errors.labels("regression").inc()
            except RegressionError as exc:
                if str(exc) != self._complained:  # it is tried again and again; once is enough to say so
                    self._complained = str(exc)
                    logger.warning("regression: %s", exc)
            except Exception:  # whatever it was, the next round is tried
                logger.exception("the regression set was not finished")
            await asyncio.sleep(CHECK_S)

    async def once(self) -> None:
        """Ask what is due, unless another process does it. Raises: RegressionError, StateUnavailable."""
        await self._refresh()
        if not self.due() or self._store.failure is not None:
            return
        async with self._lease.held() as taken:
            if not taken:
                return
            await self._refresh()  # the one before us may have asked everything
            for route in self.due():
                await self._keep(await self._runner.round(route))
            await self._refresh()

    def due(self) -> list[Route]:
        """Who is to be asked now. A new student is asked at once."""
        student = self._student()
        of_student = [each for each in self.rounds if each.route == "student"]
        teacher_s = max((each.started_s for each in self.rounds if each.route == "teacher"), default=None)
        last = of_student[0] if of_student else None
        if last is not None and last.model == student and self._clock() < last.started_s + self._config.every_s:
            return []
        every = self._config.teacher_every_rounds
        without = sum(teacher_s is None or each.started_s > teacher_s for each in of_student)
        with_teacher = every > 0 and (teacher_s is None or without + 1 >= every)
        return ["student", "teacher"] if with_teacher else ["student"]

    def drops(self) -> list[Drop]:
        return drops(self.rounds)

    def as_json(self) -> dict[str, Any]:
        """For the admin API."""
        compared = self.drops()
        return {
            "file": self._config.file,
            "alarm": any(each.alarm for each in compared),
            "compared": msgspec.to_builtins(compared),
            "rounds": [each.as_json() for each in self.rounds],
        }

    async def _refresh(self) -> None:
        """Read what all processes have asked so far, and set the gauges by it."""
        stored = [_decoded(each.content) for each in await self._store.document_history(DOCUMENT, limit=KEPT_ROUNDS)]
        kept = await asyncio.to_thread(self._read_file)
        found = {(each.started_s, each.route): each for each in (*kept, *stored) if each is not None}
        before = {each.alarm for each in self.drops()}
        self.rounds = sorted(found.values(), key=lambda each: -each.started_s)[:KEPT_ROUNDS]
        for route in ("student", "teacher"):
            last = next((each for each in self.rounds if each.route == route), None)
            if last is not None and last.score is not None:
                self._metrics.regression_score.labels(route).set(last.score.value)
        alarms = [each for each in self.drops() if each.alarm]
        self._metrics.regression_alarm.set(bool(alarms))
        if alarms and True not in before:
            logger.warning(
                "regression: %s answers %.1f points fewer items right than %s did",
                self.rounds[0].model, -100 * alarms[0].difference["value"], alarms[0].against_model,
            )  # fmt: skip

    async def _keep(self, done: Round) -> None:
        encoded = msgspec.json.encode(done)
        try:
            await self._store.write_document(DOCUMENT, encoded, expected_version=None)
        except (StateUnavailable, VersionConflict) as exc:
            logger.warning("regression: the round is in %s only: %s", self._file, exc)
        try:
            await asyncio.to_thread(self._append, encoded)
        except OSError as exc:
            logger.warning("regression: the round is not on disk: %s", exc.strerror)

    def _append(self, encoded: bytes) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as file:
            file.write(encoded + b"\n")

    def _read_file(self) -> list[Round | None]:
        try:
            lines = self._file.read_bytes().splitlines()[-KEPT_ROUNDS:]
        except OSError:
            return []
        return [_decoded(line) for line in lines]


def _decoded(content: bytes) -> Round | None:
    try:
        return msgspec.json.decode(content, type=Round)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # of another release, or torn by a crash


def _cause(error: LocumError) -> str:
    return error.cause if isinstance(error, BackendError) else type(error).__name__
