"""HLDF on each family of base models: what it does to colors that are off.

    python -m tests.bench.bench_families DATA OUT [--seeds 3] [--steps 200] [--families sana ...]

DATA/<class>/*.jpg; every 12th image is trained on. A small base of the family's own classes has
random weights, but for its decoder, which is fitted to the images first: a random one cannot show
their colors whatever the transformer does. It is fine-tuned with all weights of the transformer,
with and without HLDF: same base, seed and steps. Then
`sample` draws from other noise with more solver steps, and the colors of what it draws are compared
with those of the images: the squared error of channel means and deviations, summed over channels,
in [-1, 1]. Prints a Markdown table. What is done is not done again.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

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
ARMS = {
    "without": ("--hldf-every", "0"),
    "published": (
        "--hldf-loss", "published", "--hldf-every", "3", "--hldf-steps", "8", "--hldf-weight", "1",
    ),
    "score": ("--hldf-every", "3", "--hldf-steps", "8", "--hldf-weight", "1"),
}  # fmt: skip


def medart(*words: object) -> None:
    """Run a command, quietly."""
    line = [sys.executable, "-m", "medart_cli", *map(str, words), "--device", "cpu", "--quiet"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def fit_decoder(base: Path, data: Path, side: int, seed: int, steps: int = 400) -> None:
    """Teach the decoder to give images back from the latents of the encoder, which stays random."""
    family = find_family(base)
    vae = family.load_vae(base, torch.device("cpu"))
    paths = sorted(data.rglob("*.jpg"))
    images = torch.stack([image_to_tensor(fit_image(load_image(path), side)) for path in paths])
    latents, _ = family.encode_images(vae, images)
    decoder = vae.decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(images), (16,), generator=generator)
        loss = (family.decode_latents(vae, latents[rows]) - images[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vae.save_pretrained(base / "vae")


def measure(folder: Path, side: int) -> torch.Tensor:
    """Return the mean color moments of a folder's images, (6,)."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".png")]
    images = [fit_image(load_image(path), side) for path in paths if "contact" not in path.name]
    stacked = torch.stack([image_to_tensor(image) for image in images])
    return color_moments(stacked).mean(dim=0)


def run_arm(base: Path, data: Path, out: Path, options: tuple[str, ...], seed: int) -> Path:
    """Fine-tune and draw, where that is not done; return the folder of what was drawn."""
    side = FAMILIES[base.parent.name][1]
    run, drawn = out / "run", out / "drawn"
    if not (drawn / "sample.json").is_file():
        medart(
            "finetune", data, "--base", base, "--out", run, "--method", "full",
            "--freeze-text-encoder", "--resolution", side, "--batch-size", 4, "--seed", seed,
            "--learning-rate", 2e-3, "--preview-every", 0, "--save-every", 100_000, *options,
        )  # fmt: skip
        medart("sample", run, "--from", data, "--count", 24, "--out", drawn, "--seed", seed)
    return drawn


def main() -> None:
    """Run all families, arms and seeds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    options = parser.parse_args()
    data = options.out / "images"
    if not data.is_dir():
        for folder in sorted(path for path in options.data.iterdir() if path.is_dir()):
            (data / folder.name).mkdir(parents=True)
            for path in sorted(folder.glob("*.jpg"))[::12]:
                shutil.copy(path, data / folder.name)
    print("| family | without HLDF | published | of without | score | of without |")
    print("|---|---|---|---|---|---|")
    for name in options.families:
        build, side = FAMILIES[name]
        errors: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for seed in range(options.seeds):
            base = options.out / f"seed-{seed}" / name / "base"
            if not base.is_dir():
                build(base, seed=seed)
                fit_decoder(base, data, side, seed)
            for arm, words in ARMS.items():
                out = base.parent / arm
                drawn = run_arm(base, data, out, (*words, "--steps", str(options.steps)), seed)
                gap = measure(drawn, side) - measure(data, side)
                errors[arm].append(float(gap.square().sum()))
        cells = [name, " ".join(f"{value:.3f}" for value in errors["without"])]
        for arm in ("published", "score"):
            shares = np.divide(errors[arm], errors["without"])
            cells += [" ".join(f"{value:.3f}" for value in errors[arm])]
            cells += [" ".join(f"{share:.2f}" for share in shares)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
