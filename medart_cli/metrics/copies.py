"""Near-copies: synthetic images that lie closer to a training image than unseen real images do.

An image is compared with every training image in several spaces: two feature spaces, and reduced
pixels under many crops and all eight orientations. What counts is the distance to the nearest
training image over the distances to the next ones, so that an image in a crowd is not taken for a
copy. How small that ratio gets by chance is measured on held-out real images; the thresholds are
set so that at most a stated share of such images would be flagged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from scipy import signal, stats
from torch import Tensor

from medart_cli.metrics.distances import blocks

Array = npt.NDArray[np.float64]
AnyArray = npt.NDArray[np.floating]
Indices = npt.NDArray[np.intp]
LAYOUT_SIDE = 48  # pixels of the stored gray image
LAYOUT_WIDTH = LAYOUT_SIDE**2
LAYOUT_FINGERPRINT = "layout 1: gray, box-shrunk to 48 x 48"
VIEW_SIDE = 16  # pixels of a compared view
SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)  # of the crops that are looked through
PLACES = 7  # of a crop along each side
CENTER = 0.71  # side of the crop that `focus_image` keeps: half of the area
NEXT = 10  # neighbors that the nearest is measured against
# A real image whose layout ratio is below this shows the same lesion as another: of 612 dermoscopic
# images and 800 blood cells, unrelated ones lie above 0.6, duplicates and retakes below 0.4.
TWIN = 0.5
TOGETHER = 16  # training images whose crops are made at once
EXCESS = 0.01  # probability below which near-copies are more than chance gives
LEAST_TRAINING = 4  # images; below, there are no next neighbors to measure against


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each query.

    Attributes:
        index: (N,) which one.
        distance: (N,) its distance, 0 for an exact copy.
        ratio: (N,) that distance over the median distance to the next ten.
    """

    index: Indices
    distance: Array
    ratio: Array


def describe_layout(image: Image.Image) -> Tensor:
    """Shrink an image to the gray picture that copies are looked for in: (2304,) in [0, 1]."""
    small = image.convert("L").resize((LAYOUT_SIDE, LAYOUT_SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32).ravel() / 255)


def mirror_image(image: Image.Image) -> Image.Image:
    """Swap left and right."""
    return ImageOps.mirror(image)


def focus_image(image: Image.Image) -> Image.Image:
    """Keep the middle half in gray with stretched contrast: what brightness and borders leave."""
    width, height = round(image.width * CENTER), round(image.height * CENTER)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    middle = image.crop((left, top, left + width, top + height)).convert("L")
    return ImageOps.autocontrast(middle, cutoff=1).convert("RGB")


def find_nearest_features(
    queries: Sequence[AnyArray],
    training: AnyArray,
    query_groups: Indices,
    training_groups: Indices,
) -> Nearest:
    """Find the nearest training image of each query in a feature space.

    The distance is that of unit vectors after the training mean is taken off, and the least over
    the queries' views.

    Args:
        queries: (N, D) features for each view of the queries (as it is, mirrored).
        training: (M, D).
        query_groups: (N,) codes; a query is not compared with training images of its own code.
        training_groups: (M,) codes.
    """
    origin = np.asarray(np.mean(training, axis=0, dtype=np.float64))  # of a mapped table too
    parts = []
    for rows in blocks(len(query_groups), 512):
        units = [_unit(view[rows] - origin) for view in queries]  # each (n, D)
        best = _Best(query_groups[rows])
        for columns in blocks(len(training), 2048):
            targets = _unit(training[columns] - origin)  # (m, D)
            likeness = np.max([view @ targets.T for view in units], axis=0)
            best.update(likeness, training_groups[columns], columns.start)
        parts.append(best.judge())
    return _join(parts)


def find_nearest_layouts(
    queries: AnyArray,
    training: AnyArray,
    query_groups: Indices,
    training_groups: Indices,
    device: torch.device,
) -> Nearest:
    """Find the nearest training image of each query by its pixels, under crops and orientations.

    Each of 8 orientations of a query is compared with 344 crops of every training image, at 16 x 16
    gray pixels of mean 0 and length 1, so that brightness and contrast do not count. The work grows
    with N x M; `device` may be a GPU.

    Args:
        queries: (N, 2304) from `describe_layout`.
        training: (M, 2304).
        query_groups: (N,) codes, as in `find_nearest_features`.
        training_groups: (M,) codes.
        device: Where to compute.
    """
    parts = []
    for rows in blocks(len(queries), 4096):
        turned = _orientations(queries[rows]).to(device)  # (8, n, 256)
        best = _Best(query_groups[rows])
        for columns in blocks(len(training), TOGETHER):
            crops = _crops(training[columns]).to(device)  # (m, 344, 256)
            likeness = _match_layouts(turned, crops)
            best.update(likeness, training_groups[columns], columns.start)
        parts.append(best.judge())
    return _join(parts)


