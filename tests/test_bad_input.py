"""Bad requests: each ends in one line that names place, fault and mend, with the right code."""

import json
import shutil
import sys

import pytest
from PIL import Image

HLDF = ("--hldf-every", 1)
OPTIONS = ("--resolution", 16, "--steps", 1, "--hldf-every", 0, "--preview-every", 0, "--quiet")


@pytest.fixture
def place(tmp_path, images, small_base):
    """A folder with bad things of many kinds in it."""
    shutil.copytree(images, tmp_path / "good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no image")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "bad.toml").write_text("rank = = 4")
    (tmp_path / "unknown.toml").write_text("rnk = 4")
    (tmp_path / "nested.toml").write_text("[rank]\nvalue = 4")
    (tmp_path / "kind.toml").write_text('rank = "many"')
    (tmp_path / "profile.toml").write_text('simple = "An image"')
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"na\xefve\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("do not touch")
    for name, line in {
        "noname": {"text": "a"},
        "outside": {"file_name": "../good/nevus/1.png"},
        "absolute": {"file_name": "/etc/hostname"},
        "wrongtext": {"file_name": "a.png", "text": 3},
        "split": {"file_name": "a.png", "split": "training"},
        "missing": {"file_name": "a.png", "text": "x"},
        "tests": {"file_name": "good/nevus/1.png", "split": "test"},
    }.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "gone.jsonl").write_text(
        '{"file_name": "a.png"}\n{"file_name": "good/nevus/1.png", "split": "test"}\n'
    )
    (tmp_path / "broken.jsonl").write_text('{"file_name": "a.png"}\n{"file_name": \n')
    shutil.copytree(small_base, tmp_path / "halfbase")
    shutil.rmtree(tmp_path / "halfbase" / "vae")
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png")
    return tmp_path


FINETUNE = [
    ("nowhere", (), 2, "nowhere: no such folder or manifest"),
    ("empty", (), 2, "empty: contains neither metadata.jsonl nor an image"),
    ("texts", (), 2, "texts: contains neither metadata.jsonl nor an image"),
    ("broken", (), 2, "none of its 1 images can be read"),
    ("image.png", (), 2, "image.png: is a PNG image, not a manifest; use the folder that contains"),
    ("noname.jsonl", (), 2, "noname.jsonl:1: no file_name"),
    ("outside.jsonl", (), 2, "outside.jsonl:1: file_name"),
    ("absolute.jsonl", (), 2, "absolute.jsonl:1: file_name"),
    ("wrongtext.jsonl", (), 2, "wrongtext.jsonl:1: text must be str"),
    ("split.jsonl", (), 2, "split.jsonl:1: split must be train, val or test"),
    ("broken.jsonl", (), 2, "broken.jsonl:2: is not"),
    (
        "missing.jsonl",
        (),
        2,
        "missing.jsonl: none of its images exists, such as a.png; file names",
    ),
    ("gone.jsonl", (), 2, "gone.jsonl: none of its 1 training images can be opened"),
    ("tests.jsonl", (), 2, "tests.jsonl: no training image"),
    ("good", ("--base", "{place}/nobase"), 4, "nobase: no such folder, and not a hub id"),
    ("good", ("--base", "{place}/good"), 4, "no readable model_index.json"),
    ("good", ("--base", "{place}/halfbase"), 4, "the folder vae is missing"),
    ("good", ("--base", "PixArt-alpha/none", "--offline"), 4, "not in the local cache"),
    ("good", ("--resolution", 20), 2, "--resolution must be a multiple of 8, 16 or more, got 20"),
    ("good", ("--resolution", 0), 2, "--resolution must be"),
    ("good", ("--rank", 0), 2, "--rank must be 1 or more, got 0"),
    ("good", ("--learning-rate", "nan"), 2, "--learning-rate must be 0 or more, got nan"),
    ("good", ("--learning-rate", "fast"), 2, "--learning-rate fast: must be a number"),
    ("good", ("--caption-dropout", 1.5), 2, "--caption-dropout must be 1 or less, got 1.5"),
    ("good", ("--ema", 1), 2, "--ema must be below 1"),
    (
        "good",
        (*HLDF, "--hldf-grad-steps", 30),
        2,
        "--hldf-grad-steps 30 is more than --hldf-steps 12",
    ),
    ("good", (*HLDF, "--hldf-weight", 0), 2, "--hldf-weight 0 would train nothing"),
    ("good", (*HLDF, "--hldf-draws", 1), 2, "--hldf-draws must be 2 or more, got 1"),
    ("good", (*HLDF, "--hldf-grad-draws", 3), 2, "--hldf-grad-draws 3 is more than --hldf-draws 2"),
    (
        "good",
        (*HLDF, "--hldf-loss", "published", "--hldf-draws", 2),
        2,
        "--hldf-draws: --hldf-loss published has one image for each caption",
    ),
    ("good", ("--method", "magic"), 2, "--method magic: not one of lora"),
    ("good", ("--device", "tpu"), 2, "--device tpu: not auto, cpu, cuda or cuda:N"),
    ("good", ("--device", "cuda:"), 2, "--device cuda:: not auto, cpu, cuda or cuda:N"),
    ("good", ("--device", "cuda:77"), 2, "--device cuda:77: PyTorch sees"),
    ("good", ("--precision", "fp16", "--device", "cpu"), 2, "--precision fp16"),
    ("good", ("--precision", "fp16"), 2, "--precision fp16: overflows in text encoders"),
    ("good", ("--min-snr", 0), 2, "--min-snr 0 would train nothing"),
    ("good", ("--offline", "--log-with", "wandb"), 2, "only tensorboard"),
    ("good", ("--profile", "astrology"), 2, "--profile astrology: no such profile"),
    ("good", ("--profile", "{place}/profile.toml"), 2, "needs simple ="),
    ("good", ("--config", "nothing"), 2, "packaged recipes: low-memory, paper"),
    ("good", ("--config", "{place}/bad.toml"), 2, "bad.toml: cannot be read as TOML"),
    ("good", ("--config", "{place}/unknown.toml"), 2, "no option rnk; did you mean rank?"),
    ("good", ("--config", "{place}/nested.toml"), 2, "rank is a table"),
    (
        "good",
        ("--config", "{place}/kind.toml"),
        2,
        "kind.toml: --rank many: must be a whole number",
    ),
    ("good", ("--out", "{place}/file"), 2, "file: cannot be used as output folder"),
    ("good", ("--out", "{place}/file/run"), 2, "cannot be used as output folder"),
    ("good", ("--out", "{place}/full"), 2, "full: is not empty and was not written by medart"),
    ("good", ("--out", "{place}/full", "--overwrite"), 2, "was not written by medart"),
    ("good", ("--log-with", "abacus"), 2, "--log-with abacus: accelerate knows no such tracker"),
    ("good", ("--targets", "to_q"), 2, "No such option: --targets"),
    ("good", ("--optimizer", "adamw8bit"), 2, "bitsandbytes"),
]


