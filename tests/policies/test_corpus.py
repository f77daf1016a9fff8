"""What a student was trained on, as hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policies import corpus
from policies.corpus import Corpus, prompt_digest


def ask(*texts: Any, system: str = "Be brief.") -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}]
    for text in texts:
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
    return turns[:-1]


def test_corpus_knows_its_prompts_however_they_are_written(tmp_path: Path) -> None:
    corpus.write(tmp_path / corpus.FILE, [prompt_digest(ask(f"Question {n}?")) for n in (1, 2, 2, 3)])
    known = Corpus.read(tmp_path)
    assert known is not None
    assert len(known) == 3
    assert known.has(ask("question  2?", system="Another template."))
    assert known.has(ask([{"type": "text", "text": "Question 3?"}]))
    assert not known.has(ask("Question 4?"))
    assert not known.has(ask("Question 1?", "Question 2?"))


def test_prompt_without_text_has_no_digest(tmp_path: Path) -> None:
    assert prompt_digest([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]) is None
    assert prompt_digest([]) is None
    corpus.write(tmp_path / corpus.FILE, [None])
    known = Corpus.read(tmp_path)
    assert known is not None
    assert not known.has([])


def test_bundle_without_the_file_does_not_say(tmp_path: Path) -> None:
    assert Corpus.read(tmp_path) is None
