"""Corrections go out, are made by other programs, and come back: through tables and text files."""

import csv
import json
import shutil
import subprocess

import pytest
from PIL import Image
from typer.testing import CliRunner

from medart_cli.caption.corrections import export_texts, merge_texts, read_texts
from medart_cli.caption.edits import hash_text
from medart_cli.cli import app
from medart_cli.data.manifest import Record
from tests.small import build_base
from tests.stub_server import prompt_of, serve


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("models") / "base"))


@pytest.fixture
def images(tmp_path):
    for number in range(5):
        path = tmp_path / "images" / ("melanoma", "nevus")[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (90 + 30 * number, 80, 60)).save(path)
    return tmp_path / "images"


@pytest.fixture
def ask(base, images):
    """Caption through a stub that words what it is asked with the seed; give result and stub."""

    def run(*options, code=0):
        asked = ("--endpoint", stub.url, "--base", base, "--profile", "dermoscopy")
        result = CliRunner().invoke(app, ["caption", str(images), *asked, *map(str, options)])
        assert result.exit_code == code, result.stderr
        return result.stderr

    with serve(answer) as stub:
        run.stub = stub
        yield run


def answer(body):
    simple = prompt_of(body).split('exactly with: "')[1].split('"')[0]
    return f"{simple}, a round brown spot {body['seed']}."


def rows_of(images):
    return [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]


