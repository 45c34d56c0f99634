"""Train the autoencoder of the `tiny` base: 64 x 64 pixels <-> 16 x 16 x 4 latents."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from medart_cli.log import progress
from medart_cli.tiny.make.training import build_trapezoid, images_to_tensor, step_optimizer
from medart_cli.tiny.phantoms import SIDE, describe_phantom, draw_phantom

VAE_LEARNING_RATE = 1.5e-3
KL_WEIGHT = 1e-4  # of the mean over latents, beside a loss that is a mean over pixels
SQUARE_WEIGHT = 4.0  # large errors: a small finding in a wrong color
EDGE_WEIGHT = 0.5


def build_vae(out: Path, *, steps: int, seed: int, device: torch.device) -> None:
    """Train on fresh phantoms of both domains, and save in fp16.

    In the first third of the steps half of the images have chance colors, so that the autoencoder
    is a general one, as the real base's is: it must carry colors that fine-tuning brings later.

    Args:
        out: Folder to write, in the layout of diffusers.
        steps: Optimizer steps, of 16 images in the first third, then of 8.
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
    train_autoencoder(vae, generator, steps=steps // 3, batch=16, chance_colors=True)
    train_autoencoder(vae, generator, steps=steps - steps // 3, batch=8, chance_colors=False)
    scale(vae, generator)
    vae.half().save_pretrained(out)


def train_autoencoder(
    vae: AutoencoderKL,
    generator: np.random.Generator,
    *,
    steps: int,
    batch: int,
    chance_colors: bool,
) -> None:
    """Train an autoencoder, from where it is, over one rise and fall of the learning rate."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=VAE_LEARNING_RATE, weight_decay=1e-4)
    schedule = build_trapezoid(optimizer, steps)
    with progress("autoencoder", steps) as bar:
        for _ in range(steps):
            images = draw_phantoms(generator, batch, chance_colors=chance_colors).to(vae.device)
            posterior = vae.encode(images).latent_dist
            rebuilt = vae.decode(posterior.sample()).sample
            loss = rebuild_loss(rebuilt, images)
            loss = loss + KL_WEIGHT * kl_loss(posterior.mean, posterior.logvar)
            step_optimizer(loss, vae, optimizer, schedule)
            bar.advance({"loss": loss.item()})


def scale(vae: AutoencoderKL, generator: np.random.Generator) -> None:
    """Set the factor that brings latents to the unit deviation which the noise schedule wants."""
    images = draw_phantoms(generator, 256, chance_colors=False).to(vae.device)
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))


def draw_phantoms(generator: np.random.Generator, count: int, *, chance_colors: bool) -> Tensor:
    """Draw phantoms of both domains, (B, 3, H, W) in [-1, 1], perhaps half in chance colors."""
    drawn = []
    for index in range(count):
        domain = "base" if index % 4 else "shifted"
        drawn.append(draw_phantom(describe_phantom(generator, domain), generator))
    images = images_to_tensor(drawn)
    if chance_colors:
        half = count // 2
        mix = np.eye(3)[generator.permutation(3)] + generator.normal(0, 0.2, (half, 3, 3))
        shift = generator.normal(0, 0.15, (half, 3, 1, 1))
        mixed = torch.einsum("bij,bjhw->bihw", torch.tensor(mix).float(), images[:half])
        images[:half] = (mixed + torch.tensor(shift).float()).clamp(-1, 1)
    return images


def rebuild_loss(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Sum the mean absolute and squared errors of pixels, and of their steps to the next pixel."""
    gap = rebuilt - images  # (B, 3, H, W)
    edges = gap.diff(dim=2).abs().mean() + gap.diff(dim=3).abs().mean()
    return gap.abs().mean() + SQUARE_WEIGHT * gap.square().mean() + EDGE_WEIGHT * edges


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return the mean divergence of the latents' posterior from a unit Gaussian."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
