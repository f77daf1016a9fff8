"""A traffic log out of a random generator, for measuring replay: any number of records, with drafts and shadows.

    python -m loadtests.replay_log traffic --records 1000000

The records are those of a gateway with `retrieval_confidence`, `long_reasoning` and a cascade whose threshold was 0.35.
Requests differ in difficulty; both models' answers get worse with it, the student's more. A share of the answers of
either model was shadowed and graded.
"""

from __future__ import annotations

import itertools
import math
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from policies.long_reasoning import LongReasoning

START_S = 1_793_000_000.0
SEGMENT_RECORDS = 20_000
STUDENT_USD = (0.02e-6, 0.04e-6)
TEACHER_USD = (2.5e-6, 10.0e-6)
CALIBRATOR = (4.0, 2.2)
"""Slope and intercept of P(the student is right) over the mean logprob."""
THRESHOLD, REASONING_THRESHOLD = 0.35, 0.6
TEXTS = 500
STUDENT_SHARE_DRAWN = 0.10
TEACHER_SHARE_DRAWN = 0.10
SENTENCE = (
    "please explain compare the contract clause of delivery and payment for our customer in the second quarter with "
    "numbers and steps so that everybody understands"
)


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


class Generator:
    """Records and what belongs to them, as JSON values."""

    def __init__(self, seed: int, *, days: float, capture: str = "full", text_bytes: int = 1500) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        self._days = days
        self._capture = capture
        words = SENTENCE.split()
        scorer = LongReasoning()._fitted.scorer
        texts = (" ".join(self._random.choices(words, k=max(1, text_bytes // 6)))[:text_bytes] for _ in range(TEXTS))
        self._texts = [(text, scorer.score(text)) for text in texts]

    def rows(self, count: int) -> Iterator[dict[str, Any]]:
        """Decision records, each followed by its shadow, if it has one."""
        for number in range(count):
            record, difficulty, logprob = self._record(number, number / count)
            yield record
            shadow = self._shadow(record, difficulty, logprob)
            if shadow is not None:
                yield shadow

    def _record(self, number: int, when: float) -> tuple[dict[str, Any], float, float]:
        dice = self._random
        difficulty = dice.random()
        tokens = int(dice.lognormvariate(5.5, 0.8))
        output = int(dice.lognormvariate(4.6, 0.5))
        text, multi_step = dice.choice(self._texts)
        confidence = min(1.0, max(0.0, dice.gauss(0.95 - 0.35 * difficulty, 0.12)))
        votes: list[dict[str, Any]] = [_vote("long_context", None, "fits", 0.0, 0.5)]
        decision = {"route": "student", "reason": "default", "policy": "default", "version": "file-generated"}
        if confidence < 0.55:
            votes.append(_vote("retrieval_confidence", "teacher", "low_confidence", 1 - confidence, 0.45))
            decision |= {"route": "teacher", "reason": "low_confidence", "policy": "retrieval_confidence"}
        else:
            votes.append(_vote("retrieval_confidence", None, "confident", 1 - confidence, 0.45))
            if multi_step > REASONING_THRESHOLD:
                votes.append(_vote("long_reasoning", "teacher", "multi_step", multi_step, REASONING_THRESHOLD))
                decision |= {"route": "teacher", "reason": "multi_step", "policy": "long_reasoning"}
            else:
                votes.append(_vote("long_reasoning", None, "single_step", multi_step, REASONING_THRESHOLD))
        logprob = -abs(dice.gauss(0.1 + 0.9 * difficulty * difficulty, 0.15))
        full = self._capture == "full"
        record: dict[str, Any] = {
            "schema": 1,
            "decision_id": f"{dice.getrandbits(96):024x}0{number:07x}",
            "created_s": START_S + when * self._days * 86_400,
            "endpoint": "/v1/chat/completions",
            "stream": False,
            "requested_model": "auto",
            "decision": decision,
            "votes": votes,
            "features": {
                "prompt_bytes": tokens * 4, "message_count": dice.randint(1, 5), "approx_prompt_tokens": tokens,
                "requested_output_tokens": 512, "student_window_tokens": 8192,
                "last_user_turn": text if full else "",
                "chunks": [{"text": "", "score": round(confidence * part, 4)} for part in (1.0, 0.9, 0.7)],
                "retrieval_attempted": True, "tenant": "default", "tags": {"team": dice.choice(("docs", "support"))},
            },
            "status": 200, "outcome": "ok", "finish_reason": "stop", "student": "student", "teacher": "teacher",
            "overhead_s": 0.001, "tags": {}, "capture": self._capture, "distillation": "allowed",
        }  # fmt: skip
        record["tags"] = record["features"]["tags"]
        self._answer(record, tokens, output, logprob)
        if full:
            record["request"] = '{"model":"auto","messages":[{"role":"user","content":"' + text + '"}]}'
            record["completion"] = text[: output * 4]
        return record, difficulty, logprob

    def _answer(self, record: dict[str, Any], tokens: int, output: int, logprob: float) -> None:
        """Who answers, after a draft where the student was chosen, and what it costs."""
        student_usd = tokens * STUDENT_USD[0] + output * STUDENT_USD[1]
        longer = int(output * 1.2)
        teacher_usd = tokens * TEACHER_USD[0] + longer * TEACHER_USD[1]
        draft_s, answer_s = 0.1 + output * 0.004, 0.4 + longer * 0.012
        usage = {"prompt_tokens": tokens, "completion_tokens": output}
        record |= {
            "route": "student",
            "reason": "default",
            "usage": usage,
            "cost_usd": student_usd,
            "latency_s": draft_s,
        }
        if record["decision"]["route"] == "student":
            wrong = 1.0 - _sigmoid(CALIBRATOR[0] * logprob + CALIBRATOR[1])
            escalated = wrong > THRESHOLD
            record["draft"] = {
                "mean_logprob": logprob, "tokens": output, "finish_reason": "stop", "usage": usage,
                "cost_usd": student_usd, "escalated": escalated,
            }  # fmt: skip
            if not escalated:
                record["mean_logprob"] = logprob
                record["counterfactual_cost_usd"] = tokens * TEACHER_USD[0] + output * TEACHER_USD[1]
                return
            teacher_total, latency_s = teacher_usd + student_usd, draft_s + answer_s
            record["reason"] = "low_confidence"
        else:
            teacher_total, latency_s = teacher_usd, answer_s
            record["reason"] = record["decision"]["reason"]
        record |= {
            "route": "teacher", "usage": {"prompt_tokens": tokens, "completion_tokens": longer},
            "cost_usd": teacher_total, "counterfactual_cost_usd": teacher_usd, "latency_s": latency_s,
        }  # fmt: skip

    def _shadow(self, record: dict[str, Any], difficulty: float, logprob: float) -> dict[str, Any] | None:
        dice, delivered = self._random, record["route"]
        share = STUDENT_SHARE_DRAWN if delivered == "student" else TEACHER_SHARE_DRAWN
        if dice.random() >= share:
            return None
        asked = "teacher" if delivered == "student" else "student"
        right = _sigmoid(CALIBRATOR[0] * logprob + CALIBRATOR[1])
        tokens, output = record["usage"]["prompt_tokens"], record["usage"]["completion_tokens"]
        usd = TEACHER_USD if asked == "teacher" else STUDENT_USD
        return {
            "kind": "shadow", "schema": 1, "decision_id": record["decision_id"], "created_s": record["created_s"] + 1.0,
            "student": "student", "teacher": "teacher", "delivered": delivered, "asked": asked, "propensity": share,
            "status": "ok", "finish_reason": "stop", "cost_usd": tokens * usd[0] + output * usd[1], "latency_s": 1.0,
            **({"mean_logprob": logprob} if asked == "student" else {}),
            "grades": [{
                "grader": "exact",
                "student": float(dice.random() < right),
                "teacher": float(dice.random() < 0.97 - 0.1 * difficulty),
            }],
        }  # fmt: skip


def _vote(policy: str, route: str | None, reason: str, score: float, threshold: float) -> dict[str, Any]:
    return {"policy": policy, "route": route, "reason": reason, "score": score, "threshold": threshold}


def write(
    folder: Path, count: int, *, seed: int = 0, days: float = 30.0, capture: str = "full", text_bytes: int = 1500
) -> None:
    """Segments as a gateway writes them (policies/traffic/segments.py)."""
    folder.mkdir(parents=True, exist_ok=True)
    encode = msgspec.json.Encoder().encode
    rows = Generator(seed, days=days, capture=capture, text_bytes=text_bytes).rows(count)
    number = 0
    while lines := list(itertools.islice(rows, SEGMENT_RECORDS)):
        payloads = (encode(line) for line in lines)
        with (folder / f"generated-{number:06d}.seg").open("wb") as file:
            file.writelines(b"%08x %s\n" % (zlib.crc32(payload), payload) for payload in payloads)
        number += 1


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--records", default=100_000, show_default=True, type=click.IntRange(min=1))
@click.option("--days", default=30.0, show_default=True)
@click.option("--capture", default="full", show_default=True, type=click.Choice(["metadata", "full"]))
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, records: int, days: float, capture: str, seed: int) -> None:
    """Write a generated traffic log into FOLDER."""
    write(folder, records, seed=seed, days=days, capture=capture)


if __name__ == "__main__":
    main()
