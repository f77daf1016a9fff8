"""An embedding for `difficulty`: within the budget it decides, after it the policy abstains, and the next one is cached."""

from __future__ import annotations

import threading
from array import array
from pathlib import Path

import pytest

from policies import artefact
from policies.base import RequestFeatures, Signal
from policies.chain import Evaluation, PolicyChain
from policies.difficulty import Difficulty
from policies.scoring.models import Linear, Numbers
from router.encoder import Encoder, Vector
from router.signals import SignalSource
from tests.policies.scoring.building import artefact_of

FEATURES = RequestFeatures(
    prompt_bytes=9, message_count=1, approx_prompt_tokens=3, requested_output_tokens=9, last_user_turn="prove it"
)


@pytest.fixture
def chain(tmp_path: Path) -> PolicyChain:
    linear = Linear(intercept=0.0, embedding=Numbers.of([4.0, 0.0], "f"))
    artefact.write(tmp_path / "score.json", artefact_of(linear, encoder="two-numbers"))
    policy = Difficulty(model=str(tmp_path / "score.json"), threshold=0.5, use_embedding=True)
    return PolicyChain([policy], version="v1", default_route="student", on_policy_error="teacher")


async def decided(chain: PolicyChain, encoder: Encoder, budget_s: float) -> Evaluation:
    source = SignalSource(tokenizer=None, encoder=encoder, budget_s=budget_s)

    async def measure(signal: Signal, features: RequestFeatures) -> RequestFeatures:
        return await source.measure(signal, features, ())

    return await chain.evaluate(FEATURES, measure)


async def test_policy_abstains_after_the_budget_and_decides_by_the_cache_later(chain: PolicyChain) -> None:
    release = threading.Event()
    calls: list[list[str]] = []

    def embed(texts: list[str]) -> list[Vector]:
        calls.append(texts)
        assert release.wait(20)
        return [array("f", [1.0, 0.0]) for _ in texts]

    encoder = Encoder(embed)
    try:
        late = await decided(chain, encoder, budget_s=0.01)
        assert (late.decision.route, late.votes[0].reason) == ("student", "embedding_unavailable")
        release.set()
        known = await decided(chain, encoder, budget_s=20.0)
        assert (known.decision.route, known.votes[0].reason) == ("teacher", "teacher_better")
        assert known.features.signals.prompt_embedding == (1.0, 0.0)  # recorded: replay needs no encoder
        again = await decided(chain, encoder, budget_s=20.0)
        assert again.decision == known.decision
        assert len(calls) == 1
    finally:
        release.set()
        await encoder.close()
