"""What a quantized base costs: held-out loss, colors, distances on real images; bytes of weights.

    python -m tests.bench.bench_formats DATA OUT    # the tiny base on real images
    python -m tests.bench.bench_formats --bytes     # published sizes, counted, without weights
    python -m tests.bench.bench_formats --passes    # PixArt-XL's transformer, random weights: times

DATA/FOLDER/<class>/*.jpg; half of each class to train on (a fifth of it held out), half to test, by
seed, at 64 pixels. Every run is the plain commands: `finetune` of the `tiny` base in each format,
`sample` from the captions of the test half on the base as it was trained and, of the quantized
ones, on the base in full precision, `evaluate` against the test half. What is done is not done
again.
"""

import argparse
import json
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch

from medart_cli.cli import call
from medart_cli.models import adapters, pixart, quantized
from medart_cli.models.hub import embedded_model
from medart_cli.models.shapes import known_shape
from medart_cli.models.sizes import BASE_SIZES
from tests.bench.bench_hldf import CHANNELS, write_sets

FORMATS = (None, "bf16", "int8", "nf4")
COMMON = (
    "--base tiny --resolution 64 --batch-size 4 --learning-rate 1e-3 --lr-schedule cosine "
    "--rank 16 --balance --preview-every 0 --hldf-every 10 --hldf-checkpoint none "
    "--val-fraction 0.2 --val-every 1000 --val-count 32"
)
BITS = {None: 16, "int8": 8, "nf4": 4.127}  # of a weight; QLoRA, section 3


def medart(line: str) -> None:
    """Run a command in this process, since loading the libraries takes longer than most of them."""
    with redirect_stdout(sys.stderr):
        code = call([*line.split(), "--quiet"])
    if code:
        sys.exit(f"medart {line}: {code}")


def train(images: Path, run: Path, base_format: str, seed: int, steps: int) -> dict:
    """Fine-tune in a format; return the facts of the run."""
    facts = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    if facts.get("status") != "done":
        stored = "" if base_format == "full" else f"--base-format {base_format}"
        medart(
            f"finetune {images}/train-simple.jsonl {COMMON} {stored} --steps {steps} "
            f"--seed {seed} --out {run}"
        )
    return json.loads((run / "run.json").read_text())


def measure(images: Path, run: Path, base_format: str, seed: int, count: int) -> list[float]:
    """Draw on a base in a format and evaluate: gap and energy of colors, kernel distance."""
    drawn, report = run / f"syn-{base_format}", run / f"report-{base_format}"
    if not (report / "metrics.json").is_file():
        medart(
            f"sample {run} --from {images}/test-simple.jsonl --per-label {count} --steps 15 "
            f"--batch-size 50 --seed {seed} --base-format {base_format} --out {drawn}"
        )
        medart(
            f"evaluate {images}/test-simple.jsonl {drawn} --features efficientnet-lite0 "
            f"--no-copies --workers 0 --bootstrap 0 --out {report}"
        )
    facts = json.loads((report / "metrics.json").read_text())
    whole = next(item for item in facts["comparisons"] if item["label"] is None)
    color = facts["color"][0]
    gap = float(np.mean([abs(color["mean"][name]["value"]) for name in CHANNELS]))
    return [gap, 1000 * color["energy"]["value"], 1000 * whole["kernel"]["value"]]


def compare(options: argparse.Namespace) -> None:
    """Print a row for each format and base to draw on; a cell has a value for each seed."""
    rows: dict[tuple[str, str], list[list[float]]] = {}
    for seed in options.seeds:
        folder = options.out / f"seed-{seed}"
        write_sets(options.data / options.set, options.profile, folder, seed)
        for name in options.formats:
            run = folder / name
            facts = train(folder / "images", run, name, seed, options.steps)
            figures = facts["figures"]
            seconds = figures["seconds"] / options.steps
            losses = [figures["heldout"]["val_loss_before"], figures["heldout"]["val_loss"]]
            for drawn_on in dict.fromkeys((name, "full")):
                found = measure(folder / "images", run, drawn_on, seed, options.count)
                rows.setdefault((name, drawn_on), []).append([*losses, *found, seconds])
                print(seed, name, drawn_on, *(f"{value:.4f}" for value in rows[name, drawn_on][-1]))
    print(
        "\n| trained on | drawn on | held-out loss before | after | gap of means | energy x 1000 "
        "| kernel x 1000 | s a step |\n|---|---|---|---|---|---|---|---|"
    )
    for (name, drawn_on), found in rows.items():
        digits = (4, 4, 4, 1, 0, 2)
        cells = [
            ", ".join(f"{value:.{places}f}" for value in column)
            for places, column in zip(digits, zip(*found, strict=True), strict=True)
        ]
        print(f"| {name} | {drawn_on} | {' | '.join(cells)} |")


