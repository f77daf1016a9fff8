"""How long `difficulty` takes per request: `python -m trainer.policy_models.bench_difficulty ARTEFACT`.

Prints CPU time per decision for several prompt lengths, with words that the process has met before and without. No
test: the figures are those of the machine it runs on, and of what else runs there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click

from policies.base import RequestFeatures
from policies.difficulty import Difficulty
from trainer.policy_models.long_reasoning import SHIPPED_DATA, load

LENGTHS_CHARS = (50, 300, 1_000, 3_000, 20_000, 200_000)


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", type=click.IntRange(3), default=30, show_default=True)
@click.option("--calls", type=click.IntRange(10), default=100, show_default=True, help="Calls per round.")
def main(model: Path, rounds: int, calls: int) -> None:
    """Time the decision of difficulty by the artefact MODEL on real prompts of several lengths."""
    text = "\n".join(each.text for each in load(SHIPPED_DATA).examples[::7])
    click.echo(f"{'chars':>8} {'best us':>9} {'median us':>10} {'cold us':>9}   ({rounds} rounds of {calls} calls)")
    for chars in LENGTHS_CHARS:
        prompts = [_features(text[start : start + chars]) for start in range(0, 20 * 37, 37)]
        cold = _mean_us(Difficulty(model=str(model), threshold=0.5).decide, prompts[:1], 1)
        policy = Difficulty(model=str(model), threshold=0.5)
        means = [_mean_us(policy.decide, prompts, calls) for _ in range(rounds)]
        click.echo(f"{chars:8} {min(means):9.1f} {statistics.median(means):10.1f} {cold:9.1f}")


def _mean_us(decide: Callable[[RequestFeatures], object], prompts: list[RequestFeatures], calls: int) -> float:
    start = time.process_time()
    for index in range(calls):
        decide(prompts[index % len(prompts)])
    return (time.process_time() - start) / calls * 1e6


def _features(text: str) -> RequestFeatures:
    return RequestFeatures(
        prompt_bytes=len(text.encode()),
        message_count=1,
        approx_prompt_tokens=len(text) // 4,
        requested_output_tokens=256,
        last_user_turn=text,
    )


if __name__ == "__main__":
    main()
