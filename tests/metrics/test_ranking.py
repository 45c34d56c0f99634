import json

import numpy as np
import pytest

from medart_cli.metrics.distances import frechet_distance
from medart_cli.metrics.ranking import Sample, rank_sets

WIDTH = 16
CENTERS = 0.8 * np.random.default_rng(99).normal(size=(6, WIDTH))
NAMES = list("abcdef")


def draw(random, count, classes=6, shift=0.0, patients=None):
    labels = random.integers(classes, size=count)
    features = CENTERS[labels] + shift + random.normal(size=(count, WIDTH))
    groups = np.arange(count) if patients is None else patients
    if patients is not None:
        features += random.normal(size=(patients.max() + 1, WIDTH))[patients]
    return Sample(features, groups, labels)


def hide(sample):
    return Sample(sample.features, sample.groups, np.full(len(sample.groups), -1))


def test_the_ranking_is_json_and_each_pair_has_its_differences():
    random = np.random.default_rng(0)
    sets = {"far": draw(random, 50, shift=1.0), "near": draw(random, 40), "mid": draw(random, 50)}
    found = rank_sets(draw(random, 60), sets, NAMES, {})
    json.dumps(found)
    assert found["order"][-1] == "far" and len(found["pairs"]) == 3
    first = found["pairs"][0]
    assert (first["first"], first["second"], first["nearer"]) == ("far", "near", "near")
    low, high = first["distance"]["interval"]
    assert 0 < low < first["distance"]["value"] < high
    assert found["distance"]["far"]["value"] > found["distance"]["near"]["value"]
    assert set(first["labels"]) == set(NAMES) and first["distance"]["level"] == 0.99
    mean = np.mean([it["value"] for it in first["labels"].values()])
    assert first["by_label"]["value"] == pytest.approx(mean)


def test_sets_that_are_alike_hardly_ever_have_a_winner_and_worse_ones_lose():
    """At most 2 % by design; of 150 pairs 8 or more winners come once in 100 times."""
    false = np.zeros(3, dtype=int)
    lost = right = 0
    for seed in range(50):
        random = np.random.default_rng(seed)
        real, first, second = (draw(random, 60) for _ in range(3))
        for place, sets in enumerate(
            ({"a": first, "b": second},
             {"a": hide(first), "b": hide(second)},
             {"a": draw(random, 60, shift=0.3), "b": draw(random, 60, shift=0.3)})
        ):  # fmt: skip
            false[place] += rank_sets(real, sets, NAMES, {})["winner"] is not None
        winner = rank_sets(real, {"a": first, "b": draw(random, 60, 2)}, NAMES, {})["winner"]
        right, lost = right + (winner == "a"), lost + (winner == "b")
    assert false.sum() <= 7 and false.max() <= 4
    assert right >= 30 and lost == 0


def test_exchanged_labels_are_seen_by_label_alone():
    random = np.random.default_rng(0)
    real, right, other = (draw(random, 120) for _ in range(3))
    turned = Sample(other.features, other.groups, (other.labels + 1) % 6)
    found = rank_sets(real, {"turned": turned, "right": right}, NAMES, {})
    (pair,) = found["pairs"]
    assert found["winner"] == "right" and found["order"] == ["right", "turned"]
    assert pair["by_label"]["interval"][0] > 0
    assert pair["distance"]["interval"][0] < 0 < pair["distance"]["interval"][1]
    assert rank_sets(hide(real), {"a": hide(turned), "b": hide(right)}, [], {})["winner"] is None


def test_a_set_that_contradicts_itself_is_not_nearer():
    random = np.random.default_rng(0)
    real, right = draw(random, 200), draw(random, 200, shift=0.4)
    other = draw(random, 200)
    turned = Sample(other.features, other.groups, (other.labels + 1) % 6)
    found = rank_sets(real, {"shifted": right, "turned": turned}, NAMES, {})
    (pair,) = found["pairs"]
    assert pair["distance"]["interval"][0] > 0 > pair["by_label"]["interval"][1]
    assert pair["nearer"] is None and found["winner"] is None


def test_a_set_that_is_left_out_cannot_win_and_the_reason_is_told():
    random = np.random.default_rng(0)
    real = draw(random, 60)
    sets = {"copier": real, "good": draw(random, 60), "bad": draw(random, 60, shift=1.0)}
    assert rank_sets(real, sets, NAMES, {})["winner"] == "copier"
    found = rank_sets(real, sets, NAMES, {"copier": "suspected of copies"})
    assert found["winner"] == "good" and found["left_out"] == {"copier": "suspected of copies"}
    assert found["reason"].endswith("; copier is left out: suspected of copies")
    del sets["bad"]
    found = rank_sets(real, sets, NAMES, {"copier": "suspected of copies"})
    assert found["winner"] is None and found["reason"].startswith("fewer than two sets can win")


