from pathlib import Path

import numpy as np
import pytest

from medart_cli.data.manifest import Record
from medart_cli.data.subgroups import find_cut, find_cuts
from medart_cli.errors import ConfigError


def make_rows(values, key="sex", **more):
    """Make a row of each value; None leaves the key out."""
    rows = []
    for index, value in enumerate(values):
        fields = {"file_name": f"{index}.png", **({key: value} if value is not None else {})}
        fields |= {name: each[index] for name, each in more.items()}
        rows.append(Record(fields, Path("d"), f"m:{index + 1}"))
    return rows


def cut_of(values, key="sex", **more):
    rows = make_rows(values, key, **more)
    cut = find_cut(rows, key, "REAL")
    return cut, cut.find_codes(rows, len(rows)).tolist()


def test_each_value_is_a_subgroup_and_rows_without_one_are_of_none():
    cut, codes = cut_of(["M", "F", None, "f ", "", "Unknown", "m", "F"])
    assert cut.names == ["F", "M"]
    assert codes == [1, 0, -1, 0, -1, -1, 1, 0]


def test_truth_values_and_few_numbers_are_subgroups_each_whether_text_or_not():
    assert cut_of([True, False, "true", "False"])[0].names == ["False", "True"]
    cut, codes = cut_of([6, "1", 1.0, "6.0", 2, 2], "skin_type")
    assert cut.names == ["1", "2", "6"] and cut.ends is None
    assert codes == [2, 0, 0, 2, 1, 1]


def test_numbers_of_many_values_are_cut_at_quartiles():
    ages = [*range(20, 80), *range(20, 80)]
    cut, codes = cut_of([*map(str, ages), None], "age")
    assert np.bincount(np.array(codes)[:-1]).tolist() == [30, 30, 30, 30] and codes[-1] == -1
    assert cut.ends == [34.0, 49.0, 64.0]
    assert cut.names == ["20 to 34", "35 to 49", "50 to 64", "65 to 79"]
    beyond = make_rows([5, 34, 34.5, 200], "age")
    assert cut.find_codes(beyond, 4).tolist() == [0, 0, 1, 3]


def test_numbers_of_which_most_are_alike_make_fewer_bands():
    cut, codes = cut_of([*range(1, 11), *[50] * 60], "size")
    assert cut.names == ["1 to 10", "50"]
    assert np.bincount(codes).tolist() == [10, 60]
    assert cut_of([*[0] * 60, *range(10)], "size")[0].names == ["0", "1 to 9"]


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("sexx", ["F", "M"], "no row of REAL has a value there; there are more, sex$"),
        ("label", ["F", "M"], "is what is measured by label anyway"),
        ("file_name", ["F", "M"], "names each image"),
        ("group_id", ["a", "a"], "names patients"),
        ("sex", ["F", "F", None], "have the same one"),
        ("sex", ["a", "b", "c", "d"], "has 4 different values in 4 rows, too many"),
        ("sex", [f"v{i % 30}" for i in range(300)], "has more than 20 different values in 300"),
        ("sex", [*range(40)], "another whole number in each row, as names"),
        ("sex", [["F"], "M"], "m:1 holds several values"),
    ],
)
def test_what_makes_no_subgroups_is_refused_in_one_line(key, values, message):
    rows = make_rows(values, more=["x"] * len(values))
    with pytest.raises(ConfigError, match=f"^--by {key}: .*{message}") as refused:
        find_cuts([key], rows, "REAL")
    assert "\n" not in str(refused.value)


def test_the_label_under_another_name_is_refused():
    labels = ["nevus", "melanoma"] * 4
    with pytest.raises(ConfigError, match="says the same as the label"):
        cut_of(["n", "m"] * 4, "diagnosis", label=labels)
    assert cut_of(["n", "m"] * 3 + ["m", "n"], "sex", label=labels)[0].names == ["m", "n"]
