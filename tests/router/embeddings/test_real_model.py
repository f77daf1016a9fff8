"""The pinned sentence-transformers model behind `/v1/embeddings`."""

from __future__ import annotations

import importlib.util
from operator import mul

import pytest

from router.config.embeddings import EmbeddingsConfig
from router.embeddings.local import WindowExceeded, load
from router.encoder import EncoderUnavailable

installed = importlib.util.find_spec("sentence_transformers") is not None
LONG = "word " * 400


@pytest.mark.skipif(installed, reason="needs an environment without the extra [semantic]")
def test_missing_extra_is_an_error_that_says_how_to_install_it() -> None:
    with pytest.raises(EncoderUnavailable, match="semantic"):
        load(EmbeddingsConfig())


@pytest.mark.semantic
@pytest.mark.skipif(not installed, reason="needs the extra [semantic]")
def test_real_model_embeds_counts_and_refuses_what_does_not_fit() -> None:
    embed = load(EmbeddingsConfig())
    vectors, tokens = embed(["The cat sits.", "A cat is sitting.", "Interest rates rose."])
    near, far = (sum(map(mul, vectors[0], other)) for other in vectors[1:])
    assert near > 0.8
    assert far < 0.2
    assert tokens == 19
    with pytest.raises(WindowExceeded):
        embed(["a", LONG])
    assert load(EmbeddingsConfig(truncate=True))([LONG]).tokens == 256
