import numpy as np
import pytest
from cleanfid import fid as cleanfid
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel

from medart_cli.metrics import distances
from medart_cli.metrics.color import energy_distance
from medart_cli.metrics.kernel import (
    Jackknife,
    average,
    energy_jackknife,
    kernel_distance,
    kernel_distance_subsets,
    kernel_jackknife,
    kernel_matrix,
    subtract,
    take_root,
)


def draw(count, width=32, seed=0, shift=0.0):
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return np.abs(random.normal(size=(count, width)) @ mixing + shift)


def test_the_kernel_distance_equals_clean_fid_at_equal_n():
    real, synthetic = draw(60), draw(60, seed=1, shift=0.2)
    expected = cleanfid.kernel_distance(real, synthetic, num_subsets=1)  # its subset is then all
    assert kernel_distance(real, synthetic)[0] == pytest.approx(expected, rel=1e-6)


def test_the_subset_kernel_distance_equals_clean_fid_for_the_same_draws(monkeypatch):
    real, synthetic = draw(60), draw(45, seed=1, shift=0.2)
    monkeypatch.setattr(np.random, "choice", np.random.default_rng(3).choice)
    expected = cleanfid.kernel_distance(real, synthetic)
    found = kernel_distance_subsets(real, synthetic, np.random.default_rng(3))
    assert found == pytest.approx(expected, rel=1e-9)


def mean_off_diagonal(kernel):
    return (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))


def unbiased(real, synthetic):
    options = {"degree": 3, "gamma": None, "coef0": 1}
    return (
        mean_off_diagonal(polynomial_kernel(real, **options))
        + mean_off_diagonal(polynomial_kernel(synthetic, **options))
        - 2 * polynomial_kernel(real, synthetic, **options).mean()
    )


def test_the_kernel_distance_and_its_error_equal_a_jackknife_by_hand(monkeypatch):
    monkeypatch.setattr(distances.blocks, "__defaults__", (7,))
    real, synthetic = draw(20), draw(13, seed=1, shift=0.2)
    value, error = kernel_distance(real, synthetic)
    assert value == pytest.approx(unbiased(real, synthetic), rel=1e-9)
    left = [unbiased(np.delete(real, i, axis=0), synthetic) for i in range(20)]
    right = [unbiased(real, np.delete(synthetic, i, axis=0)) for i in range(13)]
    assert error == pytest.approx(np.sqrt(19 * np.var(left) + 12 * np.var(right)), rel=1e-6)


@pytest.mark.parametrize(("shift", "excess"), [(0.0, 1.45), (1.0, 1.0)])
def test_the_kernel_distance_is_unbiased_and_its_error_is_right_or_too_large(shift, excess):
    # Where the sets are alike the statistic is degenerate and the jackknife sqrt(2) too large.
    pairs = [
        kernel_distance(draw(30, width=6, seed=i), draw(25, width=6, seed=900 + i, shift=shift))
        for i in range(300)
    ]
    values, errors = np.array(pairs).T
    exact = unbiased(draw(2000, width=6, seed=7), draw(2000, width=6, seed=8, shift=shift))
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(300) + 0.02
    found = np.sqrt(np.square(errors).mean())
    assert found == pytest.approx(excess * values.std(), rel=0.15)


def test_equal_constant_sets_are_at_distance_zero_and_other_widths_are_refused():
    assert kernel_distance(np.ones((5, 8)), np.ones((4, 8)))[0] == pytest.approx(0)
    with pytest.raises(ValueError, match=r"expected \(N1, D\)"):
        kernel_distance(draw(5), draw(5, width=3))
    with pytest.raises(ValueError, match="needs 3 rows or more"):
        kernel_distance(draw(2), draw(5))


def test_more_rows_than_a_block_give_what_the_whole_table_gives():
    random = np.random.default_rng(0)
    real, synthetic = (random.normal(size=(n, 3)).astype(np.float32) for n in (1500, 2300))
    first, second = (item.astype(np.float64) for item in (real, synthetic))
    tables = [
        polynomial_kernel(a, b, degree=3, gamma=1 / 3, coef0=1)
        for a, b in ((first, first), (second, second), (first, second))
    ]
    within = [(it.sum() - np.trace(it)) / (len(it) * (len(it) - 1)) for it in tables[:2]]
    value = sum(within) - 2 * tables[2].mean()
    assert kernel_distance(real, synthetic)[0] == pytest.approx(value, abs=1e-12)


GROUPS = np.array([4, 0, 0, 2, 2, 2, 2, 9, 9, 4, 4, 4, 7]), np.array([1, 1, 3, 5, 5, 5, 5, 8])


def between(kernel, first, second):
    """Mean kernel over pairs of different groups, without a loop over what is left out."""
    apart = first[:, None] != second[None, :]
    return kernel[apart].mean()


def by_hand(real, synthetic, groups, kernel):
    return (
        between(kernel(real, real), groups[0], groups[0])
        + between(kernel(synthetic, synthetic), groups[1], groups[1])
        - 2 * kernel(real, synthetic).mean()
    )


def polynomial(a, b):
    return polynomial_kernel(a, b, degree=3, coef0=1)


def minus_distance(a, b):
    return -cdist(a, b)


