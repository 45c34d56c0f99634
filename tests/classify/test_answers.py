import pytest

from medart_cli.classify.answers import answer_results

LEAK = {"checked": True, "test_images": 0, "outside_budget": None, "other_images": 0}


def build_metrics(verdict="no difference shown", regime="mix", leak=LEAK, **changed):
    def score(mean):
        return {"scores": {"balanced_accuracy": {"mean": mean}}}

    gap = {"balanced_accuracy": {"value": 0.1, "low": -0.02, "high": 0.22}}
    compared = {"verdict": verdict, "difference_to_control": {}, "difference_to_real": gap}
    regimes = {"real": score(0.8) | {"verdict": ""}, regime: score(0.9) | compared}
    return {
        "regimes": regimes, "sets": {"test": {"images": 50, "patients": 20}}, "seeds": [0, 1, 2],
        "checks": {"split_by": "patients", "generator_leak": leak}, "subgroups": [],
        "classifier": {"regime": "mix"}, "classes": ["a", "b", "c"], **changed,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "mark", "words"),
    [
        ("better", "good", "Synthetic images help the classifier"),
        ("worse", "bad", "Synthetic images make the classifier worse"),
        ("no difference shown", "unclear", "Synthetic images are not shown to help"),
    ],
)
def test_the_first_sentence_says_whether_synthetic_images_help(verdict, mark, words):
    first, second = answer_results(build_metrics(verdict))
    assert first.mark == mark and first.text.startswith(words)
    figures = (
        "balanced accuracy 0.90 with them, 0.80 without, by guessing 0.33; difference +0.10, 95% "
        "interval -0.02 to +0.22 (50 test images, 20 patients, 3 seeds)"
    )
    assert figures in first.text and second.mark == "good"


def test_synthetic_images_alone_are_not_called_a_help():
    first = answer_results(build_metrics("worse", "synthetic"))[0]
    assert first.text.startswith("Synthetic images in the place of real ones make")


def test_what_the_generator_knew_makes_the_comparison_bad():
    told = answer_results(build_metrics(leak=LEAK | {"test_images": 3}))[0]
    assert told.mark == "bad" and "trained on 3 of the test images" in told.text
    assert answer_results(build_metrics(leak=LEAK | {"other_images": 3}))[0].mark == "bad"
    told = answer_results(build_metrics(leak=LEAK | {"checked": False}))[1]
    assert told.mark == "unclear" and "it is unknown which images" in told.text


def test_without_patients_the_comparison_is_to_be_read_with_care():
    metrics = build_metrics(sets={"test": {"images": 50, "patients": None}})
    told = answer_results(metrics)[1]
    assert told.mark == "unclear" and "patients are unknown" in told.text


@pytest.mark.parametrize(("value", "words"), [(-0.2, "sex f less well than m"),
                                              (0.2, "sex m less well than f")])  # fmt: skip
def test_a_gap_between_subgroups_is_said_with_who_is_worse_off(value, words):
    gap = {"first": "f", "second": "m", "value": value, "shown": True}
    item = {"key": "sex", "regimes": {"mix": {"gap": gap}}}
    told = answer_results(build_metrics(subgroups=[item]))[2]
    assert told.mark == "bad" and words in told.text
    gap["shown"] = False
    assert answer_results(build_metrics(subgroups=[item]))[2].mark == "unclear"