def test_few_patients_of_many_images_give_no_winner_by_chance():
    """Two sets unlike the real one on opposite sides: of a few patients, one of them is nearer."""
    patients = np.arange(100) // 20
    known = unknown = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        real = draw(random, 100, patients=patients)
        sets = {"a": draw(random, 60, shift=0.3), "b": draw(random, 60, shift=-0.3)}
        known += rank_sets(real, sets, NAMES, {})["winner"] is not None
        naive = Sample(real.features, np.arange(100), real.labels)
        unknown += rank_sets(naive, sets, NAMES, {})["winner"] is not None
    assert known <= 2 < 6 < unknown


def test_labels_of_fewer_than_three_images_have_no_difference_of_their_own():
    random = np.random.default_rng(0)
    real, first = draw(random, 60), draw(random, 60)
    few = Sample(first.features, first.groups, np.where(np.arange(60) < 2, 0, 1))
    (pair,) = rank_sets(real, {"a": first, "b": few}, NAMES, {})["pairs"]
    assert set(pair["labels"]) == {"b"} and pair["by_label"] is None
    assert pair["distance"]["level"] == 0.985


def test_what_a_set_lacks_along_directions_of_little_variance_is_seen():
    """Two directions have most of the variance; classes, two of them lost, differ elsewhere."""
    wins = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        real, right, poor = draw(random, 100), draw(random, 100), draw(random, 100, 4)
        for item in (real, right, poor):
            item.features[:, :2] += 5 * random.normal(size=(100, 2))
        wins += rank_sets(hide(real), {"a": hide(right), "b": hide(poor)}, [], {})["winner"] == "a"
    assert wins >= 8


def test_a_set_that_varies_less_never_wins_and_loses_where_images_are_many():
    """The Frechet distance prefers it: of features wider than n it is smaller by 0.64."""
    winners = {20: [], 80: []}
    for count, found in winners.items():
        for seed in range(25):
            random = np.random.default_rng(seed)
            real, right, tame = (
                Sample(random.normal(size=(count, 100)), np.arange(count), np.full(count, -1))
                for _ in range(3)
            )
            tame.features[:] *= 0.8
            found.append(rank_sets(real, {"tame": tame, "right": right}, [], {})["winner"])
            assert frechet_distance(real.features, tame.features) < frechet_distance(
                real.features, right.features
            )
    assert "tame" not in winners[20] + winners[80]
    assert winners[80].count("right") >= 20


def test_a_ranking_does_not_depend_on_the_axes_or_on_the_order_of_the_sets():
    random = np.random.default_rng(0)
    real, sets = draw(random, 60), {"a": draw(random, 50, shift=0.4), "b": draw(random, 40)}
    (pair,) = rank_sets(real, sets, NAMES, {})["pairs"]
    (other,) = rank_sets(real, dict(reversed(sets.items())), NAMES, {})["pairs"]
    assert other["distance"]["value"] == pytest.approx(-pair["distance"]["value"])
    turn = np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0]
    turned = [
        Sample(3 * it.features @ turn + 5, it.groups, it.labels) for it in (real, *sets.values())
    ]
    (found,) = rank_sets(turned[0], dict(zip("ab", turned[1:], strict=True)), NAMES, {})["pairs"]
    assert found["distance"]["value"] == pytest.approx(pair["distance"]["value"])
    assert found["by_label"]["interval"] == pytest.approx(pair["by_label"]["interval"])


def test_a_third_set_far_away_does_not_hide_which_of_two_is_nearer():
    nearer = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        real, sets = draw(random, 80), {"a": draw(random, 80), "b": draw(random, 80, classes=2)}
        sets["c"] = draw(random, 80, shift=30.0)
        nearer.append(rank_sets(real, sets, NAMES, {})["pairs"][0]["nearer"])
    assert nearer.count("a") >= 15 and "b" not in nearer


def test_what_is_said_of_two_sets_does_not_depend_on_a_third():
    random = np.random.default_rng(5)
    real, first, second = draw(random, 60), draw(random, 60), draw(random, 60, classes=4)
    two = rank_sets(real, {"a": first, "b": second}, NAMES, {})
    far = {"a": first, "b": second, "far": draw(random, 60, shift=3.0)}
    three = rank_sets(real, far, NAMES, {})
    assert three["pairs"][0] == two["pairs"][0]
    assert [name for name in three["order"] if name != "far"] == two["order"]
    gap = two["distance"]["a"]["value"] - two["distance"]["b"]["value"]
    assert two["pairs"][0]["distance"]["value"] == pytest.approx(gap)


def test_equal_images_are_ranked_without_a_winner():
    one = Sample(np.ones((5, WIDTH)), np.arange(5), np.zeros(5, dtype=int))
    found = rank_sets(one, {"a": one, "b": one}, NAMES, {})
    assert found["winner"] is None and found["distance"]["a"]["value"] == 0
    random = np.random.default_rng(0)
    found = rank_sets(one, {"a": draw(random, 20), "b": draw(random, 20)}, NAMES, {})
    assert np.isfinite(found["pairs"][0]["distance"]["interval"]).all()
