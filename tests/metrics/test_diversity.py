import numpy as np
import pytest
from scipy import linalg

from medart_cli.metrics.diversity import (
    BLOCKS,
    compare_diversity,
    deal_blocks,
    place_rows,
    vendi_score,
)
from tests.bench.bench_contents import measure_diversity, simulated


def compare(real, drawn, groups=None):
    codes = np.arange(len(real)) if groups is None else groups
    return compare_diversity(real, drawn, (codes, np.arange(len(drawn))), np.random.default_rng(0))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_orthogonal_rows_are_worth_their_number_and_equal_rows_one(n):
    assert vendi_score(np.eye(9)[:n]) == pytest.approx(n)
    assert vendi_score(np.tile(np.eye(9)[3], (n, 1))) == pytest.approx(1)


@pytest.mark.parametrize("clusters", [2, 5])
def test_equal_clusters_of_equal_rows_are_worth_their_number(clusters):
    for width in (6, 400):  # by either Gram matrix
        assert vendi_score(np.repeat(np.eye(width)[:clusters], 40, axis=0)) == pytest.approx(
            clusters
        )


@pytest.mark.parametrize("shape", [(12, 30), (200, 8), (10, 10)])
def test_the_score_is_that_of_the_eigenvalues_of_the_whole_kernel(shape):
    rows = np.random.default_rng(0).normal(size=shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    shares = linalg.eigh(rows @ rows.T / len(rows), eigvals_only=True)
    shares = shares[shares > 1e-12]
    assert vendi_score(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_the_kernel_sees_how_far_images_are_apart_and_not_where_they_are():
    features = np.random.default_rng(0).normal(size=(50, 20))
    spread = np.sqrt(features.var(axis=0).sum())
    rows = place_rows(features, spread)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)
    np.testing.assert_allclose(place_rows(features + 7, spread), rows)
    scores = [vendi_score(place_rows(scale * features, spread)) for scale in (0.1, 0.5, 1, 2)]
    assert scores == sorted(scores) and scores[0] < 1.2


def test_the_interval_is_the_jackknife_over_blocks():
    random = np.random.default_rng(1)
    real, drawn = random.normal(size=(10, 4)), 0.5 * random.normal(size=(10, 4))
    found = compare(real, drawn)["vendi"]
    spread, logs, variance = np.sqrt(real.var(axis=0).sum()), [], 0.0
    for features in (real, drawn):  # ten rows, ten blocks: the order of blocks is no matter
        rows = place_rows(features, spread)
        without = [np.log(vendi_score(np.delete(rows, row, axis=0))) for row in range(10)]
        variance += 9 / 10 * np.square(without - np.mean(without)).sum()
        logs.append(np.log(vendi_score(rows)))
    assert found["ratio"] == pytest.approx(np.exp(logs[1] - logs[0]))
    reach = 2.262157 * np.sqrt(variance)  # Student's quantile of 9 degrees
    ends = np.exp(logs[1] - logs[0] + np.array([-reach, reach]))
    assert found["interval"] == pytest.approx(ends.tolist(), rel=1e-5)


def test_blocks_keep_patients_together_and_are_alike_in_size():
    codes = np.repeat(np.arange(37), 4)
    blocks = deal_blocks(codes, np.random.default_rng(0))
    assert len(np.unique(blocks)) == BLOCKS
    assert all(len({*blocks[codes == code]}) == 1 for code in codes)
    assert np.ptp(np.bincount(blocks)) <= 4
    assert {*deal_blocks(np.array([5, 5, 9]), np.random.default_rng(0))} == {0, 1}


def test_sets_are_compared_at_equal_n():
    random = np.random.default_rng(0)
    found = compare(random.normal(size=(400, 6)), random.normal(size=(40, 6)))["vendi"]
    assert found["n"] == 40 and found["interval"][0] < 1 < found["interval"][1]


def test_what_cannot_be_said_is_not_and_why_is():
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 6))
    assert compare(features[:4], features)["vendi"] is None
    assert "needs 5 images" in compare(features[:4], features)["diversity_note"]
    assert compare(np.ones((30, 6)), features)["diversity_note"] == "the real images are all alike"
    few = compare(features[:15], features[:15])
    assert few["diversity_collapsed"] is None and few["vendi"]["interval"]
    alone = compare(features, features, groups=np.arange(40) // 10)
    assert alone["vendi"]["interval"] is None and "patients" in alone["diversity_note"]


@pytest.mark.parametrize(
    ("sizes", "case", "least", "most"),
    [
        ((60, 60), "same", 0, 0.02),
        ((300, 30), "same", 0, 0.02),
        ((200, 60, 10), "same", 0, 0.02),
        ((60, 60), "0.64 of the variance", 0, 0.1),
        ((25, 25), "a third of it", 0.95, 1),
        ((25, 25), "3 modes", 0.95, 1),
        ((60, 60), "half of it", 0.9, 1),
    ],
)
def test_a_class_that_lost_modes_or_variance_is_found_and_no_other(sizes, case, least, most):
    collapsed, _, _ = measure_diversity(simulated(*sizes), 60, case)
    assert least <= collapsed <= most
