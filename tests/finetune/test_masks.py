import json
import shutil

import numpy as np
import pytest
from PIL import Image

from medart_cli.errors import ConfigError, ManifestError
from medart_cli.finetune.masks import describe_masks
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.rows import read_training_rows


@pytest.fixture
def read(images, tmp_path):
    """Read the training rows of the eight images with some values of the key mask."""
    data = shutil.copytree(images, tmp_path / "data")
    Image.fromarray(np.full((32, 40), 255, dtype=np.uint8)).save(data / "whole.png")

    def run(*masks, option=None, **more):
        names = sorted(path.relative_to(data).as_posix() for path in data.glob("*/*.png"))
        rows = [{"file_name": name, "label": name.partition("/")[0]} for name in names]
        for row, mask in zip(rows, masks, strict=False):
            row["mask"] = mask
        (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"mask_weight": 3.0} if option is None else option
        return read_training_rows(
            FinetuneConfig(data=str(data), out=tmp_path / "run", use_cache=False, **options, **more)
        )

    return run


@pytest.mark.parametrize("option", [{"mask_weight": 2.0}, {"hldf_region": "mask"}])
def test_masks_are_found_where_an_option_asks_for_them(read, option):
    found = read("whole.png", None, "", option=option)
    assert [mask.name for mask in found.masks.values()] == ["whole.png"]
    assert [*found.masks] == [found.rows[0].place]
    told = describe_masks(found.rows, found.masks)
    assert told["images"] == 1 and len(told["hash"]) == 64


def test_without_such_an_option_no_mask_is_looked_at(read):
    found = read("gone.png", 7, option={})
    assert found.masks == {} and describe_masks(found.rows, found.masks) is None


def test_which_row_has_which_mask_is_in_the_hash(read):
    first, second = read("whole.png"), read(None, "whole.png")
    hashes = [describe_masks(found.rows, found.masks)["hash"] for found in (first, second)]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(("masks", "error", "told"), [
    ((), ConfigError, "--mask-weight 3: no training row of .* has a mask; add the key mask"),
    (("gone.png",), ConfigError, r"metadata.jsonl:1: mask gone.png: No such file or directory"),
    (("../data/whole.png", "../../x.png"), ConfigError, r":2: mask \.\./\.\./x.png: is outside "),
    ((["whole.png"],), ManifestError, "metadata.jsonl:1: mask must be str, not list"),
])  # fmt: skip
def test_what_is_wrong_with_a_mask_names_its_row(read, masks, error, told):
    with pytest.raises(error, match=told):
        read(*masks)


def test_a_mask_in_a_table_below_is_relative_to_that_table(images, tmp_path):
    data = shutil.copytree(images, tmp_path / "data")
    Image.new("L", (40, 32), 255).save(data / "nevus" / "mask of 1.png")
    table = "file_name,mask\n1.png,mask of 1.png\n3.png,\n5.png,\n7.png,\n"
    (data / "nevus" / "metadata.csv").write_text(table)
    config = FinetuneConfig(
        data=str(data), out=tmp_path / "run", use_cache=False, hldf_region="mask"
    )
    found = read_training_rows(config)
    assert [mask.name for mask in found.masks.values()] == ["nevus/mask of 1.png"]
    assert found.account.unlisted == {}  # a mask is no image that a table has left out


def test_a_grid_of_masked_colors_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--hldf-region mask: has no grid; use --hldf-statistics"):
        FinetuneConfig(data="x", out=tmp_path, hldf_region="mask", hldf_statistics="grid")
