"""A manifest on standard input, whose file names are relative to the working folder or --root."""

import io
import sys
from types import SimpleNamespace

import pytest

LINES = b'{"file_name": "nevus/1.png", "text": "a", "label": "nevus"}\n' * 3


@pytest.fixture
def given(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def give(lines):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))

    give(LINES)
    return give


@pytest.mark.parametrize(
    "words",
    [("finetune", "-", "--out", "run"), ("evaluate", "-", "{images}", "--out", "report"),
     ("evaluate", "{images}", "-", "--out", "report"), ("classify", "-", "--out", "clf"),
     ("classify", "{images}", "--test", "-", "--out", "clf"),
     ("caption", "-", "--style", "simple", "--out", "m.jsonl")],
    ids=" ".join,
)  # fmt: skip
def test_images_that_are_elsewhere_are_one_line_that_names_root(
    words, given, medart, images, tmp_path
):
    code, output, errors = medart(*(word.replace("{images}", str(images)) for word in words))
    lines = [line for line in errors.splitlines() if line.startswith(("warning", "medart"))]
    assert (code, output, len(lines)) == (2, "", 1), errors
    assert lines[0] == (
        f"medart {words[0]}: standard input: none of its images exists, such as nevus/1.png; file "
        f"names are relative to the working folder, {tmp_path}; give the right folder with --root"
    )
    assert not [*tmp_path.iterdir()]


def test_texts_alone_are_drawn_without_their_images(given, medart, small_base, tmp_path):
    drawn = ("sample", small_base, "--from", "-", "--out", tmp_path / "syn", "--resolution", 16)
    code, _, errors = medart(*drawn, "--steps", 1, "--quiet")
    assert code == 0, errors
    assert len([*(tmp_path / "syn").glob("0*.png")]) == 3


def test_a_wrong_root_is_said_too(given, medart, images, tmp_path):
    code, _, errors = medart("finetune", "-", "--root", tmp_path, "--out", "run", "--quiet")
    assert code == 2 and f"are relative to --root {tmp_path}; give the right" in errors
