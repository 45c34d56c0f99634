import numpy as np
import pytest

from medart_cli.metrics.recognition import AS_WELL, LESS, NOT_SHOWN
from medart_cli.metrics.retelling import KEPT, Retold, compare_retelling
from tests.bench.bench_contents import measure_retelling

EVERY = np.arange(8)


def draw(seed, count=40, kept=0.7, labels=2):
    random = np.random.default_rng(seed)
    asked = random.random((count, 8)) < 0.4
    told = np.where(random.random(asked.shape) < kept, asked, random.random(asked.shape) < 0.4)
    codes = np.arange(count)
    return Retold(asked, told, codes % labels, codes, codes)


def test_a_share_is_of_attributes_that_captions_name():
    item = draw(0)
    found = compare_retelling(item, draw(1), EVERY)
    assert found["mentions"] == item.asked.sum()
    assert found["drawn"]["value"] == (item.asked & item.told).sum() / item.asked.sum()
    some = compare_retelling(item, draw(1), EVERY[2:4])
    part = (item.asked & item.told)[:, 2:4].sum() / item.asked[:, 2:4].sum()
    assert some["drawn"]["value"] == pytest.approx(part)
    assert compare_retelling(item, draw(1), EVERY[:0]) is None


def test_the_floor_is_the_mean_over_captions_exchanged_within_a_label():
    item, random = draw(0, count=30), np.random.default_rng(0)
    total, shares = item.asked.sum(), []
    for _ in range(4000):
        other = np.empty(30, dtype=int)
        for label in (0, 1):
            rows = np.flatnonzero(item.labels == label)
            other[rows] = np.roll(random.permutation(rows), 1)[np.argsort(random.permutation(rows))]
        kept = other != np.arange(30)
        hits = (item.asked & item.told[other]).sum(axis=1)
        shares.append(hits[kept].sum() / item.asked[kept].sum())
    found = compare_retelling(item, None, EVERY)
    assert found["drawn_floor"]["value"] == pytest.approx(np.mean(shares), abs=0.01)
    assert total > 0 and found["real"] is None and found["verdict"] == NOT_SHOWN


def test_two_images_of_one_caption_are_no_other_captions():
    item = draw(0, labels=1)
    twice = np.tile(np.arange(40), 2)
    parts = (item.asked[twice], item.told[twice], item.labels[twice], twice, twice)
    one = compare_retelling(item, None, EVERY)
    two = compare_retelling(Retold(*parts), None, EVERY)
    for name in ("drawn", "drawn_floor"):
        assert two[name]["value"] == pytest.approx(one[name]["value"])
        assert np.ptp(two[name]["interval"]) == pytest.approx(
            np.ptp(one[name]["interval"]), rel=0.2
        )
    same = Retold(item.asked, item.told, item.labels, np.zeros(40, dtype=int), item.groups)
    found = compare_retelling(same, same, EVERY)
    assert found["drawn_floor"] is None and found["reason"] == "no label has two different captions"


def test_what_drawn_and_real_images_have_in_common_is_no_part_of_the_error():
    drawn, real = draw(0), draw(0)
    same = compare_retelling(drawn, real, EVERY)["difference"]
    other = Retold(real.asked, real.told, real.labels, real.texts, real.groups + 100)
    apart = compare_retelling(drawn, other, EVERY)["difference"]
    assert same["value"] == apart["value"] == 0
    assert np.ptp(same["interval"]) < 0.4 * np.ptp(apart["interval"])


def test_few_images_and_a_captioner_that_does_not_look_show_nothing():
    few = compare_retelling(draw(0, count=9), draw(0, count=9), EVERY)
    assert few["verdict"] == NOT_SHOWN and "are needed" in few["reason"]
    blind = compare_retelling(draw(0, kept=0), draw(1, kept=0), EVERY)
    assert blind["verdict"] == NOT_SHOWN and "does not tell" in blind["reason"]
    deaf = compare_retelling(draw(0, count=200, kept=0), draw(0, count=200, kept=0.9), EVERY)
    assert deaf["verdict"] == LESS and "not shown to be more" in deaf["reason"]
    whole = compare_retelling(draw(0, count=200, kept=0.9), draw(0, count=200, kept=0.9), EVERY)
    assert whole["verdict"] == AS_WELL


@pytest.mark.parametrize("size", [{"patients": 60, "images": 1}, {"patients": 30, "images": 5}])
def test_wrong_verdicts_are_rare_and_right_ones_are_not(size):
    assert measure_retelling(120, 0.7, 0.7, **size)[0] <= 0.06  # 2.5 % and chance
    assert measure_retelling(120, 0.7, KEPT * 0.7, **size)[1] <= 0.06
    assert measure_retelling(120, 0.0, 0.0, **size)[1] <= 0.06
    assert measure_retelling(60, 0.7, 0.3, **size)[0] > 0.9
    assert measure_retelling(60, 0.7, 0.7, **size)[1] > 0.8