def count_tiny() -> None:
    """Print the bytes of the tiny base's parts in each format, as they lie in memory."""
    cpu, folder = torch.device("cpu"), embedded_model("base")
    print("| tiny, kB | fp32 | bf16 | int8 | nf4 |\n|---|---|---|---|---|")
    for name, load in (
        ("transformer", pixart.load_transformer),
        ("text encoder", pixart.load_text_encoder),
    ):
        sizes = [
            quantized.count_bytes(
                quantized.load_frozen_base(load, folder, torch.float32, cpu, base_format)
            )
            for base_format in FORMATS
        ]
        print(f"| {name} | {' | '.join(f'{size / 1e3:.0f}' for size in sizes)} |")


def count_published() -> None:
    """Print what the published sizes take, with all that is not quantized in bf16."""
    print("| base | part | quantized | bf16, GB | int8, GB | nf4, GB |\n|---|---|---|---|---|---|")
    for size in BASE_SIZES.values():
        shape = known_shape(size)
        makers = {"transformer": shape.build_transformer, "text encoder": shape.build_text_encoder}
        for part, make in makers.items():
            with torch.device("meta"):
                model = make()
            names = quantized.list_quantized(model)
            stored = sum(model.get_submodule(name).weight.numel() for name in names)
            whole = sum(weight.numel() for weight in model.parameters())
            sizes = [(2 * (whole - stored) + bits / 8 * stored) / 1e9 for bits in BITS.values()]
            cells = [
                size.title,
                part,
                f"{100 * stored / whole:.0f} %",
                *(f"{it:.2f}" for it in sizes),
            ]
            print(f"| {' | '.join(cells)} |")


def time_passes(rounds: int = 5) -> None:
    """Print what a forward and backward pass of PixArt-XL with LoRA takes in each format.

    Random weights, bf16, 256 tokens, 120 tokens of text, 2 threads; formats take turns.
    """
    torch.set_num_threads(2)
    models, taken = {}, {}
    for name in ("full", "int8", "nf4"):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        model = known_shape(BASE_SIZES["pixart"]).build_transformer().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
        if name != "full":
            quantized.quantize(model, name, torch.bfloat16, torch.device("cpu"))
        taken[name] = quantized.count_bytes(model)
        models[name] = adapters.add_adapter(
            model, "lora", rank=8, alpha=None, targets=pixart.FAMILY.targets
        )
    latents, text = torch.randn(1, 4, 32, 32), torch.randn(1, 120, 4096).bfloat16()
    mask, times = torch.ones(1, 120, dtype=torch.long), torch.tensor([500])
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                found = pixart.predict_noise(model, latents, times, text, mask)
            found.square().mean().backward()
            seconds[name].append(time.perf_counter() - started)
    print(
        "| format | GB of weights | s forward and backward (median) | of full |\n|---|---|---|---|"
    )
    for name, values in seconds.items():
        ratios = [own / other for own, other in zip(values, seconds["full"], strict=True)]
        cells = f"{taken[name] / 1e9:.2f} | {np.median(values):.2f} | {np.median(ratios):.2f}"
        print(f"| {name} | {cells} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="?", help="folder of the sets")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--set", default="isic2017_dermoscopy")
    parser.add_argument("--profile", default="dermoscopy")
    parser.add_argument("--count", type=int, default=25, help="images drawn a label")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--formats", nargs="+", default=["full", "int8", "nf4"])
    parser.add_argument("--bytes", action="store_true")
    parser.add_argument("--passes", action="store_true")
    options = parser.parse_args()
    if options.passes:
        time_passes()
        return
    if options.bytes:
        count_tiny()
        print()
        count_published()
        return
    os.environ["MEDART_CACHE"] = str(options.out / "cache")
    compare(options)


if __name__ == "__main__":
    main()
