import numpy as np
import pytest

from medart_cli.metrics.distances import find_reached, neighbor_coverage
from medart_cli.metrics.reach import FOLDS, jackknife_variance, measure_reaches


def measure(real, synthetic, *, patients=None, repeats=4):
    groups = np.arange(len(real)) if patients is None else patients
    generator = np.random.default_rng(0)
    return measure_reaches(real, synthetic, (groups, np.arange(len(synthetic))), generator, repeats)


def draw(count, seed, width=4):
    return np.random.default_rng(seed).normal(size=(count, width))


def test_the_share_of_reached_images_is_recall():
    real, synthetic = draw(150, 0), draw(90, 1) * 0.5
    recall = neighbor_coverage(real, synthetic).recall
    assert find_reached(real, synthetic).mean() == recall and 0 < recall < 1


def test_sets_from_one_source_reach_alike_and_a_narrow_set_reaches_less():
    real = draw(200, 0)
    alike, narrow = measure(real, draw(200, 1)).whole, measure(real, draw(200, 1) * 0.3).whole
    assert alike.n == 100
    assert abs(alike.excess.mean()) < 0.05 and narrow.excess.mean() < -0.3
    assert alike.real.mean() == pytest.approx(narrow.real.mean(), abs=0.03)


def test_a_set_that_misses_a_part_reaches_less_of_it_alone():
    real, synthetic = draw(200, 0), draw(200, 1)
    real[:60] += 6
    excess = measure(real, synthetic).whole.excess
    assert excess[:60].mean() < -0.5 and excess[60:].mean() > -0.05


def test_a_fold_is_left_out_of_what_is_reached_and_of_what_reaches():
    found = measure(draw(120, 0), draw(120, 1), patients=np.arange(120) // 3)
    assert len(found.without_real) == len(found.without_synthetic) == FOLDS
    unknown = np.array([np.isnan(part.real) for part in found.without_real])
    assert (unknown.sum(axis=0) == 1).all()
    assert (unknown[:, ::3] == unknown[:, 2::3]).all()  # all images of a patient
    assert not any(np.isnan(part.synthetic).any() for part in found.without_synthetic)
    for part in found.without_synthetic:
        assert (part.real == found.whole.real).all()


def test_too_few_images_or_patients_give_nothing():
    assert measure(draw(11, 0), draw(50, 1)) is None
    assert measure(draw(90, 0), draw(90, 1), patients=np.arange(90) // 10) is None


def test_the_jackknife_of_a_mean_is_its_variance():
    values = np.random.default_rng(0).normal(size=40)
    without = (values.sum() - values) / 39
    assert jackknife_variance(without) == pytest.approx(values.var(ddof=1) / 40)
