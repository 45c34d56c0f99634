from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medart_cli.classify.subgroups import build_subgroup_tables, measure_subgroups, tell_subgroups
from medart_cli.data.manifest import HashedRecord
from medart_cli.data.subgroups import find_cuts

CLASSES = ["melanoma", "nevus", "wart"]


def make_test(count=300, *, patients=True):
    """Make test rows: sex by patient, three ages, a few rows without a sex, and truth."""
    generator = np.random.default_rng(0)
    rows, truth = [], generator.permutation(np.arange(count) % 3)
    for index in range(count):
        fields = {
            "file_name": f"{index}.png",
            "sex": ("F", "M")[index // 2 % 2],
            "site": ("arm", "leg", "back")[index % 3],
        }
        fields |= {"group_id": f"p{index // 2}"} if patients else {}
        if index >= count - 10:
            del fields["sex"]
        rows.append(HashedRecord(fields, Path("d"), f"m:{index}", f"{index:064x}"))
    return rows, truth


def predict(truth, rates, seed):
    """Make probabilities that are right at the rate of each image."""
    generator = np.random.default_rng(seed)
    right = generator.uniform(size=len(truth)) < rates
    said = np.where(right, truth, (truth + 1) % 3)
    return np.eye(3)[said] * 0.8 + generator.uniform(0, 0.2, (len(truth), 3))


def measure(rates, *, keys=("sex",), seeds=2, patients=True, change=None):
    """Measure regimes that are right in F and in others at the given rates."""
    rows, truth = make_test(patients=patients)
    if change is not None:
        change(rows, truth)
    women = np.array([row.fields.get("sex") == "F" for row in rows])
    runs = {
        name: [predict(truth, np.where(women, first, second), 10 + seed) for seed in range(seeds)]
        for name, (first, second) in rates.items()
    }
    facts = measure_subgroups(find_cuts(keys, rows, "the test set"), rows, truth, runs, CLASSES)
    return facts, (rows, truth, runs)


def test_scores_of_a_subgroup_are_those_of_scikit_learn_on_its_images():
    (item,), (rows, truth, runs) = measure({"real": (0.6, 0.8), "mix": (0.7, 0.7)})
    assert list(item["groups"]) == ["F", "M", "unknown"]
    for name in item["groups"]:
        chosen = np.array([row.fields.get("sex", "unknown") == name for row in rows])
        assert item["groups"][name]["images"] == chosen.sum()
        patients = {rows[index].group for index in np.flatnonzero(chosen)}
        assert item["groups"][name]["patients"] == len(patients)
        for regime in ("real", "mix"):
            found = item["regimes"][regime]["scores"][name]
            own = [run[chosen] for run in runs[regime]]
            accuracy = [balanced_accuracy_score(truth[chosen], run.argmax(axis=1)) for run in own]
            area = [np.mean([roc_auc_score(truth[chosen] == k, run[:, k]) for k in range(3)])
                    for run in own]  # fmt: skip
            assert found["balanced_accuracy"]["mean"] == pytest.approx(np.mean(accuracy))
            assert found["auroc"]["mean"] == pytest.approx(np.mean(area))
            for score in found.values():
                assert score["low"] < score["mean"] < score["high"]
    assert item["groups"]["unknown"]["small"]


def test_the_gap_is_that_of_the_scores_and_is_shown_where_it_is_one():
    (item,), _ = measure({"real": (0.5, 0.85)})
    found = item["regimes"]["real"]
    gap, scores = found["gap"], found["scores"]
    assert (gap["first"], gap["second"], gap["classes"]) == ("F", "M", CLASSES)
    means = [scores[name]["balanced_accuracy"]["mean"] for name in ("F", "M")]
    assert gap["value"] == pytest.approx(means[0] - means[1])
    assert gap["shown"] and gap["interval"][1] < 0 and gap["p_value"] < 0.01
    first = tell_subgroups([item])[0]
    assert first.startswith("real, by sex: a gap is shown, to the harm of F; F less M -0.")
    assert found["change"] is None


def test_without_a_gap_the_sentence_says_so_and_what_would_settle_it():
    (item,), _ = measure({"real": (0.7, 0.7)}, seeds=1)
    assert not item["regimes"]["real"]["gap"]["shown"]
    lines = tell_subgroups([item])
    assert "no difference between subgroups is shown; the largest is F less M" in lines[0]
    assert "a gap of 0.1 between them would be seen in 4 of 5 tests with about" in lines[0]
    assert " more patients than these 145" in lines[0]
    assert lines[-1].startswith("By sex: too small to be compared: unknown (fewer than 20 images")
    (item,), _ = measure({"real": (0.7, 0.7)}, patients=False, seeds=1)
    assert "more images than these 290" in tell_subgroups([item])[0]
    assert item["groups"]["F"]["patients"] is None
    (item,), _ = measure({"real": (0.7, 0.7)})  # trainings that have nothing in common
    assert "to be seen more training seeds are needed first" in tell_subgroups([item])[0]


def test_synthetic_images_that_narrow_a_gap_are_seen_to_do_so():
    rates = {"real": (0.4, 0.9), "control": (0.4, 0.9), "mix": (0.88, 0.9)}
    (item,), _ = measure(rates, seeds=3)
    change = item["regimes"]["mix"]["change"]
    assert change["verdict"] == "narrowed"
    assert change["difference_to_real"]["value"] == pytest.approx(
        change["after"] - change["before"]
    )
    assert change["difference_to_real"]["interval"][0] > 0
    assert item["regimes"]["control"]["change"]["verdict"] == "no change shown"
    lines = "\n".join(tell_subgroups([item]))
    assert "mix, by sex: synthetic images narrowed a gap; F less M from -0." in lines
    assert "control, by sex: no change of a gap by more steps is shown" in lines


def test_a_change_that_more_steps_alone_bring_is_not_ascribed_to_synthetic_images():
    rates = {"real": (0.4, 0.9), "control": (0.88, 0.9), "mix": (0.88, 0.9)}
    (item,), _ = measure(rates, seeds=3)
    assert item["regimes"]["control"]["change"]["verdict"] == "narrowed"
    assert item["regimes"]["mix"]["change"]["verdict"] == "no change shown"


def test_a_change_can_widen_or_reverse_a_gap():
    (item,), _ = measure({"real": (0.8, 0.9), "mix": (0.4, 0.9)}, seeds=3)
    assert item["regimes"]["mix"]["change"]["verdict"] == "widened"
    (item,), _ = measure({"real": (0.6, 0.9), "mix": (0.9, 0.5)}, seeds=3)
    assert item["regimes"]["mix"]["change"]["verdict"] == "reversed"


def test_a_class_that_a_subgroup_lacks_is_named_and_left_out_of_its_comparisons():
    def without_warts(rows, truth):
        women = [index for index, row in enumerate(rows) if row.fields.get("sex") == "F"]
        truth[women] = np.arange(len(women)) % 2

    (item,), _ = measure({"real": (0.7, 0.7)}, change=without_warts)
    assert item["groups"]["F"]["lacks"] == ["wart"]
    assert item["regimes"]["real"]["gap"]["classes"] == ["melanoma", "nevus"]
    assert "in balanced accuracy over melanoma, nevus" in tell_subgroups([item])[0]
    table = build_subgroup_tables(item)[0]
    assert table[1][0][0] == "F (no wart)"


def test_a_subgroup_of_one_class_has_no_auroc_and_no_comparison():
    def only_nevi(rows, truth):
        truth[[index for index, row in enumerate(rows) if row.fields.get("sex") == "F"]] = 1

    (item,), _ = measure({"real": (0.7, 0.7)}, change=only_nevi)
    assert item["regimes"]["real"]["scores"]["F"]["auroc"] is None
    assert item["pairs"] == 0 and item["regimes"]["real"]["gap"] is None
    assert tell_subgroups([item])[0].startswith("By sex: not compared; two subgroups with")
    head, rows = build_subgroup_tables(item)[0]
    assert {len(row) for row in rows} == {len(head)}


def test_several_keys_share_the_error():
    both, _ = measure({"real": (0.6, 0.7)}, keys=("sex", "site"))
    (alone,), _ = measure({"real": (0.6, 0.7)})
    gaps = [item["regimes"]["real"]["gap"] for item in (both[0], alone)]
    assert gaps[0]["p_value"] == pytest.approx(min(1, 2 * gaps[1]["p_value"]))
    assert gaps[0]["interval"][0] < gaps[1]["interval"][0]
    assert both[1]["pairs"] == 3
