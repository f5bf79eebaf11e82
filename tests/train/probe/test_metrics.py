"""Figures of face tasks against scikit-learn, loops, closed forms and published values."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from facekit.errors import EvaluationError
from facekit.evaluate import roc
from facekit.train.probe.metrics import (
    absolute_yaw,
    accuracy,
    attribute_accuracy,
    attribute_f1,
    box_error,
    ccc,
    ced_auc,
    failure_rate,
    icc,
    interocular_error,
    macro_f1,
    mse,
    pair_scores,
    pcc,
    rmse,
    sagr,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ---------------------------------------------------------------- classes and attributes


def test_accuracy_and_f1_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    targets = rng.integers(0, 5, 200)
    predicted = np.where(rng.random(200) < 0.6, targets, rng.integers(0, 5, 200))
    assert accuracy(predicted, targets) == pytest.approx(sklearn.accuracy_score(targets, predicted))
    assert macro_f1(predicted, targets) == pytest.approx(
        sklearn.f1_score(targets, predicted, average="macro")
    )


@pytest.mark.parametrize(
    ("predicted", "targets"),
    [([0, 0, 0], [0, 1, 1]), ([3, 3], [0, 0]), ([0, 2, 2, 1], [0, 2, 2, 2])],
)
def test_f1_where_classes_are_missing_or_never_told(predicted: list[int], targets: list[int]) -> None:
    expected = sklearn.f1_score(targets, predicted, average="macro", zero_division=0)
    assert macro_f1(np.array(predicted), np.array(targets)) == pytest.approx(expected)


def test_attributes_without_gaps_are_scikit_learns(rng: np.random.Generator) -> None:
    targets = (rng.random((100, 7)) < 0.3).astype(np.float32)
    told = rng.random((100, 7)) < 0.4
    expected = sklearn.f1_score(targets.astype(int), told, average=None)
    np.testing.assert_allclose(attribute_f1(told, targets), expected)
    assert attribute_accuracy(told, targets) == pytest.approx((told == targets).mean())


def test_unknown_attributes_count_for_nothing(rng: np.random.Generator) -> None:
    targets = (rng.random((60, 3)) < 0.5).astype(np.float32)
    targets[rng.random((60, 3)) < 0.3] = np.nan
    told = rng.random((60, 3)) < 0.5
    scores, right = attribute_f1(told, targets), []
    for column in range(3):
        known = ~np.isnan(targets[:, column])
        truth, said = targets[known, column].astype(int), told[known, column]
        assert scores[column] == pytest.approx(sklearn.f1_score(truth, said))
        right.extend(truth == said)
    assert attribute_accuracy(told, targets) == pytest.approx(np.mean(right))


def test_attributes_without_a_positive_have_no_f1() -> None:
    targets = np.array([[1, 0, np.nan], [0, 0, np.nan]])
    scores = attribute_f1(np.ones((2, 3), bool), targets)
    assert scores[0] == pytest.approx(2 / 3)
    assert np.isnan(scores[1:]).all()
    with pytest.raises(EvaluationError, match="none of them known"):
        attribute_accuracy(np.ones((2, 1), bool), np.full((2, 1), np.nan))


# ---------------------------------------------------------------- agreement


def test_agreement_against_loops(rng: np.random.Generator) -> None:
    y = rng.uniform(-1, 1, 50)
    x = 0.5 * y + 0.2 + rng.normal(0, 0.3, 50)
    assert pcc(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert mse(x, y) == pytest.approx(sklearn.mean_squared_error(y, x))
    assert rmse(x, y) == pytest.approx(np.sqrt(np.mean([(a - b) ** 2 for a, b in zip(x, y, strict=True)])))
    assert sagr(x, y) == pytest.approx(np.mean([(a > 0) == (b > 0) for a, b in zip(x, y, strict=True)]))
    # Lin 1989: concordance is Pearson's correlation times a bias correction, which is at most 1
    ratio, shift = x.std() / y.std(), (x.mean() - y.mean()) ** 2 / (x.std() * y.std())
    assert ccc(x, y) == pytest.approx(pcc(x, y) * 2 / (ratio + 1 / ratio + shift))


def test_agreement_in_closed_form() -> None:
    y = np.array([-1.0, 0.0, 1.0])
    assert ccc(y, y) == pytest.approx(1)
    assert ccc(-y, y) == pytest.approx(-1)
    # variances 2/3 both, covariance 2/3, means 1 apart: (4/3) / (4/3 + 1)
    assert ccc(y + 1, y) == pytest.approx(4 / 7)
    assert pcc(3 * y + 1, y) == pytest.approx(1)
    assert sagr(np.array([0.1, 0.0, -1.0]), y) == pytest.approx(1 / 3)


def test_constants() -> None:
    y = np.array([0.1, 0.4, -0.3])
    constant = np.full(3, 0.1)  # whose variance is not exactly 0 in floating point
    assert ccc(constant, y) == pytest.approx(0)
    assert pcc(constant, y) == 0
    for figure in (ccc, pcc):
        with pytest.raises(EvaluationError, match="alike"):
            figure(y, constant)
    with pytest.raises(EvaluationError, match="alike"):
        icc(np.full((4, 2), 2.0))


def test_icc_is_that_of_shrout_and_fleiss() -> None:
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    assert icc(ratings) == pytest.approx(0.71, abs=0.005)  # their table 4, ICC(3,1)


def test_icc_of_two_judges(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=30), rng.normal(size=30)
    closed = 2 * np.cov(x, y)[0, 1] / (x.var(ddof=1) + y.var(ddof=1))
    assert icc(np.stack([x, y], 1)) == pytest.approx(closed)
    assert icc(np.stack([x, x + 3], 1)) == pytest.approx(1)  # what one adds costs nothing
    assert icc(np.stack([x, np.zeros(30)], 1)) == pytest.approx(0)


# ---------------------------------------------------------------- points


def loop_error(predicted: NDArray[np.float64], targets: NDArray[np.float64], unit: float) -> float:
    known = [k for k in range(len(targets)) if not np.isnan(targets[k]).any()]
    return float(np.mean([np.sqrt(((predicted[k] - targets[k]) ** 2).sum()) for k in known]) / unit)


def test_interocular_error(rng: np.random.Generator) -> None:
    targets, predicted = rng.random((5, 4, 2)), rng.random((5, 4, 2))
    targets[0, 3, 1] = np.nan  # one point of it is unknown
    targets[1, 2] = np.nan  # an eye is
    targets[2, 0] = targets[2, 2]  # both eyes in one place
    errors = interocular_error(predicted, targets, (0, 2))
    for row in (0, 3, 4):
        unit = float(np.hypot(*(targets[row, 0] - targets[row, 2])))
        assert errors[row] == pytest.approx(loop_error(predicted[row], targets[row], unit))
    assert np.isnan(errors[1:3]).all()


def test_box_error(rng: np.random.Generator) -> None:
    targets, predicted = rng.random((4, 6, 3)), rng.random((4, 6, 3))
    targets[1, 2, 2] = np.nan  # without its depth, a point is not known, nor does it widen the box
    targets[1, 2, 0] = 50.0
    targets[2, 1:] = np.nan
    targets[3] = np.nan
    errors = box_error(predicted, targets)
    for row in (0, 1):
        known = targets[row][~np.isnan(targets[row]).any(1)]
        unit = np.sqrt(np.ptp(known[:, 0]) * np.ptp(known[:, 1]))
        assert errors[row] == pytest.approx(loop_error(predicted[row], targets[row], unit))
    assert np.isnan(errors[2:]).all()


@pytest.mark.parametrize("degrees", [0, 20, -45, 70, 90])
def test_yaw_whatever_the_roll(degrees: float) -> None:
    yaw, roll = np.radians(degrees), np.radians(25)
    turned = np.array([np.cos(yaw), 0, -np.sin(yaw)])
    spin = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    points = np.stack([-spin @ turned, np.zeros(3), spin @ turned])[None]
    assert absolute_yaw(points, (0, 2)) == pytest.approx([abs(degrees)])


def test_area_under_cumulative_errors(rng: np.random.Generator) -> None:
    errors = rng.random(40) * 0.15
    steps = np.linspace(0, 0.08, 20_001)
    curve = (errors[:, None] <= steps).mean(0)
    integral = np.sum((curve[1:] + curve[:-1]) / 2 * np.diff(steps)) / 0.08
    assert ced_auc(errors, 0.08) == pytest.approx(integral, abs=1e-4)
    assert failure_rate(errors, 0.08) == pytest.approx(1 - curve[-1])
    assert ced_auc(np.zeros(3), 0.1) == 1
    assert failure_rate(np.array([0.1, 0.2]), 0.1) == 0.5  # at the limit is no failure


# ---------------------------------------------------------------- people


def test_pair_scores_against_all_pairs(rng: np.random.Generator) -> None:
    people = rng.integers(0, 6, 40)
    embeddings = (rng.normal(size=(6, 8))[people] + rng.normal(size=(40, 8))) * rng.uniform(0.1, 9, (40, 1))
    sides: dict[bool, list[float]] = {True: [], False: []}
    for i in range(40):
        for j in range(i):
            a, b = embeddings[i], embeddings[j]
            cosine = float(a @ b / np.sqrt((a @ a) * (b @ b)))
            sides[bool(people[i] == people[j])].append(cosine)
    expected, found = roc(sides[True], sides[False]), pair_scores(embeddings, people, (0.1,))
    assert found["auc"] == pytest.approx(expected.auc, abs=1e-3)
    assert found["eer"] == pytest.approx(expected.eer, abs=5e-3)
    assert found["tar@far=0.1"] == pytest.approx(expected.tar_at_far(0.1), abs=0.02)
