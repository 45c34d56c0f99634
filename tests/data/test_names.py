from pathlib import Path

import pytest

from medart_cli.data.names import name_sets, shorten_names


@pytest.mark.parametrize(
    ("source", "name"),
    [("runs/guidance-4.5", "guidance-4.5"), ("runs/guidance-4.5/metadata.jsonl", "guidance-4.5"),
     ("lists/test.1.jsonl", "test.1"), ("-", "standard input"), (".", Path.cwd().name)],
)  # fmt: skip
def test_a_name_is_whole_also_where_it_has_a_dot(source, name):
    assert name_sets([source]) == [name]


def test_sets_of_one_name_are_told_apart_by_the_fewest_folders_above():
    sources = ["/s/lora/seed-0/images", "/s/before/seed-0/images", "/s/data/test.jsonl"]
    assert name_sets(sources) == ["lora/seed-0/images", "before/seed-0/images", "test"]
    assert name_sets(["a/x", "b/x/metadata.jsonl", "x"]) == ["a/x", "b/x", "x"]
    assert name_sets(["a/x", "a/x"]) == ["x", "x (2)"]


@pytest.mark.parametrize(
    "names",
    [
        ["images", "test"],
        [
            "studies/2024/dermoscopy/lora/seed-0/images",
            "studies/2024/dermoscopy/lora/seed-1/images",
        ],
        [f"runs/very/long/way/to/arm-{arm}/with/more/folders/below/images" for arm in "abc"],
        ["x" * 60 + "1", "x" * 60 + "2", "x" * 60],
        ["a" * 20 + "one" + "b" * 40, "a" * 20 + "two" + "b" * 40],
        ["the same long name of two sets that stands twice here"] * 2,
    ],
)
def test_names_that_differ_are_never_cut_to_the_same(names):
    short = shorten_names(names, 24)
    assert len(set(short)) == len(set(names)) and len(short) == len(names)
    for name, cut in zip(names, short, strict=True):
        assert len(cut) <= 24 or cut == name
        assert cut == name or (cut[:4], cut[-4:]) == (name[:4], name[-4:])


def test_a_name_with_room_stays_and_a_long_one_keeps_what_tells_it_apart():
    long = [
        "images/of/the/run/lora-rank-8/seed-0/drawn",
        "images/of/the/run/lora-rank-16/seed-0/drawn",
    ]
    first, second, third = shorten_names([*long, "test"], 26)
    assert third == "test" and "8" in first and "16" in second and first != second


def test_names_that_cannot_be_told_apart_in_so_little_room_stay_whole():
    names = ["a" * 30 + x + "b" * 30 + y + "c" * 30 for x in "12" for y in "12"]
    assert len(set(shorten_names(names, 8))) == 4
