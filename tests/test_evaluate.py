from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facekit.errors import EvaluationError
from facekit.evaluate import (
    VerificationReport,
    best_threshold,
    bootstrap,
    confidence_intervals,
    evaluate_pairs,
    evaluate_search,
    kfold_accuracy,
    roc,
    roc_of_people,
)

# few values, so that ties within and between the two kinds are common
score = st.one_of(st.sampled_from([-1.0, -0.25, 0.0, 0.3, 0.31, 0.5, 1.0]), st.floats(-1, 1, width=32))
score_sets = st.lists(score, min_size=1, max_size=40)


def share(scores: list[float], threshold: float) -> float:
    return sum(value >= threshold for value in scores) / len(scores)


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def overlapping(seed: int, n: int = 2000) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 0.15, n).astype(np.float32), rng.normal(0.1, 0.12, 3 * n).astype(np.float32)


class TestROC:
    @settings(deadline=None, max_examples=150)
    @given(score_sets, score_sets)
    def test_every_point_is_the_share_at_its_threshold(
        self, genuine: list[float], impostor: list[float]
    ) -> None:
        curve = roc(genuine, impostor)
        assert (curve.genuine, curve.impostor) == (len(genuine), len(impostor))
        assert curve.thresholds[1:].tolist() == sorted({*genuine, *impostor}, reverse=True)
        assert curve.thresholds[0] > curve.thresholds[1]
        for threshold, far, tar in zip(curve.thresholds, curve.far, curve.tar, strict=True):
            assert far == pytest.approx(share(impostor, threshold))
            assert tar == pytest.approx(share(genuine, threshold))
        assert (curve.far[0], curve.tar[0], curve.far[-1], curve.tar[-1]) == (0, 0, 1, 1)

    @settings(deadline=None, max_examples=100)
    @given(score_sets, score_sets)
    def test_auc_is_the_chance_of_the_right_order(self, genuine: list[float], impostor: list[float]) -> None:
        wins = sum((g > i) + (g == i) / 2 for g, i in itertools.product(genuine, impostor))
        assert roc(genuine, impostor).auc == pytest.approx(wins / len(genuine) / len(impostor))

    @settings(deadline=None, max_examples=100)
    @given(score_sets, score_sets, st.integers(1, 40))
    def test_threshold_at_far_is_the_lowest_score_that_keeps_it(
        self, genuine: list[float], impostor: list[float], accepts: int
    ) -> None:
        curve, far = roc(genuine, impostor), min(1.0, accepts / len(impostor))
        threshold = curve.threshold_at_far(far)
        assert share(impostor, threshold) <= far
        assert curve.tar_at_far(far) == pytest.approx(share(genuine, threshold))
        lower = [value for value in [*genuine, *impostor] if value < threshold]
        assert not lower or share(impostor, max(lower)) > far

    def test_is_sklearn_s(self) -> None:
        metrics = pytest.importorskip("sklearn.metrics")
        for seed in range(3):
            genuine, impostor = overlapping(seed)
            genuine[:50] = impostor[:50] = 0.25
            same = np.repeat([1, 0], [len(genuine), len(impostor)])
            scores = np.concatenate([genuine, impostor]).astype(np.float64)
            far, tar, thresholds = metrics.roc_curve(same, scores, drop_intermediate=False)
            curve = roc(genuine, impostor)
            np.testing.assert_allclose(curve.far, far, atol=1e-12)
            np.testing.assert_allclose(curve.tar, tar, atol=1e-12)
            np.testing.assert_array_equal(curve.thresholds[1:], thresholds[1:])
            assert curve.auc == pytest.approx(metrics.auc(far, tar), abs=1e-12)
            assert curve.auc == pytest.approx(metrics.roc_auc_score(same, scores), abs=1e-12)

    @pytest.mark.parametrize(
        ("genuine", "impostor", "eer", "auc"),
        [
            ([0.9, 0.8], [0.1, 0.2], 0.0, 1.0),
            ([0.1, 0.2], [0.9, 0.8], 1.0, 0.0),
            ([0.5, 0.5], [0.5, 0.5], 0.5, 0.5),
            ([0.9, 0.8, 0.7, 0.2], [0.6, 0.3, 0.1, 0.0], 0.25, 14 / 16),
            ([0.9, 0.3], [0.5, 0.1, 0.0], 1 / 3, 5 / 6),  # crosses on a vertical step
            ([0.9, 0.5], [0.5, 0.1], 0.25, 7 / 8),  # half way along the slope from (0, .5) to (.5, 1)
        ],
    )
    def test_known_ones(self, genuine: list[float], impostor: list[float], eer: float, auc: float) -> None:
        curve = roc(genuine, impostor)
        assert curve.eer == pytest.approx(eer)
        assert curve.auc == pytest.approx(auc)

    def test_eer_of_normal_scores(self) -> None:
        rng = np.random.default_rng(0)  # two normals, 2 apart: both errors are Phi(-1) half way
        curve = roc(rng.normal(2, 1, 200_000), rng.normal(0, 1, 200_000))
        assert curve.eer == pytest.approx(0.158655, abs=2e-3)
        assert curve.tar_at_far(0.1) == pytest.approx(
            0.5 * math.erfc((1.2815516 - 2) / math.sqrt(2)), abs=4e-3
        )

    def test_rates_below_one_pair_are_refused(self) -> None:
        curve = roc([0.9] * 5, np.linspace(0, 0.5, 1000))
        assert curve.threshold_at_far(1e-3) == 0.5
        for call in (curve.threshold_at_far, curve.tar_at_far):
            with pytest.raises(EvaluationError, match=r"far 0.0001 needs at least 10,000 .* are 1,000"):
                call(1e-4)
            for far in (0.0, -0.1, 1.5, math.nan):
                with pytest.raises(EvaluationError, match="far is"):
                    call(far)
        assert curve.reaches(1e-3)
        assert not curve.reaches(9e-4)

    def test_calibration_has_the_rates_that_enough_pairs_stand_behind(self) -> None:
        impostor = np.linspace(-1, 0.5, 1001)
        table = roc([0.9], impostor).calibration()
        assert list(table) == [1e-1, 1e-2]
        for far, threshold in table.items():
            assert np.mean(impostor >= threshold) <= far
        assert list(roc([0.9], impostor).calibration(accepts=1)) == [1e-1, 1e-2, 1e-3]

    @pytest.mark.parametrize(
        ("genuine", "impostor", "message"),
        [
            ([], [0.1], "0 genuine and 1 impostor"),
            ([0.1], [], "1 genuine and 0 impostor"),
            ([math.nan], [0.1], "genuine scores"),
            ([0.1], [[0.1]], r"impostor scores of shape \(1, 1\)"),
        ],
    )
    def test_bad_scores(self, genuine: Any, impostor: Any, message: str) -> None:
        with pytest.raises(EvaluationError, match=message):
            roc(genuine, impostor)


