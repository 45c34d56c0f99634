import numpy as np
import pytest
from scipy import stats

from medart_cli.metrics.gaps import (
    Term,
    count_needed_groups,
    find_largest,
    is_small,
    list_pairs,
    measure_gap,
    measure_recalls,
    measure_shares,
    weigh_classes_alike,
)
from tests.bench.bench_subgroups import Scene, count_shown

ONE = np.ones(1)


def measure(hits, codes=None):
    """Measure shares of what is true in each of several subgroups of independent images."""
    count = sum(map(len, hits))
    starts = np.cumsum([0, *map(len, hits)])
    return [
        measure_shares(np.asarray(item, dtype=float)[:, None], start + np.arange(len(item)), count)
        for item, start in zip(hits, starts, strict=False)
    ]


def compare(first, second, subgroups=2, families=1):
    return measure_gap([Term(first, ONE), Term(second, -ONE)], subgroups, families)


def test_the_gap_of_two_shares_has_the_hybrid_score_interval():
    """Newcombe 1998, Statistics in Medicine 17, 873-890: 56/70 and 48/80, method 10."""
    first, second = measure([np.arange(70) < 56, np.arange(80) < 48])
    gap = compare(first, second)
    assert gap.value == pytest.approx(0.2)
    # Student's quantile in place of 1.96 makes it wider by one in a hundred.
    assert [gap.low, gap.high] == pytest.approx([0.0524, 0.3339], abs=0.004)
    assert gap.is_shown and gap.p_value < 0.05


def test_the_p_value_belongs_to_the_interval():
    """At 1 - p the interval would end at zero: seen by the family that makes it so."""
    first, second = measure([np.arange(60) < 40, np.arange(50) < 26])
    gap = compare(first, second)
    assert 0.05 < gap.p_value < 1 and not gap.is_shown
    narrow = measure_gap([Term(first, ONE), Term(second, -ONE)], 2, 0.05 / gap.p_value)
    assert narrow.low == pytest.approx(0, abs=1e-3)


def test_a_gap_of_many_images_agrees_with_games_and_howell():
    """By their own formula, with the variance of each subgroup and the studentized range."""
    generator = np.random.default_rng(0)
    hits = [generator.uniform(size=n) < p for n, p in ((900, 0.7), (700, 0.74), (1200, 0.66))]
    parts = measure(hits)
    for one, two in ((0, 1), (0, 2), (1, 2)):
        first, second = (np.var(hits[k], ddof=1) / len(hits[k]) for k in (one, two))
        freedom = (first + second) ** 2 / (
            first**2 / (len(hits[one]) - 1) + second**2 / (len(hits[two]) - 1)
        )
        value, error = hits[one].mean() - hits[two].mean(), np.sqrt(first + second)
        reach = stats.studentized_range.ppf(0.95, 3, freedom) / np.sqrt(2)
        tail = stats.studentized_range.sf(abs(value) / error * np.sqrt(2), 3, freedom)
        gap = compare(parts[one], parts[two], subgroups=3)
        assert gap.p_value == pytest.approx(tail, abs=0.01)
        assert [gap.low, gap.high] == pytest.approx(
            [value - reach * error, value + reach * error], abs=0.003
        )


def test_more_subgroups_and_more_keys_make_the_interval_wider():
    first, second = measure([np.arange(100) < 80, np.arange(100) < 65])
    widths = [
        (gap.high - gap.low, gap.p_value)
        for gap in (compare(first, second, *family) for family in ((2, 1), (5, 1), (5, 3)))
    ]
    assert widths == sorted(widths)


