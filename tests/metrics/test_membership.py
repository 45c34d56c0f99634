import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from medart_cli.metrics import membership
from medart_cli.metrics.copies import wilson_interval
from medart_cli.metrics.membership import choose_alike, count_recognized, judge_membership


def judge(ours, others, groups=None, labels=None, seed=0):
    scores = np.asarray(ours, float), np.asarray(others, float)
    groups = groups or tuple(np.arange(len(side)) for side in scores)
    labels = labels or tuple([None] * len(side) for side in scores)
    return judge_membership(scores, groups, labels, np.random.default_rng(seed))


@pytest.fixture
def few_deals(monkeypatch):
    monkeypatch.setattr(membership, "DEALS", 199)


def test_the_area_is_that_of_scikit_learn_and_of_two_normal_distributions():
    random = np.random.default_rng(0)
    ours, others = random.normal(1, 1, 2000), random.normal(0, 1, 2000)
    found = judge(ours, others)
    truth = np.repeat([1, 0], 2000)
    assert found["auc"] == pytest.approx(roc_auc_score(truth, np.concatenate([ours, others])))
    low, high = found["interval"]
    assert low < stats.norm.cdf(1 / 2**0.5) < high and high - low < 0.04
    assert found["shown"] and found["p_value"] == 1 / 2000


def test_without_groups_the_p_value_is_that_of_mann_and_whitney():
    random = np.random.default_rng(3)
    ours, others = random.normal(0.3, 1, 40), random.normal(0, 1, 40)
    exact = stats.mannwhitneyu(ours, others, alternative="greater").pvalue
    assert judge(ours, others)["p_value"] == pytest.approx(exact, abs=0.02)
    assert judge(others, ours)["p_value"] > 0.5  # one-sided


def test_what_is_recognized_is_the_roc_curve_at_one_false_alarm_in_a_hundred():
    random = np.random.default_rng(1)
    ours, others = random.normal(2, 1, 500), random.normal(0, 1, 999)
    groups = np.arange(500), np.arange(999)
    found = count_recognized((ours, others), groups)
    truth, scores = np.repeat([1, 0], [500, 999]), np.concatenate([ours, others])
    false_rate, true_rate, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found["share"] == pytest.approx(true_rate[false_rate < 10 / 999].max())
    assert found["false_rate"] == 0.01
    low, high = found["interval"]
    assert low < stats.norm.sf(stats.norm.isf(0.01) - 2) < high
    assert found["interval"] == pytest.approx(
        wilson_interval(round(found["share"] * 500), 500), abs=0.003
    )


def test_of_fewer_than_99_other_patients_nobody_is_recognized_at_one_percent():
    scores = np.ones(200), np.zeros(198)
    assert count_recognized(scores, (np.arange(200), np.arange(198) // 2))["share"] == 1
    assert count_recognized(scores, (np.arange(200), np.arange(198) // 3)) is None


def test_each_label_has_the_same_share_of_both_sides():
    labels = (["a"] * 60 + ["b"] * 10 + ["c"] * 5, ["a"] * 8 + ["b"] * 90 + [None] * 3)
    groups = np.arange(75), np.arange(101)
    ours, others = choose_alike(labels, groups, 500, np.random.default_rng(0))
    counts = [
        {name: sum(side[row] == name for row in rows) for name in "abc"}
        for side, rows in zip(labels, (ours, others), strict=True)
    ]
    assert counts == [{"a": 8, "b": 10, "c": 0}] * 2
    ours, others = choose_alike(
        (["a", "b"] * 4, ["a", "b"] * 50), (np.arange(8), np.arange(100)), 500,
        np.random.default_rng(0),
    )  # fmt: skip
    assert (len(ours), len(others)) == (8, 96)
    ours, others = choose_alike(
        (["a", "b"] * 100, ["a", "b"] * 100), (np.arange(200),) * 2, 64, np.random.default_rng(0)
    )
    assert (len(ours), len(others)) == (64, 64)
    assert [*map(len, choose_alike((["a"], ["b"]), (np.arange(1),) * 2, 9, None))] == [0, 0]
    unknown = choose_alike((["a"] * 3, [None] * 3), (np.arange(3),) * 2, 9, np.random.default_rng())
    assert [*map(len, unknown)] == [3, 3]


def test_one_image_of_each_patient_is_taken_first():
    groups = np.arange(40) // 4
    ours, _ = choose_alike((["a"] * 40, ["a"] * 40), (groups, groups), 10, np.random.default_rng(0))
    assert len(np.unique(groups[ours])) == 10


def test_another_mix_of_labels_is_not_taken_for_membership(few_deals):
    random = np.random.default_rng(0)
    labels = (["a"] * 90 + ["b"] * 10, ["a"] * 10 + ["b"] * 90)
    scores = [np.array([3.0 * (name == "a") for name in side]) for side in labels]
    scores = [side + random.normal(size=100) for side in scores]
    naive = judge(*scores)
    rows = choose_alike(labels, (np.arange(100),) * 2, 500, random)
    chosen = [[side[row] for row in own] for side, own in zip(labels, rows, strict=True)]
    alike = judge(*(side[own] for side, own in zip(scores, rows, strict=True)), labels=chosen)
    assert naive["auc"] > 0.8 and naive["shown"]
    assert abs(alike["auc"] - 0.5) < 0.2 and not alike["shown"]


def simulate(random, patients, each, gain=0.0):
    """Scores of two sides of patients, half of the variance being the patient's."""
    own = random.normal(size=(2, patients, 1)) + random.normal(size=(2, patients, each))
    sides = (own / 2**0.5).reshape(2, -1)
    groups = np.repeat(np.arange(patients), each)
    return judge(sides[0] + gain, sides[1], (groups, groups), seed=random.integers(1 << 30))


@pytest.mark.parametrize(("patients", "each"), [(8, 1), (10, 6), (60, 1)])
def test_where_nothing_leaks_that_is_rarely_said_and_the_interval_holds_a_half(
    few_deals, patients, each
):
    random = np.random.default_rng(0)
    found = [simulate(random, patients, each) for _ in range(200)]
    assert sum(item["shown"] for item in found) <= 7  # 1 % are meant
    held = np.mean([item["interval"][0] <= 0.5 <= item["interval"][1] for item in found])
    assert held >= 0.9


def test_a_leak_is_found_and_one_patient_a_side_has_no_interval(few_deals):
    random = np.random.default_rng(0)
    assert sum(simulate(random, 60, 1, gain=1)["shown"] for _ in range(20)) >= 19
    alone = judge([1.0, 2.0], [0.0, 0.5], (np.zeros(2, int), np.zeros(2, int)))
    assert alone["interval"] is None and not alone["shown"] and alone["auc"] == 1
