import numpy as np

from medart_cli.data.account import Account
from medart_cli.data.manifest import Record
from medart_cli.evaluate.recognition import code_classes, show_recognition, tell_recognition
from medart_cli.evaluate.sets import ImageSet
from medart_cli.metrics.recognition import Predictions, compare_recognition

CLASSES = ["a", "b"]


def build(drawn=0.9, real=0.9, count=400, regime="real"):
    truth = np.arange(count) % 2
    parts = []
    for share in (real, drawn):
        hit = np.arange(count) // 2 < share * count / 2
        parts.append(Predictions(truth, np.where(hit, truth, 1 - truth), np.arange(count)))
    found = compare_recognition(parts[0], parts[1], CLASSES)
    return {"set": "syn", "regime": regime, "classes": CLASSES, **found}


def test_the_verdicts_are_plain_sentences():
    lines = tell_recognition(build())
    assert len(lines) == 1
    assert lines[0].startswith("the synthetic images show their class as well as real ones: the")
    assert "puts 90% [86, 92] of the synthetic images in their class, and 90% [86, 92]" in lines[0]
    less = tell_recognition(build(drawn=0.6))
    assert less[0].startswith("the synthetic images show their class less than real ones")
    assert less[1].startswith("labels that synthetic images show less than real ones: a (60% [")
    unsure = tell_recognition(build(drawn=0.8, count=40))
    told = "it is not shown that the synthetic images show"
    assert len(unsure) == 1 and unsure[0].startswith(told)


def test_a_classifier_that_has_seen_synthetic_images_is_warned_of():
    assert "regime mix" in tell_recognition(build(regime="mix"))[1]
    assert len(tell_recognition(build(regime="control"))) == 1


def test_nothing_to_compare_with_is_said():
    found = build() | {"real": None, "difference": None, "verdict": "not shown", "reason": "why"}
    assert tell_recognition(found)[0].endswith("as well as real ones: why")


def test_tables_have_a_cell_for_each_head():
    shown = show_recognition(build(drawn=0.6))
    head, rows = shown["shares"]
    assert [row[0] for row in rows] == ["all labels", "a", "b"]
    assert all(len(row) == len(head) for row in rows)
    (title, (head, rows)), _ = shown["confusions"]
    assert title == "synthetic" and head == ["True label", "said a", "said b"]
    assert rows == [["a", "120 (60%)", "80 (40%)"], ["b", "80 (40%)", "120 (60%)"]]


def test_labels_that_are_no_class_and_images_without_one_have_no_code():
    records = [Record({"file_name": f"{it}.png"}, None, "m") for it in range(4)]
    labels = {"b": 0, "z": 1, "a": 2}
    item = ImageSet(
        "syn", records, np.arange(4), labels, np.array([0, 1, 2, -1], dtype=np.int32),
        np.zeros(4, bool), np.zeros(4, bool), np.array([b""] * 4, dtype="S32"), Account("syn", 0),
    )  # fmt: skip
    assert code_classes(item, CLASSES).tolist() == [1, -1, 0, -1]
