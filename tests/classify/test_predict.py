import pytest

from medart_cli.classify.predict import _score, describe_prediction


def test_the_likeliest_class_is_predicted_and_each_has_its_probability():
    found = describe_prediction([0.2, 0.5, 0.3], ["a", "b", "c"])
    assert found == {"predicted": "b", "probabilities": {"a": 0.2, "b": 0.5, "c": 0.3}}


def test_labels_that_are_numbers_are_scored_like_their_text():
    rows = [{"label": 0, "predicted": "0"}, {"label": "1", "predicted": "1"},
            {"label": 1, "predicted": "0"}]  # fmt: skip
    assert _score(rows, ["0", "1"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("label", [None, "", "2", 2])
def test_without_a_label_of_the_classifier_nothing_is_scored(label):
    assert _score([{"label": label, "predicted": "1"}], ["0", "1"]) is None