class TestROCOfPeople:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(3, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
    def test_is_the_roc_of_all_pairs_in_bins(self, n: int, block: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        labels = np.array(["a", "a", "b", *rng.choice(list("abc"), n - 3)])
        vectors = unit(rng.standard_normal((n, 5)))
        vectors[-1] = vectors[0]
        i, j = np.triu_indices(n, 1)
        binned = np.floor(np.clip((vectors @ vectors.T)[i, j], -1, 1).astype(np.float64) * 2**15) / 2**15
        same = labels[i] == labels[j]
        found, expected = roc_of_people(vectors, labels, block=block), roc(binned[same], binned[~same])
        assert (found.genuine, found.impostor) == (expected.genuine, expected.impostor)
        # a score that lies on the edge of two bins may round into either, as blocks differ in shape
        np.testing.assert_allclose(found.auc, expected.auc, atol=1e-3)
        if len(found.far) == len(expected.far):
            np.testing.assert_allclose(found.thresholds[1:], expected.thresholds[1:], atol=2**-15)
            np.testing.assert_allclose(found.tar, expected.tar)
            np.testing.assert_allclose(found.far, expected.far)

    def test_thresholds_tell_the_true_rates(self) -> None:
        rng = np.random.default_rng(0)
        centres, labels = rng.standard_normal((60, 32)), rng.integers(60, size=900)
        vectors = unit(centres[labels] + 1.2 * rng.standard_normal((900, 32)))
        curve = roc_of_people(vectors, labels, block=256)
        i, j = np.triu_indices(900, 1)
        scores, same = (
            (vectors.astype(np.float64) @ vectors.T.astype(np.float64))[i, j],
            labels[i] == labels[j],
        )
        for far in (1e-1, 1e-2, 1e-3):
            threshold = curve.threshold_at_far(far)
            accepted = scores >= threshold
            assert np.mean(accepted[~same]) == pytest.approx(far, abs=2e-5)
            assert curve.tar_at_far(far) == pytest.approx(np.mean(accepted[same]), abs=1e-4)
        exact = roc(scores[same], scores[~same])
        assert curve.auc == pytest.approx(exact.auc, abs=1e-5)
        assert curve.eer == pytest.approx(exact.eer, abs=1e-4)

    def test_bad_sets(self) -> None:
        vectors = unit(np.random.default_rng(0).standard_normal((4, 3)))
        with pytest.raises(EvaluationError, match="0 genuine"):
            roc_of_people(vectors, [0, 1, 2, 3])
        with pytest.raises(EvaluationError, match="0 impostor"):
            roc_of_people(vectors, [0, 0, 0, 0])
        with pytest.raises(EvaluationError, match="3 labels"):
            roc_of_people(vectors, [0, 0, 1])
        for bad in (2.0, np.nan):
            with pytest.raises(EvaluationError, match="unit length"):
                roc_of_people(vectors * np.float32(bad), [0, 0, 1, 1])


class TestFolds:
    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.tuples(score, st.booleans()), min_size=1, max_size=40))
    def test_best_threshold_tells_the_most_pairs_right(self, pairs: list[tuple[float, bool]]) -> None:
        scores, same = np.array([s for s, _ in pairs]), np.array([kind for _, kind in pairs])
        right = [
            np.sum((scores >= threshold) == same) for threshold in [*scores, np.nextafter(scores.max(), 9)]
        ]
        assert np.sum((scores >= best_threshold(scores, same)) == same) == max(right)

    def test_best_threshold_is_half_way(self) -> None:
        assert best_threshold(np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True])) == 0.4

    def test_folds_are_judged_by_the_thresholds_of_the_others(self) -> None:
        # the first fold's own best threshold is 0.7; the others', 0.35, gets one pair of it wrong
        scores = np.array([0.9, 0.5, 0.6, 0.1, 0.1, 0.6])
        same = np.array([True, False, True, False, False, True])
        accuracies, thresholds = kfold_accuracy(scores, same, np.array([7, 7, 8, 8, 9, 9]))
        np.testing.assert_allclose(accuracies, [0.5, 1, 1])
        np.testing.assert_allclose(thresholds, [0.35, 0.55, 0.55])

    def test_is_a_plain_loop_over_folds(self) -> None:
        genuine, impostor = overlapping(1, 300)
        scores = np.concatenate([genuine, impostor[:300]]).astype(np.float64)
        same = np.repeat([True, False], 300)
        folds = np.tile(np.arange(10), 60)
        accuracies, _ = kfold_accuracy(scores, same, folds)
        for fold in range(10):
            train, test = folds != fold, folds == fold
            rates = {t: np.mean((scores[train] >= t) == same[train]) for t in np.unique(scores[train])}
            near_best = [t for t, rate in rates.items() if rate == max(rates.values())]
            possible = [np.mean((scores[test] >= t - 1e-9) == same[test]) for t in near_best]
            assert min(possible) - 0.05 <= accuracies[fold] <= max(possible) + 0.05

    def test_one_fold_is_none(self) -> None:
        with pytest.raises(EvaluationError, match="1 fold"):
            kfold_accuracy(np.array([0.1, 0.9]), np.array([False, True]), np.array([0, 0]))


