import json

import numpy as np
from PIL import Image

from medart_cli.data.account import Account
from medart_cli.data.manifest import Record
from medart_cli.evaluate.masks import hash_masks, list_masks
from medart_cli.evaluate.sets import UNREAD, ImageSet


def build_set(folder, masks, keys=None):
    """A set whose rows name these masks; None for none."""
    rows = [{"file_name": f"{number}.png", "mask": it} for number, it in enumerate(masks)]
    rows = [{key: it for key, it in row.items() if it is not None} for row in rows]
    records = [Record(row, folder, f"m:{number}") for number, row in enumerate(rows)]
    count, none = len(rows), np.zeros(len(rows), dtype=bool)
    keys = np.array(keys or [bytes([1, it + 1]) * 16 for it in range(count)], dtype="S32")
    masked = np.array(["mask" in row for row in rows])
    codes = np.full(count, -1, dtype=np.int32)
    return ImageSet("real", records, np.arange(count), {}, codes, none, masked, keys, Account("r"))


def test_masks_that_cannot_be_read_are_listed_with_their_reason(tmp_path):
    Image.new("L", (4, 4), 255).save(tmp_path / "a.png")
    real = build_set(tmp_path, ["a.png", None, "b.png", "../c.png", 7, "a.png"])
    found = {it.row: it for it in list_masks(real, tmp_path / "cache")}
    assert sorted(found) == [0, 2, 3, 4, 5]
    assert found[0].sha256 == found[5].sha256 and len(found[0].sha256) == 64
    assert found[2].fault == "mask b.png: No such file or directory"
    assert found[3].fault == f"mask ../c.png: is outside {tmp_path}"
    assert found[4].fault == "mask must be str, not int"
    assert [it.fault for it in (found[0], found[5])] == ["", ""]


def test_an_image_that_cannot_be_read_needs_no_mask(tmp_path):
    Image.new("L", (4, 4), 255).save(tmp_path / "a.png")
    real = build_set(tmp_path, ["a.png", "a.png"], [UNREAD, b"k" * 32])
    assert [it.row for it in list_masks(real, tmp_path / "cache")] == [1]


def test_the_hash_is_that_of_the_masks_and_of_which_image_has_which(tmp_path):
    for number in range(2):
        Image.new("L", (4, 4), 255 - number).save(tmp_path / f"{number}.png")
    cache, names = tmp_path / "cache", ["0.png", "1.png"]
    first = hash_masks(build_set(tmp_path, names), cache)
    assert len(first) == 1 and first == hash_masks(build_set(tmp_path, names), cache)
    assert first != hash_masks(build_set(tmp_path, names[::-1]), cache)
    assert first != hash_masks(build_set(tmp_path, ["0.png", None]), cache)
    (tmp_path / "1.png").write_bytes(json.dumps("other").encode())
    assert first != hash_masks(build_set(tmp_path, names), cache)
    assert hash_masks(build_set(tmp_path, [None, None]), cache) == []
