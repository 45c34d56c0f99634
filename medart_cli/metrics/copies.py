"""Near-copies: synthetic images that lie closer to a training image than unseen real images do.

An image is compared with every training image in several spaces: two feature spaces, and reduced
pixels under many crops and all eight orientations. What counts is the distance to the nearest
training image over the distances to the next ones, so that an image in a crowd is not taken for a
copy. How small that ratio gets by chance is measured on held-out real images; the thresholds are
set so that at most a stated share of such images would be flagged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from scipy import signal, stats
from torch import Tensor

from medart_cli.metrics.arrays import AnyArray, Array, Indices, Mask
from medart_cli.metrics.distances import blocks

LAYOUT_SIDE = 48  # pixels of the stored gray image
LAYOUT_WIDTH = LAYOUT_SIDE**2
LAYOUT_FINGERPRINT = "layout 1: gray, box-shrunk to 48 x 48"
VIEW_SIDE = 16  # pixels of a compared view
# Sides of the crops that are looked through, and their places along each side.
CROPS = {0.95: 3, 0.9: 3, 0.85: 3, 0.8: 3, 0.75: 5, 0.7: 5, 0.64: 7, 0.57: 9, 0.5: 11}
CORNER, CORNER_PLACES = 0.8, 5  # side of the corners; places of crops as large
SLANTS = (15, 30, 45, 60, 75)  # degrees
DISCS = (1.0, 0.9, 0.8)  # sides of the middles that turned pictures are compared with
FLAT_VIEW = 0.012  # deviation, of the range of gray, below which a view shows nothing
_FROM_MIDDLE = np.abs(np.arange(VIEW_SIDE) - (VIEW_SIDE - 1) / 2)
ALL: Mask = np.ones((VIEW_SIDE, VIEW_SIDE), dtype=np.bool_)
INNER: Mask = np.maximum(*np.meshgrid(_FROM_MIDDLE, _FROM_MIDDLE)) < VIEW_SIDE / 2 - 1
DISC: Mask = np.hypot(*np.meshgrid(_FROM_MIDDLE, _FROM_MIDDLE)) < VIEW_SIDE / 2 - 0.8
# What is looked at where the rest may be covered: the halves, and all but the middle.
WINDOWS: tuple[Mask, ...] = (
    ALL & (np.arange(VIEW_SIDE) < VIEW_SIDE / 2),
    ALL & (np.arange(VIEW_SIDE) >= VIEW_SIDE / 2),
    ALL & (np.arange(VIEW_SIDE) < VIEW_SIDE / 2)[:, None],
    ALL & (np.arange(VIEW_SIDE) >= VIEW_SIDE / 2)[:, None],
    np.maximum(*np.meshgrid(_FROM_MIDDLE, _FROM_MIDDLE)) > VIEW_SIDE / 4,
)
CENTER = 0.71  # side of the crop that `focus_image` keeps: half of the area
NEXT = 10  # neighbors that the nearest is measured against
# A real image whose layout ratio is below this shows the same lesion as another: of 612 dermoscopic
# images and 800 blood cells, unrelated ones lie above 0.6, duplicates and retakes below 0.4.
TWIN = 0.5
QUERIES = 256  # images whose views are held at once, 90 MB
VIEW_BATCH = 64  # training images whose views are made at once
LEAST_HELDOUT = 50  # images (or patients); with fewer, no rate of false alarms is stated
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
    queries: AnyArray,
    training: Sequence[AnyArray],
    query_groups: Indices,
    training_groups: Indices,
) -> Nearest:
    """Find the nearest training image of each query in a feature space.

    The distance is that of unit vectors after the training mean is taken off, and the least over
    the views of a training image.

    Args:
        queries: (N, D) features.
        training: (M, D) features for each view of the training images (as they are, mirrored).
        query_groups: (N,) codes; a query is not compared with training images of its own code.
        training_groups: (M,) codes.
    """
    origin = np.asarray(np.mean(training[0], axis=0, dtype=np.float64))  # of a mapped table too
    parts = []
    for rows in blocks(len(query_groups), 512):
        units = _unit(queries[rows] - origin)  # (n, D)
        best = _Best(query_groups[rows])
        for columns in blocks(len(training_groups), 2048):
            targets = (_unit(view[columns] - origin) for view in training)  # each (m, D)
            likeness = np.max([units @ view.T for view in targets], axis=0)
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
    """Find the nearest training image of each query by its pixels, under many views of both.

    Views are compared at 16 x 16 gray pixels of mean 0 and length 1, by the size of their
    correlation: brightness, contrast and inversion do not count. Compared are, in 8 orientations:

    - the query with crops of the training image: what is cropped, turned, mirrored;
    - crops of the query with the training image: what is shrunk or stands within another image;
    - the corners of the query with crops as large: what is shifted or partly covered;
    - the middles of both, the query's turned by three angles.

    The work grows with N x M; `device` may be a GPU.

    Args:
        queries: (N, 2304) from `describe_layout`.
        training: (M, 2304).
        query_groups: (N,) codes, as in `find_nearest_features`.
        training_groups: (M,) codes.
        device: Where to compute.
    """
    parts = []
    for rows in blocks(len(queries), QUERIES):
        parted = torch.split(_read_pictures(queries[rows], device), VIEW_BATCH)  # to save memory
        own = [torch.cat(views) for views in zip(*map(_look_for, parted), strict=True)]
        best = _Best(query_groups[rows])
        for columns in blocks(len(training), VIEW_BATCH):
            theirs = _look_at(_read_pictures(training[columns], device))
            likeness = _match_pictures(own, theirs).double().cpu().numpy()  # (n, m)
            best.update(likeness, training_groups[columns], columns.start)
        parts.append(best.judge())
    return _join(parts)


def _match_pictures(queries: list[Tensor], training: list[Tensor]) -> Tensor:
    """Return the likeness of n queries with m training images in the views most alike, (n, m)."""
    return torch.stack([*map(_match, queries, training)]).amax(dim=0)


def _match(views: Tensor, others: Tensor) -> Tensor:
    """Return the largest size of the correlations of (n, V, P) and (m, W, P) views, (n, m)."""
    if views.shape[1] > others.shape[1]:
        return _match(others, views).T
    flat = others.flatten(0, 1).T  # (P, m * W)
    best = views.new_zeros(len(views), len(others))
    for view in views.unbind(1):  # one at a time: all products would take much memory
        found = (view @ flat).view(-1, *others.shape[:2])  # (n, m, W)
        high, low = found.amax(dim=2), found.amin(dim=2)  # 30 times as fast as torch.aminmax
        best = torch.maximum(best, torch.maximum(high, -low))
    return best


def _read_pictures(layouts: AnyArray, device: torch.device) -> Tensor:
    pictures = torch.from_numpy(np.array(layouts, dtype=np.float32)).to(device)
    return pictures.view(-1, LAYOUT_SIDE, LAYOUT_SIDE)


def _look_for(pictures: Tensor) -> list[Tensor]:
    """Cut (n, 48, 48) queries into the views that `_look_at` has the counterparts of."""
    whole = _turn(_cut(pictures, 1, 1))
    return [
        _normalize(whole, ALL),
        _normalize(_cut_all(pictures), INNER),
        _normalize(_turn(_cut(pictures, CORNER, 2)), ALL),
        _normalize(_turn(_slant(pictures)), DISC),
        *(_normalize(whole, window) for window in WINDOWS),
    ]


def _look_at(pictures: Tensor) -> list[Tensor]:
    """Cut (m, 48, 48) training images into views."""
    picture = _cut(pictures, 1, 1)
    upright = [_cut(pictures, scale, 1) for scale in DISCS]
    return [
        _normalize(_cut_all(pictures), ALL),
        _normalize(_turn(picture), INNER),
        _normalize(_cut(pictures, CORNER, CORNER_PLACES), ALL),
        _normalize(torch.cat(upright, dim=1), DISC),
        *(_normalize(picture, window) for window in WINDOWS),
    ]


def _cut_all(pictures: Tensor) -> Tensor:
    """Cut (n, 48, 48) pictures into crops of all sizes, the whole first: (n, 294, 16, 16)."""
    crops = [_cut(pictures, scale, count) for scale, count in CROPS.items()]
    return torch.cat([_cut(pictures, 1, 1), *crops], dim=1)


def _cut(pictures: Tensor, scale: float, count: int) -> Tensor:
    """Cut (n, 48, 48) pictures into crops, `count` along each side: (n, count², 16, 16)."""
    along = torch.from_numpy(_build_sampling(scale, count)).to(pictures)  # (count * 16, 48)
    views = torch.einsum("ri,nij,cj->nrc", along, pictures, along)
    views = views.view(-1, count, VIEW_SIDE, count, VIEW_SIDE).transpose(2, 3)
    return views.flatten(1, 2)


@cache
def _build_sampling(scale: float, count: int) -> npt.NDArray[np.float32]:
    """Return what each pixel of each crop takes from the pixels along one side, (count * 16, 48).

    It is sampled three times as finely, linearly between pixels, and averaged: no aliasing.
    """
    middles = np.linspace(scale - 1, 1 - scale, count) if count > 1 else np.zeros(1)
    fine = (np.arange(LAYOUT_SIDE) + 0.5) / LAYOUT_SIDE * 2 - 1  # of the view, from -1 to 1
    at = ((middles[:, None] + scale * fine) + 1) / 2 * LAYOUT_SIDE - 0.5  # (count, 48)
    at = at.reshape(-1, LAYOUT_SIDE // VIEW_SIDE).clip(0, LAYOUT_SIDE - 1)
    near = 1 - np.abs(at[..., None] - np.arange(LAYOUT_SIDE))  # (count * 16, 3, 48)
    return np.asarray(near.clip(0).mean(axis=1), dtype=np.float32)


def _slant(pictures: Tensor) -> Tensor:
    """Turn (n, 48, 48) pictures by each of SLANTS: (n, V, 16, 16); corners are of no use."""
    views = []
    for angle in np.radians(SLANTS):
        sine, cosine = np.sin(angle), np.cos(angle)
        place = torch.tensor([[[cosine, -sine, 0], [sine, cosine, 0]]]).to(pictures)
        size = [1, 1, LAYOUT_SIDE, LAYOUT_SIDE]
        grid = torch.nn.functional.affine_grid(place, size, align_corners=False)
        cut = torch.nn.functional.grid_sample(
            pictures[:, None], grid.expand(len(pictures), -1, -1, -1), align_corners=False
        )
        views.append(torch.nn.functional.avg_pool2d(cut, LAYOUT_SIDE // VIEW_SIDE))
    return torch.cat(views, dim=1)


def _turn(views: Tensor) -> Tensor:
    """Turn and mirror (n, V, 16, 16) views in all ways: (n, 8 V, 16, 16)."""
    turned = [torch.rot90(views, turns, dims=(2, 3)) for turns in range(4)]
    return torch.cat([*turned, *(item.flip(3) for item in turned)], dim=1)


def _normalize(views: Tensor, window: Mask) -> Tensor:
    """Bring what a window leaves of (n, V, 16, 16) views to mean 0 and length 1; flat ones to 0."""
    pixels = views.flatten(2)[..., torch.from_numpy(window.ravel()).to(views.device)]  # (n, V, P)
    centered = pixels - pixels.mean(dim=2, keepdim=True)
    length = centered.norm(dim=2, keepdim=True)  # (n, V, 1)
    least = FLAT_VIEW * pixels.shape[2] ** 0.5
    normalized: Tensor = centered / length.clamp(min=1e-6) * (length >= least)
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
        false_alarms: Expected share of unseen real images that would be flagged, at most; None
            where there are too few held-out images to state one.
        images: Number of held-out images behind the thresholds.
        heldout: The same, but all images of one patient are one.
        place: What a space's share of `false_alarms` is, times `heldout` + 1, twins aside.
        twins: Held-out images left out as duplicates or retakes of a training image; `false_alarms`
            has their share.
    """

    score: Array
    space: Indices
    thresholds: list[float]
    false_alarms: float | None
    images: int
    heldout: int
    place: int
    twins: int

    @property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each is a near-copy."""
        return np.asarray(self.score > 1)


def find_twins(layouts: Nearest) -> npt.NDArray[np.bool_]:
    """Find real images that are duplicates or retakes of a training image, by their layouts."""
    return np.asarray(layouts.ratio < TWIN)


def judge_copies(
    synthetic: Sequence[Nearest],
    heldout: Sequence[Nearest],
    groups: Indices,
    *,
    rate: float,
    trained: bool,
) -> Verdict:
    """Set a threshold for each space by the held-out images and apply it.

    A threshold is an order statistic of the held-out ratios, so that the expected share of unseen
    images below it is known whatever their distribution; the spaces share the rate equally. A group
    counts as one image, and its images for parts of it.

    Training images compared with all the others (`trained`, leave-one-out) are not quite like
    unseen ones: of a pair of look-alikes, an unseen image brings both into play. The rate is twice
    that of images that were held out, as with the jackknife+; tests/bench/bench_copies.py has
    simulations.

    Args:
        synthetic: The synthetic images' nearest, for each space.
        heldout: The held-out images' nearest, in the same order of spaces; the last is the layouts.
            At least one must not be the twin of a training image.
        groups: (M,) codes of the held-out images' groups.
        rate: Share of false alarms wanted, beside twins. The least that can be had from n held-out
            images is spaces / (n + 1), twice that if they are trained; what is had is stated.
        trained: Whether the held-out images are the training images, each against the others.

    Source:
        Vovk et al. 2005, conformal prediction, for the rate of an order statistic; Barber et al.
        2021, jackknife+, for leaving out.
    """
    twins = find_twins(heldout[-1])
    own = ~twins
    if not own.any():
        raise ValueError("every held-out image is the twin of a training image")
    weights, count = _share_groups(groups[own])
    each = len(heldout) * (2 if trained else 1) / (count + 1)  # rate by place
    place = min(max(1, int(rate / each + 1e-9)), count)
    thresholds = [_find_place(item.ratio[own], weights, place) for item in heldout]
    scores = np.array(
        [
            max(threshold, 1e-9) / item.ratio.clip(min=1e-9)
            for item, threshold in zip(synthetic, thresholds, strict=True)
        ]
    )  # (spaces, N)
    everyone, number = _share_groups(groups)
    expected = min(1.0, each * place + float(everyone[twins].sum()) / number)
    return Verdict(
        score=scores.max(axis=0),
        space=scores.argmax(axis=0),
        thresholds=thresholds,
        false_alarms=expected if count >= LEAST_HELDOUT else None,
        images=int(own.sum()),
        heldout=count,
        place=place * (2 if trained else 1),
        twins=int(twins.sum()),
    )


def _share_groups(groups: Indices) -> tuple[Array, int]:
    """Weigh each image by one over the images of its group; count the groups."""
    _, code, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / sizes[code], len(sizes)


def _find_place(ratios: Array, weights: Array, place: int) -> float:
    """Return the least ratio up to which the weights come to `place`."""
    order = np.argsort(ratios)
    reached = np.searchsorted(np.cumsum(weights[order]), place - 1e-9)
    return float(ratios[order[min(int(reached), len(order) - 1)]])


def find_chance(count: int, total: int, verdict: Verdict) -> float:
    """Return how probable so many near-copies or more are among unseen images.

    The thresholds are themselves drawn: the share of unseen images below the k-th least of m
    held-out ones is a beta variable, and their number beta-binomial; so is that of look-alikes. The
    spaces are taken as independent and their numbers added, which counts images that several flag
    more than once.

    Args:
        count: Near-copies that were found.
        total: Images that were looked at.
        verdict: What they were judged by; of too few held-out images the answer is 1.
    """
    if verdict.place > verdict.heldout:
        return 1.0
    one = stats.betabinom(total, verdict.place, verdict.heldout + 1 - verdict.place)
    laws = [one] * len(verdict.thresholds)
    if verdict.twins:
        laws.append(stats.betabinom(total, verdict.twins + 1, verdict.images + 1))
    whole = np.ones(1)
    for law in laws:
        whole = signal.fftconvolve(whole, law.pmf(np.arange(total + 1)))
    return float(np.clip(whole[count:].sum(), 0, 1))


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Give the 95 % interval of a share; of no images, any share.

    Source:
        Wilson 1927.
    """
    if total == 0:
        return 0.0, 1.0
    low, high = stats.binomtest(count, total).proportion_ci(method="wilson")
    return float(low), float(high)
