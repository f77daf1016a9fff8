"""The cascade in full: checks come before scores, a model of all signals, and a second sample only where it is unsure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import artefact
from policies.base import (
    Abstain,
    DraftMeasures,
    MeasuringReviewer,
    PolicyConfigError,
    RequestFeatures,
    RouteDecision,
    SecondSample,
    StudentDefaults,
)
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt
from policies.cascade import REASONS, Cascade
from policies.chain import PolicyChain
from policies.draft_signals import NAMES, DraftSignal, DraftSignals, values
from policies.drafts.validity import CHECKS
from policies.record import DecisionRecord, Draft, decode, encode
from policies.registry import build
from policies.scoring import text as text_features
from policies.scoring.model import ScoreArtefact
from policies.scoring.models import Linear
from tests.policies.scoring.building import TRAINING, artefact_of, dense, lexical, stump
from tests.traffic_records import decision

SEEN = RequestFeatures(
    prompt_bytes=8, message_count=1, approx_prompt_tokens=2, requested_output_tokens=9, last_user_turn="prove it"
)
STUDENT = StudentDefaults(bundle_id="s-1", model_sha256="m1")


def drafted(mean_logprob: float | None = -1.0, **signals: Any) -> Draft:
    signals = {"mean_logprob": mean_logprob, "tokens": 4, "failed": (), **signals}
    return Draft(text="B", mean_logprob=mean_logprob, tokens=4, finish_reason="stop", signals=DraftSignals(**signals))


def by_calibrator(folder: Path, **options: Any) -> Cascade:
    """P(wrong) = 0.5 at a mean of -1, and more below."""
    fitted = CalibratorArtefact(
        calibrator=Platt(slope=2.0, intercept=2.0), raw=MEAN_LOGPROB, source="test", n=9, n_sufficient=5, ece=0.0,
        reliability=(),
    )  # fmt: skip
    artefact.write(folder / "calibrator.json", fitted)
    options = {"threshold": 0.5, **options}
    return Cascade(calibrator=str(folder / "calibrator.json"), **options)


def by_model(folder: Path, made: ScoreArtefact, **options: Any) -> Cascade:
    artefact.write(folder / "model.json", made)
    built = build("cascade", {"model": str(folder / "model.json"), **options}, student=STUDENT)
    assert isinstance(built, Cascade)
    return built


def of_signals(*names: str, **changes: Any) -> ScoreArtefact:
    """A linear score: every one of these signals lowers P(inadequate); a missing one raises it."""
    linear = Linear(intercept=0.0, dense={name: dense(-2.0, missing=3.0) for name in names})
    return artefact_of(linear, use="draft", inputs=names, **changes)


def vote(policy: Cascade, draft: Draft, features: RequestFeatures = SEEN) -> tuple[str | None, str]:
    answer = policy.review(features, draft)
    assert isinstance(answer, RouteDecision | Abstain)
    assert answer.reason in REASONS
    return answer.route if isinstance(answer, RouteDecision) else None, answer.reason


SWITCHES = {
    "empty_answer": "escalate_empty",
    "truncated": "escalate_truncated",
    "refused": "escalate_refused",
    "broken_tool_call": "escalate_broken_call",
    "broken_json": "escalate_broken_json",
    "other_form": "escalate_other_form",
}


@pytest.mark.parametrize("check", CHECKS)
def test_failed_check_escalates_before_any_score_unless_it_is_switched_off(tmp_path: Path, check: str) -> None:
    sure = drafted(-0.01, failed=(check,))
    assert vote(by_calibrator(tmp_path), sure) == ("teacher", check)
    assert vote(Cascade(), sure) == ("teacher", check)  # no calibrator is needed for that
    assert vote(by_calibrator(tmp_path, **{SWITCHES[check]: False}), sure) == (None, "confident")


def test_gravest_check_that_counts_is_the_reason(tmp_path: Path) -> None:
    both = drafted(failed=("refused", "other_form"))
    assert vote(by_calibrator(tmp_path), both)[1] == "refused"
    assert vote(by_calibrator(tmp_path, escalate_refused=False), both)[1] == "other_form"


def test_limit_of_the_client_truncates_only_on_request(tmp_path: Path) -> None:
    cut = msgspec.structs.replace(drafted(-0.01), finish_reason="length")  # the check passed: the limit was asked for
    assert vote(by_calibrator(tmp_path), cut) == (None, "confident")
    assert vote(by_calibrator(tmp_path, escalate_truncated=True), cut) == ("teacher", "truncated")


def test_model_scores_all_signals_of_the_draft_and_the_prompt(tmp_path: Path) -> None:
    policy = by_model(tmp_path, of_signals("min_margin", "retrieval_confidence"), threshold=0.5)
    good = drafted(min_margin=2.0)
    certain = msgspec.structs.replace(SEEN, retrieval_confidence=0.9)
    assert vote(policy, good, certain) == (None, "confident")
    assert vote(policy, drafted(min_margin=0.0), certain) == (None, "confident")
    assert vote(policy, drafted(min_margin=0.0)) == ("teacher", "low_confidence")  # nothing is known of a retrieval
    assert policy.measures == DraftMeasures(top_logprobs=5)


def test_threshold_of_the_model_counts_where_none_is_set(tmp_path: Path) -> None:
    made = of_signals("mean_logprob", default_threshold=0.95)
    assert vote(by_model(tmp_path, made), drafted(-1.0)) == (None, "confident")
    assert vote(by_model(tmp_path, made, threshold=0.5), drafted(-1.0)) == ("teacher", "low_confidence")
    unset = by_model(tmp_path, of_signals("mean_logprob"))
    assert vote(unset, drafted()) == (None, "no_threshold")
    assert unset.warning is not None and "no_threshold" in unset.warning


def test_model_of_another_student_or_version_has_no_opinion(tmp_path: Path) -> None:
    training = msgspec.structs.replace(TRAINING, student="s-0")
    assert vote(by_model(tmp_path, of_signals("tokens", training=training)), drafted()) == (None, "other_student")
    same = msgspec.structs.replace(training, student_model_sha256="m1")
    policy = by_model(tmp_path, of_signals("tokens", training=same), threshold=0.9)
    assert vote(policy, drafted()) == (None, "confident")
    stale = by_model(tmp_path, of_signals("tokens", text_schema=text_features.SCHEMA + 1), threshold=0.9)
    assert vote(stale, drafted(-9.0)) == (None, "stale_model")
    assert stale.warning is not None and "stale_model" in stale.warning


def test_model_that_needs_what_is_not_measured_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        PolicyConfigError, match=r"^model: model\.json needs verbal, which the gateway does not measure"
    ):
        by_model(tmp_path, of_signals("verbal"))
    with pytest.raises(PolicyConfigError, match=r"^model: .*is a score of a prompt, not of a draft"):
        by_model(tmp_path, artefact_of(Linear(intercept=0.0), use="prompt"))
    with pytest.raises(PolicyConfigError, match=r"^model: takes the place of a calibrator"):
        by_model(tmp_path, of_signals("tokens"), calibrator=str(by_calibrator(tmp_path).calibrator))


def test_model_abstains_when_a_backend_tells_no_logprobs_that_it_needs(tmp_path: Path) -> None:
    policy = by_model(tmp_path, of_signals("mean_logprob", "tokens"), threshold=0.5)
    assert vote(policy, drafted(None)) == (None, "no_logprobs")
    assert vote(by_model(tmp_path, of_signals("tokens"), threshold=0.5), drafted(None)) == (None, "confident")


def test_length_of_a_stream_is_not_known_from_its_beginning(tmp_path: Path) -> None:
    policy = by_model(
        tmp_path, artefact_of(stump("tokens", 10.0, below=-5.0, above=5.0), use="draft", inputs=("tokens",))
    )
    whole = policy.score.of(SEEN, drafted(), None)
    prefix = policy.score.of(SEEN, msgspec.structs.replace(drafted(), prefix=True), None)
    assert whole == pytest.approx(0.0067, abs=1e-4)
    assert prefix == pytest.approx(0.9933, abs=1e-4)  # as the tree was told of missing values


def test_recorded_score_stands_where_the_text_was_not_kept(tmp_path: Path) -> None:
    linear = Linear(intercept=-2.0, lexical=lexical({"words": {"prove": 8.0}}))
    made = artefact_of(linear, use="draft", text_schema=text_features.SCHEMA)
    policy = by_model(tmp_path, made, threshold=0.5)
    read = policy.read(SEEN, drafted())
    assert vote(policy, read) == ("teacher", "low_confidence")
    bare = msgspec.structs.replace(SEEN, last_user_turn="")
    assert vote(policy, drafted(), bare) == (None, "confident")
    assert vote(policy, read, bare) == ("teacher", "low_confidence")
    other = by_model(tmp_path, msgspec.structs.replace(made, intercept=-0.001), threshold=0.5)
    assert vote(other, read, bare) == (None, "confident")  # the score of another model says nothing


BAND = (0.4, 0.6)


def test_second_sample_is_wanted_only_in_the_band(tmp_path: Path) -> None:
    policy = by_calibrator(tmp_path, second_sample_band=BAND)
    assert policy.needs_draft(SEEN, drafted(-1.0)) is DraftSignal.AGREEMENT
    assert policy.needs_draft(SEEN, drafted(-3.0)) is None
    assert policy.needs_draft(SEEN, drafted(-0.1)) is None
    assert policy.needs_draft(SEEN, drafted(-1.0, failed=("refused",))) is None
    assert policy.needs_draft(SEEN, drafted(-1.0, agreement=0.2)) is None
    assert policy.needs_draft(SEEN, msgspec.structs.replace(drafted(-1.0), prefix=True)) is None
    assert by_calibrator(tmp_path).needs_draft(SEEN, drafted(-1.0)) is None
    assert Cascade(second_sample_band=BAND).needs_draft(SEEN, drafted(-1.0)) is None
    sample = SecondSample(temperature=0.7, timeout_s=10.0, max_inflight=8)
    assert policy.measures == DraftMeasures(second_sample=sample)


def test_agreement_takes_an_uncertain_draft_to_the_side_that_it_points_to(tmp_path: Path) -> None:
    policy = by_calibrator(tmp_path, second_sample_band=BAND)
    for agreement, score, said in ((1.0, 0.25, "confident"), (0.0, 0.75, "low_confidence"), (0.5, 0.5, "confident")):
        answer = policy.review(SEEN, drafted(-1.0, agreement=agreement))
        assert isinstance(answer, RouteDecision | Abstain)
        assert answer.score == pytest.approx(score)
        assert answer.reason == said
    assert vote(policy, drafted(-3.0, agreement=1.0)) == ("teacher", "low_confidence")  # outside of the band it is sure
    assert vote(by_calibrator(tmp_path, threshold=0.6), drafted(-1.0, agreement=0.0)) == (None, "confident")


def test_model_weighs_agreement_as_one_of_its_signals(tmp_path: Path) -> None:
    linear = Linear(intercept=0.0, dense={"agreement": dense(-4.0, missing=0.0)})
    policy = by_model(
        tmp_path, artefact_of(linear, use="draft", inputs=("agreement",)), threshold=0.4, second_sample_band=BAND
    )
    assert policy.needs_draft(SEEN, drafted()) is DraftSignal.AGREEMENT
    assert vote(policy, drafted(agreement=1.0)) == (None, "confident")
    assert vote(policy, drafted(agreement=0.0)) == ("teacher", "low_confidence")


@pytest.mark.parametrize("band", [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1)])
def test_band_that_is_none_is_refused_by_name(band: tuple[float, float]) -> None:
    with pytest.raises(PolicyConfigError, match=r"^second_sample_band: must be two rising numbers"):
        build("cascade", {"second_sample_band": list(band)})


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("B\nConfidence: 80%", 0.8), ("confidence: 0.35", 0.35), ("Confidence: 100", 1.0), ("Confidence: 8/10", 0.8),
        ("Confidence: 30 / 100. Wait. Confidence: 90 / 100", 0.9), ("Confidence: 250%", None), ("B", None), ("", None),
    ],
)  # fmt: skip
def test_stated_confidence_is_read_where_the_pattern_finds_it(text: str, stated: float | None) -> None:
    policy = Cascade(confidence_pattern=r"confidence:\s*(\d+(?:\.\d+)?\s*(?:%|/\s*\d+)?)")
    signals = policy.read(SEEN, Draft(text=text)).signals
    assert signals is not None
    assert signals.stated_confidence == stated


def test_stated_confidence_is_read_from_a_field_of_the_answers_json() -> None:
    policy = Cascade(confidence_field="sure")
    for text, stated in (
        ('{"a": 1, "sure": 0.7}', 0.7),
        ('{"sure": "70%"}', 0.7),
        ('{"sure": true}', None),
        ("{", None),
    ):
        signals = policy.read(SEEN, Draft(text=text)).signals
        assert signals is not None
        assert signals.stated_confidence == stated


@pytest.mark.parametrize("pattern", ["(", "confidence: 1", "(a)(b)"])
def test_pattern_that_cannot_be_used_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(PolicyConfigError, match=r"^confidence_pattern: "):
        build("cascade", {"confidence_pattern": pattern})


def test_cascade_measures_and_others_need_not() -> None:
    assert isinstance(Cascade(), MeasuringReviewer)
    chain = PolicyChain(
        [], reviewers=[Cascade(top_logprobs=3)], version="v", default_route="student", on_policy_error="teacher"
    )
    assert chain.measures.top_logprobs == 3


class Failing(Cascade):
    """Third-party code may do anything."""

    def read(self, features: RequestFeatures, draft: Draft) -> Draft:
        raise RuntimeError("planted")

    def needs_draft(self, features: RequestFeatures, draft: Draft) -> DraftSignal | None:
        raise RuntimeError("planted")


def test_reviewer_that_fails_to_measure_fails_nothing() -> None:
    chain = PolicyChain([], reviewers=[Failing()], version="v", default_route="student", on_policy_error="teacher")
    draft = drafted()
    assert chain.read(SEEN, draft) is draft
    assert chain.needs_draft(SEEN, draft) is None


def test_signal_that_will_not_come_is_not_asked_for_again(tmp_path: Path) -> None:
    reviewer = by_calibrator(tmp_path, second_sample_band=BAND)
    chain = PolicyChain([], reviewers=[reviewer], version="v", default_route="student", on_policy_error="teacher")
    assert chain.needs_draft(SEEN, drafted(-1.0)) is DraftSignal.AGREEMENT
    assert chain.needs_draft(SEEN, drafted(-1.0, unavailable=(DraftSignal.AGREEMENT,))) is None


def test_every_value_has_a_name_and_every_name_a_value() -> None:
    found = values(drafted(failed=("refused",)).signals or DraftSignals(), SEEN)
    assert set(found) == set(NAMES)
    assert found["valid"] == 0.0
    assert found["prompt_tokens"] == 2
    assert found["reasoning_effort"] is None


def test_record_without_signals_is_read_and_one_with_them_comes_back() -> None:
    old = encode(decision(1, draft=Draft(text="B", mean_logprob=-1.0)))
    fields = msgspec.json.decode(old)
    for new in ("signals", "sample_usage", "sample_cost_usd"):
        fields["draft"].pop(new)
    assert decode(msgspec.json.encode(fields)) == decode(old)
    full = drafted(agreement=0.5, failed=("refused",), unavailable=(DraftSignal.AGREEMENT,))
    assert read_back(full).draft == full


def read_back(draft: Draft) -> DecisionRecord:
    return decode(encode(decision(1, draft=draft)))


maybe = st.none() | st.floats(0, 1)


@given(
    mean_logprob=st.none() | st.floats(-20, 0),
    agreement=maybe,
    stated=maybe,
    failed=st.none() | st.sets(st.sampled_from(CHECKS)),
    prefix=st.booleans(),
)
def test_recorded_drafts_lead_to_the_same_decision(
    tmp_path_factory: pytest.TempPathFactory,
    mean_logprob: float | None,
    agreement: float | None,
    stated: float | None,
    failed: set[str] | None,
    prefix: bool,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    names = ("mean_logprob", "agreement", "stated_confidence")
    draft = msgspec.structs.replace(
        drafted(
            mean_logprob,
            agreement=agreement,
            stated_confidence=stated,
            failed=None if failed is None else tuple(name for name in CHECKS if name in failed),
        ),
        prefix=prefix,
    )
    for policy in (
        by_calibrator(folder, second_sample_band=BAND),
        by_model(folder, of_signals(*names), threshold=0.5, second_sample_band=(0.0, 1.0)),
    ):
        seen = policy.read(SEEN, draft)
        recorded = read_back(msgspec.structs.replace(seen, text=None)).draft
        assert recorded is not None
        bare = msgspec.structs.replace(SEEN, last_user_turn="")
        assert policy.review(bare, recorded) == policy.review(SEEN, seen)