class TestReport:
    def test_holds_all_figures(self) -> None:
        genuine, impostor = overlapping(2, 300)
        scores, same = np.concatenate([genuine, impostor[:300]]), np.repeat([True, False], 300)
        folds = np.tile(np.repeat(np.arange(3), 100), 2)
        report = evaluate_pairs(scores, same, folds)
        accuracies, thresholds = kfold_accuracy(scores.astype(np.float64), same, folds)
        curve = roc(genuine, impostor[:300])
        assert report == VerificationReport(
            accuracy=pytest.approx(accuracies.mean()),
            standard_error=pytest.approx(np.std(accuracies, ddof=1) / math.sqrt(3)),
            folds=tuple(accuracies),
            threshold=pytest.approx(thresholds.mean()),
            auc=curve.auc,
            eer=curve.eer,
            tar_at_far={1e-1: curve.tar_at_far(1e-1), 1e-2: curve.tar_at_far(1e-2)}
            | dict.fromkeys((1e-3, 1e-4, 1e-5, 1e-6)),
            genuine=300,
            impostor=300,
            missing=0,
        )

    def test_becomes_json(self) -> None:
        report = evaluate_pairs([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0], [0, 1, 0, 1], fars=[0.5, 1e-5])
        assert json.loads(json.dumps(report.to_dict())) == {
            "accuracy": {"mean": 1.0, "standard_error": 0.0, "folds": [1.0, 1.0]},
            "threshold": 0.5,
            "auc": 1.0,
            "eer": 0.0,
            "tar_at_far": {"0.5": 1.0, "1e-05": None},
            "pairs": {"genuine": 2, "impostor": 2, "missing": 0},
            "intervals": None,
        }

    def test_a_pair_without_a_face_counts_as_two_people(self) -> None:
        same = np.repeat([True, False], 50)
        scores = np.where(same, 0.9, 0.1)
        scores[[0, 99]] = np.nan
        report = evaluate_pairs(scores, same, np.tile(np.arange(5), 20), fars=[0.1])
        assert report.accuracy == pytest.approx(0.99)
        assert report.missing == 2
        assert report.tar_at_far == {0.1: 0.98}
        assert report.auc == pytest.approx(1 - (49 + 0.5) / 50 / 50)  # one genuine lost to 49, tied with 1

    @pytest.mark.parametrize("count", [4, 25, 600])
    def test_makes_folds_where_there_are_none(self, count: int) -> None:
        same = np.arange(count) % 2 == 0
        report = evaluate_pairs(np.where(same, 0.9, 0.1), same)
        assert len(report.folds) == min(10, count // 2)
        assert report.accuracy == 1

    @pytest.mark.parametrize(
        ("scores", "same", "folds", "message"),
        [
            ([0.1, 0.9], [0], None, "same"),
            ([0.1, 0.9], [0, 1], [1], "folds"),
            ([0.1, 0.9], [1, 1], None, "0 impostor"),
            ([], [], None, "0 genuine"),
            ([0.1, 0.9], [0, 1], None, "1 fold"),
            ([math.inf, 0.9], [0, 1], None, "finite"),
        ],
    )
    def test_bad_input(self, scores: Any, same: Any, folds: Any, message: str) -> None:
        with pytest.raises(EvaluationError, match=message):
            evaluate_pairs(scores, same, folds)


def draw_people(rng: np.random.Generator, people: int, shared: float) -> tuple[Any, Any, Any]:
    """Scores, kinds and people of all pairs of two pictures each; a person's pairs share what is hard."""
    hard = rng.normal(0, shared, people)
    who = np.repeat(np.arange(people), 2)
    a, b = (who[side] for side in np.triu_indices(len(who), 1))
    scores = rng.normal(0, 1 - shared, len(a)) + np.where(a == b, 1.5 + 2 * hard[a], hard[a] + hard[b])
    return scores, a == b, np.stack([a, b], axis=1)


class TestIntervals:
    @pytest.mark.parametrize("shared", [0.0, 0.5], ids=["pairs err alone", "people err"])
    def test_hold_the_truth_as_often_as_they_promise(self, shared: float) -> None:
        worlds = [draw_people(np.random.default_rng([1, k]), 40, shared) for k in range(200)]
        scores, same = (np.concatenate([world[part] for world in worlds]) for part in (0, 1))
        curve = roc(scores[same], scores[~same])
        truth = curve.auc, curve.eer, curve.tar_at_far(0.1)
        held = [
            inside(confidence_intervals(*world, fars=[0.1], replicates=50), truth) for world in worlds[:40]
        ]
        rates = np.mean(held, axis=0)
        # promised is 0.95; of 40 people who differ so much, about 0.94 is reached
        assert 0.88 < rates.mean() <= 0.995, rates

    def test_pictures_more_of_the_same_people_promise_nothing(self) -> None:
        scores, same, people = draw_people(np.random.default_rng(0), 40, 0.3)
        once = confidence_intervals(scores, same, people, fars=[0.1])
        often = confidence_intervals(
            *(np.repeat(part, 4, axis=0) for part in (scores, same, people)), fars=[0.1]
        )
        assert once == often

    def test_of_the_mean_of_impostors_is_the_textbook_one(self) -> None:
        # f(a) + f(b) over all pairs: the variance of the mean is 4 var(f) / n
        rng = np.random.default_rng(0)
        values = rng.normal(0, 1, 200)
        a, b = np.triu_indices(200, 1)
        people = np.concatenate([np.stack([a, b], 1), np.stack([np.arange(200)] * 2, 1)])
        same = people[:, 0] == people[:, 1]
        score = values[people].sum(1)
        (ends,) = bootstrap(
            lambda times: [np.average(score[~same], weights=times[~same])], same, people, replicates=600
        )
        assert ends is not None
        assert ends[1] - ends[0] == pytest.approx(2 * 1.96 * 2 * values.std() / math.sqrt(200), rel=0.1)

    def test_of_pairs_without_a_common_person_is_that_of_a_share(self) -> None:
        people = np.arange(2000).reshape(-1, 2)
        same = np.arange(1000) < 500
        people[same, 1] = people[same, 0]
        wrong = np.arange(1000) % 5 == 0
        (ends,) = bootstrap(
            lambda times: [np.average(wrong[~same], weights=times[~same])], same, people, replicates=1000
        )
        assert ends is not None
        assert ends[1] - ends[0] == pytest.approx(2 * 1.96 * math.sqrt(0.2 * 0.8 / 500), rel=0.2)

    def test_are_the_same_every_time_and_surround_the_figures(self) -> None:
        scores, same, people = draw_people(np.random.default_rng(0), 40, 0.2)
        report = evaluate_pairs(scores, same, people=people)
        found = report.intervals
        assert found == evaluate_pairs(scores, same, people=people).intervals
        assert found is not None
        assert (found.people, found.confidence) == (40, 0.95)
        for ends, value in (
            (found.accuracy, report.accuracy),
            (found.auc, report.auc),
            (found.eer, report.eer),
            (found.tar_at_far[1e-2], report.tar_at_far[1e-2]),
        ):
            assert ends is not None
            assert 0 <= ends[0] <= value <= ends[1] <= 1
            assert ends[1] - ends[0] < 0.4
        assert found.tar_at_far[1e-3] is None  # three false accepts
        json.dumps(report.to_dict())

    def test_a_pair_that_stands_for_several_counts_as_these(self) -> None:
        scores, same, people = draw_people(np.random.default_rng(0), 20, 0.2)
        twice = [np.concatenate([part, part]) for part in (scores, same, people)]
        once = confidence_intervals(scores, same, people, weights=np.full(len(scores), 2), fars=[0.1])
        assert once == confidence_intervals(*twice, fars=[0.1])

    def test_no_error_says_nothing(self) -> None:
        people = np.array([[0, 0], [1, 1], [2, 2], [0, 1], [1, 2], [0, 2]])
        same = people[:, 0] == people[:, 1]
        found = evaluate_pairs(np.where(same, 0.9, 0.1), same, people=people).intervals
        assert found is not None
        assert (found.accuracy, found.auc, found.eer) == (None, None, None)

    @pytest.mark.parametrize(
        ("people", "confidence", "message"),
        [
            ([[0, 0]], 0.95, "give two people a pair"),
            ([[0, 0], [1, 2]], 1.0, "confidence is 1"),
            ([[0, 1], [0, 1]], 0.95, "contradict"),
            ([[0, 0], [0, 1]], 0.95, "2 people are too few"),
        ],
    )
    def test_bad_people(self, people: Any, confidence: float, message: str) -> None:
        with pytest.raises(EvaluationError, match=message):
            bootstrap(lambda times: [0.0], [True, False], people, confidence=confidence)


def inside(found: Any, truth: tuple[float, ...]) -> list[bool]:
    ends = (found.auc, found.eer, found.tar_at_far[0.1])
    return [end is not None and end[0] <= value <= end[1] for end, value in zip(ends, truth, strict=True)]


class TestSearch:
    @settings(deadline=None, max_examples=40)
    @given(st.integers(3, 30), st.integers(0, 2**32 - 1))
    def test_is_a_plain_loop_over_searches(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        labels = ["a", "a", "b", *rng.choice(list("abcde"), n - 3)]
        vectors = unit(rng.standard_normal((n, 4)))
        enrolled: dict[str, int] = {}
        for row, label in enumerate(labels):
            enrolled.setdefault(label, row)
        searches = []
        for row, label in enumerate(labels):
            if row != enrolled[label]:
                scores = {name: float(vectors[row] @ vectors[at]) for name, at in enrolled.items()}
                own = scores.pop(label)
                searches.append((own, max(scores.values())))
        report = evaluate_search(vectors, labels, fpirs=[0.5, 0.1])
        assert (report.gallery, report.probes) == (len(enrolled), len(searches))
        assert report.rank1 == pytest.approx(np.mean([own > other for own, other in searches]))
        for fpir, tpir in report.tpir_at_fpir.items():
            if fpir * len(searches) < 1:
                assert tpir is None
                continue
            every = sorted(value for search in searches for value in search)
            low = min(t for t in every if np.mean([other >= t - 1e-7 for _, other in searches]) <= fpir)
            expected = np.mean([own > other and own >= low - 1e-7 for own, other in searches])
            assert tpir == pytest.approx(expected)
        json.dumps(report.to_dict())

    def test_bad_sets(self) -> None:
        vectors = unit(np.random.default_rng(0).standard_normal((3, 4)))
        for labels, message in (
            ("abc", "3 people and 0 further"),
            ("aaa", "1 people and 2"),
            ("ab", "2 labels"),
        ):
            with pytest.raises(EvaluationError, match=message):
                evaluate_search(vectors, list(labels))