def read_cells(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_cells(path, cells, **options):
    with path.open("w", newline="", **options) as file:
        writer = csv.DictWriter(file, cells[0], delimiter=";")
        writer.writeheader()
        writer.writerows(cells)


def test_a_table_goes_to_a_spreadsheet_and_back(ask, images, tmp_path):
    table = tmp_path / "captions.csv"
    ask("--export", table)
    before = rows_of(images)
    assert [cells["text"] for cells in read_cells(table)] == [row["text"] for row in before]
    said = ask("--export", table, "--endpoint", "http://127.0.0.1:9/v1")  # nobody is there
    assert "0 of 5 images to caption" in said and len(ask.stub.requests) == 5
    cells = read_cells(table)
    cells[0]["text"] = "A dermoscopic image of melanoma, a blue spot."
    cells[1]["text"] = ""
    del cells[4]
    write_cells(table, cells, encoding="utf-16")
    # Written over is the table only where its corrections are taken.
    assert f"--texts {table} to take them" in ask("--export", table, code=2)
    said = ask("--texts", table)
    assert "1 changed, 0 accepted, 1 rejected, 2 unchanged; 1 images not in the file" in said
    after = rows_of(images)
    assert after[0]["text"] == cells[0]["text"] and after[0]["caption"]["status"] == "edited"
    assert after[1]["caption"]["status"] == "ok" and after[1]["text"] not in ("", before[1]["text"])
    assert after[2:] == before[2:]
    assert len(ask.stub.requests) == 7  # the rejected text came once again, and was refused
    said = ask("--texts", table, "--recaption", "all", "--seed", 1, "--export", table)
    assert rows_of(images)[0] == after[0]  # kept by --recaption all
    assert len(read_cells(table)) == 5


def test_a_rejected_text_does_not_come_back_though_the_model_says_nothing_else(ask, images):
    ask.stub.reply = lambda body: f"{answer(body).split(',')[0]}, a brown spot."
    table = images.parent / "captions.csv"
    ask("--export", table, "--attempts", 2)
    write_cells(table, [cells | {"text": ""} for cells in read_cells(table)[:1]])
    ask("--texts", table, "--attempts", 2)
    assert len(ask.stub.requests) == 5 + 3  # the rejected answer does not count as an attempt
    row = rows_of(images)[0]
    assert row["text"] == "A dermoscopic image of melanoma"
    assert row["caption"]["status"] == "simple"
    assert row["caption"]["faults"] == ["was rejected by a reader"]


def test_text_files_go_to_other_trainers_and_back(ask, images):
    ask("--export", "sidecar")
    before = rows_of(images)
    files = [(images / row["file_name"]).with_suffix(".txt") for row in before]
    assert [file.read_text() for file in files] == [row["text"] + "\n" for row in before]
    files[2].write_text("melanoma, brown, round")
    assert "are kept; take their texts with --texts sidecar" in ask("--export", "sidecar")
    assert "1 texts were changed in sidecar files" in ask("--texts", "sidecar")
    after = rows_of(images)
    assert after[2]["text"] == "melanoma, brown, round"
    assert after[2]["caption"]["status"] == "edited" and after[3:] == before[3:]
    ask("--recaption", "all", "--seed", 1, "--texts", "sidecar", "--export", "sidecar")
    now = rows_of(images)
    assert [row["text"] + "\n" * (n != 2) for n, row in enumerate(now)] == [
        file.read_text() for file in files
    ]
    assert now[0]["text"] != before[0]["text"] and now[2] == after[2]


def test_what_cannot_be_exported_is_refused_before_anything_is_asked(ask, tmp_path):
    assert "must be sidecar or a file ending in .csv" in ask("--export", "t.xlsx", code=2)
    assert "needs all shards" in ask("--export", "sidecar", "--shard", "1/2", code=2)
    assert "there is no folder" in ask("--export", tmp_path / "none" / "t.csv", code=2)
    assert "--texts none.csv: no such file; use a table" in ask("--texts", "none.csv", code=2)
    assert not ask.stub.requests


ODD = ["=1+1", "+4 mm lesion", "-a", "@x", "'=x", 'a "quoted", text; odd', "007", "3-4", "12e45",
       "1/2", "n\u00e4vus \u2013 gr\u00f6\u00dfe", "TRUE", "MAR1", "two  spaces"]  # fmt: skip


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not on this machine")
def test_a_real_spreadsheet_opens_the_table_and_saves_what_stood_there(tmp_path):
    names = ["000", "1.2.826", "=a.png", "-1.png"] + [f"a/{n}.png" for n in range(len(ODD) - 4)]
    rows = [
        Record({"file_name": name, "label": "007", "text": text,
                "caption": {"status": "ok", "text_hash": hash_text(text)}}, tmp_path, "m:1")
        for name, text in zip(names, ODD, strict=True)
    ]  # fmt: skip
    export_texts(tmp_path / "t.csv", rows)
    office = ["soffice", f"-env:UserInstallation={(tmp_path / 'office').as_uri()}", "--headless"]
    for options in (["xlsx", "--infilter=CSV:44,34,76,1"],
                    ["csv:Text - txt - csv (StarCalc):59,34,76"]):  # fmt: skip
        source = tmp_path / ("t.csv" if len(options) == 2 else "t.xlsx")
        out = tmp_path / ("." if len(options) == 2 else "back")
        command = [*office, "--convert-to", *options, "--outdir", out, source]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    saved = (tmp_path / "back" / "t.csv").read_text("utf-8")
    assert ";" in saved.splitlines()[0] and '="007"' not in saved  # saved in its own manner
    assert merge_texts(rows, read_texts(tmp_path / "back" / "t.csv")) == (rows, False)


def test_texts_go_out_and_come_back_without_the_options_that_they_were_made_with(medart, tmp_path):
    folder = tmp_path / "images"
    for number in range(4):
        path = folder / ("nevus", "melanoma")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (90 + number, 60, 40)).save(path)
    code, _, errors = medart("caption", folder, "--style", "simple", "--profile", "dermoscopy")
    assert code == 0, errors
    settings = (folder / "caption.toml").read_bytes()
    table = tmp_path / "captions.csv"
    code, _, errors = medart("caption", folder, "--export", table)
    assert code == 0, errors
    text = table.read_text(encoding="utf-8-sig")
    table.write_text(
        text.replace("image of nevus", "image of nevus that is brown", 1), encoding="utf-8"
    )
    code, _, errors = medart("caption", folder, "--texts", table)
    assert code == 0 and "1 changed" in errors, errors
    assert (folder / "caption.toml").read_bytes() == settings
    assert "dermoscopic structures" in (folder / "review.html").read_text(encoding="utf-8")
    code, _, errors = medart("caption", folder)  # whoever asks for texts is told what differs
    assert code == 2 and "made with other settings: profile was 'dermoscopy'" in errors
