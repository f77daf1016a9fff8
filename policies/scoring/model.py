"""A learned score as one artefact: what it was fitted on, what it needs, and how sure it was when it was measured.

ScoreArtefact            the file: parts, how they are added up, calibrator, training data, measures
ScoreModel.probability   named values and a text in, P(the teacher answers better) out
load                     reads a file, and refuses one whose features this version does not compute
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from policies import artefact
from policies.calibration import Calibrator, ReliabilityBin
from policies.scoring import text as prompt_text
from policies.scoring.models import Part, scorer
from policies.scoring.text import STRUCTURE_NAMES, TextFeatures, extract

SCHEMA = 1
"""Version of the meaning of everything in an artefact but the features of a text."""
MAX_PARTS = 64
NAN = math.nan

Use = Literal["prompt", "draft"]


class StaleModel(artefact.ArtefactError):
    """The file is an artefact of a score, but for features of another version; the message says which."""


class TrainingData(msgspec.Struct, frozen=True, kw_only=True):
    """Which labelled rows a score was learned from."""

    sha256: str
    """Of the file, or of the rows in their order where they came from several."""
    n: int
    columns: tuple[str, ...]
    date: str
    """ISO 8601, of the fit."""
    source: str = ""
    """What the rows are, in words; no path."""
    student: str = ""
    """Whose outcomes they are, as in `DecisionRecord.student`; empty: not stated, any student is served by it."""
    student_model_sha256: str = ""
    """Of that student's model, where it comes from a bundle: another bundle of the same model fits as well."""
    teacher: str = ""


