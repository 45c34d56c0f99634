from pathlib import Path

import pytest

from medart_cli.classify.splits import (
    check_labels,
    check_same_classes,
    draw_per_class,
    drop_duplicates,
    find_leaks,
    refuse_shared_groups,
)
from medart_cli.data.checks import refuse_synthetic
from medart_cli.data.manifest import HashedRecord
from medart_cli.errors import ConfigError, ManifestError


def make_record(number, sha256="", **fields):
    row = {"file_name": f"{number}.png", **fields}
    return HashedRecord(row, Path("set"), f"m.jsonl:{number}", sha256)


def test_a_row_without_label_is_named():
    rows = [make_record(1, label="a"), make_record(2)]
    with pytest.raises(ManifestError, match=r"m\.jsonl:2: no label; give every row of TRAIN one"):
        check_labels(rows, "TRAIN")


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="TRAIN: only one class, 'a'"):
        check_labels([make_record(1, label="a")], "TRAIN")


def test_classes_are_sorted():
    assert check_labels([make_record(1, label="b"), make_record(2, label="a")], "x") == ["a", "b"]


def test_a_strange_class_and_an_absent_one_are_named():
    with pytest.raises(ConfigError, match="--test: class 'c' is not among"):
        check_same_classes(["a", "b"], ["a", "b", "c"], "--test", all_needed=True)
    with pytest.raises(ConfigError, match="--test: no image of class 'b'"):
        check_same_classes(["a", "b"], ["a"], "--test", all_needed=True)
    check_same_classes(["a", "b"], ["a"], "--synthetic", all_needed=False)


def test_a_synthetic_row_among_real_ones_is_refused():
    rows = [make_record(1), make_record(2, synthetic=True)]
    with pytest.raises(ManifestError, match=r"m\.jsonl:2: a synthetic image in --test"):
        refuse_synthetic(rows, "--test")


def test_a_group_on_both_sides_is_refused_by_name():
    train = [make_record(1, group_id="P7"), make_record(2)]
    test = [make_record(3, group_id="P8"), make_record(4), make_record(5, group_id="P7")]
    with pytest.raises(ManifestError, match=r"m\.jsonl:5: group 'P7' is in the test set and"):
        refuse_shared_groups(train, test, "TRAIN")


def test_a_group_written_as_a_number_is_the_same_group():
    with pytest.raises(ManifestError, match="group '7'"):
        refuse_shared_groups([make_record(1, group_id=7)], [make_record(2, group_id="7")], "TRAIN")


@pytest.mark.parametrize("name", ["p7", "P7 ", "P 7", "\uff307"])
def test_a_group_spelled_in_another_way_is_the_same_group(name):
    spelled = "" if name == "P7 " else ", spelled 'P7',"
    message = f"group {name.strip()!r} is in the test set and{spelled} in TRAIN"
    with pytest.raises(ManifestError, match=message):
        refuse_shared_groups(
            [make_record(1, group_id="P7")], [make_record(2, group_id=name)], "TRAIN"
        )


def test_rows_without_group_share_none():
    refuse_shared_groups([make_record(1)], [make_record(2)], "TRAIN")


def test_files_that_stand_on_the_other_side_are_dropped_with_their_names():
    rows = [make_record(1, "x"), make_record(2, "y"), make_record(3, "z")]
    keep, dropped = drop_duplicates(rows, {"y"})
    assert keep == [rows[0], rows[2]]
    assert [record.file_name for record in dropped] == ["2.png"]


def test_test_images_that_the_generator_saw_are_found():
    rows = [make_record(1, "x"), make_record(2, "y")]
    assert find_leaks(rows, {"y", "w"}) == [rows[1]]
    assert find_leaks(rows, set()) == []


def test_a_budget_draws_as_many_of_each_class_and_nests():
    labels = ["a"] * 30 + ["b"] * 30 + ["c"] * 3
    small, large = draw_per_class(labels, 5, seed=4), draw_per_class(labels, 10, seed=4)
    assert [sum(labels[i] == name for i in large) for name in "abc"] == [10, 10, 3]
    assert set(small) < set(large)
    assert draw_per_class(labels, 5, seed=5) != small
