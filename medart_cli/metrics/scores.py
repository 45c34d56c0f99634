"""How good a classifier is, and how surely it is better than another.

Point scores come from scikit-learn. Differences have their intervals from a bootstrap over whole
groups of test images (patients), whose scores are computed for all draws at once; a test holds the
two together. The intervals of the scores themselves are in intervals.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    roc_auc_score,
    roc_curve,
)

from medart_cli.metrics.arrays import Array, Integers
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL

SCORES = ("balanced_accuracy", "accuracy", "macro_f1", "auroc", "ece")
# Those that have intervals. The calibration error is biased upwards for few images, by more than an
# interval around it would be wide (tests/bench/bench_intervals.py).
SURE = ("balanced_accuracy", "accuracy", "macro_f1", "auroc")
PRIMARY = "balanced_accuracy"  # what the verdict is about
ECE_BINS = 15  # equal widths, as in Guo et al. 2017, arXiv:1706.04599
BLOCK_NUMBERS = 4_000_000  # numbers in one array of draws: 32 MB


@dataclass(frozen=True)
class Difference:
    """How much better one regime is than another on the same test images.

    Attributes:
        value: Mean difference over the seeds.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_value: Two-sided, from the same draws.
    """

    value: float
    low: float
    high: float
    p_value: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out zero, 0 where it does not: then nobody won."""
        return int(self.low > 0) - int(self.high < 0)


def score_predictions(truth: Integers, probabilities: Array) -> dict[str, float]:
    """Score the predictions of one classifier.

    Args:
        truth: Class indices, (N,); every class occurs.
        probabilities: Of each class, (N, K).

    Returns:
        A number in [0, 1] for each of `SCORES`; `auroc` is the mean over classes of one against
        rest, `ece` the expected calibration error (lower is better).
    """
    predicted = probabilities.argmax(axis=1)
    classes = range(probabilities.shape[1])
    return {
        "balanced_accuracy": float(balanced_accuracy_score(truth, predicted)),
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, average="macro")),
        "auroc": float(np.mean([roc_auc_score(truth == k, probabilities[:, k]) for k in classes])),
        "ece": _ece(truth, probabilities),
    }


