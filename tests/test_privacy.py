"""What images tell of a patient besides their pixels goes into no output, cache or message."""

import base64
import json
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.jobs import ALL, LABELS, build_parts, command
from tests.private import DAY, KINDS, PLANTED, save_private
from tests.stub_server import serve

pytestmark = pytest.mark.charts


def draw_private(folder, seed):
    generator = np.random.default_rng(seed)
    for index in range(10):
        place = folder / LABELS[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.normal((200, 120, 110), 30, (32, 40, 3)).clip(0, 255).astype(np.uint8)
        save_private(place / f"{index}{KINDS[index // 2]}", pixels)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = build_parts(tmp_path_factory.mktemp("parts"))
    for seed, name in enumerate(("images", "test")):
        shutil.rmtree(folder / name)
        draw_private(folder / name, seed)
    return folder


def unpacked(data):
    """Yield bytes, and what is packed inside them: PNG chunks, and base64 of pages and JSON."""
    yield data
    for found in re.finditer(rb"\x89PNG\r\n\x1a\n", data):
        place = found.end()
        while place + 8 <= len(data):
            size, kind = struct.unpack(">I4s", data[place : place + 8])
            chunk, place = data[place + 8 : place + 8 + size], place + size + 12
            for start in range(len(chunk)) if kind in (b"zTXt", b"iTXt", b"iCCP") else ():
                try:
                    yield zlib.decompress(chunk[start:])
                except zlib.error:
                    continue
            if kind == b"IEND":
                break
    for found in re.finditer(rb"base64,([A-Za-z0-9+/=]+)", data):
        yield from unpacked(base64.b64decode(found[1]))


def tells(data):
    """Say whether bytes hold what was planted, in any of its encodings."""
    words = (PLANTED, DAY, "1952:03:11")
    forms = [word.encode(code) for word in words for code in ("utf-8", "utf-16-le", "utf-16-be")]
    return any(form in part for part in unpacked(data) for form in forms)


def test_the_search_finds_what_was_planted_in_each_kind_of_file(parts):
    files = [path for path in (parts / "images").rglob("*") if path.is_file()]
    assert len(files) == 10 and {path.suffix for path in files} == set(KINDS)
    assert all(tells(path.read_bytes()) for path in files)
    page = b"<img src='data:image/png;base64," + base64.b64encode(
        next(path for path in files if path.suffix == ".png").read_bytes()
    )
    assert tells(page)


def test_nothing_of_a_patient_goes_through_the_commands(medart, parts, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDART_CACHE", str(tmp_path / "cache"))
    said = ""
    for stage in ALL:
        words = [word for word in command(stage, parts, tmp_path) if word != "--quiet"]
        if stage == "sample":
            words[1] = str(tmp_path / "run")
        synthetic = str(parts / "synthetic")
        words = [str(tmp_path / "syn") if word == synthetic else word for word in words]
        code, output, errors = medart(*words, "--verbose")
        assert code == 0, errors
        said += output + errors
    assert PLANTED not in said and DAY not in said
    sources = {path.name for path in (parts / "images").rglob("*") if path.is_file()}
    written = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and not (path.parts[-3] == "images" and path.name in sources)
    ]
    assert len(written) > 40
    assert [path for path in written if tells(path.read_bytes())] == []
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert not image.getexif() and "icc_profile" not in image.info
    names = {path.name for path in written}
    assert {"metadata.jsonl", "review.html", "metrics.json", "report.html", "run.json"} <= names


def test_nothing_of_a_patient_is_sent_to_a_server(medart, parts, tmp_path):
    words = command("caption", parts, tmp_path)
    with serve(lambda body: "A medical image of a round spot.") as stub:
        medart("caption", words[1], "--endpoint", stub.url, "--base", parts / "base", "--quiet")
    assert len(stub.requests) >= 10
    for request in stub.requests:
        assert not tells(json.dumps(request).encode())


def test_broken_files_do_not_make_the_messages_tell(medart, parts, tmp_path):
    folder = tmp_path / "torn"
    for path in sorted((parts / "images").rglob("*.*")):
        place = folder / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        (place / path.name).write_bytes(data[: len(data) * 2 // 3])
    code, output, errors = medart("caption", folder, "--style", "simple", "--review", 8)
    assert code == 0 and PLANTED not in output + errors
    assert not tells((folder / "review.html").read_bytes())
    words = ("--base", parts / "base", "--out", tmp_path / "run", "--resolution", 16)
    code, output, errors = medart("finetune", folder, *words, "--verbose")
    assert "cannot be decoded" in errors or "cannot be read" in errors
    assert PLANTED not in output + errors and DAY not in output + errors
