"""How long `long_reasoning` takes per request: `python -m trainer.policy_models.bench_long_reasoning`.

Prints CPU time per decision for several prompt lengths: the best and the median round, in microseconds. No test:
the figures are those of the machine it runs on, and of what else runs there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click

from policies.base import RequestFeatures
from policies.long_reasoning import LongReasoning
from trainer.policy_models.long_reasoning import SHIPPED_DATA, load

LENGTHS_CHARS = (50, 300, 1_000, 2_000, 20_000, 200_000)


@click.command()
@click.option("--rounds", type=click.IntRange(3), default=30, show_default=True)
@click.option("--calls", type=click.IntRange(10), default=200, show_default=True, help="Calls per round.")
def main(rounds: int, calls: int) -> None:
    """Time the decision of long_reasoning on real prompts of several lengths."""
    policy = LongReasoning()
    text = "\n".join(each.text for each in load(SHIPPED_DATA).examples[::7])
    click.echo(f"{'chars':>8} {'best us':>9} {'median us':>10}   ({rounds} rounds of {calls} calls)")
    for chars in LENGTHS_CHARS:
        prompts = [_features(text[start : start + chars]) for start in range(0, 20 * 37, 37)]
        means = [_mean_us(policy.decide, prompts, calls) for _ in range(rounds)]
        click.echo(f"{chars:8} {min(means):9.1f} {statistics.median(means):10.1f}")


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
