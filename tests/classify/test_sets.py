import json
import shutil

import numpy as np
import pytest
from PIL import Image

from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.results import word_leak
from medart_cli.classify.sets import describe_rows, read_sets
from medart_cli.classify.splits import draw_per_class, labels_of
from medart_cli.data.manifest import count_patients, hash_file
from medart_cli.data.splits import groups_of
from medart_cli.errors import ConfigError, ManifestError


def draw_set(folder, count, *, seed=0, labels=("ill", "well"), **fields):
    """Write random images; `fields` are functions of the row's number."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    lines = []
    for index in range(count):
        pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        row = {"file_name": f"{index}.png", "label": labels[index % len(labels)]}
        row |= {key: value(index) for key, value in fields.items()}
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def read(tmp_path, **options):
    options = {"data": str(tmp_path / "train"), "out": tmp_path / "out", **options}
    return read_sets(ClassifyConfig(**options))


def describe_leak(**found):
    none = {"checked": True, "test_images": 0, "outside_budget": None, "other_images": 0}
    return none | found


@pytest.fixture
def train(tmp_path):
    return draw_set(tmp_path / "train", 12, seed=1)


@pytest.fixture
def test(tmp_path):
    return str(draw_set(tmp_path / "test", 8, seed=2))


@pytest.fixture
def synthetic(tmp_path):
    return draw_set(tmp_path / "syn", 6, seed=3, synthetic=lambda i: True)


def test_without_a_test_set_groups_are_kept_whole(tmp_path):
    draw_set(tmp_path / "train", 40, group_id=lambda i: f"P{i // 4}")
    sets = read(tmp_path)
    train, test = sets.rows["train"], sets.rows["test"]
    assert len(train) + len(test) == 40
    assert not set(groups_of(train)) & set(groups_of(test))
    assert sets.classes == ["ill", "well"]


def test_rows_marked_test_are_the_test_set(tmp_path):
    draw_set(tmp_path / "train", 12, split=lambda i: ("train", "val", None, "test")[i // 2 % 4])
    sets = read(tmp_path)
    assert {record.split for record in sets.rows["test"]} == {"test"}
    assert len(sets.rows["train"]) == 10
    with pytest.raises(ConfigError, match="--test-fraction: has no effect where rows are marked"):
        read(tmp_path, test_fraction=0.5)


def test_a_group_in_training_and_test_is_refused_by_name(tmp_path):
    draw_set(tmp_path / "train", 4, seed=1, group_id=lambda i: f"P{i}")
    test = draw_set(tmp_path / "test", 4, seed=2, group_id=lambda i: f"P{i + 3}")
    with pytest.raises(ManifestError, match="group 'P3' is in the test set and in the train"):
        read(tmp_path, test=str(test))


def test_a_patient_spelled_in_two_ways_is_kept_on_one_side(tmp_path):
    draw_set(tmp_path / "train", 40, group_id=lambda i: f"{'Pp'[i % 2]}{i // 4}")
    sets = read(tmp_path)
    assert not set(groups_of(sets.rows["train"])) & set(groups_of(sets.rows["test"]))
    assert sum(count_patients(rows) for rows in sets.rows.values()) == 10
    test = draw_set(tmp_path / "test", 4, seed=2, group_id=lambda i: f"p {i + 9}")
    with pytest.raises(ManifestError, match="'p 9' is in the test set and, spelled 'p9', in"):
        read(tmp_path, test=str(test))


def test_a_group_in_synthetic_and_test_is_refused_by_name(tmp_path, train):
    test = draw_set(tmp_path / "test", 4, seed=2, group_id=lambda i: f"P{i}")
    synthetic = draw_set(tmp_path / "syn", 4, seed=3, group_id=lambda i: "P2")
    with pytest.raises(ManifestError, match="group 'P2' is in .* and in the synthetic set"):
        read(tmp_path, test=str(test), synthetic=str(synthetic))


def test_a_file_in_training_and_test_is_dropped_with_a_count_or_refused(tmp_path, train, test):
    (train / "5.png").write_bytes((tmp_path / "test" / "3.png").read_bytes())
    sets = read(tmp_path, test=test)
    assert sets.checks["duplicates_dropped"] == {"train": 1}
    assert "5.png" not in [record.file_name for record in sets.rows["train"]]
    assert len(sets.rows["test"]) == 8
    with pytest.raises(ManifestError, match=r"metadata\.jsonl:6: the same file is in the test"):
        read(tmp_path, test=test, duplicates="refuse")


def test_a_synthetic_image_that_is_a_test_image_is_dropped(tmp_path, train, test, synthetic):
    (synthetic / "0.png").write_bytes((tmp_path / "test" / "0.png").read_bytes())
    sets = read(tmp_path, test=test, synthetic=str(synthetic))
    assert sets.checks["duplicates_dropped"] == {"train": 0, "synthetic": 1}


@pytest.mark.parametrize("place", ["beside", "sample.json", "--run"])
def test_a_generator_that_saw_test_images_is_refused_unless_allowed(
    place, tmp_path, train, test, synthetic
):
    run = tmp_path / "RUN"
    run.mkdir()
    seen = [hash_file(tmp_path / "test" / "2.png"), hash_file(train / "0.png")]
    folder = synthetic if place == "beside" else run
    (folder / "training_hashes.txt").write_text("\n".join(seen) + "\n")
    if place == "sample.json":
        (synthetic / "sample.json").write_text(json.dumps({"run_folder": str(run)}))
    more = {"run": [str(run)]} if place == "--run" else {}
    options = {"test": test, "synthetic": str(synthetic), **more}
    with pytest.raises(ManifestError, match=r"jsonl:3: the generator .* \(on 1 of 8 in all\)"):
        read(tmp_path, **options)
    sets = read(tmp_path, **options, allow_leak=True)
    assert sets.checks["generator_leak"] == describe_leak(test_images=1)


def test_a_generator_that_saw_training_images_alone_is_fine(tmp_path, train, test, synthetic):
    (synthetic / "training_hashes.txt").write_text(hash_file(train / "0.png") + "\n")
    sets = read(tmp_path, test=test, synthetic=str(synthetic))
    assert sets.checks["generator_leak"] == describe_leak()


def test_images_that_only_the_generator_knows_are_counted(tmp_path, train, test, synthetic):
    seen = [hash_file(train / "0.png"), "ab" * 32, "cd" * 32]
    (synthetic / "training_hashes.txt").write_text("\n".join(seen) + "\n")
    sets = read(tmp_path, test=test, synthetic=str(synthetic))
    assert sets.checks["generator_leak"] == describe_leak(other_images=2)


@pytest.mark.parametrize("known", ["hashes", "sources"])
def test_a_generator_that_knows_images_outside_the_budget_is_refused_unless_allowed(
    known, tmp_path, train, test
):
    hashes = [hash_file(train / f"{i}.png") for i in range(12)]
    sources = {"source": lambda i: {"image": f"{i}.png", "sha256": hashes[i]}}
    more = sources if known == "sources" else {}
    synthetic = draw_set(tmp_path / "syn", 12, seed=3, synthetic=lambda i: True, **more)
    if known == "hashes":
        (synthetic / "training_hashes.txt").write_text("\n".join(hashes) + "\n")
    options = {"test": test, "synthetic": str(synthetic), "label_budget": 2, "seeds": 3}
    with pytest.raises(ManifestError, match=r"which --label-budget 2 leaves out \(8 such images\)"):
        read(tmp_path, **options)
    sets = read(tmp_path, **options, allow_leak=True)
    checked = known == "hashes"
    assert sets.checks["generator_leak"] == describe_leak(checked=checked, outside_budget=8)
    assert "LEAK: the generator knows 8 training images" in " ".join(word_leak(sets.checks))


def test_a_generator_trained_on_the_budget_alone_is_fine(tmp_path, train, test, synthetic):
    options = {"test": test, "synthetic": str(synthetic), "label_budget": 2, "seeds": 1}
    sets = read(tmp_path, **options)
    rows = sets.rows["train"]
    drawn = [rows[i].sha256 for i in draw_per_class(labels_of(rows), 2, 0)]
    (synthetic / "training_hashes.txt").write_text("\n".join(drawn) + "\n")
    sets = read(tmp_path, **options)
    assert sets.checks["generator_leak"] == describe_leak(outside_budget=0)
    with pytest.raises(ManifestError, match="leaves out"):
        read(tmp_path, **{**options, "seeds": 2})  # the second seed draws others


def test_without_a_list_of_training_images_the_results_say_so(
    tmp_path, train, test, synthetic, caplog
):
    sets = read(tmp_path, test=test, synthetic=str(synthetic))
    assert sets.checks["generator_leak"] == describe_leak(checked=False)


def test_a_run_folder_without_a_list_is_refused(tmp_path, train, test, synthetic):
    with pytest.raises(ConfigError, match=r"--run .*: has no training_hashes\.txt"):
        read(tmp_path, test=test, synthetic=str(synthetic), run=[str(tmp_path)])


def test_synthetic_rows_are_refused_in_training_and_test(tmp_path, train, synthetic):
    with pytest.raises(ManifestError, match="a synthetic image in the test set"):
        read(tmp_path, test=str(synthetic))
    with pytest.raises(ManifestError, match="a synthetic image in the training images"):
        read(tmp_path, data=str(synthetic), test=str(train))


def test_bad_sets_are_refused_in_one_sentence(tmp_path, train, test):
    for rows, name, message in (
        ({"labels": ("ill",)}, "test", "the test set: only one class, 'ill'"),
        ({"labels": ("ill", "well", "odd")}, "test", "the test set: class 'odd' is not among"),
        ({"labels": ("ill", "odd")}, "synthetic", "--synthetic: class 'odd' is not among"),
        ({"label": lambda i: None if i == 1 else "ill"}, "test", "jsonl:2: no label; give every"),
    ):
        folder = draw_set(tmp_path / message[:9] / name, 6, seed=5, **rows)
        with pytest.raises((ConfigError, ManifestError), match=message):
            read(tmp_path, **{"test": test, name: str(folder)})


def test_a_class_missing_from_the_test_set_is_refused(tmp_path, test):
    draw_set(tmp_path / "train", 9, labels=("ill", "well", "odd"))
    with pytest.raises(ConfigError, match="the test set: no image of class 'odd'"):
        read(tmp_path, test=test)


def test_one_image_a_class_cannot_be_split_but_can_be_trained_on(tmp_path, test):
    draw_set(tmp_path / "train", 2, seed=7)
    with pytest.raises(ConfigError, match=r"class 'ill' has 1 group\(s\) of images: too few"):
        read(tmp_path)
    assert len(read(tmp_path, test=test).rows["train"]) == 2


def test_images_drawn_from_captions_of_test_rows_are_left_out(tmp_path, train, test):
    synthetic = draw_set(tmp_path / "syn", 8, split=lambda i: "test" if i < 2 else "train")
    sets = read(tmp_path, test=test, synthetic=str(synthetic))
    assert len(sets.rows["synthetic"]) == 6


def test_the_split_is_written_with_names_labels_groups_and_hashes(tmp_path, train):
    test = draw_set(tmp_path / "test", 2, seed=4, group_id=lambda i: f"P{i}")
    rows = describe_rows(read(tmp_path, test=str(test)))
    assert rows[-1] == {
        "set": "test",
        "file_name": "1.png",
        "label": "well",
        "sha256": hash_file(test / "1.png"),
        "group_id": "P1",
    }


def test_images_drawn_from_captions_of_test_images_or_patients_are_left_out(tmp_path, caplog):
    draw_set(tmp_path / "train", 12, seed=1, group_id=lambda i: f"P{i}")
    test = draw_set(tmp_path / "test", 8, seed=2, group_id=lambda i: f"T{i}")
    sources = [
        {"image": "x.png", "sha256": hash_file(test / "0.png")},
        {"image": "x.png", "group_id": "T1"},
        {"image": "x.png", "split": "test"},
        {"image": "x.png", "sha256": "ab" * 32, "split": "train", "group_id": "P1"},
    ]
    draw_set(tmp_path / "syn", 8, seed=3, synthetic=lambda i: True,
             source=lambda i: sources[i // 2])  # fmt: skip
    with caplog.at_level("WARNING", "medart"):
        sets = read(tmp_path, test=str(test), synthetic=str(tmp_path / "syn"), allow_leak=True)
    assert [record.file_name for record in sets.rows["synthetic"]] == ["6.png", "7.png"]
    assert "6 of 8 images come from captions of test images" in caplog.text


def test_each_set_is_read_from_its_own_folder(tmp_path):
    (tmp_path / "lists").mkdir()
    draw_set(tmp_path / "syn", 8, seed=3, synthetic=lambda i: True)
    for seed, name in enumerate(("train", "test")):
        draw_set(tmp_path / name, 8, seed=seed)
        shutil.move(tmp_path / name / "metadata.jsonl", tmp_path / "lists" / f"{name}.jsonl")
    lists = tmp_path / "lists"
    options = {"data": str(lists / "train.jsonl"), "test": str(lists / "test.jsonl"),
               "synthetic": str(tmp_path / "syn")}  # fmt: skip
    sets = read(tmp_path, root=tmp_path / "train", test_root=tmp_path / "test", **options)
    paths = {name: rows[0].path for name, rows in sets.rows.items()}
    assert {name: path.parent.name for name, path in paths.items()} == {
        "train": "train", "test": "test", "synthetic": "syn",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--test-root: needs --test"):
        read(tmp_path, test_root=tmp_path)


def test_files_are_never_counted_as_patients(tmp_path, caplog):
    draw_set(tmp_path / "train", 40)
    with caplog.at_level("WARNING", "medart"):
        sets = read(tmp_path)
    assert sets.checks["split_by"] == "images"
    assert [count_patients(rows) for rows in sets.rows.values()] == [None, None]
    assert "patients unknown" in caplog.text
    draw_set(tmp_path / "train", 40, group_id=lambda i: i // 4)
    sets = read(tmp_path)
    assert sets.checks["split_by"] == "groups"
    assert sum(count_patients(rows) for rows in sets.rows.values()) == 10
