import json
import sys
from io import BytesIO, TextIOWrapper

import pytest
import torch
from PIL import Image

from medart_cli import stop
from medart_cli.data.dataset import read_data
from medart_cli.models import pixart

QUICK = ("--steps", 3, "--resolution", 16, "--quiet")


def pictures(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("0*.png"))}


def levels(path):
    image = Image.open(path)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int()


@pytest.fixture
def sample(medart, small_base, tmp_path):
    def run(*options, out="syn", source=small_base, code=0):
        ended, output, errors = medart("sample", source, "--out", tmp_path / out, *QUICK, *options)
        assert ended == code, errors
        return tmp_path / out, output, errors

    return run


def test_captions_of_a_folder_become_images_with_their_story(sample, images):
    out, output, _ = sample("--from", images, "--count", 5, "--seed", 3)
    assert output == f"{out}\n"
    records = list(read_data(out))
    assert [record.file_name for record in records] == [f"{i:06d}.png" for i in range(5)]
    for row, record in enumerate(records):
        assert record.synthetic
        assert record.text == f"A medical image of {record.label}"
        made = json.loads(Image.open(record.path).text["medart"])
        assert made["prompt"] == record.text
        assert (made["seed"], made["row"], made["steps"], made["guidance"]) == (3, row, 3, 4.5)
        assert made["synthetic"] is True
        assert len(made["run"]) == 64
    assert Image.open(out / "contact-sheet.png").size == (3 * 18 - 2, 2 * 18 - 2)
    assert {record.label for record in records} == {"melanoma", "nevus"}


def test_images_are_the_same_wherever_the_text_encoder_waits(sample, fetched):
    found = []
    for value in ("none", "text-encoder-layers", "text-encoder"):
        words = ("--prompt", "red lesion", "--prompt", "blue cell", "--offload", value)
        out, _, _ = sample(*words, "--device", "cpu", out=value)
        found.append(pictures(out))
    assert len(found[0]) == 2 and found[0] == found[1] == found[2]
    assert fetched == ["T5EncoderModel"]


@pytest.mark.parametrize(
    ("value", "more", "message"),
    [
        ("text-encoder-layers", ["--base-format", "nf4"], "layers in nf4 cannot be moved"),
        ("text-encoder", ["--precision", "fp16"], "not with --precision fp16"),
    ],
)
def test_an_offload_that_cannot_be_is_refused(sample, tmp_path, value, more, message):
    out, _, errors = sample("--prompt", "cell", "--offload", value, *more, code=2)
    assert len(errors.splitlines()) == 1 and f"--offload {value}: {message}" in errors
    assert not out.exists()


def test_every_label_gets_as_many_images(sample, images):
    out, _, _ = sample("--from", images, "--per-label", 3)
    labels = [record.label for record in read_data(out)]
    assert sorted(labels) == ["melanoma"] * 3 + ["nevus"] * 3


def test_prompts_come_from_options_a_file_or_standard_input(sample, tmp_path, monkeypatch):
    out, _, _ = sample("--prompt", "red lesion", "--prompt", "blue cell", "--count", 3)
    assert [r.text for r in read_data(out)] == ["red lesion", "blue cell", "red lesion"]
    (tmp_path / "prompts.txt").write_text("pale skin\n\n  dark nevus \n")
    out, _, _ = sample("--prompts", tmp_path / "prompts.txt", out="file")
    assert [r.text for r in read_data(out)] == ["pale skin", "dark nevus"]
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"pink surface\n")))
    out, _, _ = sample("--prompts", "-", out="stdin")
    assert [r.text for r in read_data(out)] == ["pink surface"]
    line = b'{"file_name": "x.png", "text": "round cell", "label": "cell"}\n'
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(line)))
    out, _, _ = sample("--from", "-", out="manifest")
    assert [r.text for r in read_data(out)] == ["round cell"]


def test_the_batch_size_does_not_change_an_image(sample):
    prompts = [item for text in ("cell", "red lesion with border", "skin") for item in
               ("--prompt", text)]  # fmt: skip
    one, _, _ = sample(*prompts, "--count", 6, "--batch-size", 1, out="one")
    four, _, _ = sample(*prompts, "--count", 6, "--batch-size", 4, out="four")
    for name in pictures(one):
        assert (levels(one / name) - levels(four / name)).abs().max() <= 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(sample):
    first = pictures(sample("--prompt", "cell", "--count", 2, out="a")[0])
    assert pictures(sample("--prompt", "cell", "--count", 2, out="b")[0]) == first
    assert pictures(sample("--prompt", "cell", "--count", 2, "--seed", 1, out="c")[0]) != first


