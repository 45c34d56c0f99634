"""What a folder of images without a manifest is read as."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from medart_cli.data.dataset import open_data, read_data
from medart_cli.errors import ConfigError, ManifestError
from medart_cli.log import log
from tests.processes import as_user


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 30, 60)).save(path)


def test_a_folder_without_a_manifest_is_listed_with_labels_from_its_folders(tmp_path):
    for name in ("nevus/b.JPG", "nevus/a.png", "melanoma/left/c.tif", "top.bmp", ".cache/x.png"):
        write_image(tmp_path / name)
    write_image(tmp_path / "nevus" / ".hidden.png")
    (tmp_path / "notes.txt").write_text("BM is no bitmap, P5 no portable gray map")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7 ...")
    (tmp_path / "figure.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing").write_bytes(b"")
    listed = [(record.file_name, record.label) for record in read_data(tmp_path)]
    assert listed == [
        ("top.bmp", None),
        ("melanoma/left/c.tif", "melanoma"),
        ("nevus/a.png", "nevus"),
        ("nevus/b.JPG", "nevus"),
    ]


def test_folders_named_after_splits_are_splits_and_no_labels(tmp_path):
    for name in ("train/nevus/a.png", "test/nevus/b.png", "validation/c.png"):
        write_image(tmp_path / name)
    listed = [record.fields for record in read_data(tmp_path)]
    assert listed == [
        {"file_name": "test/nevus/b.png", "split": "test", "label": "nevus"},
        {"file_name": "train/nevus/a.png", "split": "train", "label": "nevus"},
        {"file_name": "validation/c.png", "split": "val"},
    ]


def test_files_without_an_ending_are_known_by_their_content(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "IM000001")
    (tmp_path / "IM000002").write_bytes(bytes(128) + b"DICM" + b"...")
    (tmp_path / "README").write_text("no image")
    assert [record.file_name for record in read_data(tmp_path)] == ["IM000001", "IM000002"]


def test_a_broken_file_with_an_image_ending_is_listed_so_that_it_gets_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert [record.file_name for record in read_data(tmp_path)] == ["a.png", "gone.png"]


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    write_image(tmp_path / "elsewhere" / "a.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "nevus").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(data)
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match=f"leads out of {data}; .* use --root {data}$"):
        list(read_data(data))
    assert [record.file_name for record in read_data(data, root=data)] == ["nevus/a.png"]


def test_pipes_in_a_folder_are_not_waited_for(tmp_path):
    write_image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    assert [record.file_name for record in read_data(tmp_path)] == ["a.png"]


def test_a_file_name_that_is_no_utf8_is_refused_by_name(tmp_path):
    write_image(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    with pytest.raises(ConfigError, match="is not UTF-8; rename it"):
        list(read_data(tmp_path))


@pytest.fixture
def shared():
    """A folder that other users may look into."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)
        for path in Path(name).glob("**"):  # a folder once it is found
            path.chmod(0o755)


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444])
def test_folders_below_that_may_not_be_read_are_passed_over_and_said(shared, mode, monkeypatch):
    said = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    for name in ("mel/a.png", "nev/b.png", "nev/deep/c.png", "bcc/d.png"):
        write_image(shared / name)
    (shared / "nev" / "deep").chmod(mode)
    (shared / "bcc").chmod(mode)
    with as_user(1):
        data = open_data(shared)
    assert [record.file_name for record in data] == ["mel/a.png", "nev/b.png"]
    closed = [str(shared / "bcc"), str(shared / "nev" / "deep")]
    assert set(data.account.facts()["passed_over"]) == {
        f"{name}, not to be read" for name in closed
    }
    [line] = said
    assert "2 folders cannot be read and are skipped, such as /" in line
    assert "(Permission denied); " in line and "\n" not in line


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444])
def test_the_folder_itself_must_be_readable(shared, mode):
    write_image(shared / "mel" / "a.png")
    (shared / "mel").chmod(mode)
    with as_user(1), pytest.raises(ConfigError, match="mel: Permission denied"):
        open_data(shared / "mel")
    with as_user(1), pytest.raises(ConfigError, match="an image; .*mel cannot be read"):
        open_data(shared)


