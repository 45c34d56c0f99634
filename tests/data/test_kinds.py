import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from medart_cli.caption.labels import read_labels
from medart_cli.data.dataset import open_data
from medart_cli.data.kinds import describe_kind
from medart_cli.errors import ConfigError, ManifestError


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mel/a.png", b"a")
    return file.getvalue()


def tarred(kind):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        archive.addfile(tarfile.TarInfo("mel/a.png"))
    return file.getvalue()


def array():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


KINDS = {
    "zip": (zipped(), "a ZIP archive or an Excel workbook"),
    "tar": (tarred(tarfile.USTAR_FORMAT), "a tar archive"),
    "gnu": (tarred(tarfile.GNU_FORMAT), "a tar archive"),
    "pax": (tarred(tarfile.PAX_FORMAT), "a tar archive"),
    "gz": (gzip.compress(b"a"), "a gzip archive"),
    "bz2": (bz2.compress(b"a"), "a bzip2 archive"),
    "xz": (lzma.compress(b"a"), "an xz archive"),
    "parquet": (b"PAR1\x15\x04\x15\x00 and so on PAR1", "a Parquet table"),
    "nifti": (struct.pack("<i", 348) + bytes(344) + b"n+1\0", "a NIfTI volume"),
    "nifti-big": (struct.pack(">i", 348) + bytes(344) + b"n+1\0", "a NIfTI volume"),
    "nifti-2": (struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n", "a NIfTI volume"),
    "hdf5": (b"\x89HDF\r\n\x1a\n and so on", "an HDF5 file"),
    "npy": (array(), "a NumPy array"),
    "dicom": (bytes(128) + b"DICM", "a DICOM image"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_is_no_manifest_is_said_to_be_what_it_is(tmp_path, name):
    content, kind = KINDS[name]
    path = tmp_path / "data.jsonl"  # whatever its ending
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=rf"data\.jsonl: is {kind}.*, not a manifest; ") as said:
        open_data(path)
    assert "\n" not in str(said.value)
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"labels\.csv: is {kind}.*, not text; "):
        read_labels(path)


def test_texts_are_none_of_them():
    for text in ("PAR1,label\n", "BZhang\n", "%", "II", "PK", "a" * 257 + "ustar", "7z", ""):
        assert describe_kind(text.encode()) is None
        assert describe_kind(text.encode("utf-16")) is None
