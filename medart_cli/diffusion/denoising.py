"""How well a model denoises given images: losses to compare, not to train with.

What is compared must be measured alike: the noise and the time of a row come from a generator that
the caller makes, so that two models, or two images, can be given the same ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medart_cli.diffusion.losses import noise_loss
from medart_cli.diffusion.process import Process, Times


def denoising_losses(
    process: Process,
    scheduler: Any,  # noqa: ANN401 - of diffusers
    times: Times,
    posteriors: Sequence[Mapping[str, Tensor]],
    generators: Sequence[torch.Generator],
    predict: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the plain noise or velocity loss of each row: no weights, no caption dropout.

    Args:
        process: How images become noise.
        scheduler: Has the noise schedule.
        times: How the time of a row is drawn.
        posteriors: `mean` and `std` of each row's latents, each (C, h, w); more keys are ignored.
        generators: Of each row; draws its latents, its noise and its time, in this order.
        predict: Noisy latents (B, C, h, w) and timesteps (B,) on the CPU -> the prediction.

    Returns:
        (B,), float64, where the prediction is.

    Source:
        Ho et al. 2020 (DDPM), equation 14, of one row.
    """
    drawn = []
    for row, generator in zip(posteriors, generators, strict=True):
        mean, std = row["mean"], row["std"]
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        drawn.append((latents, noise, process.draw_time(scheduler, times, generator)))
    latents, noise, shares = (torch.stack(stack) for stack in zip(*drawn, strict=True))
    noisy = process.corrupt(scheduler, latents, noise, shares)
    with torch.no_grad():
        predicted = predict(noisy, process.to_timesteps(scheduler, shares))
    target = process.find_target(scheduler, latents, noise, shares).to(predicted.device)
    pairs = zip(predicted, target, strict=True)
    return torch.stack([noise_loss(one[None], other[None]).double() for one, other in pairs])
