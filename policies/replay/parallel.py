"""Files of a log read by several processes.

Each has one pipe in and one out: a question is a file, the answer is what it holds, both pickled. A process ends when
its pipe does, so none outlives the one that started it, however that ends.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

from policies.replay.files import FilePart, FileReader, LogFile, ScoreText
from policies.traffic.folder import LogFolder
from policies.traffic.sealing import SealError
from policies.traffic.survey import TrafficError, open_folder

PARALLEL_FROM_BYTES = 32 * 2**20
"""Less is read sooner than processes are started."""


class ReaderDied(OSError):
    """A process that read files ended by itself."""


@contextmanager
def reading(
    log: LogFolder,
    files: Sequence[LogFile],
    score_text: ScoreText | None,
    jobs: int,
    *,
    parallel_from_bytes: int = PARALLEL_FROM_BYTES,
) -> Iterator[Iterator[FilePart]]:
    """What the files hold, in their order, read by up to `jobs` processes while the context lasts.

    Raises: FileNotFoundError, SealError, TrafficError, ReaderDied.
    """
    jobs = min(jobs, len(files))
    if jobs < 2 or sum(file.size_bytes for file in files) < parallel_from_bytes:
        yield map(FileReader(log, score_text).read, files)
        return
    processes = [_ReaderProcess(log.path, score_text) for _ in range(jobs)]
    threads = ThreadPoolExecutor(jobs)
    idle: SimpleQueue[_ReaderProcess] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def read(file: LogFile) -> FilePart:
        process = idle.get()
        try:
            return process.read(file)
        finally:
            idle.put(process)

    try:
        futures = [threads.submit(read, file) for file in files]
        yield (future.result() for future in futures)
    finally:
        for process in processes:
            process.kill()  # whoever waits for an answer hears of it
        threads.shutdown(cancel_futures=True)
        for process in processes:
            process.close()


class _ReaderProcess:
    """One process. For one thread at a time."""

    def __init__(self, folder: Path, score_text: ScoreText | None) -> None:
        command = [sys.executable, "-m", "policies.replay.reader"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._greeting = pickle.dumps((folder, score_text))

    def read(self, file: LogFile) -> FilePart:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - both are pipes
        try:
            self._process.stdin.write(self._greeting + pickle.dumps(file))
            self._process.stdin.flush()
            self._greeting = b""
            reply: FilePart | Exception = pickle.load(self._process.stdout)  # noqa: S301 - from our own process
        except (OSError, EOFError, pickle.UnpicklingError) as exc:
            code = self._process.wait()
            how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise ReaderDied(f"a process that read the log ended {how}; --jobs 1 needs the least memory") from exc
        if isinstance(reply, Exception):
            raise reply
        return reply

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what was not written any more
                    pipe.close()


def answer() -> None:
    """What such a process does: read files until its pipes end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started this one ends it
    source, target = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        folder, score_text = pickle.load(source)  # noqa: S301 - from our own process
        reader = FileReader(open_folder(folder), score_text)
        while True:
            file = pickle.load(source)  # noqa: S301 - from our own process
            reply: FilePart | Exception
            try:
                reply = reader.read(file)
            except (FileNotFoundError, SealError, TrafficError) as exc:
                reply = exc
            pickle.dump(reply, target, protocol=pickle.HIGHEST_PROTOCOL)
            target.flush()
