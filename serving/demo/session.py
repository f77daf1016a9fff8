"""One run of the demo, from the models on disk to the report."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import platform
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from serving.demo.corpus import build_corpus
from serving.demo.models import ReadyModel, prepare_student_model, prepare_teacher_model
from serving.demo.progress import Steps
from serving.demo.questions import question_bank
from serving.demo.report import Document, print_report, write_document
from serving.demo.requests import CountTokens, DemoRequest, build
from serving.demo.results import Prices, Result
from serving.demo.retrieval import Encoder, Index, MiniLm, open_index
from serving.demo.runner import run_requests
from serving.demo.settings import Endpoint, free_port, split_cores, usable_cores
from serving.demo.stack import Student, ready_together, running_gateway, running_student, running_teacher
from serving.demo.summary import GatewayCounts, read_gateway_counts, summarize
from serving.student import StudentProcess


@dataclass(frozen=True)
class RemoteTeacher:
    """An API that the user has."""

    base_url: str
    model: str
    api_key_env: str | None


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command line said."""

    folder: Path
    cache: Path
    output: Path
    port: int | None
    default_port: int
    concurrency: int
    keep: bool
    student_model: Path | None
    vllm_python: str | None
    teacher: RemoteTeacher | None
    prices: Prices


class Interrupted(Exception):
    """Ends work in a thread that nobody waits for any more."""


class Session:
    """Runs once. Whatever ends it, finished requests are reported and every child is stopped."""

    def __init__(self, options: DemoOptions, console: Console) -> None:
        self._options = options
        self._console = console
        self._results: list[Result] = []
        self._requests: list[DemoRequest] = []
        self._sending_since_s = 0.0
        self._reported = False
        self._models: dict[str, dict[str, str]] = {}
        self._versions = versions()
        self._stop = threading.Event()

    async def run(self) -> int:
        """Returns: the exit code.

        Raises:
            ServingError: a model cannot be prepared or started.
        """
        try:
            async with AsyncExitStack() as stack:
                with Steps(self._console) as steps:
                    url = await self._start(stack, steps)
                    await self._send(url, steps)
                problems = self._report(partial=False, gateway=await gateway_counts(url))
                if self._options.keep:
                    self._invite(url)
                    await asyncio.Event().wait()
        finally:
            self._stop.set()
            if self._requests and not self._reported:
                self._report(partial=True, gateway=None)
        return 1 if problems else 0

    async def _start(self, stack: AsyncExitStack, steps: Steps) -> str:
        """Everything until the gateway is ready; returns its URL."""
        options = self._options
        options.folder.mkdir(parents=True, exist_ok=True)
        student_model, teacher_model = await asyncio.gather(
            asyncio.to_thread(student_source, options.student_model, options.cache, self._cancellable(steps)),
            asyncio.to_thread(teacher_source, options.teacher, options.cache, self._cancellable(steps)),
        )
        self._models |= {"student": student_model.facts, "teacher": teacher_model.facts}
        student_cores, teacher_cores = split_cores(usable_cores())
        student = await stack.enter_async_context(
            running_student(Student(student_model.path, options.vllm_python, tuple(student_cores)), options.folder, steps)
        )
        teacher = await stack.enter_async_context(
            running_teacher(teacher_model, options.vllm_python, tuple(teacher_cores), options.folder, steps)
        )
        self._versions |= student.versions
        self._requests = await asyncio.to_thread(self._prepare_requests, student_model.path, steps)
        await ready_together(stack, student.process, *teacher.processes)
        port = options.port or free_port(options.default_port)
        return await stack.enter_async_context(
            running_gateway(
                options.folder,
                port=port,
                student=student.endpoint,
                teacher=teacher.endpoint,
                tokenizer=student_model.path,
                prices=options.prices,
                steps=steps,
            )
        )

    def _prepare_requests(self, student_model: Path, steps: Steps) -> list[DemoRequest]:
        step = "embed Python's docstrings"
        steps.update(step, "loading sentence-transformers")
        encoder = MiniLm()
        self._models["encoder"] = {"name": "all-MiniLM-L6-v2", "sha256": encoder.sha256}
        chunks = build_corpus()
        index = open_index(chunks, encoder, self._options.folder, self._checked(steps.counted(step, "chunks")))
        requests = build(question_bank(), index.search, token_counter(student_model))
        steps.done(step, f"{len(chunks):,} chunks, {len(requests)} requests")
        return requests

    async def _send(self, url: str, steps: Steps) -> None:
        step = "send the requests"
        total = len(self._requests)
        self._sending_since_s = time.monotonic()

        def finished(result: Result) -> None:
            self._results.append(result)
            steps.update(step, f"{len(self._results)} of {total}: {result.id} {result.route or 'failed'}")

        steps.update(step, f"0 of {total}")
        await run_requests(
            self._requests,
            base_url=f"{url}/v1",
            prices=self._options.prices,
            concurrency=self._options.concurrency,
            finished=finished,
        )
        steps.done(step, f"{total} requests")

    def _report(self, *, partial: bool, gateway: GatewayCounts | None) -> list[str]:
        """Print the tables and write the file. Returns: the problems."""
        self._reported = True
        wall_s = time.monotonic() - self._sending_since_s if self._sending_since_s else 0.0
        summary = summarize(self._results, planned=len(self._requests), wall_s=wall_s, gateway=gateway)
        document = Document(
            partial=partial,
            requests=self._results,
            summary=summary,
            problems=summary.problems,
            prices_usd_per_1m_tokens=self._options.prices,
            versions=self._versions,
            models=self._models,
        )
        print_report(self._console, document)
        write_document(document, self._options.output)
        self._console.print(f"Written: {self._options.output}. Logs and locum.toml: {self._options.folder}")
        return summary.problems

    def _invite(self, url: str) -> None:
        body = '{"model": "auto", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
        self._console.print(f"\nEverything keeps running until Ctrl-C. Base URL: [bold]{url}/v1[/]")
        self._console.print(
            f"curl -i {url}/v1/chat/completions -H 'content-type: application/json' -d {shlex.quote(body)}",
            soft_wrap=True,
            markup=False,
        )

    def _checked(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Work in a thread cannot be cancelled: it learns of the end from its own progress."""

        def report(count: int, total: int) -> None:
            if self._stop.is_set():
                raise Interrupted
            progress(count, total)

        return report


async def gateway_counts(url: str) -> GatewayCounts:
    """The gateway's own numbers."""
    async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
        answer = await client.get(f"{url}/metrics")
        answer.raise_for_status()
    return read_gateway_counts(answer.text)


def token_counter(student_model: Path) -> CountTokens:
    """Counts with the student's own tokenizer, so that long inputs are a little too long and not much."""
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(student_model / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def versions() -> dict[str, str]:
    """What produced the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("locum", "openai", "sentence-transformers"):
        found[name] = importlib.metadata.version(name)
    git = shutil.which("git")
    if git is not None:
        folder = Path(__file__).parent
        done = subprocess.run(
            [git, "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10
        )
        if done.returncode == 0:
            found["locum commit"] = done.stdout.strip()
    return found
