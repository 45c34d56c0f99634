import json

import numpy as np
import pytest

from medart_cli.metrics import comparison
from medart_cli.metrics.comparison import (
    Effort,
    compare_features,
    measure_floor,
    rank_sets,
    split_halves,
)
from medart_cli.metrics.distances import frechet_distance, neighbor_coverage
from medart_cli.metrics.kernel import kernel_distance


def draw(count, seed=0, shift=0.0, width=8):
    return np.random.default_rng(seed).normal(loc=shift, size=(count, width))


def names(count):
    return [str(row) for row in range(count)]


def test_a_comparison_holds_every_measure_and_is_json():
    real, synthetic = draw(60), draw(50, seed=1, shift=0.5)
    found = compare_features(real, synthetic, names(60), Effort(bootstrap=50))
    json.dumps(found)
    assert found["frechet"]["value"] == frechet_distance(real, synthetic)
    low, high = found["frechet"]["interval"]
    assert low < found["frechet"]["value"] < high
    assert found["kernel"]["value"] == kernel_distance(real, synthetic)[0]
    assert found["coverage"] == neighbor_coverage(real, synthetic).coverage
    low, high = found["coverage_intervals"]["precision"]
    assert low < found["precision"] < high
    assert (found["n_real"], found["n_synthetic"], found["width"]) == (60, 50, 8)
    assert any("n = 50 is below 2048" in note for note in found["notes"])
    assert not any("rank-deficient" in note for note in found["notes"])


def test_the_same_seed_gives_the_same_figures():
    real, synthetic = draw(40), draw(40, seed=1)
    first, second = (
        compare_features(real, synthetic, names(40), Effort(seed=3, bootstrap=20)) for _ in range(2)
    )
    assert first == second


def test_the_floor_tells_a_near_set_from_a_far_one():
    real = draw(200)
    near = compare_features(real, draw(200, seed=1), names(200), Effort())["floor"]
    far = compare_features(real, draw(200, seed=1, shift=1), names(200), Effort())["floor"]
    assert near["n"] == far["n"] == 100
    assert near["frechet"]["synthetic"] < near["frechet"]["real_highest"]
    assert far["frechet"]["synthetic"] > 2 * far["frechet"]["real_highest"]
    assert far["kernel"]["synthetic"] > far["kernel"]["real_highest"]


def test_coverage_stands_beside_that_of_halves_at_equal_n():
    """A perfect generator: what 60 images cover of 300 says little, at equal n it does."""
    found = compare_features(draw(300), draw(60, seed=1), names(300), Effort(bootstrap=0))
    floor = found["floor"]["coverage"]
    assert found["coverage"] < 0.8 < floor["synthetic"]
    assert floor["real_lowest"] < floor["synthetic"] < floor["real_highest"]
    assert any("depend on both n" in note for note in found["notes"])
    equal = compare_features(draw(60), draw(60, seed=1), names(60), Effort(bootstrap=0))
    assert not any("depend on both n" in note for note in equal["notes"])


@pytest.mark.parametrize(("count", "noted"), [(21, True), (30, True), (31, False)])
def test_the_value_at_infinite_n_is_an_upper_bound_up_to_three_times_the_width(count, noted):
    real, synthetic = draw(count, width=10), draw(count, seed=1, width=10)
    notes = compare_features(real, synthetic, names(count), Effort(bootstrap=0))["notes"]
    assert any("is an upper bound" in note for note in notes) == noted


def test_a_set_closer_than_sets_of_one_source_is_suspected_and_it_is_said_why():
    real = draw(40)
    found = compare_features(real, real.copy(), names(40), Effort(bootstrap=0))
    assert found["closeness"]["suspected"] and comparison.CLOSER in found["notes"]
    other = compare_features(real, draw(40, seed=1), names(40), Effort(bootstrap=0))
    assert not other["closeness"]["suspected"] and comparison.CLOSER not in other["notes"]


def test_halves_share_no_group_and_are_about_equal():
    groups = [str(row // 3) for row in range(60)] + ["large"] * 20
    left, right = split_halves(groups, np.random.default_rng(0))
    assert sorted([*left, *right]) == list(range(80))
    assert not {groups[row] for row in left} & {groups[row] for row in right}
    assert abs(len(left) - len(right)) <= 20


def test_one_patient_alone_has_no_floor():
    random = np.random.default_rng(0)
    assert measure_floor(draw(20), draw(20), ["a"] * 20, random, 5) is None
    found = compare_features(draw(20), draw(20), ["a"] * 20, Effort(bootstrap=0))
    assert any("floor" in note for note in found["notes"])


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_tiny_sets_lack_measures_and_say_so(count):
    found = compare_features(draw(count), draw(count, seed=1), names(count), Effort(bootstrap=20))
    assert found["frechet"]["value"] > 0
    assert (found["kernel"] is None) == (count < 3)
    assert (found["precision"] is None) == (count <= 5)
    assert any("rank-deficient" in note for note in found["notes"])


def test_large_sets_are_cut_for_pairs_but_not_for_the_frechet_distance(monkeypatch):
    monkeypatch.setattr(comparison, "PAIRS_LIMIT", 50)
    monkeypatch.setattr(comparison, "BOOTSTRAP_LIMIT", 30)
    real, synthetic = draw(300), draw(200, seed=1, shift=0.4)
    found = compare_features(real, synthetic, names(300), Effort(bootstrap=200))
    assert found["frechet"]["value"] == frechet_distance(real, synthetic)
    assert any("50 random images" in note for note in found["notes"])
    low, high = found["frechet"]["interval"]
    whole = compare_features.__globals__["bootstrap_frechet"](
        real, synthetic, np.random.default_rng(0), 200
    )
    assert high - low == pytest.approx(3.92 * whole.std(), rel=0.6)


def result(value, interval):
    return {"frechet": {"value": value, "interval": interval}}


def test_a_winner_is_named_only_where_intervals_part():
    far, near, close = result(9, [8, 10]), result(5, [4, 6]), result(5.5, [4.5, 6.5])
    clear = rank_sets(["far", "near"], [far, near])
    assert clear["order"] == ["near", "far"] and clear["winner"] == "near"
    unclear = rank_sets(["far", "close", "near"], [far, close, near])
    assert unclear["order"] == ["near", "close", "far"] and unclear["winner"] is None
    assert "overlap" in unclear["reason"]
    assert rank_sets(["a", "b"], [result(1, None), result(2, None)])["winner"] is None
