"""The two losses of HLDF: noise prediction in latent space, color moments in pixel space."""

import torch
from torch import Tensor


def noise_loss(predicted: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean squared error of predicted noise.

    Args:
        predicted: (B, C, h, w), float32 or more.
        noise: What was added, the same shape.
        weights: A weight for each row, (B,); all 1 by default.

    Returns:
        Scalar.

    Source:
        Ho et al. 2020 (DDPM), equation 14.
    """
    rows = (predicted - noise).square().mean(dim=(1, 2, 3))  # (B,)
    return rows.mean() if weights is None else (weights * rows).mean()


def min_snr_weights(ratio: Tensor, gamma: float) -> Tensor:
    """Weight rows so that nearly clean images do not rule the loss.

    Args:
        ratio: Signal-to-noise ratio of each row, (B,).
        gamma: Ratio from which the weight falls; 5 in the paper.

    Returns:
        min(ratio, gamma) / ratio, (B,).

    Source:
        Hang et al. 2023 (Min-SNR), section 3.4, for noise prediction.
    """
    return ratio.clamp(max=gamma) / ratio


def color_moments(images: Tensor) -> Tensor:
    """Return mean and standard deviation of each channel over all pixels.

    Args:
        images: (B, 3, H, W), float32 or more.

    Returns:
        (B, 2, 3): means, then deviations. The deviation of a flat channel has gradient 0, not NaN.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
    return torch.stack([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


def color_loss(generated: Tensor, real_moments: Tensor) -> Tensor:
    """Penalize images whose channel means and spreads are not those of their references.

    Args:
        generated: Decoded images, (B, 3, H, W) in [-1, 1]; gradients flow here.
        real_moments: `color_moments` of the reference of each row, (B, 2, 3).

    Returns:
        Scalar: squared gaps of means and deviations, summed over channels, averaged over the batch.

    Raises:
        ValueError: There is not one reference for each generated image.

    Source:
        Med-Art (arXiv 2506.20449), the pixel-level loss of HLDF; docs/method.md.
    """
    moments = color_moments(generated)
    if moments.shape != real_moments.shape:
        raise ValueError(f"{len(moments)} images against moments {tuple(real_moments.shape)}")
    return (moments - real_moments).square().sum(dim=(1, 2)).mean()
