"""Calibrators recover known probabilities, and their files are verified."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from policies import artefact
from policies.calibration import (
    CalibratorArtefact,
    Clipped,
    Identity,
    Isotonic,
    Platt,
    cross_fitted,
    expected_calibration_error,
    fit,
    load,
    reliability,
    sigmoid,
)


def simulated(n: int, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Raw scores whose true P(sufficient) is sigmoid(8 raw - 4)."""
    rng = random.Random(seed)
    raw = [rng.uniform(-0.2, 1.0) for _ in range(n)]
    return raw, [rng.random() < sigmoid(8 * value - 4) for value in raw]


def test_platt_recovers_the_curve_that_made_the_labels() -> None:
    curve = fit(*simulated(20_000), method="platt")
    assert isinstance(curve, Platt)
    assert curve.slope == pytest.approx(8, rel=0.05)
    assert curve.intercept == pytest.approx(-4, rel=0.05)


def test_method_is_isotonic_from_a_thousand_labels_on() -> None:
    assert isinstance(fit(*simulated(999)), Platt)
    assert isinstance(fit(*simulated(1_000)), Isotonic)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_cross_fitted_confidences_are_calibrated(method: str) -> None:
    raw, sufficient = simulated(4_000)
    bins = reliability(cross_fitted(raw, sufficient, method=method), sufficient)  # type: ignore[arg-type]
    assert sum(each.n for each in bins) == 4_000
    assert expected_calibration_error(bins) < 0.03


def test_raw_scores_alone_are_not_calibrated() -> None:
    raw, sufficient = simulated(4_000)
    clipped = [min(1.0, max(0.0, value)) for value in raw]
    assert expected_calibration_error(reliability(clipped, sufficient)) > 0.05


def test_isotonic_equals_the_means_when_they_already_rise() -> None:
    raw = [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    sufficient = [True, False, False, False, True, True, False, False, True, True, True, False]
    curve = fit(raw, sufficient, method="isotonic")
    assert isinstance(curve, Isotonic)
    assert curve.points == ((1.0, 0.25), (2.0, 0.5), (3.0, 0.75))
    assert curve.confidence(1.5) == pytest.approx(0.375)
    assert (curve.confidence(-9.0), curve.confidence(9.0)) == (0.25, 0.75)


def test_isotonic_pools_what_falls() -> None:
    curve = fit([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], [True, False, False, False, True, True], method="isotonic")
    assert isinstance(curve, Isotonic)
    assert [value for _, value in curve.points] == [0.25, 1.0]


def test_separable_cases_stay_finite() -> None:
    curve = fit([0.0] * 20 + [1.0] * 20, [False] * 20 + [True] * 20, method="platt")
    assert isinstance(curve, Platt)
    assert math.isfinite(curve.slope)
    assert curve.confidence(0.0) == pytest.approx(1 / 22, abs=0.01)


@pytest.mark.parametrize(
    ("raw", "sufficient", "message"),
    [
        ([0.1, 0.2], [True], "2 raw scores but 1 labels"),
        ([0.1, 0.2], [True, True], "both outcomes"),
        ([0.1, math.nan], [True, False], "finite"),
    ],
)
def test_fit_refuses_cases_that_cannot_be_fitted(raw: list[float], sufficient: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(raw, sufficient)


def test_identity_takes_only_probabilities() -> None:
    assert [Identity().confidence(value) for value in (0.0, 0.3, 1.0, 1.01, -0.1, math.nan)] == [
        0.0, 0.3, 1.0, None, None, None,
    ]  # fmt: skip


def test_clipped_maps_the_ends_of_its_scale() -> None:
    stars = Clipped(low=1.0, high=5.0)
    assert [stars.confidence(value) for value in (0.0, 1.0, 3.0, 5.0, 9.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Clipped(low=1.0, high=1.0),
        lambda: Isotonic(points=()),
        lambda: Isotonic(points=((0.0, 0.5), (1.0, 0.4))),
        lambda: Isotonic(points=((0.0, 0.5), (1.0, 1.4))),
    ],
)
def test_curves_that_make_no_sense_are_refused(build: object) -> None:
    with pytest.raises(ValueError):
        build()  # type: ignore[operator]


def artefact_of(calibrator: object) -> CalibratorArtefact:
    return CalibratorArtefact(
        calibrator=calibrator, raw="cosine", aggregate="top1", k=3, source="test", n=2, n_sufficient=1, ece=0.1,
        reliability=(),
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    "calibrator",
    [Identity(), Clipped(0.0, 5.0), Platt(3.0, -1.0), Isotonic(((0.0, 0.1), (1.0, 0.9)))],
    ids=lambda value: type(value).__name__,
)
def test_artefact_survives_the_round_trip(tmp_path: Path, calibrator: object) -> None:
    written = artefact_of(calibrator)
    artefact.write(tmp_path / "c.json", written)
    assert load(tmp_path / "c.json") == written


def test_artefact_that_was_edited_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    artefact.write(path, artefact_of(Platt(3.0, -1.0)))
    path.write_text(path.read_text().replace("3.0", "9.0"))
    with pytest.raises(artefact.ArtefactError, match="damaged or was edited"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"sha256": "x", "calibrator": {"type": "pickle"}}'])
def test_artefact_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(artefact.ArtefactError, match=r"c\.json"):
        load(path)


@pytest.mark.parametrize("aggregate", ["top1", "mean_k", "margin"])
def test_shipped_calibrators_say_where_they_come_from(aggregate: str) -> None:
    shipped = load(artefact.DATA_FOLDER / f"retrieval_minilm_{aggregate}.json")
    assert shipped.aggregate == aggregate
    assert "docstrings" in shipped.source
    assert "Fit your own" in shipped.note
    assert shipped.ece < 0.05
