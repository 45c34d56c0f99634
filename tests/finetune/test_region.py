import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from medart_cli.data.images import fit_image
from medart_cli.data.manifest import HashedRecord
from medart_cli.data.tensors import open_cache
from medart_cli.diffusion.losses import color_moments
from medart_cli.errors import ConfigError
from medart_cli.finetune.masks import RowMask
from medart_cli.finetune.region import prepare_region, read_region_colors, weigh_latents
from medart_cli.finetune.work import read_pixels
from medart_cli.tiny.phantoms import describe_phantom, draw_phantom

SIDE, LATENTS = 16, 4
PLACES = {"center": (0.5, 0.5), "pad": (0.5, 0.5), "random": (0.9, 0.2)}


def build_work(folder, marked, *, crop="center", cache=None, size=(40, 32), **options):
    """What region.py needs of a run on one image, whose pixels are white where they are marked."""
    pixels = np.repeat(marked[..., None], 3, axis=2).astype(np.uint8) * 255
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(folder / "image.png")
    Image.fromarray(marked.astype(np.uint8)).save(folder / "mask.png")
    row = HashedRecord({"file_name": "image.png"}, folder, "rows:1", "0" * 64)
    config = {"data": "data", "crop": crop, "flip": False, "mask_weight": 4.0,
              "hldf_region": "mask"} | options  # fmt: skip
    return SimpleNamespace(
        rows=[row], masks={"rows:1": RowMask(folder, "mask.png", "1" * 64)}, side=LATENTS,
        region=None, vae=None, buckets=[(SIDE, SIDE)], shapes={row.sha256: (SIDE, SIDE)},
        family=SimpleNamespace(latent_scale=lambda vae: SIDE // LATENTS),
        config=SimpleNamespace(**config), facts={"resolution": SIDE},
        latents=open_cache(cache, "latents", crop),
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )  # fmt: skip


def half_marked():
    marked = np.zeros((32, 40), dtype=bool)
    marked[4:22, 9:27] = True
    return marked


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", PLACES)
def test_a_mask_is_cropped_padded_and_mirrored_as_its_image_is(tmp_path, crop, flip):
    work = build_work(tmp_path, half_marked(), crop=crop)
    row, place = work.rows[0], PLACES[crop]
    image = read_pixels(work, row, flip, place)[0, 0]  # white where it is marked
    inside = (image > 0).double()
    wanted, cell = torch.zeros(1, LATENTS, LATENTS), SIDE // LATENTS
    for y in range(LATENTS):
        for x in range(LATENTS):
            part = inside[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]
            wanted[0, y, x] = 1 + 3 * part.mean()
    found = weigh_latents(work, row, flip, place)
    torch.testing.assert_close(found, wanted / wanted.mean(), rtol=1e-5, atol=1e-6)
    assert found.mean().item() == pytest.approx(1)
    assert found.max() > 1.5 * found.min()
    other = weigh_latents(work, row, not flip, place)
    assert torch.equal(other, found.flip(2))


def test_a_row_without_a_mask_or_with_all_of_it_marked_weighs_the_same_everywhere(tmp_path):
    work = build_work(tmp_path, np.ones((32, 40), dtype=bool))
    row, even = work.rows[0], torch.ones(1, LATENTS, LATENTS)
    torch.testing.assert_close(weigh_latents(work, row, False, (0.5, 0.5)), even)
    work.masks = {}
    assert torch.equal(weigh_latents(work, row, False, (0.5, 0.5)), even)


def test_a_cache_changes_nothing_and_knows_the_mask(tmp_path):
    work = build_work(tmp_path, half_marked(), cache=tmp_path / "cache")
    row, center = work.rows[0], (0.5, 0.5)
    first = weigh_latents(work, row, False, center)
    Image.new("L", (40, 32), 255).save(tmp_path / "mask.png")  # other bytes, the same hash
    assert torch.equal(weigh_latents(work, row, False, center), first)
    work.masks = {"rows:1": replace(work.masks["rows:1"], sha256="2" * 64)}
    torch.testing.assert_close(weigh_latents(work, row, False, center), torch.ones_like(first))


def test_colors_are_weighted_by_the_mean_mask(tmp_path):
    work = build_work(tmp_path, half_marked())
    prepare_region(work)
    colors = read_region_colors(work, work.rows[0], False, (0.5, 0.5))
    image = read_pixels(work, work.rows[0], False, (0.5, 0.5))
    torch.testing.assert_close(colors, color_moments(image, work.region.weights[SIDE, SIDE])[0])
    assert colors[0] > color_moments(image)[0, 0] + 0.2  # it is white where it is marked
    plain = work.region.weights[SIDE, SIDE]
    work.config.flip = True
    prepare_region(work)
    torch.testing.assert_close(work.region.weights[SIDE, SIDE], (plain + plain.flip(3)) / 2)


def test_images_of_other_shapes_have_the_same_mean_mask_stretched_to_theirs(tmp_path):
    work, wide = build_work(tmp_path, half_marked()), (8, 32)
    work.buckets, work.shapes = [wide], {work.rows[0].sha256: wide}
    prepare_region(work)
    weights = work.region.weights[wide]
    assert weights.shape == (1, 1, *wide)
    mask = np.asarray(fit_image(Image.fromarray(half_marked()).convert("RGB"), wide, "center"))
    marked = torch.from_numpy(mask[..., 0] >= 128).float()
    cells = marked.reshape(2, 4, 8, 4).mean(dim=(1, 3))  # of latents, as high as wide
    square = cells.reshape(2, LATENTS, 2).mean(dim=2).repeat_interleave(2, dim=0)
    stretched = square.repeat_interleave(2, dim=0).repeat_interleave(8, dim=1)
    torch.testing.assert_close(weights[0, 0], stretched)
    assert 0.1 < weights.mean() < 0.5
    colors = read_region_colors(work, work.rows[0], False, (0.5, 0.5))
    image = read_pixels(work, work.rows[0], False, (0.5, 0.5))
    torch.testing.assert_close(colors, color_moments(image, weights)[0])


@pytest.mark.parametrize(("change", "told"), [
    ("size", r"rows:1: mask mask.png: has 40 x 32 pixels and its image 41 x 32; save both at one"),
    ("empty", r"rows:1: mask mask.png: marks nothing; leave it out for the whole image"),
    ("gone", r"rows:1: mask mask.png: cannot be read: No such file"),
    ("cropped", r"data: all masks lie outside the crop; use --crop pad"),
])  # fmt: skip
def test_a_mask_that_cannot_be_used_ends_the_run_before_it_begins(tmp_path, change, told):
    marked = half_marked()
    if change in ("empty", "cropped"):
        marked[:] = False
        marked[:, :2] = change == "cropped"
    work = build_work(tmp_path, marked, size=(41, 32) if change == "size" else (40, 32))
    if change == "gone":
        (tmp_path / "mask.png").unlink()
    with pytest.raises(ConfigError, match=told):
        prepare_region(work)


def draw_lesions(seeds, **changes):
    """Draw phantoms whose lesions differ in size and place, and their masks."""
    images, masks = [], []
    for seed in seeds:
        what = describe_phantom(np.random.default_rng(seed), "base", "smooth mole")
        what = replace(what, surroundings="pale skin", surface="plain", **changes)
        both = [
            np.asarray(
                draw_phantom(replace(what, color=color), np.random.default_rng(seed)),
                dtype=np.float32,
            )
            for color in ("brown", "white")
        ]
        images.append(torch.from_numpy(both[0] / 127.5 - 1).permute(2, 0, 1))
        masks.append(torch.from_numpy(abs(both[0] - both[1]).max(axis=2) > 60)[None].float())
    return torch.stack(images), torch.stack(masks)


def mean_score(drawn, real, weights):
    """The energy score's mean over all pairs of images, each real one with its weights."""
    total = 0.0
    for image, own in zip(real, weights.expand(len(real), -1, -1, -1), strict=True):
        generated = color_moments(drawn, own[None])
        near = (generated - color_moments(image[None], own[None])).norm(dim=1).mean()
        apart = torch.cdist(generated, generated).sum() / len(drawn) / (len(drawn) - 1)
        total += (2 * near - apart).item() / len(real)
    return total


def test_images_like_the_real_ones_score_best_by_the_mean_mask_and_not_each_by_its_own():
    """Why the colors of a generated image are not taken inside the mask of its row's real one."""
    real, masks = draw_lesions(range(100))
    alike, _ = draw_lesions(range(100, 200))
    large, _ = draw_lesions(range(100, 200), size="large")
    mean = masks.mean(dim=0, keepdim=True)
    assert mean_score(alike, real, mean) < 0.7 * mean_score(large, real, mean)
    assert mean_score(large, real, masks) < 0.8 * mean_score(alike, real, masks)


@pytest.fixture
def train(medart, small_base, images, tmp_path):
    """Fine-tune on the eight images with masks that mark a part, the whole, or nothing of them."""

    def run(out, *options, masks="part", code=0):
        data = tmp_path / masks
        if not data.exists():
            shutil.copytree(images, data)
            rows = [{"file_name": f"{path.parent.name}/{path.name}", "label": path.parent.name}
                    for path in sorted(data.glob("*/*.png"))]  # fmt: skip
            marked = half_marked() if masks == "part" else np.ones((32, 40), dtype=bool)
            Image.fromarray(marked).save(data / "mask.png")
            for row in rows[2:] if masks == "part" else rows:
                row["mask"] = "mask.png"
            (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        ended, _, errors = medart(
            "finetune", data, "--base", small_base, "--out", tmp_path / out, "--resolution", 16,
            "--steps", 4, "--preview-every", 0, "--hldf-every", 2, "--hldf-steps", 2, "--quiet",
            *options,
        )  # fmt: skip
        assert ended == code, errors
        return (tmp_path / out) if code == 0 else errors

    return run


def weights_of(run):
    return {
        f"{path.parent.name}/{name}": tensor
        for path in sorted(run.glob("t*/*.safetensors"))
        for name, tensor in load_file(path).items()
    }


BOTH = ("--mask-weight", 5, "--hldf-region", "mask")


def test_masks_of_the_whole_image_train_what_no_masks_train(train):
    plain, other = (weights_of(train(*it, masks="whole")) for it in (("plain",), ("other", *BOTH)))
    for name in plain:
        torch.testing.assert_close(other[name], plain[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("options", [BOTH[:2], BOTH[2:]])
def test_each_of_the_options_changes_the_training(train, options):
    plain, other = weights_of(train("plain")), weights_of(train("other", *options))
    assert any(not torch.allclose(plain[name], other[name], atol=1e-6) for name in plain)


@pytest.mark.parametrize("more", [("--flip",), ("--crop", "random", "--flip", "--buckets")])
def test_a_run_with_masks_resumes_to_the_bit(train, more):
    whole = train("whole run", *BOTH, *more)
    train("parts", *BOTH, *more, "--steps", 2)
    first, second = weights_of(whole), weights_of(train("parts", *BOTH, *more))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    facts = json.loads((whole / "run.json").read_text())
    assert facts["masks"]["images"] == 6
    assert "mask_weight = 5.0" in (whole / "README.md").read_text()


def test_a_run_with_masks_and_a_cache_is_one_without(train):
    options = (*BOTH, "--flip", "--steps", 2)
    live, kept = (
        weights_of(train("live", "--no-cache", *options)),
        weights_of(train("kept", *options)),
    )
    for name in live:
        torch.testing.assert_close(live[name], kept[name], rtol=1e-4, atol=1e-6)


def test_other_masks_on_the_same_run_folder_are_refused(train, tmp_path):
    train("run", *BOTH)
    Image.new("L", (40, 32), 1).save(tmp_path / "part" / "mask.png")
    assert "was trained with other masks" in train("run", *BOTH, code=2)
