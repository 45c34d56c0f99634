"""Time and memory of training steps: medart beside the plain way, from one run, on a CPU.

    python -m tests.bench.bench_finetune            # about 10 minutes on 2 cores

The plain way is what a straightforward script in the paper's setting does: the image is loaded and
VAE-encoded in every step, prompts are padded to 120 tokens, transformer blocks are recomputed
(gradient checkpointing) in every step and through all M solver steps of HLDF, and one backward pass
goes over both losses. Its models, optimizer and arithmetic are the same. For the normal step it is
timed without recomputing as well.

Times are medians of steps taken in turn with the other way's. Memory is the peak of the process
during one step over what it held before, measured in a process of its own with
MALLOC_MMAP_THRESHOLD_=65536: plain glibc keeps freed activations, and then all modes look alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medart_cli.models.families import build_denoiser
from medart_cli.models.parts import recompute_blocks, renew_scheduler

MODES = ("plain", "none", "block", "step", "step+block")


def build_base(folder):
    """A shape for a CPU: 12 layers of 8 x 32, T5 of 3 layers, VAE 16/32/32/32, 256 pixels."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    from tests.small import build_base as build_small

    build_small(folder)
    torch.manual_seed(0)
    PixArtTransformer2DModel(
        num_attention_heads=8, attention_head_dim=32, num_layers=12, cross_attention_dim=256,
        sample_size=32, caption_channels=128,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    for path in (folder / "text_encoder").iterdir():
        path.unlink()
    T5EncoderModel(
        T5Config(
            vocab_size=256, d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    ).save_pretrained(folder / "text_encoder")  # fmt: skip
    AutoencoderKL(
        block_out_channels=(16, 32, 32, 32), norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(folder / "vae")  # fmt: skip
    DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=2e-2, beta_schedule="linear"
    ).save_pretrained(folder / "scheduler")


def build_images(folder):
    generator = np.random.default_rng(0)
    (folder / "nevus").mkdir(parents=True)
    for index in range(4):
        pixels = generator.integers(0, 255, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "nevus" / f"{index}.jpg")


def build_work(place, mode, solver_steps):
    """Make finetune's own working state, as `run` does, without its output folder."""
    from medart_cli.finetune import rows as reading
    from medart_cli.finetune import setup
    from medart_cli.finetune.options import FinetuneConfig
    from medart_cli.models.bases import hash_base
    from medart_cli.models.device import hush_libraries

    hush_libraries("transformers", "diffusers")
    config = FinetuneConfig(
        data=str(place / "images"), base=str(place / "base"), out=place / "out",
        cache=place / "cache", resolution=256, device="cpu", hldf_steps=solver_steps,
        hldf_every=2, hldf_loss="published",
        hldf_checkpoint=mode.split("+")[0] if mode != "plain" else "block",
        gradient_checkpointing=mode == "step+block", caption_dropout=0,
    )  # fmt: skip
    data = reading.read_training_rows(config)
    named = (place / "base", hash_base(place / "base"))
    work = setup.build_work(config, named, data.rows, setup.build_accelerator(config))
    setup.cache_images(work)
    setup.prepare_training(work, 100)
    return work


def take_plain_step(work, step, with_color, recompute=True):
    """One step of the plain way, on the same models."""
    from medart_cli.data.images import fit_image, load_image
    from medart_cli.data.tensors import image_to_tensor
    from medart_cli.diffusion.losses import color_moments, squared_gap
    from medart_cli.models import pixart

    recompute_blocks(work.transformer, recompute)
    row = work.rows[step % len(work.rows)]
    image = image_to_tensor(fit_image(load_image(row.path), 256))[None]
    mean, std = pixart.encode_images(work.vae, image)
    latents = mean + std * torch.randn_like(mean)
    noise, timesteps = torch.randn_like(latents), torch.randint(1000, (1,))
    ids, mask = pixart.tokenize(work.tokenizer, [row.text, ""], 120, pad=True)
    embeds = pixart.encode_tokens(work.text_encoder, ids, mask)
    noisy = work.scheduler.add_noise(latents, noise, timesteps)
    predicted = pixart.predict_noise(work.transformer, noisy, timesteps, embeds[:1], mask[:1])
    loss = (predicted - noise).square().mean()
    if with_color:
        scheduler = renew_scheduler(work.scheduler, 8)
        scheduler.set_timesteps(work.config.hldf_steps)
        denoise = build_denoiser(
            pixart.FAMILY, work.transformer, (embeds[:1], mask[:1]), (embeds[1:], mask[1:]), 4.5
        )
        drawn = torch.randn_like(latents)
        for timestep in scheduler.timesteps:
            drawn = scheduler.step(denoise(drawn, timestep), timestep, drawn).prev_sample
        generated = pixart.decode_latents(work.vae, drawn)
        gap = squared_gap(color_moments(generated), color_moments(image))
        loss = loss + gap / work.config.hldf_steps
    work.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(work.parameters, 1.0)
    work.optimizer.step()


def take(work, mode, step, with_color):
    from medart_cli.finetune.batches import draw_batch
    from medart_cli.finetune.train import take_step

    number = 2 * step if with_color else 2 * step + 1
    started = time.perf_counter()
    if mode.startswith("plain"):
        take_plain_step(work, step, with_color, recompute=mode == "plain")
    else:
        take_step(work, number, [draw_batch(work, number - 1)])
    return time.perf_counter() - started


def measure_memory(place, mode, solver_steps):
    """In a process of its own: peak memory of one HLDF step over the state before, in MB."""
    work = build_work(place, mode, solver_steps)
    take(work, mode, 1, False)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    take(work, mode, 1, True)
    return memory("VmHWM") - before


def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def report(place, rounds):
    modes = {"plain": "plain", "plain, nothing recomputed": "plain-none", "medart": "step"}
    works = {name: build_work(place, mode.split("-")[0], 20) for name, mode in modes.items()}
    normal = {name: [] for name in modes}
    for step in range(1, 16):
        for name, work in works.items():
            normal[name].append(take(work, modes[name], step, False))
    medians = {name: statistics.median(times[1:]) for name, times in normal.items()}
    print("| normal step | s | medart is |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.3f} | {median / medians['medart']:.2f} times as fast |")
    del works, work
    times = {mode: [] for mode in MODES}
    for turn in range(rounds):
        for mode in MODES:
            work = build_work(place, mode, 20)
            times[mode].append(take(work, mode, 1 + turn, True))
            del work
    plain = statistics.median(times["plain"])
    print("\n| HLDF step | M = 20, s | of plain | MB, M = 5 | MB, M = 20 |")
    print("|---|---|---|---|---|")
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    for mode in MODES:
        sizes = []
        for solver_steps in (5, 20):
            command = [
                sys.executable, "-m", "tests.bench.bench_finetune", "--memory", mode,
                "--solver-steps", str(solver_steps), "--place", str(place),
            ]  # fmt: skip
            done = subprocess.run(command, env=environment, capture_output=True, check=True)
            sizes.append(json.loads(done.stdout.splitlines()[-1]))
        median = statistics.median(times[mode])
        print(f"| {mode} | {median:.1f} | {median / plain:.2f} | {sizes[0]:.0f} | {sizes[1]:.0f} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", choices=MODES)
    parser.add_argument("--solver-steps", type=int, default=20)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.memory:
        print(json.dumps(measure_memory(options.place, options.memory, options.solver_steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        build_base(place / "base")
        build_images(place / "images")
        report(place, options.rounds)


if __name__ == "__main__":
    main()
