"""The tables that stages hand on: Parquet files with the columns below, zstd, one row an example.

`examples.parquet` (export, and every stage up to split, which writes `train.parquet` and `validation.parquet`):
`example_schema`. `train.parquet` and `validation.parquet` of the stage logprobs: `token_schema`.
`dropped.parquet` (every filtering stage): decision_id, cause, detail. Never the text: that is in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow

SENTINEL = -9000.0
"""vLLM and stored files mark "no such entry" with -9999 or -inf; no real logprob is this low."""


def example_schema() -> pyarrow.Schema:
    """One example: a request and the answer to learn from.

    `messages` is the JSON text of the request's `messages`; `completion` the teacher's answer; `correction` a human's
    better answer or null; `prompt_ids`/`completion_ids` the teacher's token ids or null; `score` the judge's 1-5 or
    null.
    """
    import pyarrow as pa  # noqa: PLC0415 - heavy

    return pa.schema(
        [
            ("decision_id", pa.string()),
            ("created_s", pa.float64()),
            ("tenant", pa.string()),
            ("session", pa.string()),
            ("tags", pa.string()),
            ("route", pa.string()),
            ("teacher", pa.string()),
            ("fingerprint", pa.string()),
            ("distillation", pa.string()),
            ("messages", pa.string()),
            ("completion", pa.string()),
            ("finish_reason", pa.string()),
            ("correction", pa.string()),
            ("label", pa.string()),
            ("prompt_ids", pa.list_(pa.int32())),
            ("completion_ids", pa.list_(pa.int32())),
            ("score", pa.float32()),
        ]
    )


def token_schema() -> pyarrow.Schema:
    """One example as token ids, with the teacher's distribution where the method wants it.

    `completion_ids` ends with the stop token. `head_ids` and `head_logprobs` are [T x K] flattened, row by row, T =
    len(completion_ids): entry t is the teacher's distribution from which completion_ids[t] was drawn, its K most likely
    tokens in descending order, natural logarithms at temperature 1. Empty lists for `sft`.
    """
    import pyarrow as pa  # noqa: PLC0415 - heavy

    return pa.schema(
        [
            ("decision_id", pa.string()),
            ("prompt_ids", pa.list_(pa.int32())),
            ("completion_ids", pa.list_(pa.int32())),
            ("k", pa.int32()),
            ("head_ids", pa.list_(pa.uint32())),
            ("head_logprobs", pa.list_(pa.float16())),
            ("corrected", pa.bool_()),
        ]
    )
