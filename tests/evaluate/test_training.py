import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from medart_cli.data.manifest import hash_file
from medart_cli.errors import ConfigError
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import find_heldout, find_training, read_sets
from medart_cli.evaluate.training import (
    TrainedRun,
    check_drawn,
    describe_run,
    hash_and_settle,
    place_training,
)


def save_set(folder, seeds, **fields):
    """Save an image of each seed, with a manifest; fields are a value, or one for each image."""
    folder.mkdir(parents=True)
    rows = []
    for turn, seed in enumerate(seeds):
        pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
        own = {key: it[turn] if isinstance(it, list) else it for key, it in fields.items()}
        rows.append({"file_name": f"{seed}.png"} | own)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def make(tmp_path):
    """Build options for a real, a synthetic and a training set."""
    save_set(tmp_path / "real", range(4))
    save_set(tmp_path / "syn", range(10, 13), synthetic=True, run="mark")
    splits = ["train", "train", "train", "val", "test"]
    save_set(tmp_path / "data", range(20, 25), split=splits, text="a", label="x")

    def build(**options):
        words = {"training": str(tmp_path / "data")} | options
        return EvaluateConfig(
            real=str(tmp_path / "real"), synthetic=[str(tmp_path / "syn")], out=tmp_path / "out",
            **{key: it for key, it in words.items() if it is not None},
        )  # fmt: skip

    return build