@pytest.mark.parametrize(
    ("measure", "kernel"),
    [(kernel_jackknife, polynomial), (energy_jackknife, minus_distance)],
    ids=["kernel", "energy"],
)
def test_a_distance_by_patient_equals_a_jackknife_by_hand(measure, kernel):
    real, synthetic = draw(13), draw(8, seed=1, shift=0.2)
    found = measure(real, synthetic, GROUPS)
    assert found.value == pytest.approx(by_hand(real, synthetic, GROUPS, kernel), rel=1e-9)
    errors = []
    for side, moved in ((0, found.real), (1, found.synthetic)):
        left = []
        for code in np.unique(GROUPS[side]):
            kept = [np.full(len(codes), True) for codes in GROUPS]
            kept[side] = GROUPS[side] != code
            groups = tuple(codes[keep] for codes, keep in zip(GROUPS, kept, strict=True))
            left.append(by_hand(real[kept[0]], synthetic[kept[1]], groups, kernel))
        errors.append((len(left) - 1) * np.var(left))
        assert moved @ moved == pytest.approx(errors[-1], rel=1e-6)
    total = sum(errors)
    assert found.error == pytest.approx(max(total - found.twice, total / 2) ** 0.5, rel=1e-6)
    assert (found.twice > 0) == (measure is energy_jackknife)  # which has all pairs at hand
    assert found.degrees == 3
    low, high = found.find_interval(0.95)
    assert high - found.value == pytest.approx(3.18245 * found.error, rel=1e-5)
    assert low < found.value


def test_single_images_give_the_energy_distance_of_colors():
    real, synthetic = draw(12, width=6), draw(9, width=6, seed=1)
    found = energy_jackknife(real, synthetic, (np.arange(12), np.arange(9)))
    assert found.value == pytest.approx(energy_distance(real, synthetic), rel=1e-9)


def test_a_difference_is_paired_on_the_real_groups_and_a_mean_knows_common_patients():
    groups = np.arange(30), np.arange(20)
    real, near = draw(30), draw(20, seed=1, shift=1.0)
    first, same = (kernel_jackknife(real, near, groups) for _ in range(2))
    apart = subtract(first, same)
    assert apart.value == 0 and np.abs(apart.real).max() == 0
    assert apart.error == pytest.approx(2**0.5 * np.linalg.norm(first.synthetic))
    other = kernel_jackknife(real, draw(20, seed=2, shift=1.05), groups)
    unpaired = (first.error**2 + other.error**2) ** 0.5
    assert subtract(first, other).error < 0.9 * unpaired
    half = kernel_jackknife(real[:10], near[:10], (np.arange(10), np.arange(10)))
    both = average([first, half])
    assert both.value == pytest.approx((first.value + half.value) / 2)
    assert both.real[20] == pytest.approx(first.real[20] / 2)
    assert both.real[3] == pytest.approx((first.real[3] + half.real[3]) / 2)


@pytest.mark.parametrize("each", [1, 4])
def test_the_error_of_a_difference_of_sets_that_are_alike_is_right_and_not_too_large(each):
    """Where all is alike the plain jackknife counts nearly all of the variance twice."""
    groups = tuple(np.arange(40) // each for _ in range(2))
    values, errors, plain = [], [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        sets = [
            (random.normal(size=(40 // each, 1, 6)) + random.normal(size=(40 // each, each, 6)))
            for _ in range(3)
        ]
        real, first, second = (item.reshape(40, 6) for item in sets)
        apart = subtract(
            energy_jackknife(real, first, groups), energy_jackknife(real, second, groups)
        )
        values.append(apart.value)
        errors.append(apart.error)
        plain.append((apart.real @ apart.real + apart.synthetic @ apart.synthetic) ** 0.5)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)
    assert np.mean(plain) > 1.3 * np.std(values)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0], ids=["alike", "near", "far"])
def test_the_error_of_a_difference_of_roots_is_right(shift):
    groups = np.arange(30), np.arange(30)
    values, errors = [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        real = random.normal(size=(30, 4))
        first, second = (
            take_root(energy_jackknife(real, random.normal(size=(30, 4)) + far, groups))
            for far in (shift, 2 * shift)
        )
        apart = subtract(first, second)
        values.append(apart.value)
        errors.append(apart.error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


def test_a_root_keeps_the_sign_and_that_of_equal_sets_is_zero():
    one = Jackknife(-0.04, np.array([0.004]), np.array([0.0]), 3)
    assert take_root(one).value == pytest.approx(-0.2)
    assert take_root(one).real == pytest.approx([0.004 / 0.4])
    nothing = take_root(Jackknife(0.0, np.zeros(3), np.zeros(3), 2))
    assert nothing.value == nothing.error == 0


def test_the_distance_by_patient_is_unbiased_where_that_over_all_pairs_is_not():
    """And its interval covers the truth, 0, where that of images never does."""
    covered, naive, values = 0, 0, []
    for seed in range(80):
        random = np.random.default_rng(seed)
        own = random.normal(size=(12, 1, 32)) + random.normal(size=(12, 8, 32))
        real = (own / 2**0.5).reshape(-1, 32)
        synthetic = random.normal(size=(60, 32))
        found = kernel_jackknife(real, synthetic, (np.arange(96) // 8, np.arange(60)))
        low, high = found.find_interval()
        covered += low < 0 < high
        values.append(found.value)
        value, error = kernel_distance(real, synthetic)
        naive += abs(value) < 1.96 * error
    assert abs(np.mean(values)) < 3 * np.std(values) / 80**0.5
    assert naive < 5 < 72 <= covered


def test_the_kernel_of_all_pairs_is_that_of_scikit_learn():
    real = draw(9)
    np.testing.assert_allclose(kernel_matrix(real), polynomial(real, real), rtol=1e-12)
