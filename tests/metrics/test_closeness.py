import numpy as np
import pytest

from medart_cli.metrics import closeness
from medart_cli.metrics.closeness import deal, find_closeness
from medart_cli.metrics.kernel import kernel_distance, kernel_matrix

WIDTH = 32
SCALE = np.arange(1, WIDTH + 1) ** -0.5


@pytest.fixture(autouse=True)
def few_deals(monkeypatch):
    monkeypatch.setattr(closeness, "PERMUTATIONS", 199)


def suspect(real, synthetic, labels=None, seed=0):
    return find_closeness(real, synthetic, labels, np.random.default_rng(seed))["suspected"]


def test_a_deal_has_the_kernel_distance_of_its_sets():
    random = np.random.default_rng(0)
    rows = random.normal(size=(30, 5))
    deals = deal(np.arange(30) >= 20, np.zeros(30, dtype=int), 3, random)
    kernel = kernel_matrix(rows)
    np.fill_diagonal(kernel, 0)
    expected = [kernel_distance(rows[~one], rows[one])[0] for one in deals]
    np.testing.assert_allclose(closeness._deal_distances(kernel, deals), expected, rtol=1e-9)


def test_a_deal_keeps_the_number_of_each_label():
    codes = np.array([0] * 10 + [1] * 5)
    drawn = np.array([True] * 3 + [False] * 7 + [True] * 4 + [False])
    deals = deal(drawn, codes, 50, np.random.default_rng(0))
    assert (deals[:, :10].sum(axis=1) == 3).all() and (deals[:, 10:].sum(axis=1) == 4).all()
    assert len({tuple(one) for one in deals}) > 20


def test_copies_are_suspected_and_other_sets_of_the_source_are_not():
    random = np.random.default_rng(0)
    suspected = np.zeros(3)
    for seed in range(100):
        real, other = SCALE * random.normal(size=(2, 40, WIDTH))
        near = real + 0.3 * SCALE * random.normal(size=real.shape)
        far = other + 0.5
        suspected += [suspect(real, item, seed=seed) for item in (other, near, far)]
    assert suspected[0] <= 4 and suspected[1] >= 98 and suspected[2] == 0


def test_equal_numbers_of_each_label_are_no_copies():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 6
    centers = random.normal(size=(6, WIDTH))
    told = hidden = 0
    for seed in range(60):
        real, other = centers[labels] + SCALE * random.normal(size=(2, 60, WIDTH))
        told += suspect(real, other, (labels, labels), seed)
        hidden += suspect(real, other, None, seed)
    assert told <= 3 < 10 < hidden  # why the labels are dealt one by one


def test_large_sets_are_cut_and_tiny_ones_are_not_tested(monkeypatch):
    monkeypatch.setattr(closeness, "PERMUTED_LIMIT", 30)
    real = np.random.default_rng(0).normal(size=(100, WIDTH))
    found = find_closeness(real, real[:80], None, np.random.default_rng(0))
    assert found == find_closeness(real, real[:80], None, np.random.default_rng(0))
    assert find_closeness(real[:2], real, None, np.random.default_rng(0)) is None
