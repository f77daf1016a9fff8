"""Cross-fitting: each row is scored once, by a learner that saw neither it nor a near-duplicate of it.

Folds are fitted side by side, each in one process and on one thread. A learner never gets the outcomes of the rows
that it scores: they are taken out before.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

import numpy as np

from trainer.routing import folds
from trainer.routing.learner import Learner
from trainer.routing.outcomes import Floats, Ints, Outcomes

IN_PROCESS_CELLS = 20_000
"""Rows times learners; below, starting processes takes longer than they save."""

Progress = Callable[[int, int], None]


class BadScores(ValueError):
    """A learner broke its contract."""


class WorkerDied(RuntimeError):
    """A process that fitted a fold was killed."""


@dataclass(frozen=True, eq=False)
class _Task:
    """One learner on one fold."""

    learner: Learner
    train: Outcomes
    groups: Ints
    test: Outcomes
    """Without outcomes."""
    seed: int

    def run(self) -> Floats:
        import threadpoolctl  # noqa: PLC0415 - comes with scikit-learn

        with threadpoolctl.threadpool_limits(1):
            return fitted_score(self.learner, self.train, self.groups, self.test, self.seed)


def fitted_score(learner: Learner, train: Outcomes, groups: Ints, test: Outcomes, seed: int) -> Floats:
    """The scores of `test` by the learner fitted on `train`; where nothing can be learned, one for all rows.

    Raises:
        BadScores
    """
    advantage = train.advantage
    if np.ptp(advantage) == 0:
        return np.full(len(test), float(advantage[0] > 0))
    scores = np.asarray(learner.fit(train, groups=groups, seed=seed).score(blind(test)), dtype=np.float64)
    if scores.shape != (len(test),) or not np.isfinite(scores).all() or scores.min() < 0 or scores.max() > 1:
        raise BadScores(f"learner {learner.name!r}: a score is missing, not finite or outside [0, 1]")
    return scores


def in_order(groups: Ints) -> Ints:
    """The same groups, numbered from 0 as they appear: learners draw by these numbers."""
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[numbers], dtype=np.int64)


def blind(rows: Outcomes) -> Outcomes:
    """The rows without what is not known when the policy decides."""
    unknown = np.full(len(rows), np.nan)
    return replace(rows, weak=unknown, strong=unknown, cost_weak=None, cost_strong=None)


def cross_fit(
    rows: Outcomes,
    learners: Sequence[Learner],
    groups: Ints,
    fold_of: Ints,
    *,
    seed: int,
    progress: Progress = lambda done, total: None,
    processes: int | None = None,
) -> dict[str, Floats]:
    """The cross-fitted scores of each learner by its name, [n] each. The order of the rows changes nothing.

    Args:
        groups, fold_of: [n], see `groups.near_duplicates` and `folds.assign`.
        processes: default: one a core for enough rows.
    Raises:
        BadScores, WorkerDied
    """
    order = folds.canonical(rows.ids, seed)
    scores = {learner.name: np.full(len(rows), np.nan) for learner in learners}
    places = [(learner, order[fold_of[order] == fold], order[fold_of[order] != fold], seed + fold)
              for learner in learners for fold in range(int(fold_of.max()) + 1)]  # fmt: skip
    tasks = [
        _Task(learner, rows.part(train), in_order(groups[train]), blind(rows.part(test)), task_seed)
        for learner, test, train, task_seed in places
    ]
    if processes is None:
        processes = 1 if len(rows) * len(learners) < IN_PROCESS_CELLS else len(os.sched_getaffinity(0))
    for done, (index, found) in enumerate(_results(tasks, processes), start=1):
        learner, test, _, _ = places[index]
        scores[learner.name][test] = found
        progress(done, len(tasks))
    return scores


def _results(tasks: Sequence[_Task], processes: int) -> Iterator[tuple[int, Floats]]:
    if processes == 1:
        for index, task in enumerate(tasks):
            yield index, task.run()
        return
    context = multiprocessing.get_context("spawn")  # a fork would share OpenMP's threads, and hang
    with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context) as pool:
        running = {pool.submit(task.run): index for index, task in enumerate(tasks)}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool as exc:
            raise WorkerDied("a process that fitted a fold was killed, most likely because memory ran out") from exc
        finally:
            pool.shutdown(cancel_futures=True)
