import re

import numpy as np
import pytest
from scipy import stats

from medart_cli.study.contrasts import contrast, find_needed, find_reach


def test_over_seeds_alone_it_is_students_paired_test():
    first, second = [3.1, 2.9, 3.4, 3.3], [2.7, 2.8, 2.9, 3.2]
    found = contrast(np.subtract(first, second).tolist())
    known = stats.ttest_rel(first, second)
    interval = known.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.sign == int(known.pvalue < 0.05)


def test_both_variances_are_combined_as_cochran_did():
    by_seeds, by_images = 0.9 / 3, 0.2
    factors = stats.t.ppf(0.975, 2), stats.t.ppf(0.975, 59)
    weighted = (by_seeds * factors[0] + by_images * factors[1]) / (by_seeds + by_images)
    expected = weighted * (by_seeds + by_images) ** 0.5
    assert find_reach(0.9, 3, 0.2, 60) == pytest.approx(expected)
    # With one of them alone it is Student's.
    assert find_reach(0.9, 3, 0.0, 60) == pytest.approx(factors[0] * by_seeds**0.5)
    assert find_reach(0.0, 3, 0.2, 60) == pytest.approx(factors[1] * by_images**0.5)


def test_one_seed_shows_nothing():
    found = contrast([5.0], [0.1], 100)
    assert (found.low, found.high, found.sign) == (None, None, 0)
    assert find_needed(found) == "one seed cannot tell; run more with --seeds"


def test_seeds_that_are_all_alike_leave_their_spread_unknown():
    found = contrast([0.3 - 0.2, 0.4 - 0.3, 0.1])  # as shares of few images are
    assert (found.low, found.high, found.sign) == (None, None, 0)
    assert "all seeds gave the same" in find_needed(found)
    assert contrast([0.5, 0.5, 0.5], [0.1] * 3, 60).sign == 1  # here the images have an error
    assert contrast([0.0, 0.0, 0.0]).low == 0.0


@pytest.mark.parametrize("each", [[0.5, 1.9, 0.6], [0.2, 1.1, 0.9, 0.1], [2.0, 0.3]])
def test_the_seeds_that_are_said_to_be_needed_show_it_in_four_of_five_studies(each):
    found = contrast(each)
    assert found.sign == 0
    seeds = int(re.search(r"(\d+) seeds", find_needed(found))[1])

    def find_power(seeds):
        shift = found.value / (found.seeds_variance / seeds) ** 0.5
        return 1 - stats.nct.cdf(stats.t.ppf(0.975, seeds - 1), seeds - 1, shift)

    assert 0.75 < find_power(seeds) and find_power(seeds - 1) < 0.85


def test_where_the_test_images_are_too_few_more_seeds_are_not_asked_for():
    found = contrast([0.10, 0.11, 0.09], [0.08, 0.08, 0.08], 50)
    assert found.sign == 0
    assert find_needed(found) == (
        "a difference of this size would be shown in 4 of 5 studies of 10 times as many test "
        "images (or patients) and 3 seeds"
    )


def test_a_difference_that_no_study_could_show_is_said_to_be_small():
    found = contrast([0.1, -0.1, 0.0001], [0.5, 0.5, 0.5], 50)
    assert "as small as the one seen" in find_needed(found)
    assert find_needed(contrast([1.0, 1.01, 0.99])) is None


@pytest.mark.parametrize(
    ("seeds", "by_seeds", "by_images"), [(2, 1, 0.25), (3, 1, 0), (3, 1, 1), (5, 0.2, 1)]
)
def test_a_difference_that_is_not_there_is_shown_in_one_of_twenty_studies(
    seeds, by_seeds, by_images
):
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        shared = by_images * generator.standard_normal()  # the test images are the same for all
        each = shared + by_seeds * generator.standard_normal(seeds)
        errors = [by_images] * seeds if by_images else []
        wrong += contrast(each.tolist(), errors, 60).sign != 0
    assert wrong / 2000 < 0.065
