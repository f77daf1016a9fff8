"""One run of the demo, from the models on disk to the report."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.metadata
import json
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
from serving.demo.outlook import plan, standing
from serving.demo.progress import Steps
from serving.demo.questions import question_bank
from serving.demo.report import Document, print_report, write_document
from serving.demo.requests import CountTokens, DemoRequest, build
from serving.demo.results import Prices, Result
from serving.demo.retrieval import Hit, MiniLm, open_index
from serving.demo.runner import run_requests
from serving.demo.settings import Endpoint, GatewaySetup, free_port, split_cores, usable_cores
from serving.demo.stack import all_ready, running_gateway, running_student, running_teacher
from serving.demo.summary import GatewayCounts, read_gateway_counts, summarize
from serving.models import PreparedModel, prepare_student, prepare_teacher
from serving.supervisor import Supervisor


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
        async with AsyncExitStack() as stack:
            try:
                self._console.print(plan(local_teacher=self._options.teacher is None), markup=False, soft_wrap=True)
                with Steps(self._console) as steps:
                    url = await self._start(stack, steps)
                    await self._send(url, steps)
                problems = self._report(partial=False, gateway=await gateway_counts(url))
                if self._options.keep:
                    self._invite(url)
                    await asyncio.Event().wait()
            finally:
                self._stop.set()
                if self._sending_since_s and not self._reported:
                    self._report(partial=True, gateway=None)
                self._console.print("Stopping the models and the gateway ...")
        return 1 if problems else 0

    async def _start(self, stack: AsyncExitStack, steps: Steps) -> str:
        """Everything until the gateway is ready; returns its URL. What can run side by side does."""
        options = self._options
        options.folder.mkdir(parents=True, exist_ok=True)
        student_cores, teacher_cores = split_cores(usable_cores())
        teacher_model = asyncio.create_task(self._teacher_model(steps))
        stack.callback(teacher_model.cancel)
        student_model = await self._student_model(steps)
        student = await stack.enter_async_context(
            running_student(student_model.path, options.vllm_python, student_cores, options.folder, steps)
        )
        self._versions[f"vllm ({student.build.flavour})"] = student.build.version
        requests = asyncio.create_task(asyncio.to_thread(self._prepare_requests, student_model.path, steps))
        stack.callback(requests.cancel)
        processes: list[Supervisor] = [student]
        model = await teacher_model
        if model is None:
            teacher = self._remote_teacher()
        else:
            local = await stack.enter_async_context(
                running_teacher(model.path, options.vllm_python, teacher_cores, options.folder, steps)
            )
            processes.append(local)
            teacher = Endpoint(local.base_url, "teacher")
        self._requests = await requests
        await all_ready(*processes)
        setup = GatewaySetup(
            port=options.port or free_port(options.default_port),
            student=Endpoint(student.base_url, "student"),
            teacher=teacher,
            prices=options.prices,
            tokenizer=student_model.path,
        )
        return await stack.enter_async_context(running_gateway(setup, options.folder, steps))

    async def _student_model(self, steps: Steps) -> PreparedModel:
        step, own = "prepare the student", self._options.student_model
        if own is not None:
            model = await asyncio.to_thread(model_of_folder, own)
        else:
            model = await asyncio.to_thread(
                prepare_student, self._said(steps, step), cache=self._options.cache, python=self._options.vllm_python
            )
        self._models["student"] = facts(model)
        steps.done(step, model.name)
        return model

    async def _teacher_model(self, steps: Steps) -> PreparedModel | None:
        """None when the teacher is the user's API."""
        if self._options.teacher is not None:
            self._models["teacher"] = {
                "name": self._options.teacher.model,
                "source": self._options.teacher.base_url,
            }
            return None
        step = "prepare the teacher"
        model = await asyncio.to_thread(prepare_teacher, self._said(steps, step), cache=self._options.cache)
        self._models["teacher"] = facts(model)
        steps.done(step, model.name)
        return model

    def _remote_teacher(self) -> Endpoint:
        teacher = self._options.teacher
        assert teacher is not None  # noqa: S101 - there is a local model otherwise
        return Endpoint(teacher.base_url, teacher.model, teacher.api_key_env)

    def _prepare_requests(self, student_model: Path, steps: Steps) -> list[DemoRequest]:
        step = "embed Python's docstrings"
        steps.update(step, "loading sentence-transformers")
        encoder = MiniLm()
        self._models["encoder"] = {"name": "all-MiniLM-L6-v2", "sha256": encoder.sha256}
        chunks = build_corpus()
        index = open_index(chunks, encoder, self._options.folder, self._checked(steps.counted(step, "chunks")))

        def search(question: str, k: int) -> list[Hit]:
            if self._stop.is_set():
                raise Interrupted
            return index.search(question, k)

        requests = build(question_bank(), search, token_counter(student_model))
        steps.done(step, f"{len(chunks):,} chunks, {len(requests)} requests")
        return requests

    async def _send(self, url: str, steps: Steps) -> None:
        step = "send the requests"
        total = len(self._requests)
        self._sending_since_s = time.monotonic()

        def finished(result: Result) -> None:
            self._results.append(result)
            steps.update(step, standing(self._results, total, time.monotonic() - self._sending_since_s))

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
        messages = [  # those of the first plain request: without the instruction so small a student wanders off
            {"role": "system", "content": "You are a helpful assistant. Reply in one short sentence."},
            {"role": "user", "content": "What is the capital of France?"},
        ]
        body = json.dumps({"model": "auto", "temperature": 0, "max_tokens": 40, "messages": messages})
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

    def _said(self, steps: Steps, step: str) -> Callable[[str], None]:
        def report(message: str) -> None:
            if self._stop.is_set():
                raise Interrupted
            steps.update(step, message)

        return report


async def gateway_counts(url: str) -> GatewayCounts:
    """The gateway's own numbers."""
    async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
        answer = await client.get(f"{url}/metrics")
        answer.raise_for_status()
    return read_gateway_counts(answer.text)


def facts(model: PreparedModel) -> dict[str, str]:
    """For `demo.json`."""
    return {"name": model.name, "source": model.source, "licence": model.licence, "sha256": model.sha256}


def model_of_folder(folder: Path) -> PreparedModel:
    """A student of the user's own; its hash is that of its weights."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    path = folder.absolute()
    return PreparedModel(path=path, sha256=digest.hexdigest(), name=folder.name, licence="unknown", source=str(path))


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
