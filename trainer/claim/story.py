"""The story, step by step: a teacher's traffic becomes a student, and the two together are measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import httpx

from trainer.claim.client import Answered, Plan, check_student, send, wait_for_student
from trainer.claim.data import Case, Division, accuracy, write_cases
from trainer.claim.recipe_file import RecipeParts, recipe_toml
from trainer.claim.servers import START_TIMEOUT_S, locum, running_gateway, running_judge, running_model
from trainer.claim.settings import Settings
from trainer.claim.steps import Ledger, Result

EVAL = {"x-router-purpose": "eval"}
PASS_OR_NOT = (0, 1)
"""`locum train run` ends with 1 when the gate does not pass; the reason is in its report."""


class Story:
    """The main run: everything but the teacher's training and the baselines."""

    def __init__(self, settings: Settings, ledger: Ledger, division: Division, teacher: Path, base: Path) -> None:
        self._settings = settings
        self._ledger = ledger
        self._division = division
        self._teacher = teacher
        self._base = base
        self._answers = settings.work / "answers"
        self._answers.mkdir(parents=True, exist_ok=True)

    async def run(self) -> None:
        """All steps that are not done yet, with the models and the gateway running."""
        settings, show = self._settings, self._ledger.progress
        if self._ledger.found("test"):
            return
        cores = settings.teacher_cores
        async with (
            running_model(self._teacher, "teacher", cores, settings, show("serve the teacher")) as teacher_url,
            running_gateway(settings, teacher_url, show("serve the gateway")) as gateway,
        ):
            await self._traffic(gateway)
            await self._train(teacher_url)
            await self._promote("promote", self._kept("train run")["bundle_id"])
            await self._tune(gateway)
            await self._promote("promote the tuned", self._kept("tune")["bundle_id"])
            await self._test(gateway)

    def _kept(self, name: str) -> Result:
        result = self._ledger.found(name)
        assert result is not None  # noqa: S101 - the steps before have run
        return result

    async def _traffic(self, gateway: str) -> None:
        """Unlabelled requests; with an empty registry the teacher answers all of them."""
        if self._ledger.found("traffic"):
            return
        with self._ledger.timed({}) as result:
            plan = Plan(f"{gateway}/v1", "teacher")
            answers = await self._send("traffic", self._division.traffic, plan)
        result |= {"requests": len(answers), "decisions": len({a.decision_id for a in answers.values()})}
        self._ledger.keep("traffic", result)

    async def _train(self, teacher_url: str) -> None:
        """`locum train run`: from the log to a bundle in the registry."""
        if self._ledger.found("train run"):
            return
        settings, division = self._settings, self._division
        evaluation, tuning = settings.work / "evaluation.jsonl", settings.work / "tuning.jsonl"
        write_cases(tuning, division.tuning)
        write_cases(settings.work / "test.jsonl", division.test)
        sha256 = write_cases(evaluation, division.evaluation)
        recipe = settings.work / "recipe.toml"
        async with running_judge(settings, self._ledger.progress("serve the judge")) as judge_url:
            parts = RecipeParts(
                evaluation=evaluation,
                evaluation_sha256=sha256,
                tuning=tuning,
                teacher_url=teacher_url,
                teacher_model=self._teacher,
                base_model=self._base,
                labels=division.labels,
                judge_url=judge_url,
            )
            recipe.write_text(recipe_toml(settings, parts), encoding="utf-8")
            with self._ledger.timed({}) as result:
                await locum("train", "run", "-c", str(recipe), expected=PASS_OR_NOT)
        status = json.loads(await locum("train", "status", "-c", str(recipe), "--json"))
        result |= {
            "bundle_id": summary_of(status, "bundle")["bundle_id"],
            "verdict": summary_of(status, "gate")["verdict"],
            "status": status,
        }
        self._ledger.keep("train run", result)

    async def _promote(self, name: str, bundle_id: str) -> None:
        """Switch the running gateway to a bundle. A verdict other than PASS needs to be overruled, and is reported."""
        settings = self._settings
        registry = str(settings.work / "students")
        arguments = ["student", "promote", bundle_id, "--registry", registry, "--wait"]
        verdict = self._kept("train run")["verdict"]
        if verdict != "pass":
            arguments += [
                "--force",
                "--reason",
                f"the gate said {verdict}; the claim measures this student all the same",
            ]
        with self._ledger.timed({}) as result:
            await locum(*arguments)
        self._ledger.keep(name, result | {"bundle_id": bundle_id, "forced": str(verdict != "pass")})

    async def _tune(self, gateway: str) -> None:
        """Both models answer the tuning cases, people's labels go in as feedback, `locum tune` sets the threshold."""
        if self._ledger.found("tune"):
            return
        settings, cases = self._settings, self._division.tuning
        bundle_id = self._kept("train run")["bundle_id"]
        await wait_for_student(f"{gateway}/v1", bundle_id, timeout_s=START_TIMEOUT_S)
        with self._ledger.timed({}) as result:
            for model in ("student", "teacher"):
                plan = Plan(f"{gateway}/v1", model, EVAL, {"tags": {"set": "tune"}})
                answers = await self._send(f"tune-{model}", cases, plan)
                await self._feedback(gateway, cases, answers, f"feedback-{model}")
            output = await locum(
                "tune", str(settings.work / "traffic"),
                "--registry", str(settings.work / "students"),
                "--bundle", bundle_id,
                "--purpose", "eval",
                "--tag", "set=tune",
                "--max-teacher-share", str(settings.size.tuning_share),
                "--exclude", str(settings.work / "test.jsonl"),
                "--exclude", str(settings.work / "evaluation.jsonl"),
                "--json",
            )  # fmt: skip
        tuned = json.loads(output)
        self._ledger.keep("tune", result | {"bundle_id": tuned["bundle_id"], "tuned": tuned})

    async def _feedback(self, gateway: str, cases: Sequence[Case], answers: dict[str, Answered], name: str) -> None:
        """`POST /v1/feedback` with the label of every case; a repetition replaces what it repeats."""
        progress = self._ledger.progress(name)
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            for number, case in enumerate(cases, 1):
                body = {"decision_id": answers[case.id].decision_id, "label": case.label, "source": "human"}
                response = await client.post(f"{gateway}/v1/feedback", json=body)
                response.raise_for_status()
                progress(number, len(cases), "labels")

    async def _test(self, gateway: str) -> None:
        """The whole test set, three times: routed, by the student alone, by the teacher alone."""
        cases, bundle_id = self._division.test, self._kept("tune")["bundle_id"]
        result: Result = {"n": len(cases), "bundle_id": bundle_id}
        await wait_for_student(f"{gateway}/v1", bundle_id, timeout_s=START_TIMEOUT_S)
        with self._ledger.timed(result):
            for name, model in (("routed", "auto"), ("student", "student"), ("teacher", "teacher")):
                answers = await self._send(f"test-{name}", cases, Plan(f"{gateway}/v1", model, EVAL))
                check_student(answers, bundle_id, self._answers / f"test-{name}.jsonl")
                texts = {key: answer.text for key, answer in answers.items()}
                result[name] = round(accuracy(cases, texts), 4)
        self._ledger.keep("test", result)

    async def _send(self, name: str, cases: Sequence[Case], plan: Plan) -> dict[str, Answered]:
        return await send(cases, plan, self._answers / f"{name}.jsonl", self._ledger.progress(name))


def summary_of(status: Result, stage: str) -> Result:
    """A stage's summary in the output of `locum train status --json`."""
    return next(dict(each["record"]["summary"]) for each in status["stages"] if each["stage"] == stage)


def stage_folder(status: Result, stage: str) -> Path:
    """Where a finished stage keeps its output."""
    return Path(next(each["folder"] for each in status["stages"] if each["stage"] == stage))
