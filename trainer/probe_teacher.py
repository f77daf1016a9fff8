"""`locum train probe-teacher`: what the teacher's endpoint can give, found out before a run needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from trainer.evaluation.closeness import same_tokenizer
from trainer.recipe import Recipe, RecipeError, load
from trainer.rescoring import Refused, Teacher, largest_k
from trainer.stage import StageError

FALLBACK_IDS = (1, 2, 3, 4)
"""Any tokens will do to ask for logprobs where the endpoint returns no ids of its own."""
PROBE_ATTEMPTS = 2
RESPONSE_DISTILLATION = "train.method = 'sft' works all the same: the student learns from the teacher's text"


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; `problems` are why `topk` is impossible, `notes` what to know anyway."""

    base_url: str
    model: str
    reachable: bool = False
    models: tuple[str, ...] = ()
    context_window_tokens: int | None = None
    server_version: str | None = None
    fingerprint: str | None = None
    token_ids: bool = False
    top_k_wanted: int
    top_k: int | None = None
    """What a run will use: the largest that is accepted, at most what the recipe wants."""
    same_tokenizer: bool = False
    topk_possible: bool = False
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


async def probe(
    recipe: Recipe,
    teacher_of: Callable[[Recipe], Teacher] = lambda each: Teacher(each.teacher, attempts=PROBE_ATTEMPTS),
) -> ProbeReport:
    """Ask the endpoint. Raises: StageError: the key's variable is not set."""
    options = recipe.teacher
    found: dict[str, Any] = {"base_url": options.base_url, "model": options.model, "top_k_wanted": options.top_k}
    problems: list[str] = []
    notes = [_licence_note(recipe)]
    async with teacher_of(recipe) as teacher:
        listing = await teacher.get("/models")
        found |= _models(listing, options.model, notes)
        try:
            ids = await _chat(teacher, options.model, found)
            found["reachable"] = True
            found["top_k"], refusal = await largest_k(teacher, options.top_k, ids or FALLBACK_IDS)
            if found["top_k"] < options.top_k:
                notes.append(
                    f"teacher.top_k is {options.top_k} and the endpoint takes {found['top_k']} ({refusal}): a run uses "
                    f"{found['top_k']}; start vLLM with --max-logprobs {options.top_k} for more"
                )
        except (StageError, Refused) as exc:
            problems.append(str(exc))
        version = await teacher.get("/../version")
        found["server_version"] = version.get("version") if isinstance(version, dict) else None
    if found.get("reachable") and not found.get("token_ids"):
        notes.append("answers carry no token ids; prompts and answers are tokenized with teacher.tokenizer instead")
    reason = same_tokenizer(Path(recipe.student.base_model), options.tokenizer)
    found["same_tokenizer"] = not reason
    if reason:
        problems.append(f"teacher.tokenizer: {reason}")
    return ProbeReport(**found, topk_possible=not problems, problems=tuple(problems), notes=tuple(notes))


def _models(listing: Any, wanted: str, notes: list[str]) -> dict[str, Any]:
    entries = listing.get("data", []) if isinstance(listing, dict) else []
    models = {str(each.get("id")): each for each in entries if isinstance(each, dict)}
    if models and wanted not in models:
        notes.append(f"teacher.model: {wanted!r} is not among the models that it lists: {', '.join(sorted(models))}")
    window = models.get(wanted, {}).get("max_model_len")
    return {"models": tuple(sorted(models)), "context_window_tokens": window if isinstance(window, int) else None}


async def _chat(teacher: Teacher, model: str, found: dict[str, Any]) -> list[int]:
    """One short chat request; the prompt's ids where they come back. Raises: StageError, Refused."""
    body: dict[str, Any] = {
        "model": model, "max_tokens": 1, "temperature": 0, "messages": [{"role": "user", "content": "Say yes."}],
    }  # fmt: skip
    try:
        content = await teacher.post("/chat/completions", {**body, "return_token_ids": True})
    except Refused:
        content = await teacher.post("/chat/completions", body)
    try:
        answer = msgspec.json.decode(content, type=dict[str, Any])
        ids = answer.get("prompt_token_ids")
        found["token_ids"] = bool(ids) and bool(answer["choices"][0].get("token_ids"))
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError, AttributeError) as exc:
        raise StageError(f"teacher: {found['base_url']} gives no OpenAI answer: {exc!r}") from exc
    found["fingerprint"] = answer.get("system_fingerprint")
    return [int(each) for each in ids or ()]


def _licence_note(recipe: Recipe) -> str:
    stated = (
        f"teacher.licence is {recipe.teacher.licence!r}" if recipe.teacher.licence else "teacher.licence is not set"
    )
    also = " and `conditional`" if recipe.consent.accept_conditional else ""
    return (
        f"{stated}; what counts is the flag `distillation` of each record, set in the gateway's [teacher]: this recipe "
        f"learns from `allowed`{also} only"
    )


@click.command("probe-teacher")
@click.option(
    "-c", "--config", "recipe_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The recipe (TOML).",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def probe_teacher_command(recipe_file: Path, as_json: bool) -> None:
    """Ask the teacher's endpoint what it can give: logprobs, token ids, the same tokenizer.

    Exits with 0 when `topk` is possible, with 1 when it is not, with 2 for a wrong recipe.

    \b
    Example:
      locum train probe-teacher -c recipe.toml
    """
    try:
        report = asyncio.run(probe(load(recipe_file)))
    except (RecipeError, StageError) as exc:
        raise _WrongInput(str(exc)) from exc
    click.echo(msgspec.json.encode(report).decode() if as_json else describe(report))
    raise SystemExit(0 if report.topk_possible else 1)


def describe(report: ProbeReport) -> str:
    """For a person."""
    unknown = "unknown"
    lines = [
        f"endpoint        {report.base_url} ({'reachable' if report.reachable else 'NOT reachable'})",
        f"model           {report.model}, window {report.context_window_tokens or unknown} tokens",
        f"server          version {report.server_version or unknown}, fingerprint {report.fingerprint or unknown}",
        f"token ids       {'yes' if report.token_ids else 'no'}",
        f"top_k           {report.top_k if report.top_k is not None else unknown} (wanted {report.top_k_wanted})",
        f"same tokenizer  {'yes' if report.same_tokenizer else 'no'}",
    ]
    lines += [f"note: {each}" for each in report.notes]
    lines += [f"problem: {each}" for each in report.problems]
    lines.append("topk is possible" if report.topk_possible else f"topk is impossible; {RESPONSE_DISTILLATION}")
    return "\n".join(lines)


class _WrongInput(click.ClickException):
    exit_code = 2
