"""The gateway of the contract tests, attacked."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from loadtests.fake_backend import BackendThread
from router.config_file import parse
from tests.contract.conftest import (
    CONFIG,
    RunningGateway,
    gateway,
    quick_stops,
    start_gateway,
    student,
    teacher,
    wait_until,
)
from tests.security.fuzzing import Complaints

__all__ = ["gateway", "quick_stops", "start_gateway", "student", "teacher", "wait_until"]


@pytest.fixture(scope="module")
def target(
    student: BackendThread, teacher: BackendThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """One gateway for all the cases of a module: what one attack leaves behind is the next one's problem."""
    values = {
        "server": "body_timeout_s = 2.0", "student": "", "teacher": "", "rest": "",
        "student_url": student.base_url, "teacher_url": teacher.base_url,
        "student_model": "student", "teacher_model": "teacher",
        "log_dir": str(tmp_path_factory.mktemp("traffic")),
    }  # fmt: skip
    running = RunningGateway(parse(CONFIG.format(**values)), {})
    running.start()
    yield running
    running.stop()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    handler = Complaints()
    logging.getLogger().addHandler(handler)
    yield handler.found
    logging.getLogger().removeHandler(handler)
    assert handler.found == []
