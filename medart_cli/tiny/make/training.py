"""What the three trainings of the `tiny` models share."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

BATCH_SIZE = 32  # of base and captioner; that of the autoencoder changes as it learns
LEARNING_RATE = 1e-3  # of base and captioner
MAX_NORM = 1.0


def build_trapezoid(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Let the learning rate rise over 5 % of the steps, stay, and fall to 0 over the last 35 %."""

    def factor(step: int) -> float:
        done = step / steps
        return min(1.0, (done + 1 / steps) / 0.05, (1 - done) / 0.35)

    return LambdaLR(optimizer, factor)


def step_optimizer(
    loss: Tensor, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler
) -> None:
    """Make one optimizer step with clipped gradients."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    schedule.step()


def images_to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Stack RGB images of one size to (B, 3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))  # (B, H, W, 3)
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
