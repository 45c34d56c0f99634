import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics

from medart_cli.metrics.scores import (
    SURE,
    calibration_bins,
    compare_draws,
    draw_seeds,
    draw_weights,
    find_interval,
    find_seed_interval,
    score_classes,
    score_draws,
    score_predictions,
    score_weighted,
)


def make_predictions(count=120, classes=4, seed=0, digits=1):
    generator = np.random.default_rng(seed)
    truth = np.arange(count) % classes
    logits = generator.normal(size=(count, classes)) + np.eye(classes)[truth]
    values = np.exp(logits.round(digits))  # few digits make ties, which the AUROC must count half
    return truth, values / values.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_equal_those_of_scikit_learn(classes):
    truth, probabilities = make_predictions(classes=classes, digits=9)
    scores = score_predictions(truth, probabilities)
    said = probabilities.argmax(axis=1)
    assert scores["accuracy"] == metrics.accuracy_score(truth, said)
    assert scores["balanced_accuracy"] == metrics.balanced_accuracy_score(truth, said)
    assert scores["macro_f1"] == metrics.f1_score(truth, said, average="macro")
    wanted = (
        metrics.roc_auc_score(truth, probabilities[:, 1])
        if classes == 2
        else metrics.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    )
    assert scores["auroc"] == pytest.approx(wanted, abs=1e-12)


def test_the_scores_of_weighted_images_equal_those_of_scikit_learn():
    truth, probabilities = make_predictions(seed=3)
    weights = np.random.default_rng(1).integers(0, 4, size=(6, len(truth))).astype(float)
    found = score_weighted(truth, probabilities, weights)
    said = probabilities.argmax(axis=1)
    for row, weight in enumerate(weights):
        known = {
            "accuracy": metrics.accuracy_score(truth, said, sample_weight=weight),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth, said, sample_weight=weight),
            "macro_f1": metrics.f1_score(truth, said, average="macro", sample_weight=weight),
            "auroc": np.mean(
                [
                    metrics.roc_auc_score(truth == k, probabilities[:, k], sample_weight=weight)
                    for k in range(4)
                ]
            ),
        }
        for name, value in known.items():
            assert found[name][row] == pytest.approx(value, abs=1e-12), name


def test_with_all_weights_one_the_draws_equal_the_point_scores():
    truth, probabilities = make_predictions(seed=5)
    drawn = score_draws(
        truth, [probabilities], np.ones((3, len(truth)), dtype=np.int64), np.zeros((3, 1), int)
    )
    scores = score_predictions(truth, probabilities)
    for name in SURE:
        assert drawn[name] == pytest.approx([scores[name]] * 3, abs=1e-12)


def test_a_draw_without_a_class_leaves_that_class_out():
    truth, probabilities = make_predictions(count=8, classes=4)
    weights = np.where(truth == 2, 0.0, 1.0)[None]
    found = score_weighted(truth, probabilities, weights)
    kept = truth != 2
    recalls = metrics.recall_score(
        truth[kept], probabilities[kept].argmax(axis=1), average=None, labels=[0, 1, 3]
    )
    assert found["balanced_accuracy"][0] == pytest.approx(recalls.mean())
    assert all(np.isfinite(found[name]).all() for name in SURE)


def test_sensitivity_and_specificity_are_the_rates_of_a_worked_example():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    said = np.array([0, 0, 0, 1, 1, 1, 1, 1, 0, 0])
    table = score_classes(truth, np.eye(2)[said], ["ill", "well"])
    assert table["ill"]["sensitivity"] == pytest.approx(3 / 4)
    assert table["ill"]["specificity"] == pytest.approx(4 / 6)
    assert table["well"]["sensitivity"] == pytest.approx(4 / 6)
    assert table["well"]["specificity"] == pytest.approx(3 / 4)
    assert table["well"]["count"] == 6


def test_the_calibration_error_of_a_worked_example():
    # Two bins: confidence 0.9 and half of it right, confidence 0.6 and all of it right.
    truth = np.array([0, 1, 0, 0])
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert score_predictions(truth, probabilities)["ece"] == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert calibration_bins(truth, probabilities) == [
        (pytest.approx(0.6), 1.0, 2),
        (pytest.approx(0.9), 0.5, 2),
    ]


