import json

import numpy as np
import pytest

from medart_cli.metrics import comparison
from medart_cli.metrics.comparison import Effort, compare_features, measure_floor, split_halves
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


def test_patients_with_several_images_make_intervals_by_patient_or_none():
    real, synthetic = draw(60), draw(40, seed=1)
    alone = np.arange(60), np.arange(40)
    several = np.arange(60) // 10, np.arange(40)
    plain, single, many, few = (
        compare_features(real, synthetic, names(60), Effort(bootstrap=50), patients=patients)
        for patients in (None, alone, several, (several[0] // 2, several[1]))
    )
    assert plain | {"patients": single["patients"], "notes": single["notes"]} == single
    assert single["patients"] == {"real": 60, "synthetic": 40}
    assert comparison.UNKNOWN in plain["notes"] and comparison.UNKNOWN not in single["notes"]
    assert many["patients"] == {"real": 6, "synthetic": 40}
    for name in ("frechet", "kernel"):
        assert many[name]["value"] == plain[name]["value"]
    for name in comparison.COVERAGES:
        assert many[name] == plain[name]
    assert many["kernel"]["interval"] is many["kernel"]["standard_error"] is None
    low, high = many["kernel"]["by_patient"]["interval"]
    assert low < many["kernel"]["by_patient"]["value"] < high
    assert many["frechet"]["interval"] and many["frechet"]["infinite_n"] is None
    intervals = many["coverage_intervals"]
    assert intervals["recall"] is intervals["coverage"] is None and intervals["precision"]
    assert any("6 patients: a value at infinite n needs 24" in note for note in many["notes"])
    assert few["frechet"]["interval"] is few["kernel"]["by_patient"] is None
    assert any("3 patients: intervals need 5" in note for note in few["notes"])


def test_the_number_of_patients_says_whether_the_value_at_infinite_n_can_be_trusted():
    real, synthetic = draw(120, width=8), draw(120, seed=1, width=8)
    patients = np.arange(120) // 5, np.arange(120)
    found = compare_features(real, synthetic, names(120), Effort(bootstrap=0), patients=patients)
    assert found["frechet"]["infinite_n"] is not None
    expected = "the number of patients = 24 is not above 3 times the feature width 8: "
    assert any(expected in note for note in found["notes"])


def test_large_sets_of_patients_are_cut_to_whole_patients(monkeypatch):
    monkeypatch.setattr(comparison, "BOOTSTRAP_LIMIT", 50)
    real, synthetic = draw(300), draw(200, seed=1, shift=0.4)
    patients = np.arange(300) // 5, np.arange(200)
    sets, codes = comparison._cut_sets((real, synthetic), 50, np.random.default_rng(0), patients)
    assert [len(item) for item in sets] == [50, 50] and len(np.unique(codes[0])) == 10
    found = compare_features(real, synthetic, names(300), Effort(), patients=patients)
    assert found["frechet"]["interval"][0] < found["frechet"]["value"]


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
