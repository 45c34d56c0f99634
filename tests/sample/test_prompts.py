import hashlib
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from medart_cli.data.manifest import write_manifest
from medart_cli.errors import ConfigError
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.prompts import read_prompts


def build_config(**options):
    return SampleConfig(run="run", out=Path("syn"), **options)


@pytest.fixture
def manifest(tmp_path):
    labels = ("nevus", None, "melanoma", "nevus")
    rows = [{"file_name": f"{i}.png", "label": label} for i, label in enumerate(labels)]
    rows[3]["text"] = "a dark nevus"
    write_manifest(tmp_path / "metadata.jsonl", rows)
    return str(tmp_path / "metadata.jsonl")


def test_rows_have_their_text_or_the_simple_caption_and_a_label_where_there_is_one(manifest):
    assert list(read_prompts(build_config(from_data=manifest))) == [
        {"text": "A medical image of nevus", "label": "nevus"},
        {"text": "A medical image"},
        {"text": "A medical image of melanoma", "label": "melanoma"},
        {"text": "a dark nevus", "label": "nevus"},
    ]


def test_classes_are_spoken_as_their_file_says(manifest, tmp_path):
    (tmp_path / "classes.toml").write_text('nevus = "a mole"\n')
    rows = read_prompts(build_config(from_data=manifest, classes=tmp_path / "classes.toml"))
    assert [row["text"] for row in rows][::3] == ["A medical image of a mole", "a dark nevus"]


def test_a_number_of_rows_is_drawn_at_random_and_each_before_one_twice(manifest):
    rows = read_prompts(build_config(from_data=manifest, count=6, seed=5))
    order = np.random.default_rng(5).permutation(4).tolist()
    assert rows.order == [*order, *order[:2]]


def test_each_label_gets_its_number_of_rows(manifest):
    rows = read_prompts(build_config(from_data=manifest, per_label=3))
    labels = [row["label"] for row in rows]
    assert labels == ["melanoma"] * 3 + ["nevus"] * 3
    assert len({row["text"] for row in list(rows)[3:]}) == 2


def test_labels_are_needed_to_draw_by_label(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [{"file_name": "a.png", "text": "cell"}])
    with pytest.raises(ConfigError, match="no row has a label"):
        read_prompts(build_config(from_data=str(tmp_path / "m.jsonl"), per_label=1))


def test_a_row_names_the_image_whose_caption_it_is(tmp_path):
    (tmp_path / "a.png").write_bytes(b"bytes")
    write_manifest(
        tmp_path / "m.jsonl",
        [{"file_name": "a.png", "text": "cell", "split": "train", "group_id": 7, "site": "arm"},
         {"file_name": "gone.png", "text": "cell", "sha256": "ab" * 32, "group_id": ""}],
    )  # fmt: skip
    rows = read_prompts(build_config(from_data=str(tmp_path / "m.jsonl")))
    sha256 = hashlib.sha256(b"bytes").hexdigest()
    assert rows.find_source(0) == {
        "image": "a.png", "sha256": sha256, "split": "train", "group_id": "7",
    }  # fmt: skip
    assert rows.find_source(1) == {"image": "gone.png", "sha256": "ab" * 32}
    assert read_prompts(build_config(prompt=["cell"])).find_source(0) is None


def test_captions_are_of_the_rows_that_finetune_trains_on_unless_others_are_named(tmp_path):
    splits = ["train", None, "val", "test"]
    rows = [{"file_name": f"{i}.png", "text": f"t{i}", "label": "a", "split": split}
            for i, split in enumerate(splits)]  # fmt: skip
    write_manifest(tmp_path / "m.jsonl", rows)
    source = str(tmp_path / "m.jsonl")

    def texts(**options):
        return [row["text"] for row in read_prompts(build_config(from_data=source, **options))]

    assert texts() == ["t0", "t1"]
    assert texts(split=["test"]) == ["t3"]
    assert texts(split=["train", "val"], count=4) and "t3" not in texts(split=["val"], count=9)
    assert set(texts(per_label=3)) == {"t0", "t1"}
    write_manifest(tmp_path / "m.jsonl", rows[3:])
    with pytest.raises(ConfigError, match=r"no row of split train \(rows: 1 of test\)"):
        texts()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("source", ["file", "-"])
def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path, monkeypatch, encoding, source):
    raw = "a mole\r\n\r\n  größer\n".encode(encoding)
    (tmp_path / "prompts.txt").write_bytes(raw)
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(raw), encoding="latin-1"))
    name = "-" if source == "-" else str(tmp_path / "prompts.txt")
    texts = [row["text"] for row in read_prompts(build_config(prompts=name))]
    assert texts == ["a mole", "größer"]


@pytest.mark.parametrize("mark", ["\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}", "\x85"])
def test_only_a_line_end_ends_a_prompt(tmp_path, mark):
    (tmp_path / "prompts.txt").write_text(f"one{mark}two\nthree\n", "utf-8")
    prompts = read_prompts(build_config(prompts=str(tmp_path / "prompts.txt")))
    assert [row["text"] for row in prompts] == [f"one{mark}two", "three"]


def test_prompts_in_another_encoding_are_refused(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("größer\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"prompts\.txt: cannot be read as utf-8 .* UTF-8"):
        read_prompts(build_config(prompts=str(tmp_path / "prompts.txt")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a", "label": "b"}\n', "is JSON; write one prompt per line, or use a manifest"),
        ('[\n"a"]', "is JSON"),
        ("a\n\0\0\0\n", "line 2 contains a control character"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(tmp_path, text, message):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompts(build_config(prompts=str(tmp_path / "p.txt")))