@pytest.mark.parametrize(("data", "options", "code", "message"), FINETUNE, ids=lambda item: None)
def test_finetune_says_what_is_wrong(
    medart, place, monkeypatch, small_base, data, options, code, message
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    given = [str(option).replace("{place}", str(place)) for option in options]
    check(
        medart(
            "finetune", place / data, "--base", small_base, "--out", place / "run", *OPTIONS, *given
        ),
        code,
        message,
    )
    assert (place / "full" / "thesis.doc").read_text() == "do not touch"


SAMPLE = [
    ("{place}/nowhere", ("--prompt", "a"), 4, "nowhere: no such folder; RUN is a run folder that"),
    ("runs/a", ("--prompt", "a", "--offline"), 4, "copy FOLDER here and give it as RUN"),
    ("{place}/empty", ("--prompt", "a"), 4, "no readable model_index.json"),
    ("{base}", (), 2, "exactly one of --prompt, --prompts and --from"),
    ("{base}", ("--prompt", "a", "--from", "{place}/good"), 2, "exactly one of"),
    ("{base}", ("--prompts", "{place}/none.txt"), 2, "none.txt: cannot be read"),
    ("{base}", ("--prompts", "{place}/blank.txt"), 2, "contains no prompt"),
    ("{base}", ("--prompts", "{place}/latin.txt"), 2, "latin.txt: cannot be read"),
    ("{base}", ("--prompt", "\udcff"), 2, "--prompt: is not valid text"),
    ("{base}", ("--prompt", "a", "--guidance", 0.5), 2, "--guidance must be 1 or more"),
    ("{base}", ("--prompt", "a", "--steps", 0), 2, "--steps must be 1 or more, got 0"),
    ("{base}", ("--prompt", "a", "--per-label", 2), 2, "--per-label needs --from"),
    ("{base}", ("--from", "{place}/image.png"), 2, "image.png: is a PNG image, not a manifest"),
    ("{base}", ("--prompts", "{place}/image.png"), 2, "image.png: is a PNG image, not text"),
    ("{base}", ("--from", "{place}/missing.jsonl", "--per-label", 2), 2, "no row has a label"),
    ("{base}", ("--prompt", "a", "--merge-to", "{place}/good"), 2, "good: exists already"),
]


@pytest.mark.parametrize(("run", "options", "code", "message"), SAMPLE, ids=lambda item: None)
def test_sample_says_what_is_wrong(medart, place, small_base, run, options, code, message):
    given = [
        str(option).replace("{place}", str(place)).replace("{base}", str(small_base))
        for option in (run, *options)
    ]
    result = medart("sample", *given, "--out", place / "syn", "--resolution", 16, "--quiet")
    check(result, code, message)


def check(result, code, message):
    ended, output, errors = result
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert ended == code, errors
    assert output == ""
    assert len(lines) == 1, errors
    assert lines[0].startswith("medart")
    assert message in lines[0]
