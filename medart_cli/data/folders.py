"""Image folders without a manifest: which files are images, and what their folders say of them."""

import errno
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medart_cli.errors import ConfigError
from medart_cli.log import log
from medart_cli.versions import SETTINGS_HEAD

# The formats that are read, all with a signature of their own: Pillow knows many more, but starts
# other programs for some (EPS) and guesses at others.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_ENDINGS = frozenset(
    ".apng .avif .avifs .bmp .dcm .dib .dicom .gif .ima .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf "
    ".jpg .jpx .mpo .pbm .pfm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
# Names of splits as data sets have them, without case, digits at the end and words like "set".
SPLIT_NAMES = {
    "train": "train", "training": "train", "trn": "train", "tr": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "tst": "test", "ts": "test",
}  # fmt: skip
SPLIT_WORDS = frozenset("set sets data dataset images image imgs img split folder".split())
# Names that divide a set in a way that medart cannot know to be train, val or test.
UNKNOWN_SPLITS = frozenset(
    "fold cv part split subset eval evaluation holdout trainval query gallery unseen heldout "
    "unlabeled unlabelled".split()
)
# What file systems, synchronizers and archives leave; names that begin with . @ # $ ~ are left too.
LITTER = frozenset(
    "__macosx __pycache__ lost+found recycler recycled thumbs thumbnails trash "
    "system_volume_information network_trash_folder temporary_items".split()
)
LITTER_PATTERN = re.compile(r"[.@#$~].*|_vti_.*|found\.\d{3}")  # the last two of Windows
# Files of systems and viewers, which are no images or, as DICOMDIR, only name some.
SYSTEM_FILES = re.compile(
    r"[.].*|~\$.*|thumbs\.db|ehthumbs.*\.db|desktop\.ini|picasa\.ini|icon\r|dicomdir|dirfile|"
    r"syno(file|photo)_thumb.*"
)
# Copies that an editor or a download leaves: the image itself stands beside, or is not whole.
COPIES = re.compile(r".*(~|#|\.(bak|old|orig|tmp|temp|swp|part|partial|crdownload|download))")
TEXTS = (".txt", ".caption", ".TXT")  # captions beside images, as other trainers write them
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")  # where Hugging Face's imagefolder reads them
WHOLE_ENDINGS = (".nii.gz", ".ome.tif")  # endings of two parts


@dataclass
class Passed:
    """What a listing skips, for the log and the reports.

    Attributes:
        formats: How many files of each ending are no images that are read.
        litter: How many folders of each name belong to a file system and not to the data.
        copies: How many files are backups or unfinished downloads.
        outputs: Folders that medart wrote, with the command.
        texts: Images with a text file of their name beside them.
        unreadable: Folders below the top that may not be read, with the system's reason.
    """

    formats: Counter[str] = field(default_factory=Counter)
    litter: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    outputs: dict[str, str] = field(default_factory=dict)
    texts: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def find_images(
    folder: Path,
    passed: Passed | None = None,
    levels: tuple[str, ...] | None = None,
    enter: Callable[[Path], bool] = lambda path: True,
) -> Iterator[dict[str, str]]:
    """Find the images of a folder in order, hidden files left out, as fields of records.

    The first folder below it is the label; a folder named like a split above that is the split.
    Files with an ending that is not known, or with none, are judged by their content.

    Args:
        folder: Where to look.
        passed: Takes what is skipped.
        levels: What the folders mean, from the top: `split`, `label`, `group_id` or `-`; found out
            by default.
        enter: Says whether a folder below is looked into.

    Raises:
        ConfigError: The folder may not be read, or a folder below is broken; or the folders seem to
            be splits and which is which cannot be known.
    """
    passed = Passed() if passed is None else passed
    known = _know_splits(folder) if levels is None else True
    kinds: dict[bool, str] = {}  # a folder at the top that is a split, and one that is none
    for path in _visible_files(folder, passed, enter):
        if not _looks_like_image(path):
            _count_passed(path, passed)
            continue
        if not known:
            raise ConfigError(
                f"{folder}: its folders look like parts of a split, and medart cannot know which "
                "is for training; name them train, val and test, or say with --folders what they "
                "are (--folders label, or --folders -/label to ignore the level)"
            )
        passed.texts += bool(find_texts(path))
        name = path.relative_to(folder)
        if levels is None:
            _check_levels(folder, name.parts[:-1], kinds)
        yield {"file_name": name.as_posix()} | read_levels(name.parts[:-1], levels)


def find_texts(path: Path) -> list[Path]:
    """Return the text files beside an image, as a.txt, a.caption and a.jpg.txt beside a.jpg."""
    # Only an image's ending is cut: a DICOM UID without one has dots of its own.
    stem = path.stem if path.suffix.lower() in IMAGE_ENDINGS else path.name
    names = [name + end for name in dict.fromkeys((stem, path.name)) for end in TEXTS]
    return [it for name in names if os.path.isfile(it := path.with_name(name))]


def _check_levels(folder: Path, parents: tuple[str, ...], kinds: dict[bool, str]) -> None:
    """Refuse folders of which some are splits and others are none, or splits below something."""
    if not parents:
        return
    is_split = find_split(parents[0]) is not None
    kinds.setdefault(is_split, parents[0])
    if len(kinds) == 2:
        raise ConfigError(
            f"{folder}: the folder {kinds[True]!r} is named like a split and {kinds[False]!r} is "
            "not, so medart cannot know what it is; name all train, val or test, move the others "
            "elsewhere, or say with --folders what they are (--folders label, if all are "
            "classes)"
        )
    if not is_split and len(parents) > 1 and find_split(parents[1]) is not None:
        raise ConfigError(
            f"{folder}: the folder {parents[0]!r} contains {parents[1]!r}, which is named like a "
            "split; say with --folders what the levels are (--folders label/split, or "
            "-/split/label if the classes are below)"
        )


