"""Train the autoencoder of the `tiny` base: 64 x 64 pixels <-> 16 x 16 x 4 latents."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from medart_cli.log import progress
from medart_cli.tiny.phantoms import SIDE, describe_phantom, draw_phantom
from medart_cli.tiny.training import build_schedule, images_to_tensor, take_step

BATCH = 16
LEARNING_RATE = 1.5e-3
KL_WEIGHT = 1e-4  # of the mean over latents, beside a loss that is a mean over pixels
EDGE_WEIGHT = 1.0


def build_vae(out: Path, *, steps: int, seed: int, device: torch.device) -> None:
    """Train on fresh phantoms of both domains, half of them in chance colors, and save in fp16.

    The chance colors make the autoencoder a general one, as the real base's is: it must carry
    colors that fine-tuning brings later.

    Args:
        out: Folder to write, in the layout of diffusers.
        steps: Optimizer steps of 16 images.
        seed: Of weights and images.
        device: Where to train.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng([seed, 1])
    vae = AutoencoderKL(
        block_out_channels=(24, 48, 64), layers_per_block=1, norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=SIDE,
    ).to(device)  # fmt: skip
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = build_schedule(optimizer, steps)
    with progress("autoencoder", steps) as bar:
        for _ in range(steps):
            images = draw_images(generator, BATCH).to(device)
            posterior = vae.encode(images).latent_dist
            rebuilt = vae.decode(posterior.sample()).sample
            loss = rebuild_loss(rebuilt, images) + KL_WEIGHT * kl_loss(
                posterior.mean, posterior.logvar
            )
            take_step(loss, vae, optimizer, schedule)
            bar.advance({"loss": loss.item()})
    with torch.no_grad():  # PixArt's noise schedule wants latents of unit deviation
        latents = vae.encode(draw_images(generator, 256, colors=False).to(device)).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.half().save_pretrained(out)


def draw_images(generator: np.random.Generator, count: int, *, colors: bool = True) -> Tensor:
    """Draw phantoms of both domains, (B, 3, H, W) in [-1, 1]; with `colors` half in chance ones."""
    drawn = []
    for index in range(count):
        domain = "base" if index % 4 else "shifted"
        drawn.append(draw_phantom(describe_phantom(generator, domain), generator))
    images = images_to_tensor(drawn)
    if colors:
        half = count // 2
        mix = np.eye(3)[generator.permutation(3)] + generator.normal(0, 0.2, (half, 3, 3))
        shift = generator.normal(0, 0.15, (half, 3, 1, 1))
        mixed = torch.einsum("bij,bjhw->bihw", torch.tensor(mix).float(), images[:half])
        images[:half] = (mixed + torch.tensor(shift).float()).clamp(-1, 1)
    return images


def rebuild_loss(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Sum the mean absolute errors of the pixels and of their steps to the next pixel."""
    gap = rebuilt - images  # (B, 3, H, W)
    edges = gap.diff(dim=2).abs().mean() + gap.diff(dim=3).abs().mean()
    return gap.abs().mean() + EDGE_WEIGHT * edges


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return the mean divergence of the latents' posterior from a unit Gaussian."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers a model has."""
    return sum(item.numel() for item in model.parameters())
