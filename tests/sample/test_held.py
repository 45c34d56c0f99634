import json
from pathlib import Path

import pytest

from medart_cli.data.manifest import hash_file, write_manifest
from medart_cli.errors import ConfigError
from medart_cli.sample.held import HeldOut, read_held
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.prompts import read_prompts

FRACTION = {"settings": {"val_fraction": 0.3}}


@pytest.fixture
def data(tmp_path):
    """Six images; rows 4 and 5 are of split val and test."""
    rows = []
    for i, split in enumerate(["train", None, "train", "train", "val", "test"]):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
        rows.append({"file_name": f"{i}.png", "text": f"t{i}", "label": "a", "split": split})
    write_manifest(tmp_path / "m.jsonl", rows)
    return tmp_path / "m.jsonl"


def hashes(data, *numbers):
    return frozenset(hash_file(data.parent / f"{i}.png") for i in numbers)


def texts(data, held, **options):
    config = SampleConfig(run="run", out=Path("syn"), from_data=str(data), **options)
    return [row["text"] for row in read_prompts(config, None, held)]


def test_captions_that_the_run_held_out_are_not_drawn_and_are_counted(data, said):
    held = HeldOut("run", hashes(data, 0, 2, 3), hashes(data, 1, 4))
    assert texts(data, held) == ["t0", "t2", "t3"]
    assert f"--from {data}: 1 of 4 rows were held out of run and are left out" in said
    assert {*texts(data, held, per_label=9)} == {"t0", "t2", "t3"}
    assert {*texts(data, held, count=9)} == {"t0", "t2", "t3"}


def test_rows_that_are_asked_for_by_their_split_are_drawn(data):
    held = HeldOut("run", hashes(data, 0), hashes(data, 1, 4, 5))
    assert texts(data, held, split=["val", "test"]) == ["t4", "t5"]


def test_an_image_that_has_gone_is_known_by_its_hash_in_the_manifest(data, said):
    held = HeldOut("run", frozenset(), hashes(data, 1, 2))
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[1]["sha256"] = hash_file(data.parent / "1.png")
    write_manifest(data, rows)
    for i in (1, 2):
        (data.parent / f"{i}.png").unlink()
    assert texts(data, held) == ["t0", "t2", "t3"]
    assert any("of 1 rows neither the image nor its sha256 is there" in line for line in said)


def test_where_all_is_held_out_there_is_nothing_to_draw(data):
    with pytest.raises(ConfigError, match="the run held out all rows"):
        texts(data, HeldOut("run", frozenset(), hashes(data, 0, 1, 2, 3)))


def write_lists(folder, **lists):
    for name, digests in lists.items():
        (folder / f"{name}_hashes.txt").write_text("".join(f"{it}\n" for it in digests))
    return folder


def test_a_run_that_held_nothing_out_or_a_base_leaves_nothing_out(tmp_path):
    assert read_held(tmp_path, {}) is None
    assert read_held(write_lists(tmp_path, training=["aa"], heldout=[]), FRACTION) is None
    assert read_held(write_lists(tmp_path, heldout=["bb"]), {}).held == {"bb"}


def test_of_an_older_run_all_that_it_did_not_train_on_is_left_out_with_a_warning(
    data, tmp_path, said
):
    run = tmp_path / "run"
    run.mkdir()
    write_lists(run, training=hashes(data, 0, 3))
    assert read_held(run, {"settings": {}}) is None  # nothing was held out
    held = read_held(run, FRACTION)
    assert texts(data, held) == ["t0", "t3"]
    assert any("has no heldout_hashes.txt" in line for line in said)
    others = HeldOut("run", frozenset(["aa"]), None)  # drawn from other images' captions
    assert len(texts(data, others)) == 4