def score_classes(
    truth: Integers, probabilities: Array, classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Give count, sensitivity, specificity and AUROC (one against rest) of each class."""
    predicted = probabilities.argmax(axis=1)
    table = {}
    for index, name in enumerate(classes):
        is_class, said = truth == index, predicted == index
        table[name] = {
            "count": int(is_class.sum()),
            "sensitivity": float(said[is_class].mean()),
            "specificity": float((~said[~is_class]).mean()),
            "auroc": float(roc_auc_score(is_class, probabilities[:, index])),
        }
    return table


def calibration_bins(truth: Integers, probabilities: Array) -> list[tuple[float, float, int]]:
    """Give mean confidence, accuracy and count of each confidence bin that is not empty."""
    confidence, correct, bins = _confidence(truth, probabilities)
    return [
        (float(confidence[bins == k].mean()), float(correct[bins == k].mean()), int(count))
        for k, count in enumerate(np.bincount(bins, minlength=ECE_BINS))
        if count
    ]


def draw_weights(groups: Sequence[Any], draws: int, seed: int) -> Integers:
    """Draw groups with replacement; images of one group come and go together.

    Args:
        groups: The group of each test image, (N,).
        draws: How many draws, B.
        seed: Same seed, same draws.

    Returns:
        How often each image was drawn, (B, N).
    """
    _, index = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    count = int(index.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=draws)  # (B, groups)
    return np.asarray(drawn[:, index], dtype=np.int64)


def draw_seeds(seeds: int, draws: int, seed: int) -> Integers:
    """Draw training seeds with replacement, for `score_draws`.

    One fewer than there are is drawn, which makes the variance of the mean unbiased for few seeds.

    Returns:
        Indices of seeds, (B, max(1, seeds - 1)).

    Source:
        Rao and Wu 1988, Journal of the American Statistical Association 83, 231-241.
    """
    generator = np.random.default_rng([seed, 1])
    return generator.integers(0, seeds, size=(draws, max(1, seeds - 1)))


def score_draws(
    truth: Integers, runs: Sequence[Array], weights: Integers, picks: Integers
) -> dict[str, Array]:
    """Score every bootstrap draw of test images and training seeds.

    Args:
        truth: Class indices, (N,).
        runs: Probabilities of each training seed, each (N, K).
        weights: From `draw_weights`, (B, N); the same ones for two regimes make a paired test.
        picks: From `draw_seeds`, (B, seeds drawn).

    Returns:
        For each of `SURE` the mean over the drawn seeds, (B,).
    """
    size = max(1, BLOCK_NUMBERS // max(1, len(truth)))
    blocks = [weights[start : start + size] for start in range(0, len(weights), size)]
    table: dict[str, list[Array]] = {name: [] for name in SURE}
    for probabilities in runs:
        parts = [score_weighted(truth, probabilities, block.astype(np.float64)) for block in blocks]
        for name in SURE:
            table[name].append(np.concatenate([part[name] for part in parts]))
    rows = np.arange(len(weights))[:, None]
    return {name: np.stack(values)[picks, rows].mean(axis=1) for name, values in table.items()}


def score_weighted(truth: Integers, probabilities: Array, weights: Array) -> dict[str, Array]:
    """Score predictions under many weightings of the images at once.

    Args:
        truth: Class indices, (N,).
        probabilities: (N, K).
        weights: (B, N), at least one above zero in each row.

    Returns:
        For each of `SURE` an array (B,), equal to scikit-learn's with `sample_weight`; a class
        without weight is left out of the means.
    """
    count = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    is_class, is_said = np.eye(count)[truth], np.eye(count)[predicted]  # (N, K)
    actual, said = weights @ is_class, weights @ is_said  # (B, K)
    hits = weights @ (is_class * is_said)  # (B, K)
    with np.errstate(invalid="ignore"):  # 0/0 where a draw lacks a class
        recall, f1 = hits / actual, 2 * hits / (actual + said)
    auroc = np.stack(
        [_auroc(truth == k, probabilities[:, k], weights) for k in range(count)], axis=1
    )
    return {
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "accuracy": hits.sum(axis=1) / weights.sum(axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
        "auroc": _mean_of_known(auroc),
    }


def _auroc(positive: npt.NDArray[np.bool_], scores: Array, weights: Array) -> Array:
    """Weighted share of (positive, negative) pairs in the right order, ties half: (B,)."""
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)
    sorted_weights, sorted_positive = weights[:, order], positive[order]
    ups = np.add.reduceat(sorted_weights * sorted_positive, starts, axis=1)  # (B, distinct scores)
    downs = np.add.reduceat(sorted_weights * ~sorted_positive, starts, axis=1)
    below = downs.cumsum(axis=1) - downs / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1)))


def _mean_of_known(values: Array) -> Array:
    """Mean over the columns that are numbers; 0.5, a coin's AUROC, where none is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(1, known.sum(axis=1)), 0.5)


def _confidence(truth: Integers, probabilities: Array) -> tuple[Array, Array, Integers]:
    confidence = probabilities.max(axis=1)
    correct = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    return confidence, correct, bins


def _ece(truth: Integers, probabilities: Array) -> float:
    confidence, correct, bins = _confidence(truth, probabilities)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(truth))


def find_interval(draws: Array) -> tuple[float, float]:
    """Give the 95 % percentile interval of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)


def find_seed_interval(scores: Sequence[float]) -> tuple[float, float] | None:
    """Give the 95 % interval of the mean over training seeds (Student's t); None for one seed."""
    if len(scores) < 2:
        return None
    mean, error = float(np.mean(scores)), float(stats.sem(scores))
    reach = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, len(scores) - 1)) * error
    return mean - reach, mean + reach


def compare_draws(value: float, ours: Array, theirs: Array) -> Difference:
    """Compare two regimes by paired draws.

    Args:
        value: The difference of their point scores, ours minus theirs.
        ours: Scores of the draws, (B,).
        theirs: Scores of the same draws of images and seeds, (B,).

    Returns:
        The difference with its percentile interval and the two-sided p-value that belongs to it.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 15.
    """
    gaps = ours - theirs
    low, high = find_interval(gaps)
    rarer = min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))
    return Difference(value, low, high, min(1.0, 2 * (rarer + 1) / (len(gaps) + 1)))


def count_confusions(truth: Integers, runs: Sequence[Array]) -> Integers:
    """Count true (rows) against predicted classes over several trainings: (K, K)."""
    classes = list(range(runs[0].shape[1]))
    tables = [confusion_matrix(truth, run.argmax(axis=1), labels=classes) for run in runs]
    return np.asarray(np.sum(tables, axis=0), dtype=np.int64)


def find_roc(truth: Integers, scores: Array, index: int) -> tuple[Array, Array]:
    """Trace the ROC curve of one class against the rest: false and true positive rates."""
    false_rate, true_rate, _ = roc_curve(truth == index, scores[:, index])
    return false_rate, true_rate