def _match_layouts(turned: Tensor, crops: Tensor) -> Array:
    """Return the best correlation of each query with each training image, (n, m)."""
    flat = crops.flatten(0, 1).T  # (256, m * 344)
    parts = []
    for rows in blocks(turned.shape[1], 256):
        # One orientation at a time: eight products of (256, m * 344) would take much room.
        found = [(views @ flat).view(-1, *crops.shape[:2]).amax(dim=2) for views in turned[:, rows]]
        parts.append(torch.stack(found).amax(dim=0))  # (n, m)
    return torch.cat(parts).double().cpu().numpy()


def _orientations(layouts: AnyArray) -> Tensor:
    """Shrink each (48, 48) picture to 16 x 16, turned and mirrored in all ways: (8, n, 256)."""
    parts = []
    for rows in blocks(len(layouts), 512):
        images = torch.from_numpy(np.array(layouts[rows], dtype=np.float32))
        images = images.view(-1, 1, LAYOUT_SIDE, LAYOUT_SIDE)
        small = torch.nn.functional.avg_pool2d(images, LAYOUT_SIDE // VIEW_SIDE)  # (n, 1, 16, 16)
        turned = [torch.rot90(small, turns, dims=(2, 3)) for turns in range(4)]
        turned += [item.flip(3) for item in turned]
        parts.append(torch.stack([_normalize(item.flatten(1)) for item in turned]))
    return torch.cat(parts, dim=1)


def _crops(layouts: AnyArray) -> Tensor:
    """Cut each (48, 48) picture into all crops, each 16 x 16 and normalized: (m, 344, 256)."""
    images = torch.from_numpy(np.array(layouts, dtype=np.float32))
    images = images.view(-1, 1, LAYOUT_SIDE, LAYOUT_SIDE)
    boxes = [(1.0, 0.0, 0.0)]
    steps = np.linspace(-1, 1, PLACES)
    boxes += [(s, (1 - s) * x, (1 - s) * y) for s in SCALES[1:] for x in steps for y in steps]
    inner = VIEW_SIDE * 3  # sampled three times as finely, then averaged: no aliasing
    views = []
    for scale, x, y in boxes:
        place = torch.tensor([[[scale, 0.0, x], [0.0, scale, y]]]).float()
        grid = torch.nn.functional.affine_grid(place, [1, 1, inner, inner], align_corners=False)
        cut = torch.nn.functional.grid_sample(
            images, grid.expand(len(images), -1, -1, -1), align_corners=False, padding_mode="border"
        )
        views.append(torch.nn.functional.avg_pool2d(cut, 3).flatten(1))  # (m, 256)
    return _normalize(torch.stack(views, dim=1))


def _normalize(views: Tensor) -> Tensor:
    centered = views - views.mean(dim=-1, keepdim=True)
    normalized: Tensor = centered / centered.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return normalized


def _unit(features: AnyArray) -> Array:
    rows = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12))


class _Best:
    """The nearest training images of some queries, while blocks of training images go by."""

    def __init__(self, groups: Indices) -> None:
        self._groups = groups
        self._index = np.zeros(len(groups), dtype=np.intp)
        self._least: Array = np.full((len(groups), NEXT + 1), np.inf)  # distances, ascending

    def update(self, likeness: Array, groups: Indices, start: int) -> None:
        """Look at the cosines (N, m) with the training images from number `start` on."""
        distance = np.sqrt((2 - 2 * likeness).clip(min=0))
        distance[self._groups[:, None] == groups[None, :]] = np.inf
        index = distance.argmin(axis=1)
        nearer = distance[np.arange(len(index)), index] < self._least[:, 0]
        self._index[nearer] = start + index[nearer]
        distance = np.concatenate([self._least, distance], axis=1)
        self._least = np.sort(np.partition(distance, NEXT, axis=1)[:, : NEXT + 1], axis=1)

    def judge(self) -> Nearest:
        """Rate the least distance against the next."""
        nearest = self._least[:, 0]
        known = np.isfinite(self._least[:, 1:]).sum(axis=1)  # the others are of the own group
        middle = self._least[np.arange(len(known)), 1 + np.maximum(known - 1, 0) // 2]  # lower
        ratio = np.ones(len(known))
        np.divide(nearest, np.maximum(middle, 1e-9), out=ratio, where=known > 0)
        return Nearest(self._index, nearest, ratio)


def _join(parts: list[Nearest]) -> Nearest:
    return Nearest(
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.distance for part in parts]),
        np.concatenate([part.ratio for part in parts]),
    )


