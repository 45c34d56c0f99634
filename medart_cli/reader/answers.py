"""The key of a kit and the readers' answers: read, and checked against each other."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from medart_cli.errors import ConfigError
from medart_cli.metrics.arrays import Integers

KIT_FORMAT = 1  # of key.json, and of the files that the page saves
KEY_NAME = "key.json"
ANSWERS: Final[tuple[Literal["real"], Literal["synthetic"]]] = ("real", "synthetic")
UNANSWERED = -1
MOST_CONFIDENT = 5
LARGEST_FILE = 1 << 26  # bytes; answers to a million images are smaller


@dataclass(frozen=True)
class Reading:
    """The answers of one reader to the N images of a kit.

    Attributes:
        reader: As the reader wrote it on the page; else the name of the file.
        said: 0 for real, 1 for synthetic, UNANSWERED for neither, (N,).
        confidence: 1 to 5, 0 where none was given, (N,).
        seconds: Looked at all images, without pauses.
    """

    reader: str
    said: Integers
    confidence: Integers
    seconds: float

    @property
    def answered(self) -> int:
        """How many images were answered."""
        return int((self.said != UNANSWERED).sum())


def read_key(folder: Path) -> dict[str, Any]:
    """Read the key of a kit.

    Raises:
        ConfigError: The folder is no kit, or its key is damaged.
    """
    path = folder / KEY_NAME
    if not path.is_file():
        raise ConfigError(
            f"{folder}: is no reader study kit, it has no {KEY_NAME}; make one with medart reader "
            "REAL SYNTHETIC --out KIT"
        )
    key = _read_json(path)
    try:
        whole = key["format"] == KIT_FORMAT and all(
            item["image"] and item["kind"] in ANSWERS and item["group"] for item in key["images"]
        )
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise ConfigError(f"{path}: is not a key of this version; make the kit again")
    return key


def read_readings(paths: Sequence[Path], key: Mapping[str, Any]) -> list[Reading]:
    """Read the answer files of all readers.

    Raises:
        ConfigError: Names the file, and what is wrong: it belongs to another kit, an answer is
            none of the two, or two files are of one reader.
    """
    readings = [read_reading(path, key) for path in paths]
    reader, count = Counter(item.reader for item in readings).most_common(1)[0]
    if count > 1:
        names = [str(path) for path, it in zip(paths, readings, strict=True) if it.reader == reader]
        raise ConfigError(
            f"{' and '.join(names[:2])}: both are of reader {reader!r}; leave one out, or, if they "
            'are of two readers, give each another "reader" in the file'
        )
    return readings


def read_reading(path: Path, key: Mapping[str, Any]) -> Reading:
    """Read the answers of one reader.

    Raises:
        ConfigError: As `read_readings`.
    """
    facts = _read_json(path)
    if facts.get("format") != KIT_FORMAT or not isinstance(facts.get("answers"), list):
        raise ConfigError(f"{path}: is no answer file; use what the page of the kit saved")
    if facts.get("kit") != key["kit"]:
        raise ConfigError(f"{path}: holds answers to another kit, {str(facts.get('kit'))[:40]!r}")
    places = {item["image"]: place for place, item in enumerate(key["images"])}
    said = np.full(len(places), UNANSWERED, dtype=np.int64)
    confidence, seconds = np.zeros(len(places), dtype=np.int64), 0.0
    for number, answer in enumerate(facts["answers"], start=1):
        where = f"{path}: answer {number}"
        if not isinstance(answer, dict) or answer.get("image") not in places:
            raise ConfigError(f"{where}: names no image of the kit; use the file as it was saved")
        place = places[answer["image"]]
        if said[place] != UNANSWERED:
            raise ConfigError(f"{where}: is a second one to image {answer['image']}; remove one")
        said[place], confidence[place] = _read_answer(answer, where)
        seconds += _read_seconds(answer.get("seconds"), where)
    name = facts.get("reader")
    reader = name.strip() if isinstance(name, str) else ""
    return Reading(reader or path.stem, said, confidence, seconds)


def _read_answer(answer: Mapping[str, Any], where: str) -> tuple[int, int]:
    if answer.get("answer") not in ANSWERS:
        raise ConfigError(f"{where}: is neither {ANSWERS[0]} nor {ANSWERS[1]}; correct it")
    sure = answer.get("confidence")
    if sure is None:
        return ANSWERS.index(answer["answer"]), 0
    if type(sure) is not int or not 1 <= sure <= MOST_CONFIDENT:
        raise ConfigError(f"{where}: its confidence is not 1 to {MOST_CONFIDENT}; correct it")
    return ANSWERS.index(answer["answer"]), sure


def _read_seconds(value: object, where: str) -> float:
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not 0 <= float(str(value)) < float("inf"):
        raise ConfigError(f"{where}: its seconds are no time; correct it")
    return float(str(value))


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: is too large; use what the page of the kit saved")
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON
        raise ConfigError(f"{path}: is not JSON; use what the page of the kit saved") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: is no JSON object; use what the page of the kit saved")
    return facts
