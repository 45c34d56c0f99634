"""Files that are given as text but are not: what they are, by their first bytes."""

# What a file of a kind begins with, or has at a place further on, and what to call it.
ARCHIVES = (
    (0, b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (0, b"PK\x05\x06", "an empty ZIP archive"),
    (257, b"ustar\x00", "a tar archive"),
    (257, b"ustar  \x00", "a tar archive"),
    (0, b"\x1f\x8b", "a gzip archive (.gz, .tar.gz, .nii.gz)"),
    (4, b"1AY&SY", "a bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
)
CONTAINERS = (
    (0, b"PAR1\x15", "a Parquet table"),  # a page's head follows
    (0, b"ARROW1\x00\x00", "an Arrow table"),
    (0, b"\xff\xff\xff\xff", "an Arrow table"),
    (0, b"\x5c\x01\x00\x00", "a NIfTI volume"),  # the length of its head, 348 or 540
    (0, b"\x00\x00\x01\x5c", "a NIfTI volume"),
    (0, b"\x1c\x02\x00\x00", "a NIfTI volume"),
    (0, b"\x00\x00\x02\x1c", "a NIfTI volume"),
    (0, b"NRRD000", "an NRRD volume"),
    (0, b"\x89HDF\r\n", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"SQLite format 3\x00", "an SQLite database"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file"),
    (0, b"%PDF-", "a PDF"),
)
IMAGES = (
    (128, b"DICM", "a DICOM image"),
    (0, b"\x89PNG\r\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"II*\x00", "a TIFF image"),
    (0, b"MM\x00*", "a TIFF image"),
)
REMEDIES = {
    ARCHIVES: "unpack it, and use what is in it",
    CONTAINERS: "write its images as PNG or TIFF files into a folder, and use that",
    IMAGES: "use the folder that contains it",
}


def describe_kind(head: bytes) -> tuple[str, str] | None:
    """Say what a file is that is no text, and what to do with images in it.

    Args:
        head: Its first bytes, 300 or more where it is as long, or its first line.

    Returns:
        What it is, and the remedy; None where it is of no kind that is known here.
    """
    for kinds, remedy in REMEDIES.items():
        for place, mark, name in kinds:
            if head.startswith(mark, place):
                return name, remedy
    return None
