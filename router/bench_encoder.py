"""How long an embedding of 32 tokens takes on one core, by precision: `python -m router.bench_encoder`.

No test: the figures are those of the machine it runs on, and of what else runs there.
"""

from __future__ import annotations

import statistics
import time

import click

from router.config import EncoderConfig
from router.encoder import EmbedBatch, Precision, load_model

TEXT = (
    "A merchant wants to make a choice of purchase between two plans: jewelry worth five thousand or gadgets worth "
    "eight thousand dollars. How much profit would this be?"
)
"""About 32 tokens of MiniLM's, the marks of both ends among them."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@click.command()
@click.option("--calls", type=click.IntRange(10), default=300, show_default=True)
def main(calls: int) -> None:
    """Time embeddings of 32 tokens, one at a time, on one thread."""
    for precision in PRECISIONS:
        embed = load_model(EncoderConfig().model, threads=1, precision=precision)
        wall_s, cpu_s = _times(embed, calls)
        click.echo(
            f"{precision}: p50 {statistics.median(wall_s) * 1e3:.2f} ms, of CPU {statistics.median(cpu_s) * 1e3:.2f} "
            f"ms, best {min(wall_s) * 1e3:.2f} ms ({calls} calls)"
        )


def _times(embed: EmbedBatch, calls: int) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of each call."""
    words = TEXT.split()
    embed([TEXT])
    wall_s, cpu_s = [], []
    for call in range(calls):
        start = call % len(words)
        text = " ".join(words[start:] + words[:start])  # another one each time
        wall, cpu = time.perf_counter(), time.process_time()
        embed([text])
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(time.process_time() - cpu)
    return wall_s, cpu_s


if __name__ == "__main__":
    main()
