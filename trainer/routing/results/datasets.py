"""The public data sets of the results page: what they are, whose, and under which licence. None comes with Locum."""

from __future__ import annotations

from typing import NamedTuple


class DataSet(NamedTuple):
    what: str
    source: str
    licence: str


DATA_SETS = {
    "routellm/mmlu.csv.gz": DataSet(
        "MMLU, 14,037 questions: right or wrong of Mixtral-8x7B and of GPT-4-1106", "lm-sys/RouteLLM, decontaminated",
        "Apache-2.0; questions MIT",
    ),
    "routellm/gsm8k.csv.gz": DataSet(
        "GSM8K, 1,307 questions, the same models", "lm-sys/RouteLLM, decontaminated", "Apache-2.0; questions MIT"
    ),
    "mmlu_pro_cascade/questions.csv.gz": DataSet(
        "MMLU-Pro, 5,984 questions: answers of 13 models with token probability, stated confidence and length",
        "Linwei94/LLM-Calibration-Study (arXiv:2505.23854), questions TIGER-AI-Lab/MMLU-Pro",
        "outcomes MIT; questions Apache-2.0",
    ),
    "banking77/train.csv": DataSet(
        "BANKING77, 10,003 requests with their intents", "Casanueva et al. 2020", "CC BY 4.0"
    ),
    "banking77/test.csv": DataSet("BANKING77, 3,080 requests", "Casanueva et al. 2020", "CC BY 4.0"),
}  # fmt: skip
