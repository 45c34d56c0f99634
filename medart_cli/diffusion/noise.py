"""The forward process of diffusion: adding noise, and how much of the image is left."""

import torch
from torch import Tensor


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Mix latents with noise as far as each row's timestep says.

    Args:
        latents: Clean latents, (B, C, h, w).
        noise: Standard normal noise, the same shape.
        timesteps: (B,) int64 in [0, T).
        alpha_bar: Cumulative product of 1 - beta, (T,).

    Returns:
        Noisy latents, (B, C, h, w).

    Source:
        Ho et al. 2020 (DDPM), equation 4.
    """
    kept = alpha_bar.to(latents)[timesteps].reshape(-1, 1, 1, 1)  # (B, 1, 1, 1)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


def mix_velocity(latents: Tensor, noise: Tensor, timesteps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return what a model of velocity is to predict; arguments as `add_noise`.

    Source:
        Salimans and Ho 2022 (Progressive distillation), section 4: alpha noise - sigma latents.
    """
    kept = alpha_bar.to(latents)[timesteps].reshape(-1, 1, 1, 1)  # (B, 1, 1, 1)
    return kept.sqrt() * noise - (1 - kept).sqrt() * latents


def signal_to_noise(timesteps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the signal-to-noise ratio alpha_bar / (1 - alpha_bar) of each timestep, (B,)."""
    kept = alpha_bar.to(torch.float32)[timesteps]
    return kept / (1 - kept)
