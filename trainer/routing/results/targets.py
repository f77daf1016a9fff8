"""What should a learner be taught: that the strong model is better, or that the weak one is wrong? One model, twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from trainer.routing import evaluation
from trainer.routing.evaluation import SCORE, Plan
from trainer.routing.figures import Estimate, Figures
from trainer.routing.outcomes import Floats, Ints, Outcomes
from trainer.routing.reading import read
from trainer.routing.report import written
from trainer.routing.results.prompts import COLUMNS, TITLES
from trainer.routing.results.section import Found, Note

Target = Literal["strong_better", "weak_wrong"]
WRONG: Target = "weak_wrong"


@dataclass
class Words:
    """Logistic regression on TF-IDF of words and pairs of words."""

    target: Target

    @property
    def name(self) -> str:
        return self.target

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> Words:
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - heavy
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

        outcome = rows.advantage > 0 if self.target == "strong_better" else rows.weak < 0.5
        self._words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        self._model = LogisticRegression(C=1.0, max_iter=300).fit(self._words.fit_transform(rows.text), outcome)
        return self

    def score(self, rows: Outcomes) -> Floats:
        return np.asarray(self._model.predict_proba(self._words.transform(rows.text))[:, 1])


class TargetResults:
    """Both targets on MMLU and GSM8K."""

    name = "targets"
    files = tuple(f"routellm/{name}.csv.gz" for name in TITLES)
    code = (
        "trainer.routing.results.targets", "trainer.routing.evaluation", "trainer.routing.crossfit",
        "trainer.routing.folds", "trainer.routing.groups", "trainer.routing.measures", "trainer.routing.figures",
    )  # fmt: skip

    def measure(self, data: Path, note: Note) -> Found:
        found: dict[str, object] = {}
        for name in TITLES:
            note(name)
            rows = read(data / "routellm" / f"{name}.csv.gz", COLUMNS)
            scored = evaluation.score(rows, [Words("strong_better"), Words(WRONG)], Plan())
            measured = evaluation.measure(scored, Plan())
            found[name] = {
                "strong_better": msgspec.to_builtins(measured.figures[SCORE]),
                "weak_wrong": msgspec.to_builtins(measured.figures[WRONG]),
                "difference": msgspec.to_builtins(measured.differences[WRONG]["apgr"]),
            }
        return found

    def write(self, found: Found, pictures: Path) -> Sequence[str]:
        lines = ["| data, target | APGR | CPT80 | AUROC, weak wrong | AUROC, strong better |", "|---|---|---|---|---|"]
        for name, title in TITLES.items():
            for target in ("strong_better", "weak_wrong"):
                each = msgspec.convert(found[name][target], Figures)
                cells = [
                    written(each.apgr, "part"), written(each.cpt80, "percent"), written(each.auroc_weak_wrong, "part"),
                    written(each.auroc_strong_better, "part"),
                ]  # fmt: skip
                lines.append(f"| {title}, {target.replace('_', ' ')} | {' | '.join(cells)} |")
        differences = [
            f"{title} {written(msgspec.convert(found[name]['difference'], Estimate), 'part', sign='+')}"
            for name, title in TITLES.items()
        ]
        return [*lines, "", f"APGR, strong better minus weak wrong, paired: {', '.join(differences)}."]
