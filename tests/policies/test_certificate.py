"""Certificates of thresholds: what voids them, and what the policy does then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from policies import artefact
from policies.base import Policy, PolicyConfigError, RequestFeatures, RouteDecision, StudentDefaults
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt
from policies.certificate import Acknowledged, Around, Certificate, Group, Serving, Stated, causes_of
from policies.chain import PolicyChain
from policies.record import Draft
from policies.registry import build_all

FEATURES = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)


def certificate(**changes: Any) -> Certificate:
    stated = Stated(0.005, 0.0, 0.01)
    group = Group(threshold=0.4, n=900, effective_n=900.0, quality_loss=stated, teacher_share=stated)
    fields: dict[str, Any] = {
        "policy": "cascade", "score": "mean_logprob", "method": "test", "max_quality_loss": 0.01, "confidence": 0.95,
        "threshold": 0.4, "groups": (group,), "n": 900, "n_differing": 90, "effective_n": 900.0, "labels": "feedback",
        "teacher_assumed_right": False, "data_sha256": "d" * 64, "seed": 0, "student": "s-1",
        "student_model_sha256": "m" * 64, "teacher": "big", "teacher_fingerprints": ("fp-1",), "created_s": 2e9,
        "first_s": 1.8e9, "last_s": 1.9e9,
    }  # fmt: skip
    return Certificate(**(fields | changes))


def serving(**changes: Any) -> Serving:
    names = Around.__dataclass_fields__
    around = Around(**({"teachers": ("big",)} | {name: value for name, value in changes.items() if name in names}))
    fields: dict[str, Any] = {"student": "s-1", "threshold": 0.4, "around": around}
    return Serving(**(fields | {name: value for name, value in changes.items() if name not in names}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"student": "s-2", "student_model_sha256": "m" * 64},  # the same model in another bundle
        {"student": ""},  # not known
        {"teachers": ()},
        {"threshold": 0.3},  # more to the teacher was proven on the way
        {"fingerprints": {"fp-1": 1.95e9}, "rang": {"teacher_fingerprint": 1.95e9}},  # labels were made by that one
        {"fingerprints": {"fp-2": 1.7e9}},  # seen before the first label, and by none of them
        {"rang": {"inputs": 1.7e9}},  # all labels are of the traffic that it rang for
        {"drift_accepted_s": 1.99e9},
        {"rang": {"inputs": 2.1e9}, "acknowledged": Acknowledged(at_s=2.2e9, by="ops", comment="looked")},
    ],
)
def test_certificate_is_valid_when_what_it_is_about_serves(changes: dict[str, Any]) -> None:
    assert causes_of(certificate(), serving(**changes)) == ()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"student": "s-2"}, "student_changed"),
        ({"student": "s-2", "student_model_sha256": "x" * 64}, "student_changed"),
        ({"teachers": ("bigger",)}, "teacher_changed"),
        ({"fingerprints": {"fp-2": 2.1e9}}, "teacher_changed"),
        ({"threshold": 0.41}, "threshold_changed"),
        ({"threshold": None}, "threshold_changed"),
        ({"thresholds_by_tag": {"legal": 0.5}}, "threshold_changed"),
        ({"rang": {"inputs": 2.1e9}}, "drift"),
        ({"rang": {"inputs": 1.85e9}}, "drift"),  # amid the labels: some are of other traffic
        ({"rang": {"inputs": 2.1e9}, "acknowledged": Acknowledged(at_s=2.05e9, by="ops", comment="")}, "drift"),
        ({"drift_accepted_s": 2.1e9}, "drift"),
    ],
)
def test_certificate_is_void_when_one_of_them_changes(changes: dict[str, Any], cause: str) -> None:
    assert causes_of(certificate(), serving(**changes)) == (cause,)


def test_certificate_is_void_when_the_score_comes_from_another_artefact() -> None:
    promised = certificate(score_sha256="a" * 64)
    assert causes_of(promised, serving(score_sha256="b" * 64)) == ("score_changed",)
    assert causes_of(promised, serving(score_sha256="a" * 64)) == ()


def test_certificate_is_void_when_a_tag_has_a_higher_threshold_than_was_proven() -> None:
    lower = certificate().groups[0]
    own = msgspec.structs.replace(lower, values=("legal",), threshold=0.2)
    promised = certificate(tag="team", groups=(own, lower))
    assert causes_of(promised, serving()) == ("threshold_changed",)  # `legal` would have 0.4
    assert causes_of(promised, serving(tag="team", thresholds_by_tag={"legal": 0.2})) == ()


def test_certificate_is_void_when_the_thresholds_go_by_the_values_of_another_tag() -> None:
    """`{"purpose": "legal"}` may be on requests of any team, which were proven for another threshold."""
    strict = certificate().groups[0]
    own = msgspec.structs.replace(strict, values=("legal",), threshold=0.6)
    promised = certificate(tag="team", groups=(own, strict))
    assert causes_of(promised, serving(tag="team", thresholds_by_tag={"legal": 0.6})) == ()
    assert causes_of(promised, serving(tag="purpose", thresholds_by_tag={"legal": 0.6})) == ("threshold_changed",)
    assert causes_of(promised, serving(tag="purpose", thresholds_by_tag={"legal": 0.4})) == ()


def table(tmp_path: Path, on_void: str | None = None, **changes: Any) -> dict[str, Any]:
    path = tmp_path / "certificate.json"
    artefact.write(path, certificate(**changes))
    return {"type": "cascade", "threshold": 0.4, "certificate": str(path)} | ({"on_void": on_void} if on_void else {})


def test_policy_goes_on_when_its_certificate_is_void_and_nothing_else_is_declared(tmp_path: Path) -> None:
    built = build_all([table(tmp_path)], student=StudentDefaults(bundle_id="s-1"))
    (standing,) = built.standings
    assert standing.valid and not built.policies
    assert standing.judge(Around(rang={"inputs": 2.1e9}))
    assert not standing.judge(Around(rang={"inputs": 2.1e9}))  # not news
    assert standing.as_json()["status"] == "void"
    assert standing.as_json()["causes"] == ["drift"]
    assert standing.as_json()["events"] == [{"cause": "drift", "what": "inputs", "at_s": 2.1e9}]
    assert "inputs at 2036-07-18 13:20:00 UTC" in standing.describe()
    assert "nothing is promised" in standing.describe()


def test_certificate_says_who_answers_for_it_when_what_happened_was_acknowledged(tmp_path: Path) -> None:
    (standing,) = build_all([table(tmp_path)], student=StudentDefaults(bundle_id="s-1")).standings
    said = Acknowledged(at_s=2.2e9, by="ops", comment="looked", policy="cascade")
    standing.judge(Around(rang={"inputs": 2.1e9}, acknowledged=said))
    assert standing.valid
    assert standing.as_json()["acknowledged"]["by"] == "ops"
    assert "acknowledged by ops at 2039-09-18" in standing.describe()
    standing.judge(Around(teachers=("bigger",), rang={"inputs": 2.1e9}, acknowledged=said))
    assert standing.lasting_causes == ("teacher_changed",)
    assert standing.events == ()


def test_everything_goes_to_the_teacher_when_the_certificate_is_void_and_that_is_declared(tmp_path: Path) -> None:
    built = build_all([{"type": "long_context"}, table(tmp_path, "teacher")], student=StudentDefaults(bundle_id="s-1"))
    _, guard = built.policies
    (standing,) = built.standings
    assert guard.name == "cascade_certificate"
    assert decided(guard) is None
    standing.judge(Around(teachers=("bigger",)))
    found = decided(guard)
    assert found is not None and (found.route, found.reason) == ("teacher", "certificate_void")
    assert found.reason in guard.reasons
    standing.judge(Around(teachers=("big",)))
    assert decided(guard) is None


def decided(policy: Policy) -> RouteDecision | None:
    answer = policy.decide(FEATURES)
    return answer if isinstance(answer, RouteDecision) else None


def test_bundle_brings_its_certificate_when_the_table_has_no_threshold_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    artefact.write(path, certificate())
    student = StudentDefaults(bundle_id="s-1", cascade_threshold=0.4, certificate=path)
    (standing,) = build_all([{"type": "cascade"}], student=student).standings
    assert standing.valid
    assert build_all([{"type": "cascade", "threshold": 0.4}], student=student).standings == []


def test_table_is_refused_when_certificate_or_on_void_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(PolicyConfigError, match=r"0\.on_void: must be 'keep' or 'teacher'"):
        build_all([table(tmp_path, "panic")])
    with pytest.raises(PolicyConfigError, match=r"0\.certificate: .*is about the policy 'difficulty'"):
        build_all([table(tmp_path, policy="difficulty")])
    with pytest.raises(PolicyConfigError, match=r"0\.certificate: .*cannot be read"):
        build_all([{"type": "cascade", "certificate": str(tmp_path / "none.json")}])
    with pytest.raises(PolicyConfigError, match=r"0\.certificate: must be the path"):
        build_all([{"type": "cascade", "certificate": 3}])
    edited = Path(table(tmp_path)["certificate"])
    edited.write_text(edited.read_text().replace("0.01", "0.001", 1))
    with pytest.raises(PolicyConfigError, match="damaged or was edited"):
        build_all([{"type": "cascade", "certificate": str(edited)}])


def test_cascade_judges_by_the_threshold_of_the_requests_tag(tmp_path: Path) -> None:
    fitted = CalibratorArtefact(
        calibrator=Platt(slope=1.0, intercept=0.0), raw=MEAN_LOGPROB, source="", n=1, n_sufficient=1, ece=0.0,
        reliability=(),
    )  # fmt: skip
    artefact.write(tmp_path / "calibrator.json", fitted)
    by_tag = {"tag": "team", "thresholds": {"legal": 0.5}}
    entry = {"type": "cascade", "calibrator": str(tmp_path / "calibrator.json"), "threshold": 0.7}
    (cascade,) = build_all([entry | {"threshold_by_tag": by_tag}]).reviewers
    draft = Draft(text="x", finish_reason="stop", mean_logprob=-0.405, tokens=1)  # P(wrong) = 0.6
    asked = [msgspec.structs.replace(FEATURES, tags=tags) for tags in ({"team": "legal"}, {"team": "docs"}, {})]
    said = [cascade.review(each, draft) for each in asked]
    assert [each.threshold for each in said if each is not None] == [0.5, 0.7, 0.7]
    assert [isinstance(each, RouteDecision) for each in said] == [True, False, False]
    with pytest.raises(PolicyConfigError, match=r"threshold_by_tag\.thresholds\.legal"):
        build_all([entry | {"threshold_by_tag": {"tag": "team", "thresholds": {"legal": 1.5}}}])


def test_replay_asks_record_by_record_only_where_thresholds_differ_by_tag(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    from policies.replay.evaluate import vectorisable

    def slow(entry: dict[str, Any]) -> list[str]:
        built = build_all([entry])
        chain = PolicyChain(
            built.policies, reviewers=built.reviewers, version="v", default_route="student", on_policy_error="teacher"
        )
        return vectorisable(chain)

    assert slow(table(tmp_path, "teacher")) == []  # the guard has a form on columns
    by_tag = {"tag": "team", "thresholds": {"legal": 0.2}}
    assert slow({"type": "cascade", "threshold": 0.4, "threshold_by_tag": by_tag}) == ["cascade"]
