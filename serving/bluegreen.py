"""Blue/green: the promoted bundle is served by a vLLM of its own before the old one is let go.

The gateway's configuration names a registry; `StudentSwitch` follows the registry's pointer. A change verifies the
files of the new bundle, starts a second vLLM on the other of two ports, waits until it is ready and has answered one
request, hands it to the gateway, and stops the old one when its requests have ended. Nothing that fails on the way
touches the one that serves. Where none serves, as at a start, a bundle that is damaged or does not start gives way to
the one before; with none left the teacher answers, as with an empty registry.

**Memory**: during a promotion two vLLM run at once. A GPU must have room for both (`gpu_memory_utilization` at most
0.45, where vLLM's default is 0.9), a machine without one for twice weights and KV cache; and both share the cores of
`cpu_omp_threads_bind`. A change of calibrator or threshold alone starts no second one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from policies.bundle import Bundle
from serving.errors import ProcessFailed, RegistryError, ServingError
from serving.options import VllmOptions, VllmSettings
from serving.pointer import Pointer
from serving.registry import Registry
from serving.standby import OneTokenRequest, free_port, options_for, same_server
from serving.student import StudentProcess
from serving.supervisor import Event, Observer, State, Supervisor
from serving.switch_state import Phase, SwitchState, become_owner, read_state, write_state

logger = logging.getLogger(__name__)

NOTHING_PROMOTED = "no bundle has been promoted; `locum student promote ID` does it"

Install = Callable[[Bundle, Path, str], Awaitable[None]]
"""(bundle, its folder, base URL up to and including /v1): send new requests there, return when the old student has no
requests any more. When it raises, nothing was changed."""
Launch = Callable[[VllmOptions, Observer], Supervisor]
"""A supervised process, checked but not started. Raises: ServingError."""
Warm = Callable[[VllmOptions], Awaitable[None]]
"""One real request. Raises: ProcessFailed."""


@dataclass(frozen=True)
class Waits:
    """How often the switch looks, and for how long."""

    poll_s: float = 0.25
    owner_s: float = 2.0
    """For the registry to be free: whoever asks whether a gateway runs holds its lock for a moment."""


@dataclass(frozen=True)
class Serving:
    """The bundle that answers, and its process."""

    bundle: Bundle
    options: VllmOptions
    process: Supervisor

    @property
    def alive(self) -> bool:
        return self.process.state not in (State.FAILED, State.STOPPED)


class StudentSwitch:
    """Runs beside the gateway: `async with` follows the pointer in the background and ends every child at its end."""

    def __init__(
        self,
        registry: Registry,
        settings: VllmSettings,
        install: Install,
        *,
        observer: Observer = lambda _: None,
        launch: Launch | None = None,
        warm: Warm | None = None,
        waits: Waits = Waits(),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`launch` and `warm` default to vLLM; tests pass their own."""
        self._registry = registry
        self._settings = settings
        self._install = install
        self._observer = observer
        self._launch = launch or (lambda options, watch: StudentProcess(options, observer=watch, environ=environ))
        self._warm = warm or OneTokenRequest(environ)
        self._waits = waits
        self._serving: Serving | None = None
        self._processes: list[Supervisor] = []
        self._endings: set[asyncio.Task[None]] = set()
        self._committed = False
        self._last_good: str | None = None
        self._owner: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._state = SwitchState(
            phase="empty", time_s=time.time(), since_s=time.time(), pid=os.getpid(), message=NOTHING_PROMOTED
        )
        self._published: SwitchState | None = None

    @property
    def state(self) -> SwitchState:
        return self._state

    async def __aenter__(self) -> Self:
        """Raises: LaunchError: another gateway serves this registry."""
        root = self._registry.root
        root.mkdir(parents=True, exist_ok=True)
        self._owner = await become_owner(root, wait_s=self._waits.owner_s, interval_s=self._waits.poll_s)
        await self._tidy()
        last = read_state(root)
        self._last_good = last.serving if last else None
        self._task = asyncio.create_task(self._follow(), name="follow the registry")
        return self

    async def _tidy(self) -> None:
        try:
            await asyncio.to_thread(self._registry.tidy)
        except (RegistryError, OSError) as exc:
            logger.warning("student: leftovers in the registry stay: %s", exc)

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End the task and every child, whatever is under way. Safe to call twice."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        await asyncio.gather(*(self._end(process) for process in list(self._processes)))
        if self._endings:
            await asyncio.wait(self._endings)
        if self._owner is not None:
            # `serving` stays: the next gateway goes back to it when the wanted bundle does not start.
            self._report("stopped", "the gateway has stopped", process=None, base_url=None)
            await self._publish()
            os.close(self._owner)
            self._owner = None

    async def _follow(self) -> None:
        followed: Pointer | None = None
        change: asyncio.Task[None] | None = None
        try:
            while True:
                pointer = await self._pointer()
                if pointer is not None and pointer != followed:
                    if change is not None and not change.done():
                        await self._abandon(change)
                        continue  # the pointer may have moved on meanwhile
                    followed = pointer
                    self._committed = False
                    change = asyncio.create_task(self._change(pointer), name=f"change to {pointer.bundle_id}")
                elif pointer is None:
                    followed = None
                if change is not None and change.done() and not change.cancelled():
                    change.result()
                    self._watch_serving()
                await self._publish()
                await asyncio.sleep(self._waits.poll_s)
        except Exception as exc:
            # A fault of our own: what serves goes on, and whoever looks at the state must learn of it.
            logger.exception("following the registry broke")
            self._report("failed", f"following the registry broke: {exc!r}; restart the gateway")
            await self._publish()
        finally:
            if change is not None and not change.done():
                change.cancel()
                await asyncio.wait({change})

    async def _abandon(self, change: asyncio.Task[None]) -> None:
        """Give up a change that loads; one that has begun to install is seen through."""
        if not self._committed:
            change.cancel()
        while not change.done():
            await asyncio.wait({change}, timeout=self._waits.poll_s)
            await self._publish()

    async def _pointer(self) -> Pointer | None:
        try:
            return await asyncio.to_thread(self._registry.pointer)
        except RegistryError as exc:
            if self._state.message != str(exc):
                logger.error("%s", exc)
                self._report("failed", str(exc))
            return None

    async def _change(self, pointer: Pointer) -> None:
        self._state = msgspec.structs.replace(self._state, sequence=pointer.sequence, wanted=pointer.bundle_id)
        try:
            await self._serve(pointer.bundle_id)
            self._report("serving", f"{pointer.bundle_id} serves")
        except (ServingError, OSError) as exc:
            self._fail(pointer.bundle_id, exc)
            if self._serving is None or not self._serving.alive:
                await self._fall_back(pointer)

    async def _fall_back(self, pointer: Pointer) -> None:
        """Nothing serves and the wanted bundle does not start: the last good one is better than none."""
        for bundle_id in dict.fromkeys((self._last_good, *pointer.earlier[:1])):
            if bundle_id is None or bundle_id == pointer.bundle_id:
                continue
            failed = self._state
            logger.warning("student: %s does not start; going back to %s", pointer.bundle_id, bundle_id)
            try:
                await self._serve(bundle_id)
            except (ServingError, OSError) as exc:
                logger.error("student: %s does not serve either: %s", bundle_id, exc)
                self._report(
                    "failed", f"{failed.message}; nor does {bundle_id}: {_reason(exc)}", log_tail=failed.log_tail
                )
                continue
            self._report("failed", f"{failed.message}; {bundle_id} serves instead", log_tail=failed.log_tail)
            return

    async def _serve(self, bundle_id: str) -> None:
        """Make this bundle the one that answers. Raises: ServingError, OSError: what served before serves still."""
        folder = await asyncio.to_thread(self._registry.folder, bundle_id)
        now = self._serving
        if now is not None and now.alive and now.bundle.bundle_id == bundle_id:
            return
        bundle = await self._verified(bundle_id)
        if now is not None and now.alive:
            options = options_for(self._settings, bundle, folder, now.options.port)
            if bundle.model_sha256 == now.bundle.model_sha256 and same_server(options, now.options):
                await self._commit(bundle, folder, Serving(bundle, now.options, now.process))
                return
        await self._replace(bundle, folder)

    async def _verified(self, bundle_id: str) -> Bundle:
        """Raises: RegistryError: its files are not what its manifest says; nothing is started from them."""
        self._report("verifying", f"comparing the files of {bundle_id} with its manifest")
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._registry.verified, bundle_id, stop=stop)
        finally:
            stop.set()

    async def _replace(self, bundle: Bundle, folder: Path) -> None:
        self._report("starting", f"starting {bundle.bundle_id}")
        taken = self._serving.options.port if self._serving and self._serving.alive else None
        options = options_for(self._settings, bundle, folder, await free_port(self._settings, taken))
        process = await asyncio.to_thread(self._launch, options, self._watch)
        self._processes.append(process)
        old = self._serving
        try:
            await process.start()
            await process.ready()
            self._report("warming", f"{bundle.bundle_id} is ready; one request to warm it up")
            await self._warm(options)
            await self._commit(bundle, folder, Serving(bundle, options, process))
        except BaseException as exc:
            # Cancelled in the midst of an installation it may have requests; else nobody has ever used it.
            await self._end(process, at_once=not (self._committed and isinstance(exc, asyncio.CancelledError)))
            raise
        if old is not None:
            self._report("stopping_old", f"{bundle.bundle_id} serves; stopping {old.bundle.bundle_id}")
            await self._end(old.process)

    async def _commit(self, bundle: Bundle, folder: Path, serving: Serving) -> None:
        """The point of no return: from here on a newer pointer waits."""
        self._committed = True
        self._report("installing", f"new requests go to {bundle.bundle_id}; the old ones finish")
        try:
            await self._install(bundle, folder, serving.options.base_url)
        except Exception as exc:
            logger.exception("the gateway cannot take %s", bundle.bundle_id)
            raise ServingError(f"the gateway cannot take {bundle.bundle_id}: {exc}") from exc
        self._serving, self._last_good = serving, bundle.bundle_id

    async def _end(self, process: Supervisor, *, at_once: bool = False) -> None:
        """Stop a process; goes on to its end even when the waiting for it is cancelled."""
        if process in self._processes:
            self._processes.remove(process)
            task = asyncio.create_task(process.stop(grace_s=0.0 if at_once else None))
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)
            await asyncio.shield(task)

    def _watch(self, event: Event) -> None:
        if self._state.phase == "starting" and event.state in (State.STARTING, State.RESTARTING):
            self._report("starting", f"{self._state.wanted}: {event.message}")
        self._observer(event)

    def _watch_serving(self) -> None:
        """Note when the process that serves has died for good; until then its supervisor restarts it."""
        now = self._serving
        if now is None or now.alive or self._state.serving is None:
            return
        tail = now.process.log_tail
        self._report("failed", f"{now.bundle.bundle_id} died for good; promote it again to retry", log_tail=tail)

    def _fail(self, bundle_id: str, exc: Exception) -> None:
        logger.error("student: %s does not serve: %s", bundle_id, exc)
        tail = exc.log_tail if isinstance(exc, ProcessFailed) else ()
        self._report("failed", f"{bundle_id} does not serve: {_reason(exc)}", log_tail=tail)

    def _report(self, phase: Phase, message: str, *, log_tail: tuple[str, ...] = (), **changes: None) -> None:
        now = time.time()
        serving = self._serving if self._serving and self._serving.alive else None
        self._state = msgspec.structs.replace(
            self._state,
            phase=phase,
            time_s=now,
            since_s=self._state.since_s if phase == self._state.phase else now,
            message=message,
            log_tail=log_tail,
            serving=serving.bundle.bundle_id if serving else self._last_good if phase == "stopped" else None,
            **{"base_url": serving.options.base_url if serving else None, **changes},
        )

    async def _publish(self) -> None:
        """Write the state when it has changed; off the event loop, which serves requests."""
        process = self._serving.process.state.value if self._serving and self._state.phase != "stopped" else None
        state = self._state = msgspec.structs.replace(self._state, process=process)
        if state == self._published:
            return
        try:
            await asyncio.to_thread(write_state, self._registry.root, state)
        except OSError as exc:
            logger.warning("student: the state is not written: %s", exc)
        self._published = state


def _reason(exc: Exception) -> str:
    """In one line, without a log."""
    return exc.reason if isinstance(exc, ProcessFailed) else str(exc)
