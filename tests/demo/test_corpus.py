from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from serving.demo.corpus import (
    MAX_CHUNK_CHARS,
    CorpusChunk,
    build_corpus,
    corpus_sha256,
    module_document,
    split_document,
)


def test_corpus_holds_each_chunk_once_and_none_is_too_long(corpus: list[CorpusChunk]) -> None:
    assert len(corpus) > 800
    assert len({chunk.id for chunk in corpus}) == len(corpus)
    assert max(len(chunk.text) for chunk in corpus) <= MAX_CHUNK_CHARS * 1.25


def test_corpus_chunk_begins_with_its_name(corpus: list[CorpusChunk]) -> None:
    assert all(chunk.text.startswith(chunk.name) for chunk in corpus)


def test_corpus_is_the_same_in_every_process() -> None:
    script = "from serving.demo.corpus import *; print(corpus_sha256(build_corpus()))"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_corpus_hash_changes_when_a_text_changes(corpus: list[CorpusChunk]) -> None:
    first, *rest = corpus[:10]
    changed = CorpusChunk(id=first.id, name=first.name, text=first.text + ".")
    assert corpus_sha256([changed, *rest]) != corpus_sha256(corpus[:10])


def test_corpus_describes_methods_of_the_named_classes() -> None:
    names = {chunk.name for chunk in build_corpus((), ("builtins.str", "collections.deque"))}
    assert {"str.removeprefix", "collections.deque.rotate"} <= names


@given(st.text(alphabet="ab \n", max_size=400), st.integers(min_value=20, max_value=80))
def test_split_document_keeps_every_word_when_cut(doc: str, max_chars: int) -> None:
    chunks = split_document("f", "f()", doc, max_chars)
    bodies = [chunk.text.removeprefix("f()\n") for chunk in chunks]
    assert "".join("".join(bodies).split()) == "".join(doc.split())
    assert all(len(body) <= max_chars for body in bodies)


def test_split_document_cuts_at_paragraphs_when_they_fit() -> None:
    chunks = split_document("f", "f()", "one " * 10 + "\n\n" + "two " * 10, 60)
    assert [chunk.text.split()[1] for chunk in chunks] == ["one", "two"]
    assert [chunk.id for chunk in chunks] == ["f#0", "f#1"]


def test_module_document_holds_whole_docstrings_with_one_heading_each() -> None:
    text = module_document("shutil")
    assert text.count("shutil.copytree(") == 1
    assert "By default, copy2() is used" in text