def test_images_of_one_patient_count_for_less():
    hits = np.arange(200) % 10 < 7
    alone, _ = measure([hits, hits])
    order = np.sort(hits)
    together = measure_shares(order[:, None].astype(float), np.arange(200) // 10, 400)
    other = measure_shares(order[:, None].astype(float), 200 + np.arange(200) // 10, 400)
    wide, narrow = compare(together, other), compare(*measure([hits, hits]))
    assert alone.share < together.share
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_what_two_regimes_have_in_common_cancels():
    """A change of a gap is paired: the same images are hard for both."""
    generator = np.random.default_rng(1)
    hits = [generator.uniform(size=100) < 0.7 for _ in range(2)]
    again = [np.where(generator.uniform(size=100) < 0.05, ~item, item) for item in hits]
    before, after = measure(hits), measure(again)
    terms = [Term(after[0], ONE, 1), Term(after[1], -ONE, 1)]
    terms += [Term(before[0], -ONE, 0), Term(before[1], ONE, 0)]
    change, gap = measure_gap(terms, 2), compare(*before)
    assert change.high - change.low < 0.6 * (gap.high - gap.low)


def test_luck_of_the_trainings_that_both_subgroups_have_cancels_and_other_luck_does_not():
    truth, codes = np.arange(400) % 2, np.arange(400)
    right = np.eye(2)[truth] * 0.8 + 0.1

    def train(*wrong):
        """Train once for each share of images that are wrong, in each half."""
        runs = []
        for first, second in wrong:
            share = np.where(codes < 200, first, second)
            runs.append(np.where(((codes % 20) < 20 * share)[:, None], 1 - right, right))
        return runs

    def gap_of(runs):
        parts = [measure_recalls(truth, runs, codes, np.flatnonzero(half))
                 for half in (codes < 200, codes >= 200)]  # fmt: skip
        weights = weigh_classes_alike(np.arange(2), 2)
        return measure_gap([Term(parts[0], weights), Term(parts[1], -weights)], 2)

    alike = gap_of(train((0.1, 0.1), (0.3, 0.3), (0.5, 0.5)))
    apart = gap_of(train((0.1, 0.5), (0.3, 0.3), (0.5, 0.1)))
    assert alike.seed_error == pytest.approx(0) and alike.value == pytest.approx(0)
    assert apart.seed_error > 0.1 and apart.high > 2 * alike.high


def test_a_subgroup_is_compared_in_the_classes_that_it_has():
    truth = np.array([0] * 40 + [1] * 40 + [2] * 44)
    runs = [np.eye(3)[truth]]
    halves = [np.flatnonzero(np.arange(124) % 2 == k) for k in range(2)]
    halves[1] = np.setdiff1d(halves[1], np.flatnonzero(truth == 2)[1::2][2:])
    parts = {
        name: measure_recalls(truth, runs, np.arange(124), rows)
        for name, rows in zip("ab", halves, strict=True)
    }
    assert parts["b"].images.tolist() == [20, 20, 2]
    ((one, two, classes),) = list_pairs(parts)
    assert (one, two, classes.tolist()) == ("a", "b", [0, 1])
    assert measure_recalls(truth, runs, np.arange(124), np.arange(0)) is None


def test_small_is_few_images_or_few_patients():
    assert is_small(19, 19) and is_small(200, 9) and not is_small(20, 10)


def test_the_surest_gap_is_told_and_without_one_the_largest():
    parts = measure([np.arange(400) < 300, np.arange(400) < 360, np.arange(20) < 19])
    gaps = [compare(parts[one], parts[two], 3) for one, two in ((0, 1), (0, 2), (1, 2))]
    assert abs(gaps[1].value) > abs(gaps[0].value)
    assert gaps[0].is_shown and find_largest(gaps) == 0
    assert find_largest(gaps[1:]) == 0


def test_the_number_needed_is_that_of_the_two_sample_formula():
    parts = measure([np.arange(100) < 70, np.arange(100) < 70])
    needed = count_needed_groups(compare(*parts), 200)
    known = 2 * (1.96 + 0.8416) ** 2 * 2 * 0.7 * 0.3 / 0.1**2
    assert needed == pytest.approx(known, rel=0.05)


@pytest.mark.parametrize("subgroups", [2, 5, 8])
def test_a_gap_that_is_not_there_is_rarely_shown(subgroups):
    shown, _ = count_shown(Scene(images=240), subgroups, 30)
    assert shown <= 0.15  # of 30 at a rate of 5 %, five or more are seen once in 60


def test_a_gap_that_is_there_is_shown():
    assert count_shown(Scene(images=400), 2, 20, lost=1.2)[0] > 0.8
