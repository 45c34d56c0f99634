"""The same picture twice: in other bytes, format or size, brighter, mirrored or turned.

Pictures count as the same where the fine structure of their middles agrees. The middle, because a
round view or a ruler at the border is shared by pictures that have nothing else in common; the fine
structure, because so is a dark spot on a bright ground. What is cropped or edited, and a second
photograph of one lesion, is not found here; `metrics/copies.py` looks for those, at a hundred times
the cost.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medart_cli.metrics.arrays import AnyArray, Indices
from medart_cli.metrics.copies import LAYOUT_SIDE
from medart_cli.metrics.distances import blocks

DETAIL_SIDE = 24  # pixels of the picture that is looked at
MIDDLE = slice(4, 20)  # of these, on both sides: two thirds
AROUND = 5  # pixels whose mean is taken off: what is left is fine structure
# Deviation of that, of the range of gray, below which there is nothing to compare.
FLAT_DETAIL = 0.002
# Correlation from which pictures are the same. Of 612 dermoscopic images scaled to 48 or 200 pixels
# or saved as JPEG of quality 30, all keep more than 0.97; two of them that are no copies have at
# most 0.95, two of 800 blood cells 0.83.
SAME = 0.97


def find_same(
    queries: AnyArray, targets: AnyArray, device: torch.device
) -> Iterator[tuple[Indices, Indices, npt.NDArray[np.float32]]]:
    """Find the pictures of one set that are in another.

    Args:
        queries: (N, 2304) from `copies.describe_layout`.
        targets: (M, 2304).
        device: Where to compute.

    Yields:
        Rows of queries, rows of targets, and their likeness, for some pairs at a time.
    """
    yield from _compare(queries, targets, device, within=False)


def find_repeats(
    layouts: AnyArray, device: torch.device
) -> Iterator[tuple[Indices, Indices, npt.NDArray[np.float32]]]:
    """Find the pictures of one set that are there more than once.

    Args:
        layouts: (N, 2304) from `copies.describe_layout`.
        device: Where to compute.

    Yields:
        Indices, earlier rows with the same picture, and their likeness, for some pairs at a time.
    """
    yield from _compare(layouts, layouts, device, within=True)


def _compare(
    queries: AnyArray, targets: AnyArray, device: torch.device, *, within: bool
) -> Iterator[tuple[Indices, Indices, npt.NDArray[np.float32]]]:
    for rows in blocks(len(queries), 512):
        own = _look(queries[rows], device)
        turned = [torch.rot90(own, turns, dims=(1, 2)) for turns in range(4)]
        turned += [item.flip(2) for item in turned]
        flat = [item.flatten(1) for item in turned]  # each (n, 256)
        for columns in blocks(rows.stop if within else len(targets), 2048):
            theirs = _look(targets[columns], device).flatten(1).T  # (256, m)
            likeness = flat[0] @ theirs
            for view in flat[1:]:
                likeness = torch.maximum(likeness, view @ theirs)
            same = likeness >= SAME
            row, column = same.nonzero().cpu().numpy().T  # of this block
            value = likeness[same].cpu().numpy()
            row, column = row + rows.start, column + columns.start
            earlier = column < row if within else np.ones(len(row), dtype=np.bool_)
            if earlier.any():
                yield row[earlier], column[earlier], value[earlier]


def _look(layouts: AnyArray, device: torch.device) -> Tensor:
    """Return the fine structure of the middles, of length 1: (n, 16, 16); 0 where there is none."""
    pictures = torch.from_numpy(np.array(layouts, dtype=np.float32)).to(device)
    pictures = pictures.view(-1, 1, LAYOUT_SIDE, LAYOUT_SIDE)
    small = torch.nn.functional.avg_pool2d(pictures, LAYOUT_SIDE // DETAIL_SIDE)
    padded = torch.nn.functional.pad(small, [AROUND // 2] * 4, mode="reflect")
    fine = (small - torch.nn.functional.avg_pool2d(padded, AROUND, stride=1))[:, 0, MIDDLE, MIDDLE]
    fine = fine - fine.mean(dim=(1, 2), keepdim=True)
    length = fine.flatten(1).norm(dim=1)[:, None, None]
    side = MIDDLE.stop - MIDDLE.start
    structure: Tensor = fine / length.clamp(min=1e-6) * (length >= FLAT_DETAIL * side)
    return structure
