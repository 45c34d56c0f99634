import json

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from medart_cli.reader.answers import UNANSWERED, Reading
from medart_cli.reader.results import (
    CHANCE_80,
    CHANCE_80_BOTH,
    CHANCE_95,
    answer_readers,
    build_results,
    count_needed,
    find_verdict,
    measure_readings,
    score_readings,
)

SIDE = {"lowest": 1.0, "median": 1.0, "highest": 1.0}


def make_key(count, *, labels=("a",), groups=None):
    images = [
        {"image": f"{place:x}", "kind": ("real", "synthetic")[place % 2],
         "label": labels[place // 2 % len(labels)],
         "group": str(place if groups is None else groups[place])}
        for place in range(count)
    ]  # fmt: skip
    return {"kit": "k", "images": images, "scales": {"real": SIDE, "synthetic": SIDE}, "inputs": []}


def read(said, confidence=None, name="A"):
    said = np.asarray(said, dtype=np.int64)
    sure = np.zeros(len(said)) if confidence is None else np.asarray(confidence)
    return Reading(name, said, sure.astype(np.int64), 12.0)


def truth_of(count):
    return np.arange(count) % 2


def answers_of(generator, count, right):
    """Draw the answers of a reader who is right with a probability."""
    truth = truth_of(count)
    return np.where(generator.random(count) < right, truth, 1 - truth)


def test_scores_are_those_counted_by_hand_with_wilsons_intervals():
    truth = truth_of(200)
    said = truth.copy()
    said[1:81:2] = 0  # 40 of 100 synthetic images are taken for real
    said[0:40:2] = 1  # 20 of 100 real ones for synthetic
    facts = measure_readings(make_key(200), [read(said)], 0)
    scores = facts["readers"][0]["scores"]
    for name, hits, n in (
        ("accuracy", 140, 200), ("sensitivity", 60, 100), ("specificity", 80, 100),
    ):  # fmt: skip
        known = binomtest(hits, n).proportion_ci(method="wilson")
        assert scores[name]["value"] == hits / n
        assert scores[name]["interval"] == pytest.approx([known.low, known.high], abs=4e-3)
    assert scores["balanced_accuracy"]["value"] == 0.7
    assert scores["auroc"] is None
    assert (scores["n"], scores["synthetic"], scores["groups"]) == (200, 100, 200)
    assert facts["verdict"] == "told apart" and facts["agreement"] is None
    assert "One reader" in facts["findings"][1]


def test_the_area_under_the_curve_is_of_signed_confidence_where_every_answer_has_one():
    generator = np.random.default_rng(0)
    said, sure = answers_of(generator, 60, 0.7), generator.integers(1, 6, 60)
    score = score_readings(truth_of(60), [read(said, sure)], np.arange(60), np.arange(60))
    signed = np.where(said == 1, sure, -sure)
    assert score["auroc"]["value"] == pytest.approx(roc_auc_score(truth_of(60), signed))
    low, high = score["auroc"]["interval"]
    assert low < score["auroc"]["value"] < high
    sure[7] = 0
    some = score_readings(truth_of(60), [read(said, sure)], np.arange(60), np.arange(60))
    assert some["auroc"] is None
    assert some["accuracy"] == score["accuracy"]  # how sure one was changes no other score


def test_images_of_one_patient_make_intervals_wider():
    generator = np.random.default_rng(1)
    said = np.repeat(answers_of(generator, 20, 0.7).reshape(10, 2), 8, axis=0).ravel()
    groups = np.repeat(np.arange(10), 16)
    width = {}
    for name, codes in (("alone", None), ("together", groups)):
        found = measure_readings(make_key(160, groups=codes), [read(said)], 0)["together"]
        width[name] = np.ptp(found["balanced_accuracy"]["interval"])
    assert width["together"] > 1.5 * width["alone"]


def test_only_images_that_all_readers_answered_count_together():
    truth = truth_of(40)
    one, two = truth.copy(), truth.copy()
    one[:6], two[4:10] = UNANSWERED, UNANSWERED
    facts = measure_readings(make_key(40), [read(one), read(two, name="B")], 0)
    assert facts["together"]["n"] == 30 == facts["agreement"]["n"]
    assert [item["unanswered"] for item in facts["readers"]] == [6, 6]
    assert [item["scores"]["n"] for item in facts["readers"]] == [34, 34]
    assert facts["agreement"]["measure"] == "cohen" and facts["agreement"]["kappa"] == 1


def test_a_reader_who_answered_nothing_of_one_kind_leaves_scores_open():
    said = np.where(truth_of(20) == 1, 1, UNANSWERED)
    facts = measure_readings(make_key(20, labels=("a", "b")), [read(said)], 0)
    assert facts["together"] is None and facts["labels"] == {"a": None, "b": None}
    assert facts["verdict"] == "not shown" and "Not shown" in facts["findings"][0]
    assert "<td>-</td>" in build_results(facts, {})


def test_labels_are_scored_each_for_itself():
    truth = truth_of(80)
    said = np.where(np.arange(80) // 2 % 2 == 0, truth, 1 - truth)  # a: all right, b: all wrong
    found = measure_readings(make_key(80, labels=("a", "b")), [read(said)], 0)["labels"]
    assert [found[name]["accuracy"]["value"] for name in "ab"] == [1, 0]
    assert measure_readings(make_key(80), [read(said)], 0)["labels"] == {}  # one label is all


def measured(value, low, high, n=100):
    return {"balanced_accuracy": {"value": value, "interval": [low, high]}, "n": n}


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict", "told"),
    [
        (0.7, 0.6, 0.78, "told apart", "can tell synthetic from real images"),
        (0.3, 0.22, 0.4, "taken for the other", "take synthetic images for real ones"),
        (0.52, 0.45, 0.59, "as good as guessing", "as good as guessing, within 0.1"),
        (0.55, 0.45, 0.65, "not shown", "Nor is it shown that they cannot"),
    ],
)
def test_the_verdict_says_what_the_interval_says(value, low, high, verdict, told):
    found, findings = find_verdict(measured(value, low, high), 3)
    assert found == verdict and told in findings[0] and "n = 100 images, 3 readers" in findings[0]
    assert ("4 of 5 cases" in findings[-1]) == (verdict == "not shown")


def test_the_normal_quantiles_are_those_of_scipy():
    known = norm.ppf([0.975, 0.8, 0.9])
    np.testing.assert_allclose([CHANCE_95, CHANCE_80, CHANCE_80_BOTH], known, atol=5e-4)


def test_the_number_of_images_that_would_settle_it_does_in_four_of_five_studies():
    """Readers as good as one of 60 images was seen to be; then ones who guess."""
    generator = np.random.default_rng(2)
    for right, verdict in ((19 / 30, "told apart"), (0.5, "as good as guessing")):
        truth = truth_of(60)
        said = truth.copy()
        wrong = round((1 - right) * 30)
        said[: 2 * wrong : 2], said[1 : 2 * wrong : 2] = 1, 0
        first = measure_readings(make_key(60), [read(said)], 0)["together"]["balanced_accuracy"]
        needed = count_needed(first["value"], first["interval"], 60)
        needed += needed % 2
        verdicts = [
            measure_readings(make_key(needed), [read(answers_of(generator, needed, right))], 0)
            for _ in range(80)
        ]
        share = np.mean([item["verdict"] == verdict for item in verdicts])
        assert 0.65 < share < 0.92, (needed, share)


@pytest.mark.parametrize(("readers", "studies"), [(1, 120), (3, 80)])
def test_readers_who_guess_are_rarely_said_to_tell_them_apart(readers, studies):
    """Some 2.5 of 100 by the 95 % interval on this side, and as many on the other."""
    generator = np.random.default_rng(readers)
    found = []
    for _ in range(studies):
        readings = [read(answers_of(generator, 60, 0.5), name=str(it)) for it in range(readers)]
        scores = score_readings(truth_of(60), readings, np.arange(60), np.arange(60))
        found.append(find_verdict(scores, readers)[0])
    assert found.count("told apart") / studies < 0.06
    assert found.count("taken for the other") / studies < 0.06


def test_readers_who_tell_them_apart_are_said_to():
    generator = np.random.default_rng(5)
    readings = [read(answers_of(generator, 80, 0.75), name=str(it)) for it in range(3)]
    facts = measure_readings(make_key(80, labels=("a", "b")), readings, 0)
    assert facts["verdict"] == "told apart"
    assert facts["agreement"]["measure"] == "fleiss"
    assert "Fleiss' kappa" in facts["findings"][1]
    page = build_results(facts, {})
    assert "all readers" in page and "<h2>By label</h2>" in page


@pytest.mark.parametrize("seed", range(12))
def test_whatever_was_answered_the_results_are_json_and_a_page(seed):
    generator = np.random.default_rng(seed)
    count = 2 * int(generator.integers(2, 9))
    readings = [
        read(generator.integers(-1 if seed % 2 else 0, 2, count), generator.integers(0, 6, count),
             name=str(number))
        for number in range(int(generator.integers(1, 5)))
    ]  # fmt: skip
    key = make_key(count, labels=("a", "b"), groups=generator.integers(0, 4, count))
    facts = measure_readings(key, readings, 0)
    json.dumps(facts, allow_nan=False)
    assert "<table>" in build_results(facts, {})


def test_the_page_opens_with_what_the_verdict_is_worth():
    truth = truth_of(60)
    apart = measure_readings(make_key(60), [read(truth), read(truth, name="B")], 0)
    found = answer_readers(apart)
    assert [it.mark for it in found] == ["bad", "good"]
    assert found[0].text.startswith("Readers tell synthetic images from real ones: right in 100%")
    guess = np.where(np.arange(60) % 4 < 2, truth, 1 - truth)
    guess[0] = UNANSWERED
    alone = answer_readers(measure_readings(make_key(60), [read(guess)], 0))
    assert [it.mark for it in alone] == ["unclear"] * 3
    assert "One reader" in alone[1].text and "1 answers are missing" in alone[2].text
    page = build_results(apart, {"seed": 0})
    assert "by 2 readers who did not know which is which; of 60 images shown 60 were" in page
    assert "<dfn>Kappa</dfn>" in page and "<dt>seed</dt><dd>0</dd>" in page