def test_a_calibrated_classifier_has_almost_no_calibration_error():
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.5, 1, size=40_000)
    truth = (generator.uniform(size=sure.size) > sure).astype(np.int64)
    assert score_predictions(truth, np.stack([sure, 1 - sure], axis=1))["ece"] < 0.015


def test_images_of_one_group_are_drawn_together():
    weights = draw_weights(["a", "a", "b", "c", "c", "c"], draws=50, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert weights[:, 2].std() > 0


def test_the_interval_of_a_difference_covers_it_when_seeds_vary_as_well():
    covered, rounds, count, seeds = 0, 200, 150, 5
    spread = np.sqrt(1 + 0.3**2 + 0.2**2)  # of image, image and seed, seed
    wanted = norm.cdf(1.0 / spread) - norm.cdf(0.6 / spread)
    for round_ in range(rounds):
        generator = np.random.default_rng(1000 + round_)
        truth = generator.integers(0, 2, size=count)
        weights, picks = draw_weights(range(count), 300, round_), draw_seeds(seeds, 300, round_)
        difficulty = generator.normal(size=(1, count))
        drawn = []
        for skill in (1.0, 0.6):
            noise = 0.3 * generator.normal(size=(seeds, count))
            luck = 0.2 * generator.normal(size=(seeds, 1))
            right = difficulty + noise < skill + luck
            runs = [np.eye(2)[np.where(row, truth, 1 - truth)] for row in right]
            drawn.append(score_draws(truth, runs, weights, picks)["accuracy"])
        low, high = find_interval(drawn[0] - drawn[1])
        covered += low <= wanted <= high
    assert 0.91 <= covered / rounds <= 0.99


def test_the_paired_difference_has_the_interval_of_the_normal_theory():
    # 40 images only A gets right, 20 only B, 240 both: difference 20/300, variance by McNemar's
    # table ((b + c) - (b - c)^2 / n) / n^2.
    truth = np.zeros(300, dtype=np.int64)
    truth[150:] = 1
    right_a, right_b = np.ones(300, bool), np.ones(300, bool)
    right_b[:20], right_b[280:] = False, False
    right_a[100:110], right_a[190:200] = False, False
    a, b = (np.eye(2)[np.where(right, truth, 1 - truth)] for right in (right_a, right_b))
    weights, picks = draw_weights(range(300), 4000, 0), draw_seeds(1, 4000, 0)
    drawn = [score_draws(truth, [side], weights, picks)["accuracy"] for side in (a, b)]
    found = compare_draws(20 / 300, drawn[0], drawn[1])
    error = np.sqrt((60 - 20**2 / 300) / 300**2)
    assert found.low == pytest.approx(20 / 300 - 1.96 * error, abs=0.006)
    assert found.high == pytest.approx(20 / 300 + 1.96 * error, abs=0.006)
    assert 0.002 < found.p_value < 0.03  # exact McNemar test: 0.0135
    assert found.sign == 1


def test_equal_predictions_have_no_winner_and_p_is_one():
    truth, probabilities = make_predictions()
    weights, picks = draw_weights(range(len(truth)), 200, 0), draw_seeds(1, 200, 0)
    drawn = score_draws(truth, [probabilities], weights, picks)["balanced_accuracy"]
    found = compare_draws(0.0, drawn, drawn)
    assert (found.low, found.high, found.p_value, found.sign) == (0.0, 0.0, 1.0, 0)


def test_a_worse_regime_has_the_sign_minus_one():
    draws = np.random.default_rng(0).normal(size=1000) * 0.01
    assert compare_draws(-0.2, draws - 0.2, draws).sign == -1


def test_the_seed_interval_is_students():
    low, high = find_seed_interval([0.7, 0.8, 0.9])
    assert (low + high) / 2 == pytest.approx(0.8)
    assert high - 0.8 == pytest.approx(4.303 * 0.1 / np.sqrt(3), abs=1e-4)
    assert find_seed_interval([0.8]) is None


def test_drawn_seeds_give_the_mean_its_unbiased_variance():
    values = np.array([0.1, 0.4, 0.2, 0.9, 0.5])
    means = values[draw_seeds(5, 40_000, 0)].mean(axis=1)
    assert means.var() == pytest.approx(values.var(ddof=1) / 5, rel=0.03)
