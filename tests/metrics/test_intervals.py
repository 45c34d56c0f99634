import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from medart_cli.metrics.intervals import (
    Linear,
    average_limits,
    find_class_intervals,
    find_limits,
    find_score_intervals,
    find_wilson,
    linearize,
)
from medart_cli.metrics.scores import SURE, score_predictions
from tests.bench.bench_intervals import Scene, measure

NORMAL = norm.ppf(0.975)


def make_predictions(right, classes=2):
    """Make predictions that are right where they should be."""
    truth = np.arange(len(right)) % classes
    said = np.where(right, truth, (truth + 1) % classes)
    return truth, np.eye(classes)[said] * 0.8 + 0.1


@pytest.mark.parametrize("total", [1, 7, 612])
def test_for_whole_numbers_the_limits_are_scipy_s(total):
    counts = np.unique([0, 1, total // 3, total - 1, total])
    limits = find_wilson(
        counts / total, np.full(len(counts), 1 / total), np.full(len(counts), NORMAL)
    )
    known = [binomtest(int(count), total).proportion_ci(method="wilson") for count in counts]
    np.testing.assert_allclose(limits, [[one.low, one.high] for one in known], atol=1e-12)


def test_a_share_of_independent_images_has_wilsons_interval():
    right = np.arange(400) >= 60
    truth, shares = make_predictions(right)
    found = find_score_intervals(truth, [shares], range(400))["accuracy"]
    known = binomtest(340, 400).proportion_ci(method="wilson")
    assert found == pytest.approx((known.low, known.high), abs=1e-3)


def test_a_classifier_without_an_error_has_intervals_as_well():
    truth, shares = make_predictions(np.ones(60, bool))
    for name, (low, high) in find_score_intervals(truth, [shares], range(60)).items():
        assert 0.8 < low < 0.97, name
        assert high == 1
    for name, limits in find_class_intervals(truth, [shares], range(60)).items():
        known = binomtest(30, 30).proportion_ci(method="wilson").low
        if name != "auroc":
            np.testing.assert_allclose(limits, [[known, 1], [known, 1]], atol=0.02)


def test_a_rare_class_that_is_all_right_still_makes_balanced_accuracy_unsure():
    truth = np.array([0] * 97 + [1] * 3)
    shares = np.eye(2)[truth]
    shares[:20] = shares[:20, ::-1]
    low, high = find_score_intervals(truth, [shares], range(100))["balanced_accuracy"]
    assert low < 0.7 and high < 0.95


def test_images_of_one_patient_count_as_one_where_they_are_alike():
    right = np.arange(60) >= 15
    truth, shares = make_predictions(right)
    alone = find_score_intervals(truth, [shares], range(60))
    again = [np.repeat(part, 10, axis=0) for part in (truth, shares)]
    same = find_score_intervals(again[0], [again[1]], np.repeat(np.arange(60), 10))
    free = find_score_intervals(again[0], [again[1]], range(600))
    for name in SURE:
        assert same[name] == pytest.approx(alone[name], abs=0.02)
        assert np.ptp(free[name]) < 0.5 * np.ptp(alone[name])


def test_what_groups_are_called_changes_nothing():
    truth, shares = make_predictions(np.arange(40) % 5 > 0)
    numbers = np.arange(40) // 4
    names = [f"patient {9 - number}" for number in numbers]
    first, second = (find_score_intervals(truth, [shares], groups) for groups in (numbers, names))
    for name in SURE:
        assert first[name] == pytest.approx(second[name], abs=1e-12)


def test_trainings_that_differ_make_the_interval_wider():
    runs = [make_predictions(np.arange(200) >= errors)[1] for errors in (10, 40, 70)]
    truth = np.arange(200) % 2
    spread = find_score_intervals(truth, runs, range(200))["accuracy"]
    alike = find_score_intervals(truth, [runs[1]] * 3, range(200))["accuracy"]
    assert np.ptp(spread) > 1.5 * np.ptp(alike)


def test_influences_are_those_of_leaving_an_image_out():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, size=300)
    logits = generator.normal(size=(300, 3)) + np.eye(3)[truth]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    parts = linearize(truth, [shares], np.arange(300))
    whole = score_predictions(truth, shares)
    names = {"accuracy": "accuracy", "sensitivity": "balanced_accuracy", "f1": "macro_f1",
             "auroc": "auroc"}  # fmt: skip
    for name, score in names.items():
        assert parts[name].values.mean() == pytest.approx(whole[score])
        np.testing.assert_allclose(parts[name].influence.sum(axis=0), 0, atol=1e-12)
        influence = parts[name].influence.mean(axis=1)
        for index in (0, 17, 203):
            rest = np.arange(300) != index
            change = whole[score] - score_predictions(truth[rest], shares[rest])[score]
            assert influence[index] == pytest.approx(change, abs=0.04 / 300)


def test_the_auroc_has_delongs_variance():
    generator = np.random.default_rng(1)
    truth = np.repeat([0, 1], [80, 40])
    scores = generator.normal(size=120) + truth
    linear = linearize(truth, [np.stack([-scores, scores], axis=1)], np.arange(120))["auroc"]
    wins = (scores[80:, None] > scores[None, :80]).astype(float)
    variance = wins.mean(axis=1).var(ddof=1) / 40 + wins.mean(axis=0).var(ddof=1) / 80
    assert linear.values[0, 1] == pytest.approx(roc_auc_score(truth, scores))
    assert (linear.influence[:, 1] ** 2).sum() == pytest.approx(variance, rel=0.03)


def test_the_mean_of_one_share_has_the_limits_of_the_share():
    generator = np.random.default_rng(2)
    hits = (generator.uniform(size=(50, 1)) < 0.7).astype(float)
    linear = Linear(
        hits.mean(axis=0)[None], (hits - hits.mean(axis=0)) / 50, np.array([50]), np.array([50])
    )
    codes = np.arange(50)
    assert average_limits(linear, codes) == pytest.approx(tuple(find_limits(linear, codes)[0]))


@pytest.mark.parametrize(
    "scene",
    [
        Scene(images=60, signal=2.8),
        Scene((0.95, 0.05), images=150),
        Scene(size=15, alike=0.3),
        Scene((1 / 3, 1 / 3, 1 / 3), images=90, seeds=3),
    ],
    ids=["near the ceiling", "a rare class", "ten patients", "three trainings"],
)
def test_intervals_hold_the_truth_about_95_times_in_100(scene):
    held = measure(scene, 150, bootstrap=False, exact=50_000)["new"]
    assert len(held) == 7
    for name, (share, _) in held.items():
        assert share >= 0.89, name  # 0.95 less three standard errors of 150 rounds
