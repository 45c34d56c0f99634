"""Fuzz the manifest reader or the image loader, guided by coverage.

    pip install atheris
    python -m tests.fuzz.fuzz_readers manifest|image CORPUS [libFuzzer options: -max_total_time=180]

CORPUS is a folder; it is filled with small files of each kind first, and keeps what finds new ways.
A finding is any exception but the one a bad file has to raise, a hang, or too much memory.
"""

import io
import sys
import tempfile
import warnings
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["medart_cli.data", "PIL", "pydicom"]):
    import pydicom.pixels  # noqa: F401 - loaded late by the package; here to be watched
    from PIL import Image

    from medart_cli.data.images import load_image
    from medart_cli.data.manifest import encode_line, parse_line, read_records

from medart_cli.errors import ImageError, ManifestError
from tests.private import save_private

HERE = Path("/nowhere")
LINES = (
    b'\xef\xbb\xbf{"file_name": "a/b.png", "text": "t", "label": "l", "group_id": 3}\r\n',
    b'{"file_name": "a.png", "split": "val", "caption": {"status": "ok"}, "synthetic": true}\n',
    b'{"file_name": "../a.png", "x": [1, 2.5e3, null, "\\u00e4\\ud83d\\ude00"]}\n\n',
)
SCRATCH = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)) / "image"


def read_manifest_bytes(data):
    """Read bytes as a manifest; what is taken can be written and read again."""
    try:
        for record in read_records(io.BytesIO(data), "m", HERE, None):
            line = encode_line(record.fields)
            assert parse_line(line, "m:1", HERE).fields == record.fields
            assert record.path.is_relative_to(HERE) and ".." not in record.path.parts
    except ManifestError as error:
        assert str(error).startswith("m:") and "\n" not in str(error)


def load_image_bytes(data):
    """Load bytes as an image file."""
    SCRATCH.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = load_image(SCRATCH)
        assert image.mode == "RGB" and not image.info and min(image.size) > 0
    except ImageError as error:
        assert str(error).startswith(str(SCRATCH))


def fill_corpus(kind, folder):
    """Write small files of each kind."""
    if kind == "manifest":
        for index, line in enumerate(LINES):
            (folder / f"seed-{index}").write_bytes(line)
        return
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    for ending in (".jpg", ".png", ".tif", ".dcm", ".webp"):
        save_private(folder / f"seed{ending}", pixels)
    gray = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    gray.save(folder / "seed-16.png")
    gray.save(folder / "seed-16.tif")
    color = Image.fromarray(pixels)
    for ending in ("bmp", "gif", "jp2", "ppm", "avif"):
        color.save(folder / f"seed.{ending}")
    color.convert("CMYK").save(folder / "seed-cmyk.jpg")
    color.convert("P").save(folder / "seed-palette.png", transparency=0)
    color.convert("LAB").save(folder / "seed-lab.tif")


def main():
    """Fill the corpus and fuzz until libFuzzer ends."""
    kind, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    fill_corpus(kind, corpus)
    check = read_manifest_bytes if kind == "manifest" else load_image_bytes
    atheris.Setup([sys.argv[0], "-timeout=60", "-rss_limit_mb=6000", *sys.argv[2:]], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
