import numpy as np

from medart_cli.data.account import Account
from medart_cli.data.manifest import write_manifest
from medart_cli.data.stored import StoredRecords
from medart_cli.evaluate.copies import LISTED, _pair_up, list_copies
from medart_cli.evaluate.sets import ImageSet
from medart_cli.metrics.copies import Nearest, Verdict


def build_set(folder, name, letters):
    """A set of which equal letters are files of the same bytes."""
    path = folder / f"{name}.jsonl"
    write_manifest(path, ({"file_name": f"{row}.png", "label": "a"} for row in range(len(letters))))
    rows = np.arange(len(letters))
    keys = np.array([letter.encode() * 32 for letter in letters], dtype="S32")
    codes, made = np.zeros(len(rows), dtype=np.int32), np.zeros(len(rows), dtype=bool)
    facts = ({"a": 0}, codes, made, made, keys, Account(name))
    return ImageSet(name, StoredRecords(path), rows, *facts)


def build_pairs(folder):
    real = build_set(folder, "real", "mamxc")
    own = build_set(folder, "syn", "zmzcyz")
    scores = np.array([0.5, 0.2, 3.0, 0.9, 3.0, 1.0])
    nearest = [
        Nearest(np.full(6, space), np.full(6, 0.1), np.linspace(0, 1, 6)) for space in (1, 3, 4)
    ]
    verdict = Verdict(scores, np.array([0, 0, 1, 2, 2, 0]), [0.5] * 3, 0.1, 5, 5, 1, 0)
    return _pair_up(own, real, nearest, verdict)


def test_the_same_bytes_are_a_copy_of_the_last_such_image_and_stand_first(tmp_path):
    pairs = build_pairs(tmp_path)
    assert list(pairs.found) == [1, 2, 3, 4, 4, 1]
    assert list(np.flatnonzero(pairs.identical)) == [1, 3]
    assert list(np.flatnonzero(pairs.copied)) == [1, 2, 3, 4]
    assert pairs.worst(5) == [3, 1, 2, 4, 5]  # of equal scores the first image first


def test_copies_are_listed_in_the_order_of_the_set(tmp_path):
    rows = list(list_copies([build_pairs(tmp_path)]))
    assert [row["file_name"] for row in rows] == ["1.png", "2.png", "3.png", "4.png"]
    assert [row["nearest"] for row in rows] == ["2.png", "3.png", "4.png", "4.png"]
    assert [row["identical"] for row in rows] == [True, False, True, False]
    assert all(tuple(row) == LISTED for row in rows)
    assert rows[1]["space"] == "features of the middle"
