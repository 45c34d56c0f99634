from pathlib import Path

import pytest

from medart_cli.data.manifest import HashedRecord
from medart_cli.data.splits import groups_of, split_groups
from medart_cli.errors import ConfigError


def make_record(number, sha256="", **fields):
    row = {"file_name": f"{number}.png", **fields}
    return HashedRecord(row, Path("set"), f"m.jsonl:{number}", sha256)


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
