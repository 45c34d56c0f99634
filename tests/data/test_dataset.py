"""What a data set is read as, and what is said of it."""

import json

import pytest
from PIL import Image

from medart_cli.data.dataset import open_data, read_data
from medart_cli.errors import ConfigError, ManifestError


def write_images(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200, 30, 60)).save(path)


def fields_of(folder, **options):
    return {record.file_name: record.fields for record in read_data(folder, **options)}


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("train", "Training", "TRAIN", "tr", "train_set", "TrainSet", "train2017"), "train"),
        (("val", "valid", "Validation", "validation_set", "dev", "val-images"), "val"),
        (("test", "Testing", "TEST", "test set", "test_data"), "test"),
    ],
)
def test_folders_named_like_splits_are_splits_in_any_spelling(tmp_path, names, split):
    for name in names:
        write_images(tmp_path / name, f"{name}/mel/a.png")
        record = next(iter(read_data(tmp_path / name)))
        assert (record.split, record.label) == (split, "mel"), name


@pytest.mark.parametrize("name", ["trained eye", "tester", "value", "attest", "trains"])
def test_other_folders_are_labels(tmp_path, name):
    write_images(tmp_path, f"{name}/a.png")
    record = next(iter(read_data(tmp_path)))
    assert (record.split, record.label) == (None, name)


def test_parts_of_an_unknown_split_are_refused_and_can_be_named(tmp_path):
    write_images(tmp_path, "fold1/mel/a.png", "fold_2/nev/b.png")
    with pytest.raises(ConfigError, match="look like parts of a split.*--folders -/label"):
        list(read_data(tmp_path))
    named = fields_of(tmp_path, levels=("-", "label"))
    assert [item["label"] for item in named.values()] == ["mel", "nev"]
    write_images(tmp_path, "melanoma/c.png")  # then folds are classes, however odd
    assert len(fields_of(tmp_path)) == 3


LITTER = ("@eaDir", "$RECYCLE.BIN", "#recycle", "@Recycle", "__MACOSX", "System Volume Information",
          "lost+found", "~snapshot", "Thumbs", ".Trash-1000")  # fmt: skip


@pytest.mark.parametrize("name", LITTER)
def test_what_a_file_system_left_is_no_class(tmp_path, name):
    write_images(tmp_path, "mel/a.png", f"{name}/a.png", f"mel/{name}/deep/b.png")
    data = open_data(tmp_path)
    assert [record.file_name for record in data] == ["mel/a.png"]
    if not name.startswith("."):
        assert data.account.facts()["passed_over"] == {f"folders {name}": 2}


def test_what_medart_wrote_is_no_data(tmp_path):
    write_images(tmp_path, "mel/a.png", "run/loss.png", "run/previews/step-000500.png")
    (tmp_path / "run" / "settings.toml").write_text("# Settings of medart finetune, in ...\n")
    data = open_data(tmp_path)
    assert [record.file_name for record in data] == ["mel/a.png"]
    assert data.account.facts()["passed_over"] == {
        f"{tmp_path / 'run'}, written by medart finetune": 1
    }
    with pytest.raises(ConfigError, match="is an output of medart finetune, not a data set"):
        list(read_data(tmp_path / "run"))


def test_manifests_in_the_folders_below_are_read_as_imagefolder_reads_them(tmp_path):
    write_images(tmp_path, "train/mel/a.png", "train/mel/b.png", "test/nev/c.png")
    (tmp_path / "train" / "metadata.jsonl").write_text(
        json.dumps({"file_name": "mel/a.png", "text": "My own words.", "age": 30}) + "\n"
    )
    data = open_data(tmp_path)
    assert {record.file_name: record.fields for record in data} == {
        "test/nev/c.png": {"file_name": "test/nev/c.png", "split": "test", "label": "nev"},
        "train/mel/a.png": {
            "split": "train", "label": "mel", "file_name": "train/mel/a.png",
            "text": "My own words.", "age": 30,
        },
    }  # fmt: skip
    assert dict(data.account.unlisted) == {str(tmp_path / "train" / "metadata.jsonl"): 1}
    assert all(record.path.is_file() for record in data)


def test_a_table_at_the_top_is_the_manifest(tmp_path):
    write_images(tmp_path, "mel/a.png", "nev/b.png")
    (tmp_path / "metadata.csv").write_text("file_name;text\nmel\\a.png;red\nnev/b.png;\n")
    named = fields_of(tmp_path)
    assert named["mel/a.png"] == {"file_name": "mel/a.png", "label": "mel", "text": "red"}
    assert "text" not in named["nev/b.png"]
    (tmp_path / "metadata.csv").write_text("file_name,text\n../a.png,red\n")
    with pytest.raises(ManifestError, match=r"metadata.csv:2: file_name '../a.png' is outside"):
        list(read_data(tmp_path))


def test_a_table_says_true_and_false_in_words_or_numbers_and_labels_stay_text(tmp_path):
    cells = ["true", "False", "1", "0", "TRUE", "1.0", ""]
    write_images(tmp_path, *(f"{number}.png" for number in range(len(cells))))
    lines = [f"{number}.png,{cell},1,{cell}" for number, cell in enumerate(cells)]
    table = "file_name,synthetic,label,phantom\n"
    (tmp_path / "metadata.csv").write_text(table + "\n".join(lines))
    records = list(read_data(tmp_path))
    marks = [record.fields.get("synthetic") for record in records]
    assert marks == [True, False, True, False, True, True, None]
    assert [record.phantom for record in records] == [bool(mark) for mark in marks]
    assert {record.fields["label"] for record in records} == {"1"}
    (tmp_path / "metadata.csv").write_text(table + "0.png,perhaps,1,of the head\n")
    with pytest.raises(ManifestError, match=r"metadata.csv:2: synthetic must be bool, not str"):
        list(read_data(tmp_path))


def test_folders_mean_what_the_user_says(tmp_path):
    write_images(tmp_path, "P 01/mel/a.png", "P 02/nev/left/b.png")
    named = fields_of(tmp_path, levels=("group_id", "label"))
    assert named["P 02/nev/left/b.png"] == {
        "file_name": "P 02/nev/left/b.png", "group_id": "P 02", "label": "nev",
    }  # fmt: skip


def test_names_are_found_however_their_letters_are_composed(tmp_path):
    write_images(tmp_path, "la\u0308sion.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "l\u00e4sion.png"}\n')
    record = next(iter(read_data(tmp_path)))
    assert record.path.is_file()


def test_labels_and_groups_that_are_numbers_are_texts_and_an_empty_group_is_none(tmp_path):
    rows = [
        {"file_name": "a.png", "label": 0, "group_id": 0},
        {"file_name": "b.png", "label": "0", "group_id": "0 "},
        {"file_name": "c.png", "label": 1, "group_id": ""},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = list(read_data(tmp_path))
    assert [record.label for record in records] == ["0", "0", "1"]
    assert [record.group for record in records] == ["0", "0", None]


@pytest.mark.parametrize("name", ["labels.csv", "metadata.csv", "x.TSV"])
def test_a_table_that_is_named_as_data_is_refused_with_the_way_to_read_it(tmp_path, name):
    (tmp_path / name).write_text("file_name,label\na.png,mel\n")
    with pytest.raises(ConfigError, match=f"{name}: is a table; use its folder, where it is read"):
        open_data(tmp_path / name)
