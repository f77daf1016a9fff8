"""Swapping the document and the student of a gateway: neither undoes the other, and bad ones change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from policies.bundle import BUNDLE_SCHEMA_VERSION, Bundle
from router.config_file import parse
from router.documents.document import DocumentRejected, Version, parse_document
from router.documents.engine import PolicyEngine
from router.generations import Generation, Generations
from router.students import Students
from tests.router.documents.conftest import CONFIG, until


class Swapping:
    """Students and generations of a real gateway, which nobody asks anything."""

    def __init__(self, folder: Path, rest: str = "") -> None:
        self.folder = folder
        self.students = Students(parse(CONFIG.format(rest=rest)), {})
        self.generations = Generations(self.students.first(), drain_timeout_s=20.0)
        self.engine = PolicyEngine(self.students, self.generations)

    @property
    def current(self) -> Generation:
        return self.generations.current

    def version(self, number: int, **routing: Any) -> Version:
        seed = self.students.version
        document = parse_document({"routing": routing}, defaults=seed.document)
        return seed.model_copy(update={"version": number, "document": document})

    def student(self, bundle_id: str) -> Generation:
        bundle = Bundle(
            schema=BUNDLE_SCHEMA_VERSION, bundle_id=bundle_id, name="s", created_s=1.0, model_sha256="0" * 64,
            model_bytes=1, context_window_tokens=4096,
        )  # fmt: skip
        return self.students.of_bundle(bundle, self.folder, "http://127.0.0.1:35003/v1")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with self.generations:
            yield


@pytest.fixture
async def swapping(tmp_path: Path) -> AsyncIterator[Swapping]:
    made = Swapping(tmp_path)
    async with made.serving():
        yield made


async def test_document_changes_without_a_new_student(swapping: Swapping) -> None:
    before = swapping.current
    await swapping.engine.install(swapping.version(1, default_route="teacher", policies=[]))
    after = swapping.current
    assert after.student is before.student
    assert (before.decider.version[:5], after.decider.version[:3]) == ("file-", "v1-")
    assert after.document.routing.default_route == "teacher"


async def test_old_student_is_waited_for_when_its_requests_came_under_an_earlier_document(swapping: Swapping) -> None:
    running = swapping.current
    running.enter()
    await swapping.engine.install(swapping.version(1, default_route="teacher"))
    replaced = asyncio.create_task(swapping.engine.install_student(swapping.student("s-000000000001")))
    await until(lambda: swapping.current.bundle_id == "s-000000000001")
    assert not replaced.done()
    running.leave()
    await replaced


async def test_document_can_change_while_an_old_student_drains(swapping: Swapping) -> None:
    running = swapping.current
    running.enter()
    replaced = asyncio.create_task(swapping.engine.install_student(swapping.student("s-000000000001")))
    await until(lambda: swapping.current.bundle_id == "s-000000000001")
    await swapping.engine.install(swapping.version(1, default_route="teacher"))
    assert swapping.current.bundle_id == "s-000000000001"
    assert swapping.current.decider.version.startswith("v1-")
    running.leave()
    await replaced


async def test_new_student_takes_the_document_that_came_while_it_was_made(swapping: Swapping) -> None:
    made_early = swapping.student("s-000000000001")
    await swapping.engine.install(swapping.version(1, default_route="teacher", policies=[]))
    await swapping.engine.install_student(made_early)
    assert swapping.current.bundle_id == "s-000000000001"
    assert swapping.current.decider.version.startswith("v1-")
    assert swapping.current.document.routing.default_route == "teacher"


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({"type": "retrieval_confidence", "calibrator": "missing.json"}, "routing.policies.0.calibrator"),
        ({"type": "retrieval_confidence", "calibrator": "/dev/zero"}, "routing.policies.0.calibrator"),
        ({"type": "retrieval_confidence", "calibrator": "a\0b"}, "routing.policies.0.options"),
        ({"type": "cascade", "calibrator": "missing.json", "threshold": 0.5}, "routing.policies.0.calibrator"),
        ({"type": "long_context", "margin": "x"}, "routing.policies.0.margin"),
    ],
)
async def test_document_that_cannot_be_built_changes_nothing(
    swapping: Swapping, policy: dict[str, Any], problem: str
) -> None:
    before = swapping.current
    version = swapping.version(1, policies=[policy])
    for attempt in (swapping.engine.check(version.document), swapping.engine.install(version)):
        with pytest.raises(DocumentRejected) as rejected:
            await attempt
        assert rejected.value.problems[0].startswith(problem)
    assert swapping.current is before
    assert swapping.students.version.version == 0


async def test_document_that_needs_an_encoder_is_refused_when_there_is_none(tmp_path: Path) -> None:
    swapping = Swapping(tmp_path, rest=f'[encoder]\nmodel = "{tmp_path}/no-model"')
    async with swapping.serving():
        with pytest.raises(DocumentRejected, match="local embeddings"):
            await swapping.engine.check(
                swapping.version(1, policies=[{"type": "retrieval_confidence", "compute": True}]).document
            )


async def test_cascade_wants_logprobs_from_its_version_on(swapping: Swapping) -> None:
    before = swapping.current
    await swapping.engine.install(swapping.version(1, policies=[{"type": "cascade"}]))
    assert (before.wanted.logprobs, swapping.current.wanted.logprobs) == (False, True)
    await swapping.engine.install(swapping.version(2, policies=[]))
    assert swapping.current.wanted.logprobs is False
