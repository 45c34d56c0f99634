import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import ttest_1samp

from medart_cli import stop
from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.manifest import HashedRecord
from medart_cli.finetune import heldout
from medart_cli.finetune.work import Heldout
from medart_cli.models.device import build_generator

SHORT = (
    *("--resolution", 16, "--preview-every", 0, "--hldf-every", 0, "--device", "cpu"),
    *("--steps", 4, "--val-every", 2, "--quiet"),
)


@pytest.fixture(scope="module")
def split(tmp_path_factory, images):
    """Six training images and two of split val, one of each label."""
    folder = shutil.copytree(images, tmp_path_factory.mktemp("split") / "images")
    rows = [
        {"file_name": f"{path.parent.name}/{path.name}", "label": path.parent.name,
         "text": f"a {path.parent.name}", "group_id": path.stem,
         "split": "val" if path.stem in "67" else "train"}
        for path in sorted(folder.glob("*/*.png"))
    ]  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def few_draws():
    """Measure quickly: two noises for each of two images; not undone within a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heldout, "LEAST_DRAWS", 4)
        yield


@pytest.fixture
def finetune(medart, small_base, split, tmp_path):
    def run(*options, out="run", data=split, code=0):
        folder = tmp_path / out
        ended, _, errors = medart(
            "finetune", data, "--base", small_base, "--out", folder, *SHORT, *options
        )
        assert ended == code, errors
        return folder, errors

    return run


def weights(folder):
    """All tensors of a run's result, by file and name."""
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted(folder.glob("t*/*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def same_weights(one, other):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert len(first) > 4
    return all(torch.equal(first[name], second[name]) for name in first)


def read_lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def read_curve(run):
    rows = [row for row in read_lines(run) if "val_loss" in row]
    return [(row["step"], row["val_loss"], row["train_loss"]) for row in rows]


def read_facts(run):
    return json.loads((run / "run.json").read_text())


def test_rows_of_split_val_are_measured_and_not_trained_on(finetune, split):
    run, _ = finetune("--val-every", 3)
    assert [step for step, *_ in read_curve(run)] == [0, 3, 4]
    assert [row["step"] for row in read_lines(run) if "loss" in row] == [1, 2, 3, 4]
    facts = read_facts(run)
    assert facts["data"]["images"] == 6
    assert facts["heldout"]["data"]["images"] == facts["heldout"]["patients"] == 2
    assert facts["inputs"][0]["splits"] == {"train": 6, "val": 2}
    figures = facts["figures"]["heldout"]
    curve = read_curve(run)
    assert figures["val_loss_before"] == curve[0][1] and figures["train_loss"] == curve[-1][2]
    assert figures["kept_step"] == 4 and figures["images"] == figures["draws"] == 2
    trained = (run / "training_hashes.txt").read_text().split()
    held = [checkpoints.hash_file(path) for path in split.glob("*/[67].png")]
    assert len(trained) == 6 and not {*trained} & {*held} and len(held) == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "lora", "--caption-dropout", 0.5, "--flip"),
        ("--method", "full", "--freeze-text-encoder", "--ema", 0.9),
        ("--method", "dora", "--ema", 0.9, "--gradient-checkpointing"),
        ("--crop", "random", "--hldf-every", 2, "--hldf-steps", 2),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_a_measurement_changes_nothing_of_what_is_trained(finetune, options):
    measured, _ = finetune(*options, "--val-every", 1)
    blind, _ = finetune(*options, "--val-every", 0, out="blind")
    assert len(read_curve(measured)) == 5 and not read_curve(blind)
    assert same_weights(measured, blind)
    losses = [
        [row["loss"] for row in read_lines(run) if "loss" in row] for run in (measured, blind)
    ]
    assert losses[0] == losses[1]


def test_each_measurement_has_the_same_noises_and_times_whatever_came_before(finetune):
    often, _ = finetune("--val-every", 1)
    rarely, _ = finetune("--val-every", 4, "--steps", 4, out="rarely")
    large, _ = finetune("--val-every", 4, "--batch-size", 3, out="large")
    curves = [{step: pair for step, *pair in read_curve(run)} for run in (often, rarely, large)]
    assert curves[0][0] == curves[1][0] and curves[0][4] == curves[1][4]
    assert curves[2][0] == pytest.approx(curves[0][0], rel=1e-5)


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_has_the_curve_of_an_uninterrupted_one(finetune, step):
    options = ("--ema", 0.5, "--keep-best")
    whole, _ = finetune(*options)
    finetune(*options, "--steps", step, out="parts")
    parts, _ = finetune(*options, out="parts")
    kept = [row for row in read_curve(parts) if row[0] != 3]  # the end of the first part
    assert kept == read_curve(whole)
    assert same_weights(whole, parts)


def test_a_stop_inside_a_measurement_loses_nothing(finetune, monkeypatch):
    from medart_cli.finetune import train

    whole, _ = finetune()
    check, polls = train.check_stop, iter(range(1000))
    pauses = 8 + 2 + 5  # before training, two steps, and into the measurement after them

    def stop_inside(work, late):
        if next(polls) == pauses:
            raise stop.Stopped("stopped by SIGTERM")
        return check(work, late)

    monkeypatch.setattr(train, "check_stop", stop_inside)
    parts, _ = finetune(out="parts", code=75)
    assert [row["step"] for row in read_lines(parts)] == [0, 1, 2]
    assert [path.name for path in (parts / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    finetune(out="parts")
    assert read_curve(parts) == read_curve(whole)
    assert same_weights(whole, parts)


def test_a_kill_before_the_end_is_written_measures_each_image_again(finetune, monkeypatch):
    from medart_cli.finetune import train

    whole, _ = finetune()
    monkeypatch.setattr(train, "finish", None)
    with pytest.raises(TypeError):
        finetune(out="parts")
    monkeypatch.undo()
    parts, _ = finetune(out="parts")
    assert read_curve(parts) == read_curve(whole)
    assert read_facts(parts)["figures"]["heldout"] == read_facts(whole)["figures"]["heldout"]


@pytest.mark.parametrize("ema", [0, 0.5])
def test_keep_best_ends_with_the_checkpoint_of_the_lowest_loss(finetune, monkeypatch, ema):
    from medart_cli.finetune import train

    plain, _ = finetune("--steps", 2, "--ema", ema, out="plain")
    worse = iter([0.0, 1.0, 2.0, 3.0])  # each measurement after the first finds more
    measure = heldout.measure_heldout
    monkeypatch.setattr(
        train, "measure_heldout", lambda work, poll: measure(work, poll) + next(worse)
    )
    best, _ = finetune("--steps", 6, "--keep", 1, "--ema", ema, "--keep-best", out="best")
    assert sorted(path.name for path in (best / "checkpoints").iterdir()) == [
        "step-000002", "step-000006",
    ]  # fmt: skip
    assert read_facts(best)["figures"]["heldout"]["kept_step"] == 2
    assert read_facts(best)["checkpoint"] == checkpoints.hash_trained(best)
    assert same_weights(plain, best)
    last, _ = finetune("--steps", 6, "--ema", ema, "--val-every", 0, out="last")
    assert not same_weights(best, last)


def test_keep_best_takes_the_next_where_the_best_checkpoint_is_broken(
    tmp_path, monkeypatch, caplog
):
    from medart_cli.errors import ConfigError
    from medart_cli.finetune.resume import find_best

    def read(folder):
        if folder.name == "step-000002":
            raise ConfigError(f"{folder.name}: state.json is missing")

    monkeypatch.setattr(checkpoints, "read_checkpoint", read)
    assert find_best(tmp_path, {2: 0.1, 4: 0.3, 6: 0.2}) == 6
    assert "step-000002: state.json is missing; the result is step-000006 instead" in caplog.text


def test_a_drawn_part_has_no_patient_of_the_others_and_follows_the_seed(finetune, images, tmp_path):
    data = shutil.copytree(images, tmp_path / "data")
    rows = [{"file_name": f"{path.parent.name}/{path.name}", "label": path.parent.name,
             "group_id": f"P{int(path.stem) // 4}{path.parent.name}"}
            for path in sorted(data.glob("*/*.png"))]  # fmt: skip
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {}
    for seed in (0, 0, 1, 2):
        run, _ = finetune("--val-fraction", 0.3, "--seed", seed, "--overwrite", data=data)
        trained = {*(run / "training_hashes.txt").read_text().split()}
        groups = [
            {row["group_id"] for row in rows
             if (checkpoints.hash_file(data / row["file_name"]) in trained) == side}
            for side in (True, False)
        ]  # fmt: skip
        assert groups[0] and groups[1] and not groups[0] & groups[1]
        assert read_facts(run)["heldout"]["data"]["labels"].keys() == {"melanoma", "nevus"}
        assert found.setdefault(seed, groups) == groups
    assert len({str(sorted(groups[1])) for groups in found.values()}) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--val-fraction", 0.2), "--val-fraction 0.2: has no effect where rows are marked val"),
        (("--val-every", 0, "--keep-best"), "--keep-best: has no effect with --val-every 0"),
        (("--val-fraction", 0.7), "--val-fraction must be"),
    ],
)
def test_options_without_effect_are_refused(finetune, options, message):
    _, errors = finetune(*options, code=2)
    assert message in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"split": None}, ("--keep-best",), "--keep-best: no image is held out; use --val-frac"),
        ({"split": None}, (), "--val-every: no image is held out; use --val-fraction 0.1, or mark"),
        ({"split": None, "group_id": "P"}, ("--val-fraction", 0.3), "has 1 group(s) of images"),
        (
            {"group_id": "P"},
            (),
            "2 of 2 held-out images are of a patient or a file that is trained",
        ),
    ],
)
def test_what_cannot_be_held_out_is_one_line(finetune, split, tmp_path, change, options, message):
    data = shutil.copytree(split, tmp_path / "data")
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
    lines = [json.dumps({k: v for k, v in (row | change).items() if v is not None}) for row in rows]
    (data / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    _, errors = finetune(*options, data=data, code=2)
    assert message in errors and errors.count("\n") == 1


def test_a_held_out_image_that_cannot_be_read_is_named_and_counted(finetune, split, tmp_path):
    data = shutil.copytree(split, tmp_path / "data")
    (data / "melanoma/6.png").write_bytes(b"no picture")
    run, errors = finetune(data=data, code=3)
    assert "6.png" in errors
    assert read_facts(run)["failures"] == read_facts(run)["heldout"]["data"]["images"] == 1
    (data / "nevus/7.png").write_bytes(b"none either")
    _, errors = finetune(data=data, code=2, out="none")
    assert "none of its 2 held-out images can be read" in errors


def test_other_held_out_images_on_the_same_folder_are_refused(finetune, split, tmp_path):
    data = shutil.copytree(split, tmp_path / "data")
    finetune("--steps", 2, data=data)
    Image.new("RGB", (40, 32), "blue").save(data / "nevus/7.png")
    _, errors = finetune("--steps", 4, data=data, code=2)
    assert "was trained with other held-out images or captions" in errors


def test_trackers_and_the_curve_get_the_held_out_loss(finetune, monkeypatch, charts):
    from accelerate import Accelerator

    pytest.importorskip("tensorboard")
    told = []
    monkeypatch.setattr(Accelerator, "log", lambda _, row, step: told.append((step, row)))
    run, _ = finetune("--log-with", "tensorboard")
    assert [step for step, row in told if {"val_loss", "train_loss"} <= {*row}] == [0, 2, 4]
    blind, _ = finetune("--val-every", 0, out="blind")
    assert Image.open(run / "loss.png").height > 1.5 * Image.open(blind / "loss.png").height


def record(number, label, group=None):
    fields = {"file_name": f"{number}.png", "label": label, "group_id": group}
    return HashedRecord(fields, Path("set"), "m.jsonl:1", str(number))


def test_training_rows_are_of_the_labels_of_the_held_out_ones_and_few_are_taken_again():
    rows = [record(i, "ab"[i % 2]) for i in range(20)]
    held = [record(100 + i, label) for i, label in enumerate("aaabbc")]
    found = heldout.match_rows(rows, held, build_generator(0, "x"))
    assert [row.label for row in found][:5] == list("aaabb")
    assert len({row.file_name for row in found[:5]}) == 5
    few = heldout.match_rows(rows[:3], held, build_generator(0, "x"))
    assert len(few) == 6


def make_plan(gaps, held, trained):
    """A plan in which the gap of each place has grown by a number."""
    rows = [record(i, "a", name) for i, name in enumerate(held)]
    pairs = [record(50 + i, "a", name) for i, name in enumerate(trained)]
    before = torch.ones(2, len(gaps), dtype=torch.float64)
    last = torch.tensor([gaps, [0.0] * len(gaps)], dtype=torch.float64) + before + 0.3
    return Heldout(rows, pairs, 1, before, last)


def test_of_independent_images_the_interval_is_that_of_the_paired_t_test():
    gaps = [0.1, 0.3, -0.2, 0.4, 0.25]
    found = heldout.find_memorized(make_plan(gaps, [None] * 5, [None] * 5))
    low, high = ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert found == {"memorized": pytest.approx(0.17), "interval": pytest.approx([low, high])}


@pytest.mark.parametrize("side", ["held", "trained"])
def test_images_of_one_patient_count_as_one_on_either_side(side):
    gaps, alone = [0.1, 0.3, -0.2, 0.4], [None] * 8
    four = heldout.find_memorized(make_plan(gaps, [*"PQRS"], [*"tuvw"]))
    groups = ([*"PPQQRRSS"], alone) if side == "held" else (alone, [*"PPQQRRSS"])
    eight = heldout.find_memorized(make_plan([gap for gap in gaps for _ in "12"], *groups))
    assert eight["interval"] == pytest.approx(four["interval"])
    one = (["P"] * 4, [None] * 4) if side == "held" else ([None] * 4, ["P"] * 4)
    assert heldout.find_memorized(make_plan(gaps, *one))["interval"] is None


def test_where_nothing_is_memorized_that_is_rarely_said():
    generator, found = torch.Generator().manual_seed(0), 0
    held, trained = [f"h{i // 4}" for i in range(32)], [f"t{i % 8}" for i in range(32)]
    for _ in range(400):
        one, other = torch.randn(2, 8, generator=generator)
        gaps = one.repeat_interleave(4) - other.repeat(4) + torch.randn(32, generator=generator)
        low, _ = heldout.find_memorized(make_plan(gaps.tolist(), held, trained))["interval"]
        found += low > 0
    assert found <= 20  # 2.5 % are meant, 5 % would be seen in less than 0.1 % of such tests


@pytest.mark.parametrize(
    ("interval", "lowest", "told"),
    [
        ([-0.1, 0.2], 2, "no memorizing shown"),
        ([0.1, 0.2], 4, "still at its lowest"),
        ([0.1, 0.2], 2, "the model memorizes its training images; the held-out loss was lowest"),
        (None, 2, "cannot be judged"),
    ],
)
def test_the_gap_is_said_as_what_it_is(said, interval, lowest, told):
    found = {"memorized": 0.15, "interval": interval, "lowest_step": lowest}
    heldout.say_memorized(found, last=4)
    assert told in said[0] and len(said) == 1


def test_the_average_is_measured_and_the_weights_come_back():
    weights = [torch.nn.Parameter(torch.tensor([1.0, 2.0]))]
    ema = SimpleNamespace(shadow_params=[torch.tensor([3.0, 4.0])])
    work = SimpleNamespace(ema=ema, parameters=weights, transformer=torch.nn.Linear(1, 1))
    with pytest.raises(stop.Stopped), heldout.averaged_weights(work):
        assert weights[0].tolist() == [3, 4]
        raise stop.Stopped("stopped")
    assert weights[0].tolist() == [1, 2] and ema.shadow_params[0].tolist() == [3, 4]
