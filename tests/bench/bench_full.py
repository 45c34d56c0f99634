"""Each base at full size, with random weights: step times, memory, images a second.

    python -m tests.bench.bench_full --place FOLDER --parity          # all bases, on a GPU
    python -m tests.bench.bench_full --place FOLDER --base klein --device cpu --solver-steps 2
    python -m tests.bench.bench_full --small                  # the same code on small models

Builds the base's models from their published sizes (models/sizes.py), saves them in bf16 in the
hub's layout (11 to 16 GB on disk), and prints Markdown rows. Weights are random, so times and
memory are those of the real models and the pictures are noise. The tokenizers are small; a prompt
has about as many tokens as letters. On a GPU memory is the peak of what PyTorch had allocated; on a
CPU it is the peak of the process (Linux), with its memory-mapped files.

`--compile` times steps of compiled blocks too, beside plain ones. On a GPU `--waits` counts how
often a step waits for it, as PyTorch's own check finds (`torch.cuda.set_sync_debug_mode`); one is
what a normal step should have. Neither of the two was run on a GPU yet.

`--parity` also compares an image with the stock pipeline's: fp32, 4 steps, guidance, same noise.
That of PRX needs the package ftfy.
"""

import argparse
import gc
import re
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch

from medart_cli.diffusion.solver import solve
from medart_cli.finetune import rows as reading
from medart_cli.finetune import setup, train
from medart_cli.finetune.batches import draw_batch
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.models import compiled
from medart_cli.models.bases import find_kind, hash_base, pipeline_class
from medart_cli.models.device import hush_libraries
from medart_cli.models.families import build_denoiser
from medart_cli.models.parts import pad_embeds
from medart_cli.models.shapes import known_shape
from medart_cli.models.sizes import BASE_SIZES
from medart_cli.sample.draw import build_drawing, draw_images, load_models, renew_embeds
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.source import find_source
from tests.bench.bench_finetune import build_images
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

BUILDERS = {
    "pixart": partial(build_base, latent_levels=4, sample_size=64),
    "sana-600m": build_sana,
    "sana-1600m": build_sana,
    "prx": build_prx,
    "klein": build_klein,
}
MODES = ("none", "block", "step")


def build(name: str, folder: Path, device: str, *, small: bool) -> None:
    """Save a base: the small one, and unless that is enough the full-size models in its place."""
    BUILDERS[name](folder)
    if small:
        return
    shape = known_shape(BASE_SIZES[name])
    makers = (shape.build_transformer, shape.build_text_encoder, shape.build_vae)
    for part, make in zip(("transformer", "text_encoder", "vae"), makers, strict=True):
        for path in (folder / part).iterdir():
            path.unlink()
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        model = make(device=device)
        torch.set_default_dtype(torch.float32)
        if part == "transformer":  # some start as no change at all in each block
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.data.normal_(0, 0.02)
        model.save_pretrained(folder / part)


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Peak:
    """The most memory that was in use since it was made, in GB."""

    def __init__(self, device: str) -> None:
        self.gpu = device == "cuda"
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> float:
        """Return it."""
        if self.gpu:
            return torch.cuda.max_memory_allocated() / 1e9
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1e9


def list_cases(base: Path, device: str, base_format: str | None) -> dict[str, dict]:
    """Name what is trained, and with which options."""
    frozen = {"train_text_encoder": False}
    cases = {"LoRA": frozen}
    if find_kind(base).reads_trained:
        both = {"gradient_checkpointing": device == "cpu"}
        cases = {"LoRA, also on the text encoder": both, "LoRA": frozen}
    if device == "cpu":
        return {name: case | {"gradient_checkpointing": True} for name, case in cases.items()}
    if base_format:
        return cases
    return cases | {"full weights": frozen | {"method": "full", "gradient_checkpointing": True}}


