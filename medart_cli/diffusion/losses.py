"""The losses of HLDF: noise prediction in latent space, and the colors of a generated image.

An image's colors are told by a few numbers, its statistics. The published loss compares them with
one real image's by squares; the energy score compares their distribution with the real one's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

GRID = 4  # cells a side; fewer lose where a color lies, more begin to ask for the layout


def noise_loss(
    predicted: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    pixels: Tensor | None = None,
) -> Tensor:
    """Return the mean squared error of predicted noise, or of predicted velocity.

    Args:
        predicted: (B, C, h, w), float32 or more.
        target: What was added, or the velocity, the same shape.
        weights: A weight for each row, (B,); all 1 by default.
        pixels: A weight for each place of each row, (B, 1, h, w); all 1 by default.

    Returns:
        Scalar.

    Source:
        Ho et al. 2020 (DDPM), equation 14.
    """
    squares = (predicted - target).square()  # (B, C, h, w)
    rows = (squares if pixels is None else pixels * squares).mean(dim=(1, 2, 3))  # (B,)
    return rows.mean() if weights is None else (weights * rows).mean()


def min_snr_weights(ratio: Tensor, gamma: float, *, velocity: bool = False) -> Tensor:
    """Weight rows so that nearly clean images do not rule the loss.

    Args:
        ratio: Signal-to-noise ratio of each row, (B,).
        gamma: Ratio from which the weight falls; 5 in the paper.
        velocity: Whether velocity is predicted, and not noise.

    Returns:
        min(ratio, gamma) / ratio, for velocity / (ratio + 1), (B,).

    Source:
        Hang et al. 2023 (Min-SNR), section 3.4.
    """
    return ratio.clamp(max=gamma) / (ratio + 1 if velocity else ratio)


def color_moments(images: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return mean and standard deviation of each channel over all pixels.

    Args:
        images: (B, 3, H, W), float32 or more.
        weights: Of pixels, (1 or B, 1, H, W), 0 or more, and more than one above 0; equal ones by
            default.

    Returns:
        (B, 6): three means, then three deviations. The deviation of a flat channel has gradient 0,
        not NaN.

    Source:
        Med-Art (arXiv 2506.20449), the pixel-level loss of HLDF. The deviation is the unbiased
        one, with weights as in the GNU Scientific Library's `gsl_stats_wsd`.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
    if weights is None:
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)
    total = weights.sum(dim=(2, 3))  # (1 or B, 1)
    means = (weights * images).sum(dim=(2, 3)) / total  # (B, 3)
    gaps = weights.sqrt() * (images - means[..., None, None])
    size = total - weights.square().sum(dim=(2, 3)) / total  # for equal ones n - 1
    deviations = torch.linalg.vector_norm(gaps, dim=(2, 3)) / size.sqrt()
    return torch.cat([means, deviations], dim=1)


def color_grid(images: Tensor) -> Tensor:
    """Return the mean colors of 4 x 4 cells, over 4: where in the image a color lies.

    Over 4, so that the square of a gap is its average over the cells.

    Args:
        images: (B, 3, H, W), H and W of 4 or more.

    Returns:
        (B, 48).

    Source:
        The color layout that image retrieval compares (Stricker and Dimai 1996).
    """
    cells: Tensor = functional.adaptive_avg_pool2d(images, GRID)  # (B, 3, 4, 4)
    return cells.flatten(1) / GRID


STATISTICS = {"moments": color_moments, "grid": color_grid}


def color_statistics(images: Tensor, names: Sequence[str], weights: Tensor | None = None) -> Tensor:
    """Return the statistics of those names, one after the other: (B, 3, H, W) -> (B, S).

    Args:
        images: (B, 3, H, W), float32 or more.
        names: Of `STATISTICS`.
        weights: Of pixels, as for `color_moments`.

    Raises:
        ValueError: There are weights, for a statistic that has none.
    """
    if weights is not None:
        if list(names) != ["moments"]:
            raise ValueError(f"of {', '.join(names)}, only moments can be weighted")
        return color_moments(images, weights)
    return torch.cat([STATISTICS[name](images) for name in names], dim=1)


def squared_gap(drawn: Tensor, real: Tensor) -> Tensor:
    """Penalize images whose statistics are not those of their references, by squares.

    Its mean over all noises is least where every image has the average color of its caption: it
    takes away variety (docs/method.md).

    Args:
        drawn: Statistics of one generated image per row, (B, S); gradients flow here.
        real: Statistics of the reference of each row, (B, S).

    Returns:
        Scalar: squared gaps, summed over the statistics, averaged over the batch.

    Raises:
        ValueError: There is not one reference for each generated image.

    Source:
        Med-Art (arXiv 2506.20449), the pixel-level loss of HLDF, where S is `color_moments`.
    """
    if drawn.shape != real.shape:
        raise ValueError(f"generated images {tuple(drawn.shape)} against real {tuple(real.shape)}")
    return (drawn - real).square().sum(dim=1).mean()


def energy_score(drawn: Tensor, real: Tensor) -> Tensor:
    """Penalize images whose statistics are not distributed as those of real images.

    Its mean over all noises is least exactly where the generated statistics have the distribution
    of the real ones given the caption: the first term pulls them to the real image, the second
    keeps them as far apart as real ones are.

    Args:
        drawn: Statistics of K generated images per row, (K, B, S), K >= 2; gradients flow here.
        real: Statistics of the reference of each row, (B, S).

    Returns:
        Scalar, averaged over the batch: twice the mean distance of the K images to the reference,
        less the mean distance between two of them. For K = 2, |x1 - x| + |x2 - x| - |x1 - x2|.

    Raises:
        ValueError: Fewer than two images a row, or not one reference a row.

    Source:
        Gneiting and Raftery 2007, Strictly proper scoring rules, equation 22 (times 2), with the
        unbiased mean over pairs.
    """
    count = len(drawn)
    if count < 2 or drawn.shape[1:] != real.shape:
        raise ValueError(f"generated images {tuple(drawn.shape)} against real {tuple(real.shape)}")
    near: Tensor = torch.linalg.vector_norm(drawn - real, dim=2).mean()
    # Every pair of images once; indices from the CPU would wait for a GPU.
    first, second = torch.triu_indices(count, count, offset=1, device=drawn.device)
    apart: Tensor = torch.linalg.vector_norm(drawn[first] - drawn[second], dim=2).mean()
    return 2 * near - apart
