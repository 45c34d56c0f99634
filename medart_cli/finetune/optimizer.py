"""Learning-rate schedule, gradients, and the activation checkpointing of HLDF by free memory."""

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Recompute = Literal["none", "block", "step"]  # from most memory to least
HEADROOM = 0.8  # share of free memory that HLDF may fill; the allocator wastes some


def build_schedule(
    optimizer: torch.optim.Optimizer, name: str, warmup: int, total: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Make the course of the learning rate, in optimizer steps."""
    kind = "constant_with_warmup" if name == "constant" else name
    return get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)  # type: ignore[no-any-return]


def take_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """Take the gradients off the parameters and return them."""
    taken = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return taken


def balance_gradients(
    parameters: Sequence[nn.Parameter], others: Sequence[Tensor | None], share: float
) -> None:
    """Scale the gradients to a share of the norm of others, and add those.

    AdamW divides by the root of the mean square of all gradients. One that comes at every N-th step
    only and is many times larger than those between moves each weight as far as some sqrt(N) steps
    do, whatever its weight in the loss, and makes all other steps smaller. At the norm of the
    others it is one gradient among them.

    Args:
        parameters: Their `grad` is what is scaled; it holds the sum afterwards.
        others: From `take_gradients`, of the same parameters.
        share: Norm of the scaled gradients, as a multiple of that of the others.
    """
    own = [parameter.grad for parameter in parameters]
    norm, wanted = (measure_norm(item).double() for item in (own, others))
    scale = torch.where(norm > 0, share * wanted / norm, 0.0)  # stays on the device: no wait
    for parameter, gradient, other in zip(parameters, own, others, strict=True):
        if gradient is None:
            parameter.grad = other
        else:
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            local.mul_(scale)
            if other is not None:
                gradient.add_(other)


def measure_norm(gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the norm of all gradients together, (); of sharded ones, over all processes."""
    return whole(nn.utils.get_total_norm([item for item in gradients if item is not None]))


def whole(number: Tensor) -> Tensor:
    """Return a number that several processes may share out, as FSDP's norms, as a plain tensor."""
    return number.full_tensor() if isinstance(number, DTensor) else number


def choose_recompute(free: float, pass_bytes: float, latent_bytes: float, steps: int) -> Recompute:
    """Choose the activation checkpointing of HLDF: as little recomputing as the memory allows.

    Args:
        free: Free memory, bytes.
        pass_bytes: What one transformer pass with guidance stores for its backward pass.
        latent_bytes: What the blocks of one such pass take in, which is what `block` stores.
        steps: Solver steps that gradients go through.
    """
    if steps * pass_bytes < HEADROOM * free:
        return "none"
    if steps * latent_bytes + pass_bytes < HEADROOM * free:
        return "block"
    return "step"
