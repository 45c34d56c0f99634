from pathlib import Path

import pytest

from medart_cli.classify.splits import (
    check_labels,
    check_same_classes,
    draw_per_class,
    drop_duplicates,
    find_leaks,
    groups_of,
    refuse_shared_groups,
    split_groups,
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


def test_a_split_keeps_groups_whole_and_has_every_class_on_both_sides():
    labels = [name for name in "abc" for _ in range(40)]
    groups = [f"{label}{i // 4 % 10}" for i, label in enumerate(labels)]  # 4 images a patient
    train, test = split_groups(labels, groups, 0.25, seed=0)
    assert sorted(train + test) == list(range(120))
    assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert {labels[i] for i in train} == {labels[i] for i in test} == {"a", "b", "c"}
    assert 0.2 <= len(test) / 120 <= 0.3


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    labels = ["a", "b"] * 30
    groups = [str(i) for i in range(60)]
    first = split_groups(labels, groups, 0.2, seed=1)
    assert first == split_groups(labels, groups, 0.2, seed=1)
    assert first != split_groups(labels, groups, 0.2, seed=2)


def test_a_class_with_two_groups_can_still_be_split():
    labels = ["a"] * 50 + ["b"] * 2
    train, test = split_groups(labels, [str(i) for i in range(52)], 0.2, seed=0)
    assert {labels[i] for i in train} == {labels[i] for i in test} == {"a", "b"}


def test_a_class_of_one_group_cannot_be_split_and_is_named():
    labels = ["a"] * 20 + ["b"] * 5
    groups = [str(i) for i in range(20)] + ["P1"] * 5
    with pytest.raises(ConfigError, match=r"class 'b' has 1 group\(s\) of images: too few"):
        split_groups(labels, groups, 0.2, seed=0)


def test_rows_without_group_stay_with_their_duplicates():
    one, same, other = groups_of([make_record(1, "x"), make_record(2, "x"), make_record(2, "y")])
    assert one == same
    assert one != other
    first, second = groups_of(
        [make_record(1, "x", group_id="P"), make_record(2, "y", group_id="P")]
    )
    assert first == second


def test_a_budget_draws_as_many_of_each_class_and_nests():
    labels = ["a"] * 30 + ["b"] * 30 + ["c"] * 3
    small, large = draw_per_class(labels, 5, seed=4), draw_per_class(labels, 10, seed=4)
    assert [sum(labels[i] == name for i in large) for name in "abc"] == [10, 10, 3]
    assert set(small) < set(large)
    assert draw_per_class(labels, 5, seed=5) != small
