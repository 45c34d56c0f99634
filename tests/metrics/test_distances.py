import numpy as np
import pytest
from cleanfid import fid as cleanfid
from scipy import linalg
from sklearn.neighbors import NearestNeighbors

from medart_cli.metrics import distances
from medart_cli.metrics.distances import (
    Moments,
    bootstrap_frechet,
    centered_interval,
    compute_moments,
    cut_rows,
    extrapolate_frechet,
    frechet_distance,
    frechet_of_moments,
    neighbor_coverage,
    pairwise_distances,
)


def draw(count, width=32, seed=0, shift=0.0):
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return np.abs(random.normal(size=(count, width)) @ mixing + shift)


@pytest.fixture
def old_sqrtm(monkeypatch):
    """The `disp` that clean-fid passes, for SciPy 1.18 and later, which lack it."""
    root = linalg.sqrtm
    monkeypatch.setattr(cleanfid.linalg, "sqrtm", lambda matrix, disp=True: (root(matrix), 0))


@pytest.mark.parametrize(
    ("n", "m"), [(200, 150), (40, 33), (20, 25), (31, 20), (20, 400), (400, 20)]
)
def test_the_frechet_distance_equals_clean_fid_above_and_below_the_width(old_sqrtm, n, m):
    real, synthetic = draw(n), draw(m, seed=1, shift=0.3)
    expected = cleanfid.frechet_distance(
        real.mean(axis=0), np.cov(real, rowvar=False),
        synthetic.mean(axis=0), np.cov(synthetic, rowvar=False),
    )  # fmt: skip
    assert frechet_distance(real, synthetic) == pytest.approx(expected, rel=1e-6)


def test_both_ways_to_the_nuclear_norm_agree_with_scipy():
    random = np.random.default_rng(0)
    full = random.normal(size=(30, 40))
    deficient = random.normal(size=(30, 3)) @ random.normal(size=(3, 40))  # by singular values
    for matrix in (full, full.T, deficient, np.zeros((4, 3)), full[:1]):
        expected = linalg.svdvals(matrix).sum()
        assert distances._nuclear_norm(matrix) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_few_rows_against_very_many_give_the_same_distance(monkeypatch):
    few, many = draw(20), draw(90, seed=1)
    expected = frechet_distance(few, many)
    monkeypatch.setattr(distances, "CHUNK_ROWS", 16)
    assert frechet_distance(few, many) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(many, few) == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_equals_the_closed_form_for_known_gaussians():
    # Two-point sets on each axis have exactly the means and covariances wanted.
    spreads = np.array([[1.0, 2.0, 3.0], [2.0, 2.5, 0.5]])
    means = np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0]])
    sets = []
    for mean, spread in zip(means, spreads, strict=True):
        points = np.concatenate([np.diag(spread), -np.diag(spread)]) * np.sqrt(5 / 2)
        sets.append(points + mean)
    expected = np.square(means[0] - means[1]).sum() + np.square(spreads[0] - spreads[1]).sum()
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [10, 32, 100])
def test_a_set_is_at_distance_zero_from_itself(count):
    features = draw(count) * 10
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-6)


def test_constant_features_have_a_distance():
    real, synthetic = np.ones((5, 8)), np.full((6, 8), 3.0)
    assert frechet_distance(real, synthetic) == pytest.approx(32)
    assert neighbor_coverage(np.ones((7, 8)), np.ones((7, 8))).precision == 1


def test_streamed_moments_do_not_depend_on_the_batches():
    features = draw(101).astype(np.float32)
    moments = Moments(32)
    for start in (0, 1, 40, 40, 90):
        stop = {0: 1, 1: 40, 40: 90, 90: 101}[start]
        if moments.count < stop:
            moments.update(features[start:stop])
    moments.update(features[:0])
    np.testing.assert_allclose(moments.mean, features.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        moments.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-12
    )
    whole = frechet_of_moments(moments, compute_moments(draw(50, seed=1)))
    assert whole == pytest.approx(frechet_distance(features, draw(50, seed=1)), rel=1e-12)


def test_precision_recall_density_and_coverage_agree_with_a_count_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [10.0]])  # radii 1, 1, 1, 8
    synthetic = np.array([[0.5], [3.0], [30.0]])  # radii 2.5, 2.5, 27
    found = neighbor_coverage(real, synthetic, k=1)
    assert found.precision == pytest.approx(2 / 3)  # 0.5 and 3 lie in a real ball
    assert found.density == pytest.approx((2 + 2) / 3)  # 0.5 in 2 balls; 3 in those of 2 and 10
    assert found.coverage == pytest.approx(1.0)  # 0: 0.5; 1: 0.5; 2: 3; 10: 3
    assert found.recall == pytest.approx(1.0)  # 0, 1, 2 by 0.5; 10 by 30


def test_precision_recall_density_and_coverage_agree_with_neighbors_of_scikit_learn():
    real, synthetic = draw(80, width=4), draw(70, width=4, seed=1, shift=0.5)
    real_balls = NearestNeighbors(n_neighbors=6).fit(real).kneighbors(real)[0][:, 5]
    own_balls = NearestNeighbors(n_neighbors=6).fit(synthetic).kneighbors(synthetic)[0][:, 5]
    across = np.linalg.norm(real[:, None] - synthetic[None], axis=2)
    found = neighbor_coverage(real, synthetic)
    assert found.precision == pytest.approx((across <= real_balls[:, None]).any(axis=0).mean())
    assert found.recall == pytest.approx((across <= own_balls[None]).any(axis=1).mean())
    assert found.density == pytest.approx((across <= real_balls[:, None]).sum() / 5 / 70)
    assert found.coverage == pytest.approx((across.min(axis=1) <= real_balls).mean())


