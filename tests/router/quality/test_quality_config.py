"""`[quality]`: what is refused, and what `locum check` warns of."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from router.app import Parts
from router.commands import check
from router.config import ConfigError
from router.config_file import parse

BASE = """
[student]
base_url = "http://127.0.0.1:1/v1"
[teacher]
base_url = "http://127.0.0.1:2/v1"
"""
PRICED = BASE + "price_usd_per_1m_input_tokens = 1.0\nprice_usd_per_1m_output_tokens = 2.0\n"
SHADOW = "[quality.shadow]\nstudent_share = 0.1\n"
EXACT = '[[quality.graders]]\ntype = "exact"\n'
JUDGED = '[[quality.graders]]\ntype = "judge"\n[quality.judge]\nbase_url = "{}"\nmodel = "{}"\n'


def test_nothing_is_shadowed_unless_a_share_is_set() -> None:
    assert not parse(BASE).quality.shadow.enabled
    assert not parse(BASE + "[quality.shadow]\nmax_queue = 3\n").quality.shadow.enabled
    assert parse(BASE + SHADOW).quality.shadow.enabled
    stratum = "[[quality.shadow.strata]]\ntags = { a = 'b' }\nteacher_share = 0.5\n"
    assert parse(BASE + stratum).quality.shadow.enabled


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (SHADOW + '[log]\ncapture = "metadata"', "quality.shadow: needs the traffic log"),
        (SHADOW + '[log]\ndir = ""', "quality.shadow: needs the traffic log"),
        ("[quality.shadow]\nstudent_share = 1.5", "quality.shadow.student_share"),
        ("[[quality.shadow.strata]]\nstudent_share = 0.5", "strata.0.tags: is missing"),
        ('[[quality.graders]]\ntype = "judge"', r"graders.0.type: .*needs a \[quality.judge\] table"),
        ('[quality.judge]\nbase_url = "http://127.0.0.1:3/v1"\nmodel = "m"', "quality.judge: has no effect"),
        ('[[quality.graders]]\ntype = "regex"', "graders.0.pattern: is missing"),
        ('[[quality.graders]]\ntype = "regex"\npattern = "("', "graders.0.pattern: is no regular expression"),
        ('[[quality.graders]]\ntype = "exact"\ntolerance = 0.1', "graders.0.tolerance: has no effect on exact"),
        ('[[quality.graders]]\ntype = "guess"', "graders.0.type"),
        (JUDGED.format("ftp://x", "m"), "quality.judge.base_url"),
    ],
)
def test_mistake_is_refused_by_its_key(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(BASE + text)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (PRICED + SHADOW, "quality.graders: there are none"),
        (PRICED + EXACT, "nothing is graded while all shares"),
        (BASE + SHADOW + EXACT, "the teacher's price is unknown"),
        (PRICED + JUDGED.format("http://127.0.0.1:3/v1", "m"), "the judge's price is unknown"),
        (PRICED + JUDGED.format("http://127.0.0.1:2/v1", "teacher"), "the judge is the teacher itself"),
        (PRICED + JUDGED.format("http://127.0.0.1:1/v1", "student"), "the judge is the student itself"),
    ],
)
def test_what_may_mislead_is_warned_of(tmp_path: Path, text: str, warning: str) -> None:
    file = tmp_path / "locum.toml"
    file.write_text(text)
    result = CliRunner().invoke(check, ["-c", str(file)])
    assert result.exit_code == 0
    assert warning in result.stderr


def test_sound_configuration_has_no_warning_and_names_the_judges_key() -> None:
    priced = "price_usd_per_1m_input_tokens = 1.0\nprice_usd_per_1m_output_tokens = 2.0\napi_key_env = 'JUDGE_KEY'\n"
    config = parse(PRICED + SHADOW + JUDGED.format("http://127.0.0.1:2/v1", "another") + priced)
    assert config.quality.warnings(config.student, config.teacher) == ()
    assert ("quality.judge.api_key_env", "JUDGE_KEY") in config.secret_env_names()


def test_gateway_does_not_start_when_a_grader_lacks_what_it_needs(tmp_path: Path) -> None:
    embedding = f'[[quality.graders]]\ntype = "embedding"\n[encoder]\nmodel = "{tmp_path}"\n'
    with pytest.raises(ConfigError, match=r"quality\.graders: embedding needs the encoder"):
        Parts(parse(PRICED + SHADOW + embedding), {})
    schema = f'[[quality.graders]]\ntype = "json_schema"\nschema_file = "{tmp_path}/none.json"\n'
    with pytest.raises(ConfigError, match=r"quality\.graders\.schema_file: .*none.json cannot be used"):
        Parts(parse(PRICED + SHADOW + schema), {})
