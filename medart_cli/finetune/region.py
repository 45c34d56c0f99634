"""How masks weigh the losses: the noise loss inside each row's own mask, the colors by their mean.

Nobody knows where the lesion of a generated image lies. If its colors were taken inside the mask of
its row's real image, a model that draws every lesion as real ones are would be charged for lesions
that lie elsewhere, and could lower the loss by drawing them larger, or all in one place. So the
colors of real and of generated images are weighted alike, by the mean of all masks. Its weights
depend on neither image: colors that are distributed as the real ones are still cost least.

Images of other shapes than the square have the same mean, stretched to their shape: a bucket of a
few images has too few masks for one of its own.
"""

import hashlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from medart_cli import stop
from medart_cli.data.buckets import find_bucket, write_shape
from medart_cli.data.images import fit_image, load_image
from medart_cli.data.manifest import HashedRecord
from medart_cli.data.masks import read_mask
from medart_cli.diffusion.losses import color_moments
from medart_cli.errors import ConfigError, ImageError
from medart_cli.finetune.masks import RowMask
from medart_cli.finetune.work import Region, Work, read_pixels
from medart_cli.log import log, progress


def prepare_region(work: Work) -> None:
    """Read all masks once, and find where colors are compared, if that is by masks.

    Raises:
        ConfigError: A mask is empty, cannot be read, or is not of its image's size; or all lie
            outside the crop.
    """
    if not work.masks:
        return
    rows = [row for row in work.rows if row.place in work.masks]
    cells = work.facts["resolution"] // work.family.latent_scale(work.vae)
    total, share, outside = torch.zeros(1, cells, cells, dtype=torch.float64), 0.0, []
    with progress("masks", len(rows)) as bar:
        for row in rows:
            stop.check()
            covered = _cover(work, row, work.masks[row.place], (0.5, 0.5))
            share += float(covered.mean()) / len(rows)
            if work.config.hldf_region == "mask":
                total += functional.adaptive_avg_pool2d(covered, (cells, cells))  # as in a square
            if not covered.any():
                outside.append(row)
            bar.advance()
    if len(outside) == len(rows):
        raise ConfigError(f"{work.config.data}: all masks lie outside the crop; use --crop pad")
    if outside:
        log.warning(
            "the masks of %d images lie outside the crop, such as that of %s; these images count "
            "as without a mask", len(outside), outside[0].file_name,
        )  # fmt: skip
    log.info(
        "masks: %d of %d images have one, which covers %.0f %% of the image on average",
        *(len(rows), len(work.rows), 100 * share),
    )
    if work.config.hldf_region == "mask":
        mean = total / len(rows)  # (1, cells, cells)
        mean = (mean + mean.flip(2)) / 2 if work.config.flip else mean
        weights = {
            shape: functional.interpolate(mean[None].float(), shape).to(work.accelerator.device)
            for shape in set(work.shapes.values())
        }
        work.region = Region(weights, hashlib.sha256(mean.numpy().tobytes()).hexdigest())


def _cover(work: Work, row: HashedRecord, mask: RowMask, place: tuple[float, float]) -> Tensor:
    """Return what share of each latent's cell a mask covers, (1, h, w); as the image is cropped."""

    def make() -> dict[str, Tensor]:
        try:
            marked = read_mask(mask.folder, mask.name)
            image = load_image(row.path)
        except ImageError as error:
            raise ConfigError(f"{row.place}: {error}") from error
        size = (marked.shape[1], marked.shape[0])
        if size != image.size:
            raise ConfigError(
                f"{row.place}: mask {mask.name}: has {size[0]} x {size[1]} pixels and its image "
                f"{image.width} x {image.height}; save both at one size"
            )
        if not marked.any():
            raise ConfigError(
                f"{row.place}: mask {mask.name}: marks nothing; leave it out for the whole image"
            )
        picture = Image.fromarray(marked.astype(np.uint8) * 255).convert("RGB")
        shape = find_bucket(size, work.buckets)
        fitted = fit_image(picture, shape, work.config.crop, place)
        inside = torch.from_numpy(np.asarray(fitted)[..., 0] >= 128)[None].float()  # (1, H, W)
        scale = work.family.latent_scale(work.vae)
        cells = (shape[0] // scale, shape[1] // scale)
        return {"covered": functional.adaptive_avg_pool2d(inside, cells)}

    return work.latents.get(make, "mask", row.sha256, mask.sha256)["covered"]


def weigh_latents(work: Work, row: HashedRecord, flip: bool, place: tuple[float, float]) -> Tensor:
    """Return the weights of a row's noise loss, (1, h, w), with mean 1.

    Inside the mask they are `--mask-weight` times those outside.
    """
    mask = work.masks.get(row.place)
    if mask is None:
        scale = work.family.latent_scale(work.vae)
        height, width = work.shapes[row.sha256]
        return torch.ones(1, height // scale, width // scale)
    covered = _cover(work, row, mask, place).double()
    weights = 1 + (work.config.mask_weight - 1) * (covered.flip(2) if flip else covered)
    return (weights / weights.mean()).float()


def read_region_colors(
    work: Work, row: HashedRecord, flip: bool, place: tuple[float, float]
) -> Tensor:
    """Return the color moments of a row's real image, weighted by the region, (6,)."""
    region = work.region
    assert region is not None

    def make() -> dict[str, Tensor]:
        tensor = read_pixels(work, row, flip, place)
        return {"moments": color_moments(tensor, region.weights[shape].cpu())[0]}

    shape = work.shapes[row.sha256]
    key = ("region", region.digest, write_shape(shape), row.sha256, str(flip))
    return work.latents.get(make, *key)["moments"]
