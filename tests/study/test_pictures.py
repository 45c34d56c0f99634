from types import SimpleNamespace

import pytest

from medart_cli.data.manifest import write_manifest
from medart_cli.errors import ImageError
from medart_cli.study.pictures import SHOWN, THUMB_SIDE, show_arms
from medart_cli.study.sets import draw_captions
from tests.jobs import draw_images
from tests.study.test_sets import read


@pytest.fixture
def study(tmp_path):
    """A study of one arm, whose images are drawn."""
    for seed, name in enumerate(("train", "test", "drawn")):
        draw_images(tmp_path / name, seed)
    sets = read(tmp_path)
    names = sorted((tmp_path / "drawn").glob("*/*.png"))
    rows = [
        {"file_name": path.relative_to(tmp_path / "drawn").as_posix(), "row": row,
         "label": one.label, "prompt": f"a {one.label} & more", "synthetic": True}
        for row, (path, one) in enumerate(zip(names, draw_captions(sets, 0), strict=True))
    ]  # fmt: skip
    (tmp_path / "drawn").rename(tmp_path / "images")
    write_manifest(tmp_path / "images" / "metadata.jsonl", rows)
    plan = SimpleNamespace(
        seeds=[0], arms=[SimpleNamespace(title="LoRA")], folder=lambda arm, seed: tmp_path
    )
    return plan, sets


def test_real_images_stand_above_what_each_arm_drew_from_their_captions(study):
    plan, sets = study
    (real, drawn), sheet = show_arms(plan, sets)
    assert real.title.startswith("training images (real)") and drawn.title == "LoRA (synthetic)"
    assert len(real.pictures) == len(drawn.pictures) == SHOWN
    assert drawn.pictures[0].caption == "melanoma: a melanoma & more"
    assert drawn.pictures[0].instead == "LoRA (synthetic): melanoma: a melanoma & more"
    assert sheet.size == (SHOWN * (THUMB_SIDE + 2) - 2, 2 * (THUMB_SIDE + 2) - 2)


def test_a_training_image_that_was_lost_is_a_white_place_and_a_drawn_one_an_error(study):
    plan, sets = study
    draw_captions(sets, 0)[0].path.unlink()
    (real, _), _ = show_arms(plan, sets)
    assert len(real.pictures) == SHOWN
    next(plan.folder(None, 0).glob("images/*/*.png")).unlink()
    with pytest.raises(ImageError, match="No such file"):
        show_arms(plan, sets)
