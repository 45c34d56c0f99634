"""The full-size models on a GPU, with random weights: step times, memory, images a second.

    python -m tests.bench.bench_gpu --place FOLDER    # 15 GB on disk, a GPU of 40 GB
    python -m tests.bench.bench_gpu --small          # the same code on a CPU, to try it

PixArt-XL-2-512 (28 layers, 16 heads x 72, caption channels 4096), T5 v1.1 XXL (24 layers, d_model
4096, d_ff 10240, 64 heads x 64) and the VAE of Stable Diffusion, made from their configs. Weights
are random, so times and memory are those of the real models and the pictures are noise.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from medart_cli.sample.draw import build_drawing, draw_images
from medart_cli.sample.source import find_source
from tests.bench.bench_finetune import build_images
from tests.small import build_base as build_small

CASES = {
    "LoRA on both": {"gradient_checkpointing": True},
    "LoRA on both, no recomputing": {},
    "LoRA, T5 frozen and cached": {"train_text_encoder": False},
    "full weights, T5 frozen": {"method": "full", "train_text_encoder": False},
}


def build_full(folder):
    from diffusers import AutoencoderKL, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    build_small(folder, latent_levels=4, sample_size=64)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    for path in (folder / "text_encoder").iterdir():
        path.unlink()
    with torch.device("cuda"):
        T5EncoderModel(
            T5Config(
                vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                feed_forward_proj="gated-gelu",
            )
        ).save_pretrained(folder / "text_encoder")  # fmt: skip
        PixArtTransformer2DModel(
            sample_size=64, caption_channels=4096, cross_attention_dim=1152
        ).save_pretrained(folder / "transformer")
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).save_pretrained(folder / "vae")  # fmt: skip
    torch.set_default_dtype(torch.float32)


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gb():
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan")


def matrix_rate(size):
    """Measured rate of a square bf16 matrix product, in FLOP/s: the ceiling to compare with."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    synchronize()
    started = time.perf_counter()
    for _ in range(10):
        a @ b
    synchronize()
    return 10 * 2 * size**3 / (time.perf_counter() - started)


def time_steps(place, resolution, solver_steps, name, options):
    """Print a row: normal step, HLDF step in each mode, peak memory, share of the matrix rate."""
    from medart_cli.finetune import rows as reading
    from medart_cli.finetune import setup
    from medart_cli.finetune import train as stage
    from medart_cli.finetune.options import FinetuneConfig
    from medart_cli.models.bases import hash_base
    from medart_cli.models.device import hush_libraries

    hush_libraries("transformers", "diffusers")
    modes = ("none", "block", "step")
    for mode in modes:
        config = FinetuneConfig(
            data=str(place / "images"), base=str(place / "base"), out=place / "out",
            cache=place / "cache", resolution=resolution, hldf_steps=solver_steps, hldf_every=2,
            hldf_checkpoint=mode, **options,
        )  # fmt: skip
        data = reading.read_training_rows(config)
        named = (place / "base", hash_base(place / "base"))
        work = setup.build_work(config, named, data.rows, setup.build_accelerator(config))
        setup.cache_images(work)
        setup.cache_captions(work)
        setup.prepare_training(work, 100)
        try:
            stage.take_step(work, 1)  # warm-up
            normal, normal_gb, flops = measure(stage, work, [3, 5, 7])
            color, color_gb, _ = measure(stage, work, [2])
            share = flops / normal / matrix_rate(8192 if torch.cuda.is_available() else 512)
            print(
                f"| {name} | {mode} | {normal:.3f} | {normal_gb:.1f} "
                f"| {color:.2f} | {color_gb:.1f} |"
                f" {100 * share:.0f} % |"
            )
        except torch.OutOfMemoryError:
            print(f"| {name} | {mode} | out of memory | | | | |")
        del work
        torch.cuda.empty_cache()


def measure(stage, work, steps):
    with FlopCounterMode(display=False) as counter:
        stage.take_step(work, steps[0])
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    synchronize()
    started = time.perf_counter()
    for step in steps:
        stage.take_step(work, step)
    synchronize()
    seconds = (time.perf_counter() - started) / len(steps)
    return seconds, peak_gb(), counter.get_total_flops()


def time_drawing(place, resolution, sizes):
    from medart_cli.sample.options import SampleConfig

    for size in sizes:
        config = SampleConfig(
            run=str(place / "base"), prompt=["nevus"], out=place, batch_size=size,
            resolution=resolution,
        )  # fmt: skip
        drawing = build_drawing(config, find_source(config), [{"text": "nevus"}])
        draw_images(drawing, range(size), ["nevus"] * size)  # warm-up
        synchronize()
        started = time.perf_counter()
        draw_images(drawing, range(size), ["nevus"] * size)
        synchronize()
        seconds = time.perf_counter() - started
        print(f"| {size} | {size / seconds:.2f} | {peak_gb():.1f} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--place", type=Path)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.place) as folder:
        place = Path(folder)
        build_images(place / "images")
        if options.small:
            build_small(place / "base")
        else:
            build_full(place / "base")
        resolution, solver_steps = (32, 3) if options.small else (512, 20)
        print("| case | HLDF mode | step, s | GB | HLDF step, s | GB | of matrix rate |")
        print("|---|---|---|---|---|---|---|")
        for name, case in CASES.items():
            time_steps(place, resolution, solver_steps, name, case)
        print("\n| batch | images a second, 20 steps | GB |\n|---|---|---|")
        time_drawing(place, resolution, (1, 2) if options.small else (1, 4, 16))


if __name__ == "__main__":
    main()
