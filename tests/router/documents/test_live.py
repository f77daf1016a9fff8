"""The policy document in force: changes, conflicts, followers, restarts, and documents that cannot be used."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router.documents import live as live_module
from router.documents.document import DocumentRejected
from router.documents.live import ANY_VERSION, NAME, UnknownVersion
from router.errors import StateUnavailable, VersionConflict
from router.state.base import Document
from router.state.memory import MemoryStore
from tests.router.documents.conftest import StartReplica, until


class BrokenStore(MemoryStore):
    """Away while `away` is set."""

    away = False

    async def read_document(self, name: str) -> Document | None:
        if self.away:
            raise StateUnavailable("the store is away")
        return await super().read_document(name)


async def test_put_makes_the_next_version_when_the_expected_one_is_in_force(replica: StartReplica) -> None:
    one = replica()
    first = await one.put(expected=0, default_route="teacher")
    second = await one.put(expected=1, default_route="student", on_policy_error="student")
    assert (first.version, second.version) == (1, 2)
    assert one.engine.installed == [1, 2]
    assert one.live.applied.author == "ann"


async def test_put_conflicts_and_names_the_current_version_when_somebody_was_faster(replica: StartReplica) -> None:
    one, two = replica(), replica()
    await one.put(expected=0, default_route="teacher")
    with pytest.raises(VersionConflict) as conflict:
        await two.put(expected=0, on_policy_error="student")
    assert conflict.value.current_version == 1
    assert two.engine.installed == []


async def test_only_one_of_many_puts_wins_when_all_replace_the_same_version(replica: StartReplica) -> None:
    replicas = [replica() for _ in range(6)]
    results = await asyncio.gather(
        *(each.put(expected=0, default_output_tokens=n + 1) for n, each in enumerate(replicas)), return_exceptions=True
    )
    assert sum(isinstance(result, VersionConflict) for result in results) == 5
    assert len({number for each in replicas for number in each.engine.installed}) == 1


async def test_put_changes_nothing_when_the_content_is_in_force_already(replica: StartReplica) -> None:
    one = replica()
    await one.put(expected=0, default_route="teacher")
    again = await one.put(expected=1, default_route="teacher")
    assert again.version == 1
    assert one.engine.installed == [1]


async def test_bad_document_is_refused_before_it_reaches_the_store(replica: StartReplica, store: MemoryStore) -> None:
    one = replica()
    one.engine.refuses = {"teacher"}
    with pytest.raises(DocumentRejected, match=r"missing\.json"):
        await one.put(expected=0, default_route="teacher")
    assert await store.read_document(NAME) is None
    assert one.live.applied.version == 0


async def test_module_types_are_refused_when_the_file_does_not_name_them(replica: StartReplica) -> None:
    one = replica()
    with pytest.raises(DocumentRejected, match=r"routing\.policies\.0\.type: 'os:system'"):
        await one.put(expected=0, policies=[{"type": "os:system", "command": "true"}])
    allowed = replica(rest='[[routing.policies]]\ntype = "policies.long_context:LongContext"')
    await allowed.put(expected=0, policies=[{"type": "policies.long_context:LongContext"}], default_route="teacher")
    assert allowed.engine.installed == [1]


async def test_other_replicas_follow_when_a_version_is_put(replica: StartReplica) -> None:
    one, two = replica(), replica()
    async with one.following(), two.following():
        await one.put(expected=0, default_route="teacher")
        await until(lambda: two.live.applied.version == 1)
        assert two.live.applied == one.live.applied


async def test_replica_keeps_the_old_document_and_says_so_when_it_cannot_build_the_new_one(
    replica: StartReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "CHECK_INTERVAL_S", 0.02)
    one, two = replica(), replica()
    two.engine.refuses = {"teacher"}
    async with one.following(), two.following():
        await one.put(expected=0, default_route="teacher")
        await until(lambda: two.live.rejected is not None)
        assert two.live.applied.version == 0
        assert two.live.rejected is not None
        assert two.live.rejected.version == 1
        await asyncio.sleep(0.1)
        assert two.failures("not_buildable") == 1  # tried many times, said once
        two.engine.refuses = set()  # its artefact has arrived
        await until(lambda: two.live.applied.version == 1)
        assert two.live.rejected is None


async def test_document_of_another_release_is_passed_over(replica: StartReplica, store: MemoryStore) -> None:
    one = replica()
    await store.write_document(NAME, b'{"version": 7, "shape": "of the future"}', expected_version=None)
    await one.live.start()
    assert one.live.applied.version == 0
    assert one.failures("unreadable") == 1


async def test_rollback_goes_one_step_further_back_each_time(replica: StartReplica) -> None:
    one = replica()
    for number in range(3):
        await one.put(expected=number, default_output_tokens=number + 1)
    contents = []
    for _ in range(3):
        version = await one.live.rollback(None, author="ann", comment="", expected=ANY_VERSION)
        contents.append((version.version, version.restores, version.document.routing.default_output_tokens))
    assert contents == [(4, 2, 2), (5, 1, 1), (6, 0, None)]
    with pytest.raises(UnknownVersion):
        await one.live.rollback(None, author="ann", comment="", expected=ANY_VERSION)


async def test_rollback_refuses_when_there_is_no_such_version(replica: StartReplica) -> None:
    with pytest.raises(UnknownVersion, match="no version 9"):
        await replica().live.rollback(9, author="ann", comment="", expected=ANY_VERSION)


async def test_history_holds_every_version_down_to_the_file(replica: StartReplica) -> None:
    one = replica()
    for number in range(3):
        await one.put(expected=number, default_output_tokens=number + 1)
    assert [each.version for each in await one.live.history()] == [3, 2, 1, 0]
    assert (await one.live.get(2)).document.routing.default_output_tokens == 2


async def test_last_version_is_in_force_when_the_gateway_starts_again(replica: StartReplica, tmp_path: Path) -> None:
    before = replica(folder=tmp_path / "kept")
    await before.put(expected=0, default_route="teacher")
    await before.put(expected=1, default_route="student", on_policy_error="student")
    after = replica(folder=tmp_path / "kept", own_store=MemoryStore(max_value_bytes=0))
    await after.live.start()
    assert after.live.applied == before.live.applied
    assert (await after.put(expected=2, default_route="teacher")).version == 3


async def test_older_version_is_used_when_the_newest_file_is_damaged(replica: StartReplica, tmp_path: Path) -> None:
    before = replica(folder=tmp_path / "kept")
    await before.put(expected=0, default_route="teacher")
    await before.put(expected=1, default_output_tokens=5)
    (tmp_path / "kept" / "000002.json").write_text('{"version": 2')
    after = replica(folder=tmp_path / "kept", own_store=MemoryStore(max_value_bytes=0))
    await after.live.start()
    assert after.live.applied.version == 1


EDITED = '[routing]\ndefault_route = "teacher"'


async def test_edited_file_wins_at_start_when_the_state_is_this_machines_own(
    replica: StartReplica, tmp_path: Path
) -> None:
    before = replica(folder=tmp_path / "kept")
    await before.put(expected=0, default_output_tokens=7)
    after = replica(folder=tmp_path / "kept", own_store=MemoryStore(max_value_bytes=0), rest=EDITED)
    await after.live.start()
    assert (after.live.applied.version, after.live.applied.source) == (2, "file")
    assert after.live.applied.document == after.live.seed.document
    again = replica(folder=tmp_path / "kept", own_store=MemoryStore(max_value_bytes=0), rest=EDITED)
    await again.live.start()
    assert again.live.applied.version == 2  # the same edit counts once


async def test_stored_document_wins_at_start_when_the_store_is_shared(replica: StartReplica) -> None:
    one = replica(shared=True)
    await one.put(expected=0, default_output_tokens=7)
    late = replica(shared=True, rest=EDITED)
    await late.live.start()
    assert late.live.applied == one.live.applied


async def test_file_is_installed_once_when_several_processes_read_the_same_edit(replica: StartReplica) -> None:
    one, two = replica(), replica()
    edited = one.document(default_route="teacher")
    await one.live.take_file(edited, comment="edited")
    await one.put(expected=1, default_output_tokens=9)
    await two.live.catch_up()
    await two.live.take_file(edited, comment="edited")  # read later, after somebody has changed the document
    assert two.live.applied.version == 2


async def test_last_known_version_is_used_when_the_store_is_away_at_start(
    replica: StartReplica, tmp_path: Path
) -> None:
    store = BrokenStore(max_value_bytes=0)
    before = replica(folder=tmp_path / "kept", own_store=store, shared=True)
    await before.put(expected=0, default_route="teacher")
    store.away = True
    after = replica(folder=tmp_path / "kept", own_store=store, shared=True)
    await after.live.start()
    assert after.live.applied == before.live.applied
    with pytest.raises(StateUnavailable):
        await after.put(expected=1, default_route="student")
    assert after.live.applied.version == 1


async def test_store_is_given_the_document_back_when_it_has_lost_it(
    replica: StartReplica, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "CHECK_INTERVAL_S", 0.02)
    one = replica(shared=True)
    async with one.following():
        await one.put(expected=0, default_route="teacher")
        store._documents.clear()
        async with asyncio.timeout(20):
            while await store.read_document(NAME) is None:  # noqa: ASYNC110 - as in `until`
                await asyncio.sleep(0.01)
    late = replica(shared=True)
    await late.live.start()
    assert late.live.applied == one.live.applied


async def test_version_is_in_force_and_reported_when_it_cannot_be_kept(replica: StartReplica, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    one = replica(folder=tmp_path / "file")
    await one.put(expected=0, default_route="teacher")
    assert one.live.applied.version == 1
    assert one.live.unkept == 1
    assert one.failures("not_kept") == 1
