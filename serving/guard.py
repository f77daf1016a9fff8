"""Runs one command and makes sure that nothing of it outlives the supervisor. Stdlib only; executed as a script.

    python -I -S guard.py GRACE_S CORES COMMAND...

The supervisor starts the guard in a session of its own and holds the other end of the guard's standard input. When
that end closes, the supervisor is dead (even by SIGKILL): the guard stops the command and then whatever is left of
it. `PR_SET_PDEATHSIG` alone would not do: it reaches the direct child only, while vLLM's engine is a grandchild.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
REAP_ROUNDS = 50
REAP_INTERVAL_S = 0.02


def main(argv: list[str]) -> int:
    grace_s, cores, command = float(argv[0]), argv[1], argv[2:]
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    try:
        # preexec_fn is safe here: this process has one thread.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        )
    except OSError as exc:
        sys.stderr.write(f"cannot start {command[0]}: {exc}\n")
        return 127
    code = _watch(child, wake_reader, grace_s)
    _kill_leftovers()
    return code if code >= 0 else 128 - code


def _watch(child: "subprocess.Popen[bytes]", wake_reader: int, grace_s: float) -> int:
    """Forward SIGTERM and SIGINT to the command until it ends; stop it when the supervisor is gone."""
    kill_at = None
    sources = [sys.stdin.fileno(), wake_reader]
    while child.poll() is None:
        timeout_s = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        ready = select.select(sources, [], [], timeout_s)[0]
        if wake_reader in ready:
            for number in os.read(wake_reader, 64):
                if number in (signal.SIGTERM, signal.SIGINT):
                    child.send_signal(signal.SIGTERM)
        if sources[0] != wake_reader and sources[0] in ready and not os.read(sources[0], 64):
            sources = [wake_reader]
            kill_at = time.monotonic() + grace_s
            child.terminate()
        if kill_at is not None and time.monotonic() >= kill_at:
            child.kill()
    return child.returncode


def _kill_leftovers() -> None:
    """SIGKILL to everything in our process group and to orphans that were handed to us, until none is left."""
    for _ in range(REAP_ROUNDS):
        left = _leftovers()
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left:
            return
        time.sleep(REAP_INTERVAL_S)


def _leftovers() -> list[int]:
    own = os.getpid()
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():  # noqa: PTH112, PTH208 - stdlib imports cost start-up time
        if not entry.isdigit() or int(entry) == own:
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                state, parent, group = file.read().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if state != "Z" and (int(group) == os.getpgrp() or int(parent) == own):
            found.append(int(entry))
    return found


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the closed standard input still tells."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
