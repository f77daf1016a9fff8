"""The story: traffic at a cautious threshold, replay, another threshold as a new policy version, traffic again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from policies.traffic.reader import shadows
from trainer.claim.client import Answered, Plan, send
from trainer.claim.data import Case, is_right
from trainer.claim.operate.choice import Choice, cheapest, values_to_try
from trainer.claim.operate.figures import bill, records_of, scores, truth
from trainer.claim.operate.stand import Gateway
from trainer.claim.servers import CommandFailed, locum
from trainer.claim.steps import Result
from trainer.stage import Progress

JUDGED_ONE_IN = 4
"""People look at every fourth answer."""
MAX_FELL_BACK = 0.05
QUIET_S = 10.0
"""Without a new shadow answer for so long, all of them are there."""
SHADOWS_TIMEOUT_S = 600.0


@dataclass
class Session:
    """One run."""

    gateway: Gateway
    folder: Path
    """Where answers are kept."""
    progress: Callable[[str], Progress]
    teacher_alone: dict[str, Answered]
    """What is known of the teacher's own answers, for the comparison with the truth."""
    quiet_s: float = QUIET_S

    async def run(self, before: Sequence[Case], after: Sequence[Case]) -> Result:
        """Raises: SendingFailed, CommandFailed, TrafficError."""
        first = await self._part("before", before, since_s=0.0)
        found = await self._replay(first["scores"])
        choice = cheapest(found["sweep"], found["baseline"])
        figures: Result = {
            "stats": await locum("log", "stats", str(self.gateway.traffic)),
            "quality": await locum("log", "quality", str(self.gateway.traffic)),
            "replay": found,
            "choice": {"value": choice.value, "why": choice.why, "predicted": choice.report},
            "before": first,
            "after": None,
        }
        if choice.value is None:
            return figures
        changed = await self._apply(choice)
        second = await self._part("after", after, since_s=changed["applied_s"])
        quality = await locum("log", "quality", str(self.gateway.traffic), "--since", changed["since"])
        return figures | {"change": changed, "after": second, "quality_after": quality}

    async def _part(self, name: str, cases: Sequence[Case], since_s: float) -> Result:
        """A part of the traffic, with people's judgements behind it."""
        key = {"authorization": f"Bearer {self.gateway.api_key}"}
        plan = Plan(f"{self.gateway.url}/v1", "auto", key, {"tags": {"app": "bank"}})
        answers = await send(cases, plan, self.folder / f"{name}.jsonl", self.progress(f"traffic {name}"))
        await self._shadows(name)
        await self._judge(name, cases, answers)
        traffic = self.gateway.traffic
        records = await asyncio.to_thread(records_of, traffic, answers)
        failed = sum(record.fallback_cause is not None for record in records)
        if failed > MAX_FELL_BACK * len(records):
            raise CommandFailed(
                f"{failed} of {len(records)} answers came from the other model because the chosen one failed: that is "
                "no traffic to judge a threshold by; see gateway.log, student.log and teacher.log"
            )
        quality = await locum(
            "log", "quality", str(traffic), "--json", *(["--since", _moment(since_s)] if since_s else [])
        )
        return {
            "bill": bill(records),
            "scores": list(scores(records)),
            "quality": json.loads(quality)["total"],
            "truth": truth(cases, answers, self.teacher_alone),
        }

    async def _shadows(self, name: str) -> None:
        """Until no further answer of the other model comes. Raises: CommandFailed."""
        show = self.progress(f"shadows {name}")
        count, last_s, started_s = -1, time.monotonic(), time.monotonic()
        while time.monotonic() - last_s < self.quiet_s:
            if time.monotonic() - started_s > SHADOWS_TIMEOUT_S:
                raise CommandFailed(f"shadow answers still come after {SHADOWS_TIMEOUT_S:g} s; see student.log")
            there = await asyncio.to_thread(lambda: sum(1 for _ in shadows(self.gateway.traffic)))
            if there != count:
                count, last_s = there, time.monotonic()
            show(there, None, f"{there:,} shadow answers")
            await asyncio.sleep(min(1.0, self.quiet_s / 4))

    async def _judge(self, name: str, cases: Sequence[Case], answers: dict[str, Answered]) -> None:
        """People say of some answers whether they are right, and what would have been. Raises: CommandFailed."""
        show, judged = self.progress(f"feedback {name}"), cases[::JUDGED_ONE_IN]
        headers = {"authorization": f"Bearer {self.gateway.api_key}"}
        async with httpx.AsyncClient(timeout=30, headers=headers, trust_env=False) as client:
            for number, case in enumerate(judged, 1):
                answer = answers[case.id]
                body = {
                    "decision_id": answer.decision_id,
                    "score": float(is_right(case, answer.text)),
                    "label": case.label,
                    "source": "human",
                }
                response = await client.post(f"{self.gateway.url}/v1/feedback", json=body)
                if response.status_code != 200:
                    raise CommandFailed(f"/v1/feedback: HTTP {response.status_code}: {response.text[:500]}")
                show(number, len(judged), "judgements")

    async def _replay(self, drafts: Sequence[float]) -> Result:
        """Every threshold that the scores of the log suggest. Raises: CommandFailed."""
        values = values_to_try(drafts)
        if not values:
            raise CommandFailed("no draft in the log has a score: does the student's bundle have a calibrator?")
        body = {"sweep": {"policy": "cascade", "option": "threshold", "values": values}}
        self.progress("replay")(0, None, f"{len(values)} thresholds")
        found: Result = await self.gateway.admin("POST", "replay", body)
        return found

    async def _apply(self, choice: Choice) -> Result:
        """The chosen threshold in a new version of the policy document. Raises: CommandFailed."""
        current = await self.gateway.admin("GET", "policy")
        document = current["document"]
        cascade = next(each for each in document["routing"]["policies"] if each["type"] == "cascade")
        was, cascade["threshold"] = cascade["threshold"], choice.value
        body = {"document": document, "expected_version": current["version"], "comment": choice.why}
        put = await self.gateway.admin("PUT", "policy", body)
        applied_s = time.time()
        self.progress("apply")(0, None, f"threshold {choice.value}")
        return {
            "from": was,
            "to": choice.value,
            "version": put["version"],
            "applied_s": applied_s,
            "since": _moment(applied_s),
        }


def _moment(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