def read_levels(parents: tuple[str, ...], levels: tuple[str, ...] | None) -> dict[str, str]:
    """Say what the folders above an image mean.

    Args:
        parents: Names of the folders, from the top.
        levels: As for `find_images`.

    Returns:
        Some of `split`, `label` and `group_id`.
    """
    if levels is not None:
        named = zip(levels, parents, strict=False)
        fields = {level: unicodedata.normalize("NFC", name) for level, name in named}
        fields.pop("-", None)
        if "split" in fields:
            fields["split"] = find_split(fields["split"]) or fields["split"]
        return fields
    fields = {}
    split = find_split(parents[0]) if parents else None
    if split is not None:
        fields["split"], parents = split, parents[1:]
    if parents:
        fields["label"] = unicodedata.normalize("NFC", parents[0])  # as tables name it
    return fields


def find_split(name: str) -> str | None:
    """Return train, val or test where a folder's name means one, as Training or validation_set."""
    words = _split_words(name)
    kept = [word for word in words if word not in SPLIT_WORDS]
    if len(kept) != 1:
        return None
    word = kept[0]
    return SPLIT_NAMES.get(word) or SPLIT_NAMES.get(word.removesuffix("set"))


def _split_words(name: str) -> list[str]:
    """Give the words of a name without its digits; imagesTr has two."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[\W_\d]+", parted.casefold()) if word]


def _know_splits(folder: Path) -> bool:
    """Say whether the folders can be read: not if all of them are parts of an unknown split.

    Such are fold_0 and cv-1, and names that hold a split's among other words, as busi_train.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:  # said where it is walked
        return True
    names = [name for name in names if not is_litter(name)]
    unknown = [find_split(name) is None and _tells_split(_split_words(name)) for name in names]
    return not (unknown and all(unknown))


def _tells_split(words: list[str]) -> bool:
    # Two letters among others are too little: TR_severe is a tricuspid regurgitation.
    named = any(word in SPLIT_NAMES and len(word) > 2 for word in words)
    return named or (bool(words) and words[0] in UNKNOWN_SPLITS)


def is_litter(name: str) -> bool:
    """Say whether a folder of that name belongs to a file system, an archive or a synchronizer."""
    plain = name.casefold().replace(" ", "_")
    return plain in LITTER or LITTER_PATTERN.fullmatch(plain) is not None


def find_output(folder: Path) -> str | None:
    """Return the command of medart that wrote a folder; None where none did."""
    try:
        with (folder / "settings.toml").open(encoding="utf-8", errors="replace") as file:
            head = file.readline(200)
    except OSError:
        return None
    if not head.startswith(SETTINGS_HEAD):
        return None
    return head.removeprefix(SETTINGS_HEAD).split(",")[0]


def _visible_files(folder: Path, passed: Passed, enter: Callable[[Path], bool]) -> Iterator[Path]:
    """List files in order; links to folders are followed, each folder is entered once."""

    def pass_over(error: OSError) -> None:
        if not isinstance(error, PermissionError) or error.filename == os.fspath(folder):
            raise ConfigError(f"{error.filename}: {error.strerror}") from error
        passed.unreadable[str(error.filename)] = str(error.strerror)  # like one unreadable image

    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=pass_over, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a loop of links
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [
            name
            for name in sorted(folders)
            if _is_entered(Path(parent, name), passed) and enter(Path(parent, name))
        ]
        for name in sorted(files):
            if COPIES.fullmatch(name.casefold()) and not name.startswith("."):
                passed.copies += 1
            elif not SYSTEM_FILES.fullmatch(name.casefold()):
                yield Path(parent, name)


def _is_entered(path: Path, passed: Passed) -> bool:
    """Leave out litter, what may not be opened and what medart wrote, and note it."""
    if is_litter(path.name):
        if not path.name.startswith("."):  # hidden by its own name: nobody expects it to be read
            passed.litter[path.name] += 1
        return False
    effective = os.access in os.supports_effective_ids
    if not os.access(path, os.X_OK, effective_ids=effective):  # its files are listed, not opened
        passed.unreadable[str(path)] = os.strerror(errno.EACCES)
        return False
    stage = find_output(path)
    if stage is not None:
        passed.outputs[str(path)] = stage
    return stage is None


def _count_passed(path: Path, passed: Passed) -> None:
    ending = next((it for it in WHOLE_ENDINGS if path.name.lower().endswith(it)), path.suffix)
    if ending.lower() not in TEXTS and path.name not in METADATA_NAMES:
        passed.formats[ending.lower() or "without an ending"] += 1


def _looks_like_image(path: Path) -> bool:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a socket would be waited for
        return False
    if path.suffix.lower() in IMAGE_ENDINGS:
        return True
    try:  # clinics' files often have no ending: go by the first bytes
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                return True
        with Image.open(path, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:
        return True  # an image all the same: the loader says what is wrong with it
    except (OSError, SyntaxError, ValueError) as error:
        log.warning("%s: skipped: %s", path, error)
        return False
