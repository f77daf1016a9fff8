"""Microsoft Presidio as an engine, for what no pattern finds: names of people and places (`locum[scrub]`).

It is loaded where the engine is made. The built-in engine comes first: it knows secrets better.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from router.config.scrub import PresidioConfig
from router.scrub.findings import Finding
from router.scrub.placeholders import NUL

MAX_TEXT_BYTES = 1_000_000
"""spaCy refuses longer texts."""


class PresidioEngine:
    """Runs Presidio's analyzer over each text."""

    def __init__(self, config: PresidioConfig) -> None:
        """Raises: ImportError; OSError: the spaCy model is not installed; ValueError: an entity that nothing finds."""
        self.kinds: frozenset[str] = frozenset(entity.lower() for entity in config.entities)
        self.at_once_bytes = 0
        self._config = config
        self._analyzer = _analyzer(config)
        known = set(self._analyzer.get_supported_entities(config.language))
        if unknown := sorted(set(config.entities) - known):
            raise ValueError(f"nothing finds {', '.join(unknown)}; known are {', '.join(sorted(known))}")

    def find(self, data: bytes) -> list[Finding]:
        findings, at = [], 0
        for text in data.split(NUL):
            findings += [Finding(at + start, at + end, kind) for start, end, kind in self._of_text(text)]
            at += len(text) + 1
        return findings

    def _of_text(self, data: bytes) -> Iterator[tuple[int, int, str]]:
        if not data:
            return
        if len(data) > MAX_TEXT_BYTES:
            raise ValueError("a text is too long for spaCy")
        text = data.decode("utf-8", "replace")
        if len(text.encode()) != len(data):
            raise ValueError("a text is not Unicode")
        offsets = list(itertools.accumulate((len(char.encode()) for char in text), initial=0))
        found = self._analyzer.analyze(
            text=text,
            language=self._config.language,
            entities=list(self._config.entities),
            score_threshold=self._config.min_score,
        )
        for result in best_first(found):
            yield offsets[result.start], offsets[result.end], result.entity_type.lower()


def best_first(results: Iterable[Any]) -> list[Any]:
    """Surest first, and the longer one of two that are as sure."""
    return sorted(results, key=lambda result: (-result.score, result.start - result.end))


def _analyzer(config: PresidioConfig) -> Any:
    import spacy  # noqa: PLC0415 - heavy, and an extra
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry  # noqa: PLC0415
    from presidio_analyzer.nlp_engine import SpacyNlpEngine  # noqa: PLC0415

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    engine = SpacyNlpEngine(models=[{"lang_code": config.language, "model_name": config.spacy_model or "blank"}])
    # Presidio would download a model that is missing; spaCy says so.
    loaded = spacy.load(config.spacy_model) if config.spacy_model else spacy.blank(config.language)
    engine.nlp = {config.language: loaded}
    registry = RecognizerRegistry(supported_languages=[config.language])
    registry.load_predefined_recognizers(languages=[config.language], nlp_engine=engine)
    # It downloads the list of public suffixes when it is first used; the built-in engine finds addresses.
    registry.remove_recognizer("EmailRecognizer")
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[config.language])
