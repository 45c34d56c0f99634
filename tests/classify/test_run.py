import json
import os
import shutil
import signal
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from medart_cli import stop
from medart_cli.classify import images as classify_images
from medart_cli.classify import train as classify
from medart_cli.classify.images import Images
from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.run import run
from medart_cli.classify.sets import read_sets
from medart_cli.classify.splits import labels_of
from medart_cli.data import output as report
from medart_cli.data.images import load_image
from medart_cli.data.manifest import hash_file

SMALL = {"input_size": (3, 32, 32)}  # of timm's models

FROZEN = ("--freeze", "--workers", 0)
CLASSES = ("basophil", "lymphocyte", "monocyte")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """A tiny network of random weights for 64-pixel images, as a timm folder."""
    folder = tmp_path_factory.mktemp("models") / "backbone"
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2, pretrained_cfg_overlay=SMALL)
    save_for_hf(model, folder, safe_serialization=True)
    return folder


def draw_set(folder, per_class, *, seed=0, noise=60.0, shuffle=False, **fields):
    """Write gray squares of three sizes in noise, with a manifest."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    lines = []
    for index in range(per_class * len(CLASSES)):
        number = index % len(CLASSES)
        pixels = generator.normal(110, noise, (32, 32, 3))
        half, y, x = 3 + 4 * number, *generator.integers(13, 19, size=2)
        pixels[max(0, y - half) : y + half, max(0, x - half) : x + half, number % 2] += 70
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
        label = CLASSES[int(generator.integers(3)) if shuffle else number]
        more = {key: value(index) if callable(value) else value for key, value in fields.items()}
        lines.append(json.dumps({"file_name": f"{index}.png", "label": label, **more}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """Training, test and synthetic sets: the synthetic ones are of the same kind as the real."""
    folder = tmp_path_factory.mktemp("sets")
    return {
        "train": draw_set(folder / "train", 12, seed=1),
        "test": draw_set(folder / "test", 40, seed=2),
        "more": draw_set(folder / "more", 40, seed=3, synthetic=True),
        "few": draw_set(folder / "few", 4, seed=5, synthetic=True),
        "shuffled": draw_set(folder / "shuffled", 40, seed=4, shuffle=True, synthetic=True),
    }


def options(backbone, *more):
    return ("--backbone", backbone, "--device", "cpu", *more)


def read(path):
    return json.loads(path.read_text())


def metrics_of(folder):
    return read(folder / "metrics.json")


def test_a_probe_is_trained_tested_and_written_for_others_to_open(
    medart, sets, backbone, tmp_path, charts
):
    out = tmp_path / "CLF"
    code, stdout, stderr = medart(
        "classify",
        sets["train"],
        "--test",
        sets["test"],
        *FROZEN,
        "--out",
        out,
        *options(backbone),
    )
    assert (code, stdout) == (0, f"{out}\n"), stderr
    for name in ("settings.toml", "confusion.png", "roc.png", "calibration.png", "report.html"):
        assert (out / name).stat().st_size > 100
    metrics = read(out / "metrics.json")
    scores = metrics["regimes"]["real"]["scores"]
    assert scores["balanced_accuracy"]["low"] > 1 / 3  # better than chance
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 120
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert right == pytest.approx(scores["accuracy"]["mean"])
    pipe = transformers.pipeline("image-classification", str(out), device="cpu")
    for row in rows[:5]:
        answers = pipe(str(sets["test"] / row["file_name"]), top_k=3)
        found = {answer["label"]: answer["score"] for answer in answers}
        assert found == pytest.approx(row["probabilities"], abs=1e-3)


def test_with_a_frozen_backbone_each_image_is_decoded_once(
    medart, sets, backbone, tmp_path, monkeypatch
):
    seen = []

    def load(path):
        seen.append(path)
        return load_image(path)

    monkeypatch.setattr(classify_images, "load_image", load)
    code, _, stderr = medart(
        "classify", sets["few"], "--allow-synthetic", "--test", sets["test"], *FROZEN,
        "--cache", tmp_path / "cache", "--out", tmp_path / "CLF", *options(backbone),
    )  # fmt: skip
    assert code == 0, stderr
    assert len(seen) == len({*seen}) == 12 + 120


def test_more_images_of_the_same_kind_help_and_shuffled_labels_do_not(
    medart, sets, backbone, tmp_path
):
    verdicts = {}
    for name in ("more", "shuffled"):
        out = tmp_path / name
        code, stdout, stderr = medart(
            "classify", sets["train"], "--test", sets["test"], "--synthetic", sets[name], "--json",
            *FROZEN, "--label-budget", 1, "--seeds", 3, "--out", out, *options(backbone),
        )  # fmt: skip
        assert code == 0, stderr
        summary = json.loads(stdout)
        verdicts[name] = {key: item["verdict"] for key, item in summary["regimes"].items()}
        gap = read(out / "metrics.json")["regimes"]["mix"]["difference_to_real"]
        verdicts[name]["gap"] = gap["balanced_accuracy"]["value"]
    assert verdicts["more"]["mix"] == verdicts["more"]["synthetic"] == "better"
    assert verdicts["shuffled"]["mix"] in ("no difference shown", "worse")
    assert verdicts["shuffled"]["synthetic"] in ("no difference shown", "worse")
    assert verdicts["more"]["gap"] > 0.1 > verdicts["shuffled"]["gap"]
    for name, helps in (("more", True), ("shuffled", False)):
        page = (tmp_path / name / "report.html").read_text()
        assert ("synthetic images help;" in page and "Synthetic images help the" in page) == helps


def test_subgroups_are_compared_in_the_report_and_can_be_asked_for_later(
    medart, sets, backbone, tmp_path
):
    test = draw_set(
        tmp_path / "test", 30, seed=2, sex=lambda i: "FM"[i % 2], age=lambda i: str(20 + i // 2)
    )
    call = ("classify", sets["train"], "--test", test, "--synthetic", sets["more"], *FROZEN,
            "--out", tmp_path / "CLF", *options(backbone), "--json")  # fmt: skip
    assert json.loads(medart(*call)[1])["subgroups"] == []
    code, stdout, stderr = medart(*call, "--by", "sex", "--by", "age")
    assert code == 0, stderr
    assert "already done" in stderr
    lines = json.loads(stdout)["subgroups"]
    assert any(line.startswith("mix, by sex: ") for line in lines)
    assert all(line in stderr.replace("\n", " ") for line in lines)
    found = metrics_of(tmp_path / "CLF")["subgroups"]
    assert [item["key"] for item in found] == ["sex", "age"]
    assert list(found[0]["groups"]) == ["F", "M"] and len(found[1]["groups"]) == 4
    page = (tmp_path / "CLF" / "report.html").read_text()
    assert "Subgroups by age" in page and "20 to 31" in page
    assert medart(*call, "--by", "sex", "--by", "age")[1] == stdout  # finished, and answered so
    code, _, stderr = medart(*call, "--by", "sexx")
    assert code == 2
    assert "no row of the test set has a value there; there are age, sex" in stderr


def fine_tune(sets, backbone, out, *more):
    return (
        "classify", sets["train"], "--test", sets["test"], "--synthetic", sets["few"],
        "--regimes", "real,mix,pretrain", "--seeds", 2, "--epochs", 2, "--out", out,
        *options(backbone, *more),
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(sets, backbone, tmp_path_factory):
    """All fine-tuned regimes, run once without a break."""
    from medart_cli.cli import main

    out = tmp_path_factory.mktemp("runs") / "CLF"
    with pytest.raises(SystemExit) as ended:
        main([str(item) for item in fine_tune(sets, backbone, out)])
    assert not ended.value.code
    return out


def test_fine_tuning_in_all_regimes_compares_them_to_real(finished):
    metrics = read(finished / "metrics.json")
    assert list(metrics["regimes"]) == ["real", "control", "mix", "pretrain"]
    assert metrics["regimes"]["real"]["difference_to_real"] == {}
    assert metrics["regimes"]["control"]["difference_to_control"] == {}
    assert metrics["regimes"]["mix"]["difference_to_control"]["accuracy"].keys() >= {"low", "high"}
    assert metrics["regimes"]["mix"]["train_images"] == [36 + 12]
    assert len(metrics["regimes"]["pretrain"]["train_images"]) == 2
    assert metrics["regimes"]["mix"]["verdict"] in ("better", "worse", "no difference shown")
    chosen = metrics["classifier"]["regime"]
    copied = (finished / "model.safetensors").read_bytes()
    assert copied == (finished / "regimes" / chosen / "model" / "model.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_result_whatever_else_is_trained(
    finished, medart, sets, backbone, tmp_path
):
    command = [str(item) for item in fine_tune(sets, backbone, tmp_path / "again")]
    command[command.index("real,mix,pretrain")] = "pretrain"
    code, _, stderr = medart(*command)
    assert code == 0, stderr
    for name in ("seed-0.json", "seed-1.json", "model/model.safetensors"):
        path = Path("regimes", "pretrain", name)
        assert (tmp_path / "again" / path).read_bytes() == (finished / path).read_bytes()
    first, second = (read(finished / "regimes/pretrain" / f"seed-{i}.json") for i in (0, 1))
    assert first["probabilities"] != second["probabilities"]


def test_all_regimes_but_real_take_the_same_number_of_steps(finished):
    steps = {name: item["steps"] for name, item in metrics_of(finished)["regimes"].items()}
    assert steps == {"real": [2 * 2], "control": [2 * 2], "mix": [2 * 2], "pretrain": [2, 4]}
    report = (finished / "report.html").read_text()
    assert "difference to control" in report and "NOT EQUAL" not in report


def test_real_is_the_same_to_the_bit_without_synthetic_images(
    finished, medart, sets, backbone, tmp_path
):
    code, _, stderr = medart(
        "classify", sets["train"], "--test", sets["test"], "--seeds", 2, "--epochs", 2,
        "--out", tmp_path / "alone", *options(backbone),
    )  # fmt: skip
    assert code == 0, stderr
    for name in ("seed-0.json", "seed-1.json", "model/model.safetensors"):
        path = Path("regimes", "real", name)
        assert (tmp_path / "alone" / path).read_bytes() == (finished / path).read_bytes()


@pytest.fixture(scope="session")
def copies(sets):
    """Five copies of each training image with other bytes: a synthetic set that adds nothing."""
    folder, lines = sets["train"].parent / "copies", []
    folder.mkdir()
    for row in map(json.loads, (sets["train"] / "metadata.jsonl").read_text().splitlines()):
        for number in range(5):
            name = f"{number}-{row['file_name']}"
            with Image.open(sets["train"] / row["file_name"]) as image:
                image.save(folder / name, compress_level=number)
            lines.append(json.dumps({**row, "file_name": name, "synthetic": True}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_copies_of_the_training_images_help_no_probe(medart, sets, copies, backbone, tmp_path):
    code, _, stderr = medart(
        "classify", sets["train"], "--test", sets["test"], "--synthetic", copies, *FROZEN,
        "--out", tmp_path / "CLF", *options(backbone),
    )  # fmt: skip
    assert code == 0, stderr
    metrics = metrics_of(tmp_path / "CLF")
    assert list(metrics["regimes"]) == ["real", "synthetic", "mix"]
    known = read(tmp_path / "CLF/regimes/real/seed-0.json")["probabilities"]
    for name in ("synthetic", "mix"):
        found = read(tmp_path / f"CLF/regimes/{name}/seed-0.json")["probabilities"]
        np.testing.assert_allclose(found, known, atol=2e-3)
        assert metrics["regimes"][name]["verdict"] == "no difference shown"


@pytest.mark.parametrize("equal", ["steps", "epochs"])
def test_a_phase_is_as_long_as_equal_says(equal, sets, copies, tmp_path):
    def images_of(rows):
        labels = torch.tensor([CLASSES.index(label) for label in labels_of(rows)])
        empty = np.zeros((len(labels), 1), np.float32), torch.zeros(len(labels), 3, 1, 1)
        return Images(rows, labels, *empty)

    config = ClassifyConfig(
        data=str(sets["train"]), test=str(sets["test"]), synthetic=str(copies), equal=equal,
        out=tmp_path / "x", ratio=2.0, batch_size=10, epochs=3,
    )  # fmt: skip
    images = {name: images_of(rows) for name, rows in read_sets(config).rows.items()}
    steps = {
        name: [classify.count_phase_steps(config, phase) for phase in phases]
        for name in config.chosen_regimes
        for phases in [classify.plan_phases(config, name, 0, images)]
    }
    real, mix, own = 3 * 4, 3 * 11, 3 * 18  # 36, 36 + 72 and 180 images in batches of 10
    if equal == "steps":
        assert steps == {
            "real": [real], "control": [mix], "synthetic": [mix], "mix": [mix],
            "pretrain": [3 * 8, real],
        }  # fmt: skip
    else:
        assert steps == {
            "real": [real], "synthetic": [own], "mix": [mix], "pretrain": [own, real]
        }  # fmt: skip


@pytest.fixture
def signals():
    """Put the handlers of the stop signals back after a test."""
    old = {number: signal.getsignal(number) for number in stop.SIGNALS}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


def test_stopped_and_resumed_equals_uninterrupted(
    finished, medart, sets, backbone, tmp_path, monkeypatch, signals
):
    out = tmp_path / "stopped"

    def write_and_stop(path, text):
        report.write_text(path, text)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(classify, "write_text", write_and_stop)
        code, stdout, stderr = medart(*fine_tune(sets, backbone, out))
    assert (code, stdout) == (75, "")
    assert "stopped by SIGTERM; run the same command again to resume" in stderr
    (first,) = out.rglob("seed-*.json")
    assert not (out / "metrics.json").exists()
    kept = first.stat().st_mtime_ns
    code, _, stderr = medart(*fine_tune(sets, backbone, out))
    assert code == 0, stderr
    assert first.stat().st_mtime_ns == kept  # not trained again
    for name in ("predictions.jsonl", "model.safetensors"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_a_folder_of_other_settings_or_images_is_refused(medart, sets, backbone, tmp_path):
    out = tmp_path / "CLF"
    train = ("classify", sets["train"], "--test", sets["test"], *FROZEN, "--out", out)
    assert medart(*train, *options(backbone))[0] == 0
    code, _, stderr = medart(*train, *options(backbone, "--balance", "none"))
    assert code == 2
    assert "balance was 'weights' and is now 'none'" in stderr
    code, _, stderr = medart(
        "classify", sets["train"], "--test", sets["more"].parent / "test", *FROZEN, "--out", out,
        *options(backbone),
    )  # fmt: skip
    assert code == 0
    other = draw_set(tmp_path / "other", 10, seed=9)
    code, _, stderr = medart(
        "classify", other, "--test", sets["test"], *FROZEN, "--out", out, *options(backbone)
    )
    assert code == 2
    assert "was written with other images: row 1 was" in stderr


def test_prediction_alone_writes_a_manifest_with_probabilities_and_resumes(
    medart, finished, sets, tmp_path
):
    out = tmp_path / "predictions"
    predict = ("classify", "--checkpoint", finished, sets["test"], "--out", out, "--device", "cpu")
    code, stdout, stderr = medart(*predict, "--json")
    assert code == 0, stderr
    summary = json.loads(stdout)
    assert summary["images"] == 120
    path = out / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)
    tested = [json.loads(line) for line in (finished / "predictions.jsonl").open()]
    chosen = read(finished / "metrics.json")["classifier"]
    known = {
        row["file_name"]: row["probabilities"]
        for row in tested
        if (row["regime"], row["seed"]) == (chosen["regime"], chosen["seed"])
    }
    assert rows[7]["probabilities"] == pytest.approx(known[rows[7]["file_name"]], abs=5e-3)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # as a crash leaves it
    assert medart(*predict)[0] == 0
    assert path.read_bytes() == whole


def test_predictions_follow_the_content_of_images_and_classifier_not_their_paths(
    medart, finished, tmp_path
):
    data = draw_set(tmp_path / "data", 2)
    classifier = shutil.copytree(finished, tmp_path / "clf")
    out = tmp_path / "out"
    predict = ("classify", "--checkpoint", classifier, data, "--out", out, "--json")

    def run(code=0):
        ended, output, errors = medart(*predict)
        assert ended == code, errors
        lines = (out / "predictions.jsonl").read_text().splitlines()
        return {row["file_name"]: row for row in map(json.loads, lines)}, errors

    first, _ = run()
    one, two, three = sorted(first)[:3]
    shutil.copy(data / two, data / one)  # another image under the same name
    (data / "metadata.jsonl").write_text(
        "".join(
            line for line in (data / "metadata.jsonl").open() if f'"{three}"' not in line
        ).replace('"group_id"', '"patient"')
    )
    second, errors = run()
    assert second[one]["probabilities"] == pytest.approx(first[two]["probabilities"], abs=1e-5)
    assert three not in second and "2 predictions are of images that have changed" in errors
    unchanged = second.keys() - {one, two}
    assert all(second[name]["probabilities"] == first[name]["probabilities"] for name in unchanged)

    weights = load_file(classifier / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()},
              classifier / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    _, errors = run(code=2)
    assert "its classifier changed" in errors
    shutil.rmtree(classifier)
    moved = shutil.copytree(finished, tmp_path / "moved")
    predict = (*predict[:2], moved, *predict[3:])
    assert run()[0] == second


def test_labels_of_other_classes_are_predicted_but_not_scored(medart, finished, tmp_path):
    data = draw_set(tmp_path / "data", 1)
    text = (data / "metadata.jsonl").read_text().replace("monocyte", "dragon")
    (data / "metadata.jsonl").write_text(text)
    code, stdout, stderr = medart(
        "classify", "--checkpoint", finished, data, "--out", tmp_path / "out", "--json"
    )
    assert code == 0
    assert json.loads(stdout)["accuracy"] is None
    known = "basophil, lymphocyte, monocyte"
    assert f"label 'dragon' is not a class of the classifier ({known})" in stderr


def test_a_broken_image_is_named_counted_and_left_out(medart, backbone, tmp_path):
    train, test = draw_set(tmp_path / "a", 6), draw_set(tmp_path / "b", 6, seed=5)
    (train / "0.png").write_bytes(b"no image")
    (test / "4.png").unlink()
    run = ("classify", train, "--test", test, *FROZEN, "--out", tmp_path / "CLF", "--json")
    code, stdout, stderr = medart(*run, *options(backbone))
    assert code == 3
    assert f"{train / '0.png'}: is not an image of a known format" in stderr
    assert f"{test / '4.png'}: cannot be read" in stderr
    assert json.loads(stdout)["failures"] == 2
    code, *_ = medart(*run, *options(backbone, "--max-failures", "2"))
    assert code == 0


def test_a_leak_that_was_allowed_stands_first_in_the_results(medart, sets, backbone, tmp_path):
    run = tmp_path / "RUN"
    run.mkdir()
    (run / "training_hashes.txt").write_text(hash_file(sets["test"] / "0.png") + "\n")
    command = (
        "classify", sets["train"], "--test", sets["test"], "--synthetic", sets["few"], *FROZEN,
        "--run", run, "--out", tmp_path / "CLF", *options(backbone),
    )  # fmt: skip
    code, _, stderr = medart(*command)
    assert code == 2
    assert "the generator of --synthetic was trained on this test image (on 1 of 120" in stderr
    code, _, stderr = medart(*command, "--allow-leak")
    assert code == 0, stderr
    checks = read(tmp_path / "CLF" / "metrics.json")["checks"]
    assert checks["generator_leak"] == {
        "checked": True, "test_images": 1, "outside_budget": None, "other_images": 0,
    }  # fmt: skip
    page = (tmp_path / "CLF" / "report.html").read_text()
    assert "</span> The generator was trained on 1 of the test images" in page


def test_one_image_a_class_is_enough_to_learn_from(medart, sets, backbone, tmp_path):
    code, _, stderr = medart(
        "classify", sets["train"], "--test", sets["test"], "--label-budget", 1, "--seeds", 2,
        "--epochs", 1, "--out", tmp_path / "CLF", *options(backbone),
    )  # fmt: skip
    assert code == 0, stderr
    real = read(tmp_path / "CLF" / "metrics.json")["regimes"]["real"]
    assert (real["train_images"], real["val_images"]) == ([3], [0])


def test_a_backbone_of_transformers_is_trained_and_written_in_its_own_layout(
    medart, sets, tmp_path
):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=16, num_labels=5,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    out = tmp_path / "CLF"
    code, _, stderr = medart(
        "classify", sets["train"], "--test", sets["test"], "--seeds", 1, "--epochs", 1,
        "--out", out, *options(tmp_path / "vit"),
    )  # fmt: skip
    assert code == 0, stderr
    row = json.loads((out / "predictions.jsonl").read_text().splitlines()[0])
    pipe = transformers.pipeline("image-classification", str(out), device="cpu")
    answers = pipe(str(sets["test"] / row["file_name"]), top_k=3)
    found = {answer["label"]: answer["score"] for answer in answers}
    assert found == pytest.approx(row["probabilities"], abs=5e-3)


def test_held_out_images_choose_the_epoch(medart, sets, backbone, tmp_path):
    code, _, stderr = medart(
        "classify", sets["more"].parent / "test", "--test", sets["train"], "--seeds", 1,
        "--epochs", 3, "--val-fraction", 0.3, "--learning-rate", 10, "--label-smoothing", 0,
        "--out", tmp_path / "CLF", *options(backbone),
    )  # fmt: skip
    assert code == 0, stderr
    result = read(tmp_path / "CLF" / "regimes" / "real" / "seed-0.json")
    assert result["val_images"][0] >= 30
    assert result["training"][0]["best_epoch"] == 0  # so high a rate only destroys


def test_regimes_that_cannot_be_are_refused(medart, sets, tmp_path):
    run = ("classify", sets["train"], "--out", tmp_path / "x")
    synthetic = ("--synthetic", sets["more"])
    for more, message in (
        (("--regimes", "mix"), "--regimes mix: needs --synthetic"),
        (("--regimes", "magic"), "--regimes magic: there are real, control, synthetic, mix"),
        ((*synthetic, *FROZEN, "--regimes", "pretrain"), "--regimes pretrain: has no effect"),
        ((*synthetic, *FROZEN, "--regimes", "control"), "--regimes control: has no effect"),
        ((*synthetic, "--equal", "epochs", "--regimes", "control"), "--regimes control: is real"),
        ((*synthetic, "--checkpoint", "x"), "--synthetic: has no effect with --checkpoint"),
        (("--test-fraction", "1"), "--test-fraction must be between 0 and 1, got 1.0"),
        (("--seeds", "0"), "--seeds must be 1 or more, got 0"),
    ):
        code, _, stderr = medart(*run, *more)
        assert code == 2
        assert f"medart classify: {message}" in stderr


def test_options_that_change_nothing_are_refused_with_the_reason(medart, sets, tmp_path):
    run = ("classify", sets["train"], "--out", tmp_path / "x")
    settings = tmp_path / "settings.toml"
    settings.write_text("freeze = true\nepochs = 3\nseeds = 5\n")
    synthetic, frozen = ("--synthetic", sets["more"]), "with --freeze, which fits the last layer"
    for more, message in (
        (("--freeze", "--seeds", "3"), "--seeds: has no effect with --freeze, where all seeds"),
        (("--freeze", "--epochs", "15"), f"--epochs: has no effect {frozen}"),  # the default
        (("--freeze", "--no-augment"), f"--augment: has no effect {frozen}"),
        (("--config", settings, "--epochs", "4"), f"--epochs: has no effect {frozen}"),
        (("--freeze", "--balance", "sampling"), "--balance sampling: nothing is sampled"),
        (("--checkpoint", "x", "--epochs", "3"), "--epochs: has no effect with --checkpoint"),
        (("--checkpoint", "x", "--freeze"), "--freeze: has no effect with --checkpoint"),
        (("--ratio", "2"), "--ratio: has no effect without --synthetic"),
        (("--bootstrap", "300"), "--bootstrap: has no effect where no regimes are compared"),
        (("--test", "x", "--test-fraction", "0.3"), "--test-fraction: has no effect with --test"),
        (("--val-fraction", "0", "--patience", "2"), "--patience: has no effect with --val-frac"),
        (("--no-augment", "--profile", "dermoscopy"), "--profile: has no effect with --no-aug"),
        ((*synthetic, "--freeze", "--regimes", "real,synthetic", "--ratio", "1"),
         "--ratio: has no effect without the regime mix"),
        (("--learning-rate", "0"), "--learning-rate 0 would train nothing"),
        ((*synthetic, "--ratio", "0"), "--ratio 0: leaves no synthetic image to mix"),
    ):  # fmt: skip
        code, _, stderr = medart(*run, *more)
        assert code == 2, more
        assert f"medart classify: {message}" in stderr
        assert stderr.count("\n") == 1


@pytest.mark.parametrize("mode", ["freeze", "fine-tune", "checkpoint"])
def test_every_option_that_is_not_refused_is_looked_at(
    mode, finished, sets, backbone, tmp_path, monkeypatch
):
    more = {"test": str(sets["test"]), "synthetic": str(sets["few"]), "backbone": str(backbone)}
    if mode == "checkpoint":
        more = {"checkpoint": finished}
    elif mode == "freeze":
        more |= {"freeze": True, "workers": 0}
    else:
        more |= {"epochs": 1, "seeds": 1, "regimes": "real,mix"}
    config = ClassifyConfig(data=str(sets["train"]), out=tmp_path / "CLF", device="cpu", **more)
    settings, looked_at = config.settings(), set()
    monkeypatch.setattr(ClassifyConfig, "settings", lambda self: settings)
    with monkeypatch.context() as patch:
        plain = object.__getattribute__
        patch.setattr(
            ClassifyConfig, "__getattribute__",
            lambda self, name: looked_at.add(name) or plain(self, name),
        )  # fmt: skip
        run(config)
    idle = {name for applies, _, names in config.list_idle() if applies for name in names.split()}
    outside = {"config", "json", "quiet", "verbose", "max_failures"}  # cli.py reads these
    outside |= {"allow_leak", "duplicates"}  # looked at where there are such images
    outside |= {"offline"} if mode == "checkpoint" else set()  # nothing is fetched then at all
    assert {field.name for field in fields(config)} - idle - outside <= looked_at


def test_a_ratio_limits_the_synthetic_images_of_mix(medart, sets, backbone, tmp_path):
    code, _, stderr = medart(
        "classify", sets["train"], "--test", sets["test"], "--synthetic", sets["more"], *FROZEN,
        "--regimes", "mix", "--ratio", 0.5, "--seeds", 1, "--out", tmp_path / "CLF",
        *options(backbone),
    )  # fmt: skip
    assert code == 0, stderr
    mix = read(tmp_path / "CLF" / "metrics.json")["regimes"]["mix"]
    assert mix["train_images"] == [36 + 18]
    assert mix["verdict"] == ""  # nothing to compare with


@pytest.mark.skipif(
    not (Path(__file__).parents[3] / "shared/data/pbc_blood_cells").is_dir(),
    reason="the shared images are not here",
)
def test_the_embedded_backbone_tells_two_kinds_of_blood_cells_apart(medart, tmp_path):
    data = Path(__file__).parents[3] / "shared/data/pbc_blood_cells"
    for part, first in (("train", 0), ("test", 8)):
        for label in ("platelet", "eosinophil"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for path in sorted((data / label).iterdir())[first : first + 8]:
                shutil.copy(path, folder)
    code, stdout, stderr = medart(
        "classify", tmp_path / "train", "--test", tmp_path / "test", *FROZEN, "--image-size", 96,
        "--out", tmp_path / "CLF", "--json", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, stderr
    assert json.loads(stdout)["regimes"]["real"]["mean"] >= 0.9
    hashes = {json.loads(line)["sha256"] for line in (tmp_path / "CLF" / "split.jsonl").open()}
    assert hash_file(next((tmp_path / "train" / "platelet").iterdir())) in hashes


SEPARATORS = "one\N{LINE SEPARATOR}two\N{PARAGRAPH SEPARATOR}three\x85four\x0cfive\x1csix"


def test_separators_within_texts_end_no_line_of_predictions(medart, finished, tmp_path):
    data = draw_set(tmp_path / "data", 2, note=SEPARATORS)
    lines = (data / "metadata.jsonl").read_text().split("\n")[:-1]
    plain = [json.dumps(json.loads(line), ensure_ascii=False) for line in lines]
    (data / "metadata.jsonl").write_text("\n".join(plain) + "\n", "utf-8")
    predict = ("classify", "--checkpoint", finished, data, "--out", tmp_path / "out", "--json")
    for _ in range(2):  # and again, when all rows are there
        code, stdout, stderr = medart(*predict)
        assert code == 0, stderr
        assert json.loads(stdout)["images"] == 6
    with (tmp_path / "out" / "predictions.jsonl").open(encoding="utf-8") as file:
        assert [json.loads(line)["note"] for line in file] == [SEPARATORS] * 6


def test_separators_within_names_end_no_line_of_the_split(medart, sets, backbone, tmp_path):
    train = draw_set(tmp_path / "train", 4, group_id=lambda index: f"{SEPARATORS} {index}")
    run = ("classify", train, "--test", sets["test"], *FROZEN, "--out", tmp_path / "CLF")
    for _ in range(2):
        code, _, stderr = medart(*run, *options(backbone))
        assert code == 0, stderr