class ScoreArtefact(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file."""

    schema: int = SCHEMA
    text_schema: int | None = None
    """Version of the features of a text (policies/scoring/text.py); None: it uses none."""
    use: Use
    """`prompt`: before anything is generated. `draft`: on the measurements of a student's answer."""
    learner: str
    """Its name in `locum evaluate`."""
    inputs: tuple[str, ...]
    """Names of all values that the parts look at, those of the text's structure among them."""
    encoder: str = ""
    """Of whose embedding some part needs one; empty: none does."""
    parts: tuple[Part, ...]
    weights: tuple[float, ...]
    """raw = intercept + the sum of weight * part."""
    intercept: float = 0.0
    calibrator: Calibrator
    """From raw to P(the teacher answers better)."""
    default_threshold: float | None = None
    threshold_rule: str = ""
    """In words: where the default comes from."""
    reliability: tuple[ReliabilityBin, ...]
    """Cross-fitted: no row was judged by a model that saw it."""
    ece: float
    measures: dict[str, float] = {}
    """Cross-fitted on the training data, e.g. `apgr`, `cpt80`, `auroc_strong_better`."""
    training: TrainingData


class ScoreModel:
    """P(the teacher answers better) from named values and a text. Immutable but for a bounded memo of words."""

    def __init__(self, fitted: ScoreArtefact, *, sha256: str = "") -> None:
        """Raises: ValueError: its numbers do not fit together; StaleModel is one."""
        _check_versions(fitted)
        if not 0 < len(fitted.parts) <= MAX_PARTS or len(fitted.weights) != len(fitted.parts):
            raise ValueError(f"parts: between 1 and {MAX_PARTS}, each with a weight")
        if not all(map(math.isfinite, (*fitted.weights, fitted.intercept))):
            raise ValueError("weights: must be finite")
        self.fitted = fitted
        self.sha256 = sha256
        self._scorers = [scorer(part) for part in fitted.parts]
        self._check_inputs()
        self.needs_text = fitted.text_schema is not None
        sizes = {each.embedding_size for each in self._scorers if each.embedding_size is not None}
        if len(sizes) > 1 or bool(sizes) != bool(fitted.encoder):
            raise ValueError("encoder: is named where parts need an embedding, and they need one of the same size")
        self.embedding_size = next(iter(sizes), None)
        """None: no embedding is needed."""
        self.names = tuple(name for name in fitted.inputs if not _is_of_text(name))
        """Of the values that `probability` looks up."""

    def _check_inputs(self) -> None:
        known = set(self.fitted.inputs)
        for index, each in enumerate(self._scorers):
            missing = each.inputs - known - {_part(before) for before in range(index)}
            if missing:
                raise ValueError(f"part {index} needs {', '.join(sorted(missing))}, which is no input")
        unknown = sorted(name for name in known if _is_of_text(name) and name not in STRUCTURE_NAMES)
        if unknown:
            raise StaleModel(f"it needs {', '.join(unknown)}, which this version does not compute: fit it again")

    def raw(
        self, values: Mapping[str, float | None], text: str | None, embedding: Sequence[float] | None = None
    ) -> float:
        """The score before calibration.

        Args:
            values: a name that is not there, None and NaN all mean missing.
            text: None: missing as well.
            embedding: [embedding_size], of the text; missing when it is of another size.
        """
        features = extract(text) if text is not None and self.needs_text else None
        return self.raw_of(values, features, embedding)

    def raw_of(
        self, values: Mapping[str, float | None], features: TextFeatures | None, embedding: Sequence[float] | None
    ) -> float:
        """The same where the text's features are there already."""
        structure = {} if features is None else dict(zip(STRUCTURE_NAMES, features.structure, strict=True))
        inputs = {name: _number(structure.get(name, values.get(name))) for name in self.fitted.inputs}
        if embedding is not None and len(embedding) != self.embedding_size:
            embedding = None
        total = self.fitted.intercept
        for index, (each, weight) in enumerate(zip(self._scorers, self.fitted.weights, strict=True)):
            value = each.score(inputs, features, embedding)
            inputs[_part(index)] = value
            total += weight * value
        return total

    def probability(
        self, values: Mapping[str, float | None], text: str | None, embedding: Sequence[float] | None = None
    ) -> float:
        """P(the teacher answers better), in [0, 1]; the same in every process. Arguments as of `raw`."""
        return self.calibrated(self.raw(values, text, embedding))

    def calibrated(self, raw: float) -> float:
        probability = self.fitted.calibrator.confidence(raw)
        return 1.0 if probability is None else probability


def load(path: Path, *, use: Use | None = None) -> ScoreModel:
    """Read an artefact and check that this version can evaluate it.

    Args:
        use: what the caller needs it for; None: any.
    Raises:
        StaleModel: it is for features of another version.
        ArtefactError: missing, damaged, edited, not a score, or for another use.
    """
    version = artefact.read(path, _Versioned)
    try:
        _check_versions(version)
        fitted = artefact.read(path, ScoreArtefact)
        model = ScoreModel(fitted, sha256=artefact.digest(msgspec.to_builtins(fitted, str_keys=True)))
    except StaleModel as exc:
        raise StaleModel(f"{path}: {exc}") from exc
    except artefact.ArtefactError:
        raise
    except ValueError as exc:
        raise artefact.ArtefactError(f"{path}: {exc}") from exc
    if use is not None and fitted.use != use:
        raise artefact.ArtefactError(f"{path}: is a score of a {fitted.use}, not of a {use}")
    return model


class _Versioned(msgspec.Struct):
    """What every version of the file has; checked before the rest is read."""

    schema: int
    learner: str
    text_schema: int | None = None


def _check_versions(fitted: ScoreArtefact | _Versioned) -> None:
    if fitted.schema != SCHEMA:
        raise StaleModel(f"it has schema {fitted.schema}, this version reads {SCHEMA}: fit it again")
    if fitted.text_schema not in (None, prompt_text.SCHEMA):
        raise StaleModel(
            f"it is for version {fitted.text_schema} of a text's features, this one computes {prompt_text.SCHEMA}: "
            "fit it again"
        )


def _is_of_text(name: str) -> bool:
    return name.startswith("text_")


def _part(index: int) -> str:
    return f"part_{index}"


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)
