"""The metrics of the GenAI conventions: what the gateway sees as a client of models, and what its own clients see."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.metrics import Histogram, Meter

from router.telemetry import conventions as names

Attributes = dict[str, str | int]
"""From closed sets: paths, configured models and addresses, causes of failures."""


class Instruments:
    """Records requests and calls of backends."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, unit: str, text: str, buckets: list[float]) -> Histogram:
            return meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=buckets)

        self._tokens = histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", names.TOKEN_BUCKETS
        )
        self._call = histogram(
            "gen_ai.client.operation.duration", "s", "Duration of calls of models.", names.DURATION_BUCKETS_S
        )
        self._first_chunk = histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time to the first chunk of a stream, from the call of the model.",
            names.FIRST_TOKEN_BUCKETS_S,
        )
        self._request = histogram(
            "gen_ai.server.request.duration", "s", "Duration of requests to the gateway.", names.DURATION_BUCKETS_S
        )
        self._first_token = histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "Time to the first event for the client, from the request's arrival.",
            names.FIRST_TOKEN_BUCKETS_S,
        )
        self._per_token = histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            "Mean time per output token after the first one.",
            names.PER_TOKEN_BUCKETS_S,
        )

    def call(
        self, attributes: Attributes, *, duration_s: float, first_chunk_s: float | None, cause: str | None
    ) -> None:
        """One call of a backend has ended."""
        failed = {**attributes, names.ERROR_TYPE: cause} if cause is not None else attributes
        self._call.record(duration_s, failed)
        if first_chunk_s is not None:
            self._first_chunk.record(first_chunk_s, attributes)

    def tokens(self, attributes: Attributes, counts: Mapping[str, int]) -> None:
        """
        Args:
            counts: by the names of their attributes of spans.
        """
        for name, count in counts.items():
            kind = "input" if name == names.INPUT_TOKENS else "output"
            self._tokens.record(count, {**attributes, names.TOKEN_TYPE: kind})

    def request(self, attributes: Attributes, *, duration_s: float, ttft_s: float | None, tpot_s: float | None) -> None:
        """One request has been answered."""
        self._request.record(duration_s, attributes)
        if ttft_s is not None:
            self._first_token.record(ttft_s, attributes)
        if tpot_s is not None:
            self._per_token.record(tpot_s, attributes)