def test_what_a_broken_disk_hides_is_not_passed_over(tmp_path, monkeypatch):
    write_image(tmp_path / "mel" / "a.png")
    look = os.scandir

    def fail(path):
        if str(path).endswith("mel"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(ConfigError, match="mel: Input/output error"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("imagesTr", "imagesTs"),
        ("TrainImages", "TestImages"),
        ("trn", "tst"),
        ("1_tr", "2_ts"),
    ],
)
def test_splits_are_known_by_their_words_however_these_are_joined(tmp_path, train, test):
    for name in (train, test):
        write_image(tmp_path / name / "nevus" / "a.png")
    found = {record.file_name: record.fields for record in read_data(tmp_path)}
    assert found[f"{train}/nevus/a.png"]["split"] == "train"
    assert found[f"{test}/nevus/a.png"] == {
        "file_name": f"{test}/nevus/a.png", "split": "test", "label": "nevus",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/a.png", "external/a.png"), "'train' is named like a split and 'external' is not"),
        (("imagesTr/a.png", "labelsTr/a.png"), "'imagesTr' .* and 'labelsTr' is not"),
        (("control/a.png", "test/a.png"), r"--folders label, if all are classes"),
        (("train/a.png", "train_old/a.png"), "'train_old' is not"),
        (("nevus/train/a.png", "nevus/test/b.png"), "--folders label/split, or -/split/label"),
        (("archive/test/nevus/a.png",), "'archive' contains 'test'"),
        (("busi_train/a.png", "busi_test/b.png"), "look like parts of a split"),
        (("ISIC_Training_Input/a.png", "ISIC_Test_Input/b.png"), "look like parts of a split"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_refused_with_the_way_to_say_it(
    tmp_path, names, message
):
    for name in names:
        write_image(tmp_path / name)
    with pytest.raises(ConfigError, match=message):
        list(read_data(tmp_path))
    levels = ("-",) * names[0].count("/")
    assert len(list(read_data(tmp_path, levels=levels))) == len(names)


@pytest.mark.parametrize("names", [("normal_test", "nevus"), ("TR_mild", "TR_severe")])
def test_classes_may_have_words_of_splits_in_their_names(tmp_path, names):
    for name in names:
        write_image(tmp_path / name / "a.png")
    assert {record.label for record in read_data(tmp_path)} == {*names}


def test_a_table_at_the_top_settles_what_the_folders_do_not(tmp_path):
    for name in ("train/a.png", "fold_2/b.png"):
        write_image(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,label,split\ntrain/a.png,mel,train\n")
    assert [record.label for record in open_data(tmp_path)] == ["mel"]


def test_files_of_systems_and_copies_of_editors_are_no_images(tmp_path):
    write_image(tmp_path / "mel" / "a.png")
    content = (tmp_path / "mel" / "a.png").read_bytes()
    names = ["a.png~", "a.png.bak", "b.png.part", "c.png.crdownload", "#a.png#"]
    system = ["~$a.png", "._a.png", "Thumbs.db", "desktop.ini", "DICOMDIR", "SYNOPHOTO_THUMB_M.jpg"]
    for name in (*names, *system):
        (tmp_path / "mel" / name).write_bytes(content)
    for folder in ("_vti_cnf", "FOUND.000", "mel/_vti_cnf"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(content)
    data = open_data(tmp_path)
    assert [record.file_name for record in data] == ["mel/a.png"]
    assert data.account.facts()["passed_over"] == {
        "backups or unfinished files": 5, "folders FOUND.000": 1, "folders _vti_cnf": 2,
    }  # fmt: skip


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"nor an image; its files are: \.parquet 1"):
        open_data(tmp_path)
