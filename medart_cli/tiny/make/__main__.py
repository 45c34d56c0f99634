"""Rebuild the `tiny` models: python -m medart_cli.tiny.make --out FOLDER.

Draws the phantoms, trains autoencoder, base and captioner one after the other, each seeded, saves
them in half precision, and measures them (see check.py). A part that is in FOLDER already is kept,
so a stopped build resumes with the next part. The models in this package took about two hours on
two CPU cores; a GPU is used where there is one.
"""

import argparse
import json
from pathlib import Path

import torch

from medart_cli.log import log, start_log
from medart_cli.tiny.make.base import build_base
from medart_cli.tiny.make.captioner import build_captioner
from medart_cli.tiny.make.check import check_models
from medart_cli.tiny.make.vae import build_vae

VAE_STEPS = 9300
BASE_STEPS = 5800
CAPTIONER_STEPS = 3650
LEAST_STEPS = 20


def main() -> None:
    """Build what is missing in the folder, then measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for base/ and captioner/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of all steps; to try it quickly")
    options = parser.parse_args()
    start_log()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base, captioner = options.out / "base", options.out / "captioner"
    common = {"seed": options.seed, "device": device}

    def share(steps: int) -> int:
        return max(LEAST_STEPS, round(steps * float(options.share)))

    if not (base / "vae").is_dir():
        build_vae(base / "vae", steps=share(VAE_STEPS), **common)
    if not (base / "transformer").is_dir():
        build_base(base, steps=share(BASE_STEPS), **common)
    if not captioner.is_dir():
        build_captioner(captioner, steps=share(CAPTIONER_STEPS), **common)
    figures = check_models(options.out, device)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    log.info("%s", json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
