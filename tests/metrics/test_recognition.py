import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score

from medart_cli.metrics.recognition import (
    LOWER_MARGIN,
    NOT_SHOWN,
    Predictions,
    compare_recognition,
)
from tests.bench.bench_contents import measure_recognition

NAMES = ["a", "b", "c"]


def predict(seed, count, right, groups=None):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, count)
    said = np.where(random.random(count) < right, truth, random.integers(0, 3, count))
    return Predictions(truth, said, np.arange(count) if groups is None else groups)


def test_shares_and_confusions_are_those_of_scikit_learn():
    real, drawn = predict(0, 200, 0.8), predict(1, 150, 0.5)
    found = compare_recognition(real, drawn, NAMES)
    for name, item in (("real", real), ("drawn", drawn)):
        assert found[name]["value"] == pytest.approx(balanced_accuracy_score(item.truth, item.said))
        shares = [found["labels"][label][name]["value"] for label in NAMES]
        assert shares == pytest.approx(recall_score(item.truth, item.said, average=None).tolist())
        assert found[f"confusion_{name}"] == confusion_matrix(item.truth, item.said).tolist()
    assert found["difference"]["value"] == pytest.approx(
        found["drawn"]["value"] - found["real"]["value"]
    )
    assert found["n_real"] == 200 and found["labels"]["a"]["n_drawn"] == (drawn.truth == 0).sum()


def test_the_interval_of_a_difference_is_newcombes_where_images_are_independent():
    truth = np.zeros(900, dtype=int)
    real = Predictions(truth, (np.arange(900) >= 800).astype(int), np.arange(900))
    drawn = Predictions(truth, (np.arange(900) >= 600).astype(int), np.arange(900))
    found = compare_recognition(real, drawn, NAMES[:2])["labels"]["a"]
    limits = [binomtest(count, 900).proportion_ci(method="wilson") for count in (600, 800)]
    low = np.hypot(600 / 900 - limits[0].low, limits[1].high - 800 / 900)
    high = np.hypot(limits[0].high - 600 / 900, 800 / 900 - limits[1].low)
    wanted = [-200 / 900 - low, -200 / 900 + high]
    assert found["difference"]["interval"] == pytest.approx(wanted, abs=5e-4)


def test_images_of_one_patient_count_as_one_where_they_are_alike():
    alone, many = predict(0, 60, 0.6), np.repeat(np.arange(60), 10)
    again = Predictions(alone.truth[many], alone.said[many], many)
    drawn = predict(1, 100, 0.6)
    one = compare_recognition(alone, drawn, NAMES)["real"]["interval"]
    ten = compare_recognition(again, drawn, NAMES)["real"]["interval"]
    assert np.ptp(ten) == pytest.approx(np.ptp(one), rel=0.25)


def test_a_label_without_real_images_is_shown_and_not_compared():
    real, drawn = predict(0, 200, 0.9), predict(1, 200, 0.9)
    kept = real.truth != 2
    real = Predictions(real.truth[kept], real.said[kept], real.groups[kept])
    found = compare_recognition(real, drawn, NAMES)
    assert found["labels"]["c"]["real"] is None and found["labels"]["c"]["drawn"]
    two = drawn.truth != 2
    assert found["n_drawn"] == two.sum()
    shares = [found["labels"][label]["drawn"]["value"] for label in "ab"]
    assert found["drawn"]["value"] == pytest.approx(np.mean(shares))


def test_without_real_images_or_a_classifier_that_can_tell_nothing_is_shown():
    nothing = Predictions(*[np.zeros(0, dtype=int)] * 3)
    drawn = predict(1, 100, 0.9)
    found = compare_recognition(nothing, drawn, NAMES)
    assert found["verdict"] == NOT_SHOWN and "has not seen" in found["reason"]
    assert found["confusion_real"] == np.zeros((3, 3)).tolist()
    found = compare_recognition(drawn, nothing, NAMES)
    assert found["verdict"] == NOT_SHOWN and found["labels"] == {}
    found = compare_recognition(predict(0, 300, 0), predict(1, 300, 0), NAMES)
    assert found["verdict"] == NOT_SHOWN and "real images' classes either" in found["reason"]


@pytest.mark.parametrize("images", [1, 10])
def test_wrong_verdicts_are_rare_and_right_ones_are_not(images):
    size = {"labels": 3, "patients": 40, "images": images, "drawn": 150}
    assert measure_recognition(120, 0.0, **size)[0] <= 0.06  # 2.5 % and chance
    assert measure_recognition(120, LOWER_MARGIN, **size)[1] <= 0.06
    assert measure_recognition(60, 0.4, **size)[0] > 0.9
    many = {"labels": 3, "patients": 300, "images": 1, "drawn": 300}
    assert measure_recognition(40, 0.0, **many)[1] > 0.8
