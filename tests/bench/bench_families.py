"""HLDF on each family of base models: what it does to colors that are off.

    python -m tests.bench.bench_families DATA OUT [--seeds 3] [--steps 60] [--families sana ...]

DATA/<class>/*.jpg; every 12th image is trained on. The base is off in color where the loss on
latents cannot see it: a small one of the family's own classes has an autoencoder that gives images
back with less red and green. Its transformer is trained on the images for 200 steps, and draws what
comes out blue. From there it is fine-tuned, all weights of the transformer, with HLDF in each step
and without: same base, seed and steps. Then `sample` draws from other noise with more solver steps,
and the colors of what it draws are compared with those of the images: the squared error of channel
means and deviations, summed over channels, in [-1, 1]. Prints a Markdown table, in brackets the
share of the error without HLDF. What is done is not done again.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC

from medart_cli.data.images import fit_image, load_image
from medart_cli.data.tensors import image_to_tensor
from medart_cli.diffusion.losses import color_moments
from medart_cli.models.families import find_family
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

# How to build a small base, and the image side that it is trained at.
FAMILIES = {
    "pixart": (build_base, 16),
    "sana": (build_sana, 16),
    "prx": (build_prx, 16),
    "klein": (build_klein, 32),
}
CAST = (0.65, 0.85, 1.0)  # of red, green and blue, what the autoencoder gives back
HLDF = ("--hldf-every", "1", "--hldf-steps", "8")
ARMS = {
    "without HLDF": ("--hldf-every", "0"),
    "published": (*HLDF, "--hldf-loss", "published", "--hldf-weight", "1"),
    "score": (*HLDF, "--hldf-weight", "1"),
    "score, weight 4": (*HLDF, "--hldf-weight", "4"),
}


def medart(*words: object) -> None:
    """Run a command, quietly."""
    line = [sys.executable, "-m", "medart_cli", *map(str, words), "--device", "cpu", "--quiet"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def fit_autoencoder(base: Path, data: Path, side: int, seed: int, steps: int = 400) -> None:
    """Teach the autoencoder the images in its colors, and scale its latents to unit variance."""
    family = find_family(base)
    vae = family.load_vae(base, torch.device("cpu")).requires_grad_(True)
    paths = sorted(data.rglob("*.jpg"))
    images = torch.stack([image_to_tensor(fit_image(load_image(path), side)) for path in paths])
    cast = torch.tensor(CAST).view(3, 1, 1)
    if not isinstance(vae, AutoencoderDC):  # logarithms of variances: hardly any noise
        last = vae.quant_conv or vae.encoder.conv_out
        half = last.out_channels // 2
        last.weight.data[half:], last.bias.data[half:] = 0, -12
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        some = images[torch.randint(len(images), (16,), generator=generator)]
        code = vae.encode(some)
        code = code.latent if isinstance(vae, AutoencoderDC) else code.latent_dist.mode()
        loss = (vae.decode(code).sample - ((some + 1) * cast - 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    latents, _ = family.encode_images(vae, images)
    if hasattr(vae, "bn"):  # FLUX.2 keeps a mean and a variance of each channel
        scale = vae.bn.running_var.sqrt()
        vae.bn.running_mean += latents.mean(dim=(0, 2, 3)) * scale
        vae.bn.running_var.copy_((latents.std(dim=(0, 2, 3)) * scale).square())
    else:
        scale = vae.config.scaling_factor / float(latents.std())
        vae.register_to_config(scaling_factor=scale)
    vae.save_pretrained(base / "vae")


def measure(folder: Path, side: int) -> torch.Tensor:
    """Return the mean color moments of a folder's images, (6,)."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".png")]
    images = [fit_image(load_image(path), side) for path in paths if "contact" not in path.name]
    stacked = torch.stack([image_to_tensor(image) for image in images])
    return color_moments(stacked).mean(dim=0)


def train(data: Path, base: Path, run: Path, side: int, *options: object) -> None:
    """Train all weights of the base's transformer."""
    medart(
        "finetune", data, "--base", base, "--out", run, "--method", "full",
        "--freeze-text-encoder", "--resolution", side, "--batch-size", 4,
        "--learning-rate", 2e-3, "--preview-every", 0, "--save-every", 100_000, *options,
    )  # fmt: skip


def make_base(folder: Path, name: str, data: Path, seed: int) -> Path:
    """Return a base of the family that draws the images in the colors of its autoencoder."""
    build, side = FAMILIES[name]
    if not (folder / "run/merged/model_index.json").is_file():
        build(folder / "base", seed=seed)
        fit_autoencoder(folder / "base", data, side, seed)
        words = ("--hldf-every", 0, "--steps", 200, "--seed", seed, "--merge")
        train(data, folder / "base", folder / "run", side, *words)
    return folder / "run/merged"


def draw(run: Path, data: Path, out: Path, seed: int) -> Path:
    """Draw 24 images, where that is not done."""
    if not (out / "sample.json").is_file():
        medart("sample", run, "--from", data, "--count", 24, "--out", out, "--seed", seed)
    return out


def main() -> None:
    """Run all families, arms and seeds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    options = parser.parse_args()
    data = options.out / "images"
    if not data.is_dir():
        for folder in sorted(path for path in options.data.iterdir() if path.is_dir()):
            (data / folder.name).mkdir(parents=True)
            for path in sorted(folder.glob("*.jpg"))[::12]:
                shutil.copy(path, data / folder.name)
    print(f"| family | base | {' | '.join(ARMS)} |\n|{'---|' * (2 + len(ARMS))}")
    for name in options.families:
        _, side = FAMILIES[name]
        errors: dict[str, list[float]] = {arm: [] for arm in ("base", *ARMS)}
        for seed in range(options.seeds):
            folder = options.out / f"seed-{seed}" / name
            base = make_base(folder, name, data, seed)
            drawn = {"base": draw(folder / "run", data, folder / "drawn", seed)}
            for arm, words in ARMS.items():
                out = folder / arm.replace(", ", "-").replace(" ", "-")
                if not (out / "drawn/sample.json").is_file():
                    words = (*words, "--steps", options.steps, "--seed", seed)
                    train(data, base, out / "run", side, *words)
                drawn[arm] = draw(out / "run", data, out / "drawn", seed)
            for arm, place in drawn.items():
                gap = measure(place, side) - measure(data, side)
                errors[arm].append(float(gap.square().sum()))
        cells = [name, *(" ".join(f"{value:.3f}" for value in them) for them in errors.values())]
        for place, them in enumerate(list(errors.values())[2:], start=3):
            shares = np.divide(them, errors["without HLDF"])
            cells[place] += f" ({' '.join(f'{share:.2f}' for share in shares)})"
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