@pytest.fixture
def run(make, tmp_path):
    """A run folder, without weights, that was trained on two images of the data."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "settings.toml").write_text(f'data = "{tmp_path / "data"}"\n')
    trained = frozenset(hash_file(tmp_path / f"data/{seed}.png") for seed in (20, 22))
    return TrainedRun(folder, {"base_hashes": {}}, folder, "mark", trained)


def settle(config, run=None):
    sets = read_sets(config, place_training(config, run))
    return hash_and_settle(config, sets, run)[0]


def names(item):
    return [record.file_name for record in item]


def test_training_images_are_the_rows_that_finetune_trains_on(make):
    config = make()
    sets = settle(config)
    assert names(find_training(config, sets)) == ["20.png", "21.png", "22.png"]
    assert find_heldout(config, sets) is sets[0]
    assert find_training(make(training=None), sets) is None


def test_a_held_out_set_stands_before_the_training_images(make, tmp_path):
    config = make(holdout=str(save_set(tmp_path / "held", range(30, 33))))
    sets = settle(config)
    assert [item.name for item in sets] == ["real", "syn", "held", "data"]
    assert find_heldout(config, sets).name == "held"


def test_the_run_says_where_its_data_are_and_what_of_them_it_was_trained_on(make, run, said):
    config = make(training=None, run="run")
    sets = settle(config, run)
    assert names(find_training(config, sets)) == ["20.png", "22.png"]
    assert "data: 1 of its 3 images were not trained on and are left out" in said


def test_a_checkpoint_has_the_settings_of_its_run(run):
    folder = run.folder / "checkpoints" / "step-000010"
    folder.mkdir(parents=True)
    assert TrainedRun(folder, {}, folder, "m", None).settings == run.folder / "settings.toml"


def test_training_images_that_are_gone_are_counted_and_none_is_refused(make, run, said, tmp_path):
    (tmp_path / "data/20.png").write_bytes((tmp_path / "data/21.png").read_bytes())
    config = make(run="run")
    with pytest.raises(ConfigError, match="data: holds 1 of the 2 images that run was trained on"):
        settle(config, run)
    more = TrainedRun(run.folder, run.facts, run.base, "mark", run.trained | {"ab" * 32, "cd" * 32})
    (tmp_path / "data/20.png").unlink()
    save_set(tmp_path / "again", [20, 22])
    settle(make(run="run", training=str(tmp_path / "again")), more)
    assert any(line.startswith("again: 2 of the 4 images that run was") for line in said)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('data = "gone"\n', r"--run run: its data \(gone\) are no longer there, seen from here;"),
        ('data = "-"\n', r"its data \(-\) came by standard input; name .* with --training"),
        ('data = "."\nroot = "gone"\n', "are no longer there"),
        ("seed = 0\n", "has no readable settings.toml; name the images"),
        (None, "has no readable settings.toml; name the images"),
    ],
)
def test_where_the_data_have_moved_training_is_asked_for(make, run, settings, message):
    path = run.folder / "settings.toml"
    path.unlink() if settings is None else path.write_text(settings)
    with pytest.raises(ConfigError, match=message):
        place_training(make(training=None, run="run"), run)


def test_an_old_run_without_a_list_is_taken_by_its_settings_unless_it_held_out_a_part(
    make, run, said
):
    old = TrainedRun(run.folder, run.facts, run.base, "mark", None)
    config = make(training=None, run="run")
    assert len(find_training(config, settle(config, old))) == 3
    assert any("has no training_hashes.txt: all images of data are taken" in line for line in said)
    path = run.folder / "settings.toml"
    path.write_text(path.read_text() + "val_fraction = 0.2\n")
    with pytest.raises(ConfigError, match="held a part of its data out; name the images"):
        place_training(config, old)


def test_an_image_on_both_sides_is_refused(make, tmp_path):
    save_set(tmp_path / "mixed", [1, 40, 41])
    message = "real: 1 of its 4 images were trained on, such as 1.png; give images that the model"
    with pytest.raises(ConfigError, match=message):
        settle(make(training=str(tmp_path / "mixed")))
    held = save_set(tmp_path / "held", range(30, 33))
    settle(make(training=str(tmp_path / "mixed"), holdout=str(held)))


def test_patients_on_both_sides_are_said(make, tmp_path, said):
    held = save_set(tmp_path / "held", range(30, 33), group_id=["P1", "P2", "P3"])
    data = save_set(tmp_path / "more", range(50, 53), group_id=["P7", "p2 ", "P8"])
    settle(make(training=str(data), holdout=str(held)))
    assert any(line.startswith("held: 1 of 3 images are of patients of the tr") for line in said)


def test_a_run_that_drew_none_of_the_sets_is_refused(make, run, said, tmp_path):
    config = make(run="run")
    sets = read_sets(config)
    check_drawn(config, sets, run)
    other = TrainedRun(run.folder, {}, run.base, "other", run.trained)
    with pytest.raises(ConfigError, match="--run run: drew none of the synthetic sets, as their"):
        check_drawn(config, sets, other)
    (tmp_path / "syn/training_hashes.txt").write_text("\n".join(sorted(run.trained)))
    check_drawn(config, sets, other)  # another checkpoint, or merged
    assert any("with others that were trained on the same images" in line for line in said)
    lines = (tmp_path / "syn/metadata.jsonl").read_text().replace('"run": "mark"', '"x": 1')
    (tmp_path / "syn/metadata.jsonl").write_text(lines)
    (tmp_path / "syn/training_hashes.txt").unlink()
    check_drawn(config, read_sets(config), other)
    assert any("whether it drew the synthetic images is not known" in line for line in said)


def test_a_report_depends_on_weights_base_wording_and_captions(make, run, tmp_path):
    config = make(run="run")

    def describe(run):
        return describe_run(config, settle(config, run), run)

    first = describe(run)
    assert describe(run) == first and describe_run(config, [], None) == []
    for other in (
        TrainedRun(run.folder, run.facts, run.base, "other", run.trained),
        TrainedRun(run.folder, {"base_hashes": {"vae": "x"}}, run.base, "mark", run.trained),
        TrainedRun(run.folder, run.facts | {"wording": {}}, run.base, "mark", run.trained),
    ):
        assert describe(other) != first
    path = tmp_path / "data/metadata.jsonl"
    path.write_text(path.read_text().replace('"text": "a"', '"text": "b"'))
    assert describe(run) != first


def test_options_that_change_nothing_are_refused(make):
    with pytest.raises(ConfigError, match="--member-count: has no effect without --run"):
        make(member_count=5)
    with pytest.raises(ConfigError, match="--base: has no effect without --run"):
        make(base="tiny")
    with pytest.raises(ConfigError, match="--training: has no effect with --no-copies and without"):
        make(copies=False)
    with pytest.raises(ConfigError, match="--training-root: needs --training"):
        make(training=None, training_root=".", run="run")
    assert make(copies=False, run="run").training


def test_what_is_no_run_is_refused(make, tmp_path):
    from medart_cli.evaluate.training import open_run

    assert open_run(SimpleNamespace(run=None)) is None
    with pytest.raises(ConfigError, match="is neither a run folder that medart finetune wrote nor"):
        open_run(make(run=str(tmp_path / "data")))