def time_steps(
    name: str, place: Path, options: argparse.Namespace, case: str, chosen: dict
) -> None:
    """Print a row for each mode: a normal step, an HLDF step, and their peaks."""
    device = options.device
    config = FinetuneConfig(
        data=str(place / "images"), base=str(place / "base"), out=place / "out",
        cache=place / "cache", resolution=options.resolution, hldf_steps=options.solver_steps,
        hldf_every=2, device=device, precision="bf16", base_format=options.base_format, **chosen,
    )  # fmt: skip
    data = reading.read_training_rows(config)
    named = (place / "base", hash_base(place / "base"))
    peak, started = Peak(device), time.perf_counter()
    work = setup.build_work(config, named, data.rows, setup.build_accelerator(config))
    setup.cache_images(work)
    setup.cache_captions(work)
    if config.compile:
        compiled.check_compiler(work.accelerator.device, place / "compiled")
        work.text_length = setup.find_text_length(work)
        compiled.compile_blocks(work.transformer)
    setup.prepare_training(work, 100)
    synchronize()
    print(f"{name}, {case}: ready in {time.perf_counter() - started:.0f} s, {peak.read():.1f} GB")
    train.take_step(work, 1, [draw_batch(work, 0)])  # warm-up
    if options.waits and device == "cuda":
        print(f"{name}, {case}: waits in a normal step {count_waits(work, 3)}")
    for mode in ("step",) if config.gradient_checkpointing else MODES:
        work.config, work.recompute = replace(config, hldf_checkpoint=mode), mode
        try:
            if config.compile:  # the color loss is compiled in its first step
                measure(work, device, [2])
            normal, normal_gb = measure(work, device, [3, 5, 7] if device == "cuda" else [3])
            color, color_gb = measure(work, device, [2])
        except torch.OutOfMemoryError:
            print(f"| {name} | {case} | {mode} | out of memory | | | |")
        else:
            print(
                f"| {name} | {case} | {mode} | {normal:.3f} | {normal_gb:.1f} | {color:.2f} | "
                f"{color_gb:.1f} |",
                flush=True,
            )
        work.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def count_waits(work: Any, step: int) -> int:
    """Return how often a step waits for the GPU, as PyTorch finds it."""
    batch = draw_batch(work, step - 1)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        train.take_step(work, step, [batch])
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in found)


def measure(work: Any, device: str, steps: list[int]) -> tuple[float, float]:
    """Return seconds of a step, on average, and the peak in GB."""
    peak = Peak(device)
    synchronize()
    started = time.perf_counter()
    for step in steps:
        train.take_step(work, step, [draw_batch(work, step - 1)])
    synchronize()
    return (time.perf_counter() - started) / len(steps), peak.read()


