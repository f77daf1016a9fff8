"""The configuration file while the gateway runs: edits, half-written edits, wrong ones, and what needs a restart."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.config_file import parse
from router.documents import file as file_module
from router.documents.file import ConfigFile, Reload, restart_keys
from tests.router.documents.conftest import CONFIG, Replica, StartReplica, until

EDITED = CONFIG.format(rest='[routing]\ndefault_route = "teacher"')


class Edited:
    """A replica and the file that it was started with."""

    def __init__(self, replica: Replica, path: Path, *, watch: bool = True) -> None:
        self.replica = replica
        self.path = path
        self.reports: list[Reload] = []
        path.write_text(CONFIG.format(rest=""))
        self.file = ConfigFile(path, replica.config, replica.live, watch=watch, report=self._note)

    async def _note(self, reload: Reload) -> None:
        self.reports.append(reload)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.file.run())
        try:
            async with self.file.hangups():
                yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def edited(replica: StartReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edited:
    monkeypatch.setattr(file_module, "POLL_INTERVAL_S", 0.01)
    return Edited(replica(), tmp_path / "locum.toml")


async def test_edit_becomes_a_version_when_the_file_is_saved(edited: Edited) -> None:
    async with edited.running():
        edited.path.write_text(EDITED)
        await until(lambda: bool(edited.reports))
    assert edited.replica.live.applied.document.routing.default_route == "teacher"
    assert edited.replica.live.applied.source == "file"
    assert [report.result for report in edited.reports] == ["installed"]


async def test_edit_is_seen_when_the_file_is_replaced(edited: Edited, tmp_path: Path) -> None:
    async with edited.running():
        (tmp_path / "new").write_text(EDITED)
        (tmp_path / "new").replace(edited.path)
        await until(lambda: bool(edited.reports))
    assert edited.replica.live.applied.version == 1
    assert [report.result for report in edited.reports] == ["installed"]


async def test_wrong_file_leaves_the_document_in_force_and_the_right_one_follows(edited: Edited) -> None:
    async with edited.running():
        edited.path.write_text("[routing]\ndefault_route = ")
        await until(lambda: len(edited.reports) == 1)
        assert edited.reports[0].result == "refused"
        assert "not TOML" in edited.reports[0].problems[0]
        assert edited.replica.live.applied.version == 0
        edited.path.write_text(EDITED)
        await until(lambda: edited.replica.live.applied.version == 1)


async def test_document_that_cannot_be_built_is_reported_when_the_file_has_it(edited: Edited) -> None:
    edited.replica.engine.refuses = {"teacher"}
    edited.path.write_text(EDITED)
    reload = await edited.file.reload("SIGHUP")
    assert (reload.result, reload.version) == ("refused", 0)
    assert "missing.json" in reload.problems[0]


async def test_other_keys_are_named_when_they_need_a_restart(edited: Edited) -> None:
    edited.path.write_text(EDITED.replace(":35002/", ":35003/") + "\n[server]\nport = 1\nretry_after_s = 77\n")
    reload = await edited.file.reload("SIGHUP")
    assert reload.result == "installed"
    assert reload.needs_restart == ("server.port", "teacher.base_url")
    assert edited.replica.live.applied.document.server.retry_after_s == 77


async def test_nothing_happens_when_a_comment_is_edited(edited: Edited) -> None:
    edited.path.write_text(CONFIG.format(rest="# a remark"))
    assert (await edited.file.reload("SIGHUP")).result == "unchanged"


async def test_only_hangups_count_when_the_file_is_not_watched(replica: StartReplica, tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread()
    edited = Edited(replica(), tmp_path / "locum.toml", watch=False)
    async with edited.running():
        edited.path.write_text(EDITED)
        await asyncio.sleep(0.6)
        assert edited.replica.live.applied.version == 0
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: edited.replica.live.applied.version == 1)


def test_keys_that_may_change_at_run_time_need_no_restart() -> None:
    before = parse(CONFIG.format(rest=""))
    after = parse(
        CONFIG.format(
            rest="[server]\nmax_body_bytes = 2048\n[routing]\npolicies = []\n[limits]\nrequests_per_minute = 5"
        )
    )
    assert restart_keys(before, after) == []
    assert restart_keys(before, parse(CONFIG.format(rest='[auth]\nkeys_env = "KEYS"'))) == ["auth"]
