"""Presidio behind the same interface. Needs `pip install 'locum[scrub]'`; spaCy's models are installed apart."""

from __future__ import annotations

import pytest

from router.config import ConfigError
from router.config.scrub import PresidioConfig, ScrubConfig
from router.scrub.findings import Finding, apart
from router.scrub.opening import open_engine

pytest.importorskip("presidio_analyzer", reason="needs the [scrub] extra")


def found(config: ScrubConfig, data: bytes) -> list[tuple[str, str]]:
    findings: list[Finding] = apart(open_engine(config).find(data), len(data))
    return [(each.kind, data[each.start : each.end].decode()) for each in findings]


def test_presidio_finds_by_pattern_what_the_built_in_engine_does_not() -> None:
    presidio = PresidioConfig(entities=("CRYPTO", "DATE_TIME"), spacy_model="", min_score=0.3)
    config = ScrubConfig(enabled=("email",), engine="presidio", presidio=presidio)
    text = "Grüße an ann@example.org: 1BoatSLRHtKNngkdXEeobR76b53LETtpyT\0geboren 12/05/1980"
    assert found(config, text.encode()) == [
        ("email", "ann@example.org"),
        ("crypto", "1BoatSLRHtKNngkdXEeobR76b53LETtpyT"),
        ("date_time", "12/05/1980"),
    ]


@pytest.mark.parametrize(
    ("presidio", "key"),
    [
        (PresidioConfig(spacy_model="no_such_model"), "presidio.spacy_model"),
        (PresidioConfig(spacy_model="", entities=("NOPE",)), "presidio.entities"),
    ],
)
def test_configuration_is_refused_by_its_key(presidio: PresidioConfig, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        open_engine(ScrubConfig(engine="presidio", presidio=presidio))
