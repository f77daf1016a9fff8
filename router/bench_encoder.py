"""How long an embedding takes on one core, by path and precision: `python -m router.bench_encoder`.

No test: the figures are those of the machine it runs on, and of what else runs there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from operator import mul
from typing import Literal, NamedTuple

import click

from router.config import EncoderConfig
from router.encoder import EmbedBatch, Vector, load_transformer, plain
from router.lean_bert import LeanBert, Unsuitable

TEXT = (
    "A merchant wants to make a choice of purchase between two plans: jewelry worth five thousand or gadgets worth "
    "eight thousand dollars. How much profit would this be?"
)
"""About 32 tokens of MiniLM's, the marks of both ends among them."""
PRECISIONS: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")


class Load(NamedTuple):
    name: str
    texts: int
    repeated: int
    share_of_calls: float


LOADS = (Load("32 tokens", 1, 1, 1.0), Load("8 x 32 tokens", 8, 1, 0.25), Load("256 tokens", 1, 10, 0.25))


@click.command()
@click.option("--calls", type=click.IntRange(40), default=400, show_default=True, help="For one short text.")
@click.option("--model", default=EncoderConfig().model, show_default=True, help="As in encoder.model.")
def main(calls: int, model: str) -> None:
    """Time embeddings on one thread, and compare them with those of sentence-transformers in float32."""
    texts = [_turned(place, repeated) for repeated in (1, 3, 10) for place in range(8)]
    exact = plain(load_transformer(model, threads=1, key="--model"), "float32")(texts)
    for name, load in _paths(model).items():
        try:
            embed = load()
        except Unsuitable as why:
            click.echo(f"{name}: not possible: {why}")
            continue
        cosine = min(sum(map(mul, one, other)) for one, other in zip(embed(texts), exact, strict=True))
        click.echo(f"{name}: least cosine to float32 {cosine:.5f}")
        for each in LOADS:
            click.echo(f"  {each.name}: {_summary(*_times(embed, each, round(calls * each.share_of_calls)))}")


def _paths(model: str) -> dict[str, Callable[[], EmbedBatch]]:
    """How each is loaded, by name; `plain` alters its model, so that each has its own."""
    paths: dict[str, Callable[[], EmbedBatch]] = {}
    for precision in PRECISIONS:
        paths[f"sentence-transformers {precision}"] = lambda precision=precision: plain(  # type: ignore[misc]
            load_transformer(model, threads=1, key="--model"), precision
        )
        paths[f"lean {precision}"] = lambda precision=precision: LeanBert(  # type: ignore[misc]
            load_transformer(model, threads=1, key="--model"), precision
        )
    return paths


def _turned(place: int, repeated: int) -> str:
    """The text, beginning with another of its words: no two calls embed the same."""
    words = TEXT.split()
    start = place % len(words)
    return " ".join((words[start:] + words[:start]) * repeated)


def _times(embed: Callable[[list[str]], list[Vector]], load: Load, calls: int) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of each call, in order of length."""
    wall_s, cpu_s = [], []
    for call in range(calls + 5):
        texts = [_turned(call + text, load.repeated) for text in range(load.texts)]
        wall, cpu = time.perf_counter(), time.process_time()
        embed(texts)
        if call >= 5:  # the first ones compile
            wall_s.append(time.perf_counter() - wall)
            cpu_s.append(time.process_time() - cpu)
    return sorted(wall_s), sorted(cpu_s)


def _summary(wall_s: Sequence[float], cpu_s: Sequence[float]) -> str:
    p99_s = wall_s[int(len(wall_s) * 0.99)]
    return (
        f"p50 {statistics.median(wall_s) * 1e3:.2f} ms, p99 {p99_s * 1e3:.2f}, best {wall_s[0] * 1e3:.2f}, "
        f"of CPU {statistics.median(cpu_s) * 1e3:.2f} ({len(wall_s)} calls)"
    )


if __name__ == "__main__":
    main()