def test_equal_rows_are_at_distance_zero():
    features = draw(9, width=500) * 100
    distance = pairwise_distances(features, features.copy())
    assert (np.diag(distance) == 0).all()
    expected = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.testing.assert_allclose(distance, expected, rtol=1e-9)


def test_a_resample_equals_the_distance_of_the_drawn_rows():
    real, synthetic = draw(20), draw(15, seed=1, shift=0.3)
    random = np.random.default_rng(5)
    expected = [
        frechet_distance(
            real[random.integers(20, size=20)], synthetic[random.integers(15, size=15)]
        )
        for _ in range(3)
    ]
    found = bootstrap_frechet(real, synthetic, np.random.default_rng(5), 3)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_bootstrap_interval_has_about_the_width_of_the_spread_over_fresh_sets():
    fresh = [
        frechet_distance(draw(60, width=8, seed=i), draw(60, width=8, seed=500 + i, shift=1))
        for i in range(80)
    ]
    real, synthetic = draw(60, width=8), draw(60, width=8, seed=500, shift=1)
    resamples = bootstrap_frechet(real, synthetic, np.random.default_rng(0), 200)
    low, high = centered_interval(fresh[0], resamples)
    assert low < fresh[0] < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(fresh), rel=0.5)


@pytest.mark.parametrize("width", [8, 128])  # below and above the number of rows
def test_a_bootstrap_by_patient_spreads_as_fresh_sets_of_patients_do(width):
    """Ten patients of six images against one set; resampling images gives half of it."""
    groups = np.arange(60) // 6, np.arange(50)
    fixed, values, spreads = 1 + draw(50, width=width, seed=77), [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        own = random.normal(size=(10, 1, width)) + 0.3 * random.normal(size=(10, 6, width))
        real = own.reshape(60, width)
        values.append(frechet_distance(real, fixed))
        if seed < 12:
            by_patient = bootstrap_frechet(real, fixed, random, 60, groups)
            spreads.append([by_patient.std(), bootstrap_frechet(real, fixed, random, 60).std()])
    by_patient, by_image = np.mean(spreads, axis=0)
    assert 0.8 * np.std(values) < by_patient < 1.6 * np.std(values)
    assert by_image < 0.75 * by_patient


def test_rows_are_cut_by_whole_patients():
    groups = np.repeat([5, 1, 7, 3], [4, 2, 6, 3])
    for seed in range(5):
        rows = cut_rows(15, 8, np.random.default_rng(seed), groups)
        assert len(rows) == 8 and (np.diff(rows) > 0).all()
        counts = [(groups[rows] == code).sum() for code in (5, 1, 7, 3)]
        whole = [4, 2, 6, 3]
        assert sum(0 < part < full for part, full in zip(counts, whole, strict=True)) <= 1
    alone = cut_rows(15, 8, np.random.default_rng(0))
    assert len(alone) == 8 and (np.diff(alone) > 0).all()


def test_the_value_at_infinite_n_by_patient_is_nearer_to_zero_than_by_image():
    values = []
    for seed in range(15):
        random = np.random.default_rng(seed)
        own = random.normal(size=(40, 1, 6)) + random.normal(size=(40, 5, 6))
        real, synthetic = own.reshape(200, 6) / 2**0.5, random.normal(size=(200, 6))
        groups = np.arange(200) // 5, np.arange(200)
        values.append(
            [extrapolate_frechet(real, synthetic, random, groups=it).value for it in (groups, None)]
        )
    by_patient, by_image = np.mean(values, axis=0)
    assert abs(by_patient) < 0.06 < by_image


def test_the_extrapolated_distance_of_equal_gaussians_is_nearer_to_zero():
    real, synthetic = draw(400, width=8), draw(400, width=8, seed=1)
    plain = frechet_distance(real, synthetic)
    found = extrapolate_frechet(real, synthetic, np.random.default_rng(0))
    assert abs(found.value) < plain / 2
    assert found.sizes[-1] == 400 and found.distances[-1] == pytest.approx(plain)


def test_an_exact_line_is_read_at_infinity(monkeypatch):
    monkeypatch.setattr(distances, "frechet_distance", lambda a, b: 3 + 50 / len(a))
    found = extrapolate_frechet(draw(90), draw(100), np.random.default_rng(0))
    assert found.value == pytest.approx(3) and found.deviation == pytest.approx(0, abs=1e-9)


def test_sets_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="needs 2 rows or more"):
        frechet_distance(draw(1), draw(5))
    with pytest.raises(ValueError, match="needs 6 rows or more"):
        neighbor_coverage(draw(5), draw(9))
    with pytest.raises(ValueError, match=r"expected \(N1, D\)"):
        frechet_distance(draw(5), draw(5, width=3))


def test_more_rows_than_a_block_give_what_the_whole_table_gives():
    random = np.random.default_rng(0)
    real, synthetic = (random.normal(size=(n, 3)).astype(np.float32) for n in (1500, 2300))
    first, second = (item.astype(np.float64) for item in (real, synthetic))
    by_hand = np.linalg.norm(first[:, None] - second[None], axis=2)
    np.testing.assert_allclose(pairwise_distances(real, synthetic), by_hand, atol=1e-6)
