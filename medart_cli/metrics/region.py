"""Colors in a region of the image and around it: where the masks of real images lie on average.

Drawn images have no masks. So a pixel of any image, real or drawn, counts in the region by the
share of the masks that cover its place, and around it by the rest: the weights of
`medart finetune --hldf-region mask`. They depend on no single image, so that images that are
distributed as the real ones have no gap.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from medart_cli.metrics.arrays import Array, Mask
from medart_cli.metrics.color import BINS, LARGEST_SIDE

CELLS = 64  # a side; as many as PixArt has latents at 512 pixels
PART_FACTS = (
    "part colors 1: weighted histograms of R, G, B, HSV saturation; middle square, box-shrunk to "
    "256 pixels a side"
)


def cut_square(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the middle square of an image, as left, upper, right, lower.

    It is what all images show at one scale, whatever their shape: `finetune` crops to it.

    Args:
        size: Width and height; pixels.
    """
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def cover_cells(marked: Mask) -> Array:
    """Return what share of each cell of the middle square a mask covers: (H, W) -> (64, 64)."""
    left, top, right, lower = cut_square((marked.shape[1], marked.shape[0]))
    inside = torch.from_numpy(marked[top:lower, left:right].astype(np.float32))[None]
    return np.asarray(_pool(inside, CELLS)[0], dtype=np.float64)


def hash_part(weights: Array) -> str:
    """Return a SHA-256 over all that `describe_part` depends on, but for the image."""
    return hashlib.sha256(PART_FACTS.encode() + weights.tobytes()).hexdigest()


def describe_part(image: Image.Image, weights: Array) -> Tensor:
    """Take the weighted color histograms of an RGB image's middle square.

    Args:
        image: Of any size.
        weights: Of the square's cells, (64, 64), 0 or more, and one of them above 0.

    Returns:
        (1024,) shares of the whole weight, 256 for each channel, as `describe_colors` gives them.
    """
    image = image.crop(cut_square(image.size))
    if image.width > LARGEST_SIDE:
        image = image.resize((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    own = _pool(torch.from_numpy(weights)[None], image.width).numpy().ravel()  # (s * s,)
    channels = [*image.split(), image.convert("HSV").getchannel("S")]
    sums = [np.bincount(_flat(it), weights=own, minlength=BINS) for it in channels]
    return torch.from_numpy((np.concatenate(sums) / own.sum()).astype(np.float32))


def share_marked(mean: Array, weights: Array) -> float:
    """Return what share of the weight lies on the masks themselves, in the mean over them.

    1 in the region and 0 around it where all masks are the same; the more they differ, the less
    the two are apart.

    Args:
        mean: Of the masks, (64, 64).
        weights: Of a part, (64, 64).
    """
    return float((weights * mean).sum() / weights.sum())


def _flat(channel: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(channel).ravel()


def _pool(square: Tensor, side: int) -> Tensor:
    """Average a square, (1, S, S), over the cells of another; of a smaller one, cells repeat."""
    return functional.adaptive_avg_pool2d(square, side)