def time_drawing(name: str, place: Path, options: argparse.Namespace) -> None:
    """Print a row for each batch size: images a second, without loading, and the peak."""
    device, steps, square = options.device, options.solver_steps, (options.resolution,) * 2
    for size in (1, 16) if device == "cuda" else (1,):
        config = SampleConfig(
            run=str(place / "base"), prompt=["nevus"], out=place, batch_size=size, steps=steps,
            resolution=options.resolution, device=device, precision="bf16",
            base_format=options.base_format,
        )  # fmt: skip
        drawing = build_drawing(config, find_source(config))
        peak, started = Peak(device), time.perf_counter()
        renew_embeds(drawing, {"nevus"})
        load_models(drawing)
        ready, ready_gb = time.perf_counter() - started, peak.read()
        if device == "cuda":
            draw_images(drawing, range(size), ["nevus"] * size, square)  # warm-up
        peak = Peak(device)
        synchronize()
        started = time.perf_counter()
        draw_images(drawing, range(size), ["nevus"] * size, square)
        synchronize()
        seconds = time.perf_counter() - started
        print(
            f"| {name} | {size} | {ready:.0f} | {ready_gb:.1f} | {size / seconds:.3f} | "
            f"{peak.read():.1f} |",
            flush=True,
        )


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in fp32 without TF32, which convolutions have by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@full_precision()
def compare(name: str, place: Path, options: argparse.Namespace) -> None:
    """Print how far our image is from the stock pipeline's, in fp32, with guidance."""
    base, side, steps, guidance = place / "base", options.resolution, 4, 4.5
    config = SampleConfig(
        run=str(base), prompt=["nevus"], out=place, resolution=side, device=options.device,
        precision="fp32",
    )  # fmt: skip
    drawing = build_drawing(config, find_source(config))
    renew_embeds(drawing, {"nevus"})
    load_models(drawing)
    family, vae = drawing.family, drawing.vae
    latents = side // family.latent_scale(vae)
    noise = torch.randn(
        1, family.latent_channels(vae), latents, latents, generator=torch.Generator().manual_seed(0)
    ).to(drawing.device)
    embeds, mask = pad_embeds([drawing.embeds[text].to(drawing.device) for text in ("nevus", "")])
    text, empty = (embeds[:1], mask[:1]), (embeds[1:], mask[1:])
    denoise = build_denoiser(family, drawing.transformer, text, empty, guidance)
    with torch.no_grad():
        scheduler = family.renew_scheduler(drawing.scheduler, latents**2)
        drawn = family.decode_latents(vae, solve(denoise, noise, scheduler, steps))
    ours = drawn[0].clamp(-1, 1).permute(1, 2, 0).cpu().numpy() / 2 + 0.5
    del drawing, denoise, vae
    kind = getattr(diffusers, pipeline_class(base))
    pipeline = kind.from_pretrained(base, torch_dtype=torch.float32).to(options.device)
    call = eval(f"dict({find_kind(base).call})", {"prompt": "nevus"})  # as the model card says
    theirs = pipeline(
        **call, num_inference_steps=steps, guidance_scale=guidance, latents=noise, height=side,
        width=side, output_type="np",
    ).images[0]  # fmt: skip
    gap = abs(ours - theirs)
    print(
        f"{name}: images differ by {gap.max():.1e} at most, {gap.mean():.1e} on average, of 0 to "
        f"1; their deviation is {theirs.std():.2f}"
    )


def measure_base(name: str, place: Path, options: argparse.Namespace) -> None:
    """Build a base and print its tables."""
    build_images(place / "images")
    started = time.perf_counter()
    build(name, place / "base", options.device, small=options.small)
    print(f"\n{name}: built in {time.perf_counter() - started:.0f} s")
    for held in options.base_format:
        stored = None if held == "bf16" else held  # as all is computed
        chosen = argparse.Namespace(**vars(options) | {"base_format": stored})
        measure_format(f"{name} in {held}", place, chosen)
    if options.parity:
        compare(name, place, options)


def measure_format(name: str, place: Path, options: argparse.Namespace) -> None:
    """Print the tables of a base that is held in one format."""
    print("| base | batch | s to load | GB | images/s | GB |\n|---|---|---|---|---|---|")
    time_drawing(name, place, options)
    print(
        "\n| base | case | HLDF mode | step, s | GB | HLDF step, s | GB |\n"
        "|---|---|---|---|---|---|---|"
    )
    for case, chosen in list_cases(place / "base", options.device, options.base_format).items():
        time_steps(name, place, options, case, chosen)
        gc.collect()
        if options.compile:
            time_steps(name, place, options, f"{case}, compiled", chosen | {"compile": True})
            gc.collect()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--place", type=Path)
    parser.add_argument("--base", choices=BUILDERS, nargs="+", default=list(BUILDERS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--solver-steps", type=int, default=20)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--resolution", type=int, help="512, or 64 with --small")
    parser.add_argument("--parity", action="store_true")
    parser.add_argument(
        "--base-format", choices=("bf16", "int8", "nf4"), nargs="+", default=["bf16"]
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--waits", action="store_true")
    options = parser.parse_args()
    options.resolution = options.resolution or (64 if options.small else 512)
    hush_libraries("transformers", "diffusers")
    for name in options.base:
        with tempfile.TemporaryDirectory(dir=options.place) as folder:
            measure_base(name, Path(folder), options)
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
