"""How long will the teacher's answer be? A small regression that learns as answers come, in sums that add up.

log(1 + output tokens) is linear in the logs of the prompt's and the requested output's tokens, by least squares with a
ridge towards a typical answer; what the line gets wrong on average (the mean of a skewed length lies above its median,
answers grow longer over the weeks, one tag's are twice as long) is a factor, of all answers and of each tag. Old
answers fade. Only the teacher's answers count: what is escalated is harder, and its answers 1.2 to 1.5 times as long.
"""

from __future__ import annotations

import math

import msgspec

TYPICAL_TOKENS = 256.0
"""Of an answer, while none has been seen."""
RIDGE = 5.0
"""Answers that the typical one counts for."""
TAG_ANSWERS = 20.0
"""Answers from which a tag's own factor counts more than that of all."""
MAX_TAGS = 64
OTHER = ""
"""Stands for requests without the tag, and for the values beyond `MAX_TAGS`."""
HALF_LIFE_S = 86_400.0
FACTOR_BOUNDS = (0.05, 20.0)


class Lengths(msgspec.Struct):
    """Sums over answers. Those of several processes add up."""

    n: float = 0.0
    """Answers, faded, as is everything here."""
    products: list[float] = msgspec.field(default_factory=lambda: [0.0] * 6)
    """Of the inputs with each other: upper triangle, row by row."""
    targets: list[float] = msgspec.field(default_factory=lambda: [0.0] * 3)
    """Of the inputs with the logarithm of the length."""
    tags: dict[str, tuple[float, float, float]] = {}
    """Of each value of the tag: answers, their tokens, and those that the line had expected."""

    def add(self, tag: str, prompt_tokens: float, requested_tokens: float, tokens: float, expected: float) -> None:
        """One answer of the teacher.

        Args:
            expected: by `Line.tokens` of the time.
        """
        inputs, target = _inputs(prompt_tokens, requested_tokens), math.log1p(tokens) - math.log1p(TYPICAL_TOKENS)
        self.n += 1.0
        place = 0
        for row in range(3):
            self.targets[row] += inputs[row] * target
            for column in range(row, 3):
                self.products[place] += inputs[row] * inputs[column]
                place += 1
        name = tag if tag in self.tags or len(self.tags) < MAX_TAGS else OTHER
        answers, seen, foretold = self.tags.get(name, (0.0, 0.0, 0.0))
        self.tags[name] = (answers + 1.0, seen + tokens, foretold + expected)

    def merge(self, other: Lengths) -> None:
        self.n += other.n
        self.products = [a + b for a, b in zip(self.products, other.products, strict=True)]
        self.targets = [a + b for a, b in zip(self.targets, other.targets, strict=True)]
        tags = dict(self.tags)
        for name, sums in other.tags.items():
            kept = name if name in tags or len(tags) < MAX_TAGS else OTHER
            own = tags.get(kept, (0.0, 0.0, 0.0))
            tags[kept] = (own[0] + sums[0], own[1] + sums[1], own[2] + sums[2])
        self.tags = tags

    def fade(self, elapsed_s: float) -> None:
        """Let `elapsed_s` pass."""
        factor = 0.5 ** (elapsed_s / HALF_LIFE_S)
        self.n *= factor
        self.products = [each * factor for each in self.products]
        self.targets = [each * factor for each in self.targets]
        self.tags = {name: (a * factor, b * factor, c * factor) for name, (a, b, c) in self.tags.items() if a > 0.01}

    def fitted(self) -> Line:
        """What the sums say now."""
        a, b, c, d, e, f = self.products
        matrix = [[a + RIDGE, b, c], [b, d + RIDGE, e], [c, e, f + RIDGE]]
        total = tuple(map(sum, zip(*self.tags.values(), strict=True))) if self.tags else (0.0, 0.0, 0.0)
        overall = _factor(*total, prior=1.0)
        factors = {name: _factor(*sums, prior=overall) for name, sums in self.tags.items()}
        return Line(tuple(_solved(matrix, self.targets)), overall, factors)


class Line(msgspec.Struct, frozen=True):
    """A fitted `Lengths`."""

    weights: tuple[float, ...] = (0.0, 0.0, 0.0)
    overall: float = 1.0
    factors: dict[str, float] = {}

    def raw(self, prompt_tokens: float, requested_tokens: float) -> float:
        """Tokens of the answer by the line alone."""
        inputs = _inputs(prompt_tokens, requested_tokens)
        exponent = math.log1p(TYPICAL_TOKENS) + sum(w * x for w, x in zip(self.weights, inputs, strict=True))
        return max(1.0, math.expm1(min(exponent, 20.0)))

    def tokens(self, tag: str, prompt_tokens: float, requested_tokens: float) -> float:
        """Expected tokens of the answer; never more than were requested."""
        expected = self.raw(prompt_tokens, requested_tokens) * self.factors.get(tag, self.overall)
        return min(expected, max(1.0, requested_tokens))


def _inputs(prompt_tokens: float, requested_tokens: float) -> tuple[float, float, float]:
    """Centred at usual sizes, so that the ridge holds the right thing."""
    return 1.0, math.log1p(max(0.0, prompt_tokens)) - 6.0, math.log1p(max(0.0, requested_tokens)) - 6.5


def _factor(answers: float, seen: float, foretold: float, *, prior: float) -> float:
    """Seen tokens by foretold ones, drawn to `prior` where there are few answers."""
    if answers <= 0.0 or foretold <= 0.0:
        return prior
    weight = TAG_ANSWERS * foretold / answers
    low, high = FACTOR_BOUNDS
    return min(high, max(low, (seen + prior * weight) / (foretold + weight)))


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """x of matrix x = right, [3, 3] and positive definite: Gaussian elimination."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for pivot in range(3):
        for row in range(pivot + 1, 3):
            factor = rows[row][pivot] / rows[pivot][pivot]
            rows[row] = [a - factor * b for a, b in zip(rows[row], rows[pivot], strict=True)]
    found = [0.0, 0.0, 0.0]
    for row in (2, 1, 0):
        rest = sum(rows[row][column] * found[column] for column in range(row + 1, 3))
        found[row] = (rows[row][3] - rest) / rows[row][row]
    return found
