"""From noise to latents with DPM-Solver++, differentiable: HLDF and `sample` both use it.

The arithmetic of a step is the stock scheduler's, which is differentiable; the loop is ours, so
that gradients pass, may be limited to the last steps, and steps can be checkpointed (recomputed in
the backward pass, not stored).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Scheduler(Protocol):
    """What the loop needs of a scheduler of diffusers."""

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, device: torch.device) -> None:
        """Choose the timesteps."""

    def set_begin_index(self, begin_index: int) -> None:
        """Say which of them comes first."""

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool
    ) -> tuple[Tensor, ...]:
        """Go from one timestep to the next."""


def solve(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    scheduler: Scheduler,
    steps: int,
    *,
    grad_steps: int | None = None,
    recompute: bool = False,
) -> Tensor:
    """Sample latents from noise.

    Args:
        denoise: Latents (B, C, h, w) and a timestep () -> predicted noise (B, C, h, w).
        noise: Standard normal, (B, C, h, w), float32.
        scheduler: A fresh DPM-Solver++ scheduler; it is used up.
        steps: Number of solver steps, M in the paper.
        grad_steps: Backpropagate through the last so many steps only; all by default.
        recompute: Activation checkpointing: keep one latent per step and run `denoise` again in the
            backward pass, so that memory does not grow with `steps`.

    Returns:
        Latents, (B, C, h, w).

    Source:
        Lu et al. 2022 (DPM-Solver++), algorithm 2, as in diffusers' DPMSolverMultistepScheduler.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    scheduler.set_begin_index(0)  # else the scheduler searches each step, which waits for the GPU
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)  # flows begin at plain noise
    first = 0 if grad_steps is None else len(scheduler.timesteps) - grad_steps
    wanted = torch.is_grad_enabled()
    for index, timestep in enumerate(scheduler.timesteps):
        if index == first:  # autocast might reuse weights that it cast without a gradient
            torch.clear_autocast_cache()
        with torch.set_grad_enabled(wanted and index >= first):
            if recompute and torch.is_grad_enabled():
                predicted = checkpoint(denoise, latents, timestep, use_reentrant=False)
            else:
                predicted = denoise(latents, timestep)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
    return latents
