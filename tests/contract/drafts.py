"""What tests of drafts share: what a cascade has recorded of one, and how it chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from policies import artefact
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt
from policies.draft_signals import DraftSignals
from policies.record import Draft
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.scripted import Says, Student, scripted
from tests.contract.test_cascade import the_record

HI = [{"role": "user", "content": "hi"}]
BAND = "second_sample_band = [0.4, 0.6]"
UNSURE = -1.0
"""The calibrator below says 0.5 here."""
Start = Callable[..., tuple[RunningGateway, Student]]


@contextmanager
def cascades(start_gateway: StartGateway, tmp_path: Path) -> Iterator[Start]:
    """Starts a cascade over a scripted student; the teacher is the fake backend."""
    fitted = CalibratorArtefact(
        calibrator=Platt(slope=2.0, intercept=2.0), raw=MEAN_LOGPROB, source="test", n=9, n_sufficient=5, ece=0.0,
        reliability=(),
    )  # fmt: skip
    artefact.write(tmp_path / "calibrator.json", fitted)
    with ExitStack() as running:

        def begin(*script: Says, options: str = "", **parts: str) -> tuple[RunningGateway, Student]:
            student = running.enter_context(scripted(*script))
            table = f"calibrator = {str(tmp_path / 'calibrator.json')!r}\nthreshold = 0.5\n{options}"
            rest = f'[[routing.policies]]\ntype = "cascade"\n{table}'
            return start_gateway(student_url=student.base_url, **{"rest": rest, **parts}), student

        yield begin


def signals_of(gateway: RunningGateway) -> DraftSignals:
    draft = the_record(gateway).draft
    assert draft is not None and draft.signals is not None
    return draft.signals


def draft_of(gateway: RunningGateway) -> Draft:
    draft = the_record(gateway).draft
    assert draft is not None
    return draft


def chosen(response: httpx.Response) -> tuple[str, str]:
    return response.headers["x-router-route"], response.headers["x-router-reason"]


def ask(gateway: RunningGateway, **members: Any) -> httpx.Response:
    return gateway.post({"model": "auto", "messages": HI, **members})