def test_a_stopped_run_goes_on_where_it_was(sample, monkeypatch, tmp_path):
    whole, _, _ = sample("--prompt", "cell", "--count", 5, "--batch-size", 2, out="whole")
    polls = iter(range(10_000))

    def check():
        # before libraries are loaded, twice; two prompts, one batch of three steps, into the next
        if next(polls) == 2 + 2 + 3 + 1:
            raise stop.Stopped("stopped by SIGTERM")

    monkeypatch.setattr(stop, "check", check)
    parts, output, _ = sample("--prompt", "cell", "--count", 5, "--batch-size", 2, code=75)
    assert (output, len(pictures(parts))) == ("", 2)
    monkeypatch.undo()
    with (parts / "metadata.jsonl").open("a") as manifest:
        manifest.write('{"file_name": "0000')  # as a kill in mid-write would leave it
    _, output, errors = sample("--prompt", "cell", "--count", 5, "--batch-size", 2)
    assert "truncated by a crash" in errors
    # The batches lie otherwise after a stop, so the last bit of a float may differ.
    for name in pictures(whole):
        assert (levels(whole / name) - levels(parts / name)).abs().max() <= 1
    assert len(list(read_data(parts))) == 5


def test_a_complete_folder_is_left_as_it_is(sample, monkeypatch):
    first = pictures(sample("--prompt", "cell")[0])
    monkeypatch.setattr(pixart, "load_transformer", None)  # would fail if it were called
    assert pictures(sample("--prompt", "cell")[0]) == first


@pytest.mark.parametrize("gone", ["metadata.jsonl", "000001.png"])
def test_what_is_gone_of_a_finished_folder_is_drawn_again_and_said(sample, gone):
    options = ("--prompt", "cell", "--count", 3, "--batch-size", 2)
    out, _, _ = sample(*options)
    before = pictures(out)
    (out / gone).unlink()
    _, _, errors = sample(*options)
    count = 3 if gone == "metadata.jsonl" else 1
    assert f"was finished, but {count} of its 3 images are missing or not in its" in errors
    assert pictures(out) == before
    assert len(list(read_data(out))) == 3
    assert "was finished" not in sample(*options)[2]


def test_another_prompt_on_the_same_folder_is_refused(sample):
    sample("--prompt", "cell")
    _, _, errors = sample("--prompt", "lesion", code=2)
    assert "was written with other prompts: image 1 is of 'cell'" in errors
    out, _, _ = sample("--prompt", "lesion", "--overwrite")
    assert [r.text for r in read_data(out)] == ["lesion"]


def test_changed_prompts_on_the_same_folder_are_refused(sample, tmp_path):
    (tmp_path / "prompts.txt").write_text("cell\n")
    sample("--prompts", tmp_path / "prompts.txt")
    (tmp_path / "prompts.txt").write_text("lesion\n")
    _, _, errors = sample("--prompts", tmp_path / "prompts.txt", code=2)
    assert "was written with other prompts: image 1 is of 'cell'" in errors


def test_overwrite_never_removes_the_run_it_draws_from(sample, small_base, tmp_path):
    _, _, errors = sample("--prompt", "cell", "--overwrite", out=small_base, code=2)
    assert "which this command reads" in errors
    assert (small_base / "model_index.json").is_file()


def test_a_run_whose_base_was_changed_is_refused(medart, sample, images, tmp_path):
    from tests.small import build_base

    base = build_base(tmp_path / "base")
    options = ("--steps", 1, "--resolution", 16, "--hldf-every", 0, "--preview-every", 0, "-q")
    medart("finetune", images, "--base", base, "--out", tmp_path / "run", *options)
    sample("--prompt", "cell", source=tmp_path / "run", out="fine")
    for path in sorted(base.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    build_base(base, seed=1)
    _, _, errors = sample("--prompt", "cell", source=tmp_path / "run", code=2)
    assert "is not the one that" in errors


def test_no_image_tells_of_the_training_images(sample, images):
    out, _, _ = sample("--from", images, "--count", 2)
    for name in ("000000.png", "000001.png"):
        image = Image.open(out / name)
        assert set(image.info) == {"medart"}


def test_datasets_reads_what_sample_wrote(sample, images):
    from datasets import load_dataset

    out, _, _ = sample("--from", images, "--count", 3)
    rows = load_dataset("imagefolder", data_dir=str(out), split="train")
    texts = [row["text"] for row in rows if row["text"] is not None]
    assert texts == [record.text for record in read_data(out)]
