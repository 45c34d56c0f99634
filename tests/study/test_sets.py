import json
from collections import Counter

import pytest

from medart_cli.errors import ConfigError
from medart_cli.study.options import StudyConfig
from medart_cli.study.sets import draw_captions, read_sets, write_sets
from tests.jobs import draw_images


@pytest.fixture
def folders(tmp_path):
    draw_images(tmp_path / "train", 0)
    draw_images(tmp_path / "test", 1)
    return tmp_path


def read(folder, **options):
    options = {"test": str(folder / "test")} | options
    return read_sets(StudyConfig(data=str(folder / "train"), out=folder / "out", **options))


def write_rows(folder, **fields):
    rows = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
    rows = [
        {"file_name": name, "label": name.split("/")[0]}
        | {key: value(index) for key, value in fields.items()}
        for index, name in enumerate(rows)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_as_many_captions_of_each_label_are_drawn_as_there_are_test_images(folders):
    for path in sorted((folders / "test" / "nevus").glob("*.png"))[1:]:
        path.unlink()
    for path in sorted((folders / "train" / "melanoma").glob("*.png"))[2:]:
        path.unlink()
    sets = read(folders)
    chosen = draw_captions(sets, 0)
    assert [row.label for row in chosen] == [row.label for row in sets.test]
    assert Counter(row.label for row in chosen) == {"melanoma": 4, "nevus": 1}
    names = Counter(row.file_name for row in chosen if row.label == "melanoma")
    assert sorted(names.values()) == [2, 2]  # each once before any comes again
    assert draw_captions(sets, 0) == chosen
    assert any(draw_captions(sets, seed) != chosen for seed in (1, 2, 3))


def test_rows_of_split_test_are_the_test_set_and_those_of_val_are_not_drawn(folders):
    write_rows(folders / "train", split=lambda i: ("train", "val", "test", "train")[i % 4])
    sets = read(folders, test=None)
    assert (len(sets.train), len(sets.test), len(sets.drawn_from)) == (6, 2, 4)
    assert all(row.split == "train" for row in draw_captions(sets, 0))


def test_without_any_test_image_it_says_how_to_give_some(folders):
    with pytest.raises(ConfigError, match="no rows with split test; give images to test on"):
        read(folders, test=None)


def test_a_training_image_that_is_tested_on_is_left_out(folders, said):
    twin = sorted((folders / "test" / "nevus").glob("*.png"))[0]
    (folders / "train" / "nevus" / "again.png").write_bytes(twin.read_bytes())
    sets = read(folders)
    assert len(sets.train) == 8
    assert any("1 training images are byte-identical" in line and "again.png" in line
               for line in said)  # fmt: skip


def test_a_patient_on_both_sides_is_refused(folders):
    write_rows(folders / "train", group_id=lambda i: f"P{i}")
    write_rows(folders / "test", group_id=lambda i: f"P{i + 7}")
    with pytest.raises(ConfigError, match=r"metadata.jsonl:8: its patient .* keep each patient"):
        read(folders)


def test_test_images_of_labels_that_are_not_trained_on_are_left_out(folders, said):
    (folders / "test" / "keratosis").mkdir()
    source = sorted((folders / "test" / "nevus").glob("*.png"))[0]
    source.rename(folders / "test" / "keratosis" / "0.png")
    sets = read(folders)
    assert len(draw_captions(sets, 0)) == len(sets.test) == len(sets.hashes[1]) == 7
    assert {row.label for row in sets.test} == {"melanoma", "nevus"}
    assert any("1 test images are left out" in line and "keratosis" in line for line in said)


def test_where_one_side_has_no_labels_all_captions_are_one_pool(folders):
    write_rows(folders / "test", label=lambda _: "")
    sets = read(folders)
    assert (sets.labels, len(draw_captions(sets, 0))) == ({}, 8)


def test_of_a_test_set_with_splits_the_rows_of_split_test_are_tested_on(folders, said):
    write_rows(folders / "test", split=lambda i: ("train", "test")[i % 2])
    write_rows(folders / "train", split=lambda i: ("train", "test")[i == 0])
    sets = read(folders)
    assert (len(sets.train), len(sets.test)) == (7, 4)
    assert any("1 rows of split test are neither trained on nor tested on" in it for it in said)
    assert any("of 8 rows the 4 of split test are tested on" in line for line in said)


def test_the_manifests_hold_the_rows_as_they_were_and_simple_ones_without_captions(folders):
    rows = write_rows(folders / "train", text=lambda i: f"caption {i}", site=lambda i: "arm")
    sets = read(folders)
    (folders / "out").mkdir()
    write_sets(folders / "out" / "data", sets, [0, 1], shared=False)
    names = sorted(path.name for path in (folders / "out" / "data").iterdir())
    assert names == [
        "captions-own-0.jsonl", "captions-own-1.jsonl", "captions-simple-0.jsonl",
        "captions-simple-1.jsonl", "simple.jsonl", "test.jsonl", "train.jsonl",
    ]  # fmt: skip
    train, simple = (
        [json.loads(line) for line in (folders / "out" / "data" / name).open()]
        for name in ("train.jsonl", "simple.jsonl")
    )
    assert train == rows
    assert simple == [{k: v for k, v in row.items() if k != "text"} for row in rows]


def test_what_a_killed_shard_left_goes_with_the_run_that_joins_them(folders):
    sets, data = read(folders), folders / "out" / "data"
    data.mkdir(parents=True)
    left = data / ".train.jsonl.node7.123.part"
    left.write_text("{")
    write_sets(data, sets, [0], shared=True)
    assert left.exists()  # another shard may be at it
    write_sets(data, sets, [0], shared=False)
    assert [path.name for path in data.iterdir() if path.name[0] == "."] == []


def test_another_caption_or_label_is_another_study(folders):
    write_rows(folders / "train", text=lambda i: f"caption {i}")
    first = read(folders).hash_all()
    assert read(folders).hash_all() == first
    write_rows(folders / "train", text=lambda i: f"caption {max(i, 1)}")
    assert read(folders).hash_all() != first
