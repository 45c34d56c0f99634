"""How images become noise, and what a model learns to undo: DDPM's chain, and the straight flow.

Each is one record of plain functions of a scheduler of diffusers, which has the noise schedule. A
row's `time` says how noisy it is: a timestep of the chain, or the share of noise of the flow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medart_cli.diffusion.noise import add_noise, mix_velocity, signal_to_noise


@dataclass(frozen=True)
class Times:
    """How the times of training are drawn.

    Attributes:
        kind: `uniform`, or `logit-normal`: fewer at both ends.
        shift: Above 1 for more noise, as images of more pixels need; 1 for none.
    """

    kind: str
    shift: float = 1.0

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw a share of noise from 0 to 1, ().

        Source:
            Esser et al. 2024 (Stable Diffusion 3), section 3.1 (logit-normal with mean 0 and
            deviation 1), equation 23 (shift).
        """
        if self.kind == "uniform":
            share = torch.rand((), generator=generator)
        else:
            share = torch.randn((), generator=generator).sigmoid()
        return self.shift * share / (1 + (self.shift - 1) * share)


@dataclass(frozen=True)
class Process:
    """A way from images to noise.

    Attributes:
        draw_time: Scheduler, how times are drawn, generator -> the time of one row, ().
        to_timesteps: Scheduler, times (B,) -> timesteps as the solver counts them, (B,).
        corrupt: Scheduler, latents and noise (B, C, h, w), times (B,) -> noisy latents.
        find_target: The same -> what the transformer is to predict, (B, C, h, w).
        snr: Scheduler, times (B,) -> signal-to-noise ratios (B,), for min-SNR weights; None where
            those are not defined.
        predicts_velocity: Scheduler -> whether the prediction is a velocity, and not noise.
    """

    draw_time: Callable[[Any, Times, torch.Generator], Tensor]
    to_timesteps: Callable[[Any, Tensor], Tensor]
    corrupt: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    find_target: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    snr: Callable[[Any, Tensor], Tensor] | None
    predicts_velocity: Callable[[Any], bool]


def _draw_step(
    scheduler: Any,  # noqa: ANN401 - of diffusers
    times: Times,
    generator: torch.Generator,
) -> Tensor:
    """Draw a timestep of the chain; each is as likely by default (Ho et al. 2020, algorithm 1)."""
    steps = len(scheduler.alphas_cumprod)
    if times == Times("uniform"):
        return torch.randint(steps, (), generator=generator)
    return (times.draw(generator) * steps).long().clamp(max=steps - 1)


def _find_target_of_chain(
    scheduler: Any,  # noqa: ANN401 - of diffusers
    latents: Tensor,
    noise: Tensor,
    times: Tensor,
) -> Tensor:
    if scheduler.config.prediction_type == "v_prediction":
        return mix_velocity(latents, noise, times, scheduler.alphas_cumprod)
    return noise


DDPM = Process(
    draw_time=_draw_step,
    to_timesteps=lambda scheduler, times: times,
    corrupt=lambda scheduler, latents, noise, times: add_noise(
        latents, noise, times, scheduler.alphas_cumprod
    ),
    find_target=_find_target_of_chain,
    snr=lambda scheduler, times: signal_to_noise(times, scheduler.alphas_cumprod),
    predicts_velocity=lambda scheduler: bool(scheduler.config.prediction_type == "v_prediction"),
)


def mix_flow(latents: Tensor, noise: Tensor, shares: Tensor) -> Tensor:
    """Mix latents with noise on the straight line between them.

    Args:
        latents: Clean latents, (B, C, h, w).
        noise: Standard normal noise, the same shape.
        shares: Share of noise of each row, (B,), from 0 to 1.

    Source:
        Liu et al. 2022 (Rectified flow), equation 1; Lipman et al. 2022 (Flow matching).
    """
    share = shares.to(latents).reshape(-1, 1, 1, 1)  # (B, 1, 1, 1)
    return (1 - share) * latents + share * noise


FLOW = Process(
    draw_time=lambda scheduler, times, generator: times.draw(generator),
    to_timesteps=lambda scheduler, shares: shares * scheduler.config.num_train_timesteps,
    corrupt=lambda scheduler, latents, noise, shares: mix_flow(latents, noise, shares),
    find_target=lambda scheduler, latents, noise, shares: noise - latents,
    snr=None,
    predicts_velocity=lambda scheduler: True,
)

PROCESSES = {"ddpm": DDPM, "flow": FLOW}