@dataclass(frozen=True)
class Verdict:
    """Which synthetic images count as near-copies.

    Attributes:
        score: (N,) the largest of threshold over ratio of all spaces; above 1 is a near-copy.
        space: (N,) the space that gave the score.
        thresholds: The ratio of each space below which an image is a near-copy.
        false_alarms: Expected share of unseen real images that would be flagged, at most.
        heldout: Number of held-out images behind the thresholds.
        twins: Held-out images left out as duplicates or retakes of a training image; the rate is
            that of images without a twin.
        place: Of the held-out images' ratios, in their order, the one that is the threshold.
    """

    score: Array
    space: Indices
    thresholds: list[float]
    false_alarms: float
    heldout: int
    twins: int
    place: int

    @property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each is a near-copy."""
        return np.asarray(self.score > 1)


def find_twins(layouts: Nearest) -> npt.NDArray[np.bool_]:
    """Find real images that are duplicates or retakes of a training image, by their layouts."""
    return np.asarray(layouts.ratio < TWIN)


def judge_copies(
    synthetic: Sequence[Nearest], heldout: Sequence[Nearest], *, rate: float
) -> Verdict:
    """Set a threshold for each space by the held-out images and apply it.

    A threshold is an order statistic of the held-out ratios, so the stated rate holds whatever
    their distribution; the spaces share the rate equally.

    Args:
        synthetic: The synthetic images' nearest, for each space.
        heldout: The held-out images' nearest, in the same order of spaces; the last is the layouts.
            At least one must not be the twin of a training image.
        rate: Share of false alarms wanted. The least that n held-out images can assure is
            spaces / (n + 1); the verdict states what is assured.

    Source:
        Vovk et al. 2005, conformal prediction, for the rate of an order statistic.
    """
    own = ~find_twins(heldout[-1])
    count = int(own.sum())
    if count == 0:
        raise ValueError("every held-out image is the twin of a training image")
    allowed = max(0, int(rate / len(heldout) * (count + 1)) - 1)
    thresholds = [float(np.sort(item.ratio[own])[min(allowed, count - 1)]) for item in heldout]
    scores = np.array(
        [
            max(threshold, 1e-9) / item.ratio.clip(min=1e-9)
            for item, threshold in zip(synthetic, thresholds, strict=True)
        ]
    )  # (spaces, N)
    return Verdict(
        score=scores.max(axis=0),
        space=scores.argmax(axis=0),
        thresholds=thresholds,
        false_alarms=min(1.0, len(heldout) * (allowed + 1) / (count + 1)),
        heldout=count,
        twins=int((~own).sum()),
        place=min(allowed, count - 1) + 1,
    )


def find_chance(count: int, total: int, verdict: Verdict) -> float:
    """Return how probable so many near-copies or more are among unseen images.

    The thresholds are themselves drawn: the share of unseen images below the k-th least of m
    held-out ones is a beta variable, and their number beta-binomial. The spaces are taken as
    independent and their numbers added, which counts images that several flag more than once.

    Args:
        count: Near-copies that were found.
        total: Images that were looked at.
        verdict: What they were judged by.
    """
    law = stats.betabinom(total, verdict.place, verdict.heldout + 1 - verdict.place)
    one = law.pmf(np.arange(total + 1))
    whole = one
    for _ in verdict.thresholds[1:]:
        whole = signal.fftconvolve(whole, one)
    return float(np.clip(whole[count:].sum(), 0, 1))


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share.

    Source:
        Wilson 1927.
    """
    if total == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    share, square = count / total, z * z / total
    center = (share + square / 2) / (1 + square)
    half = z * np.sqrt(share * (1 - share) / total + square / (4 * total)) / (1 + square)
    return float(max(0.0, center - half)), float(min(1.0, center + half))
