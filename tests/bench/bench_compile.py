"""Steps of fine-tuning: plain, medart's, read ahead, compiled, quantized; two families, on a CPU.

    python -m tests.bench.bench_compile [--rounds 9] [--threads 2]     # about 10 minutes

Each way takes steps in turn, on models of its own with the same weights: `example`, as the
text-to-image examples of diffusers train (in each step the image is decoded and encoded by the
autoencoder and the text encoder reads the prompt, padded to the full length; the loss is read with
`.item()`), with the paper's color loss added in a straightforward way; medart with its caches,
batches drawn where they are needed; with batches read ahead by a thread; compiled besides; and with
a base in int8 and in nf4, read ahead. Nothing is recomputed. LoRA of rank 8 on the transformer,
batch 1; HLDF as published, through all of 4 solver steps.

Seconds are medians; ratios are medians of the ratios within a turn, which other work on the machine
slows alike. Compiling is not in them, and stands below.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from diffusers import SanaTransformer2DModel

from medart_cli.data.images import fit_image, load_image
from medart_cli.data.tensors import image_to_tensor
from medart_cli.diffusion.losses import color_moments, squared_gap
from medart_cli.diffusion.solver import solve
from medart_cli.finetune import rows as reading
from medart_cli.finetune import setup, train
from medart_cli.finetune.batches import draw_ahead, draw_batch
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.models import compiled
from medart_cli.models.bases import hash_base
from medart_cli.models.device import hush_libraries
from medart_cli.models.families import build_denoiser
from tests.bench.bench_finetune import build_base, build_images
from tests.small_sana import build_sana

WAYS = ("example", "medart", "read ahead", "compiled", "int8", "nf4")
SOLVER_STEPS, GUIDANCE = 4, 4.5
TURNS = 400  # more steps than are taken


def build_middle_sana(folder):
    """8 layers of 8 x 32 on 16 x 16 latents; the other parts are small."""
    build_sana(folder)
    torch.manual_seed(0)
    SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=8, attention_head_dim=32, num_layers=8,
        num_cross_attention_heads=8, cross_attention_head_dim=32, cross_attention_dim=256,
        caption_channels=16, mlp_ratio=2.5, sample_size=16, patch_size=1,
    ).save_pretrained(folder / "transformer")  # fmt: skip


BASES = {"PixArt": (build_base, 256), "SANA": (build_middle_sana, 32)}


def build_work(place, side, way):
    """Make finetune's own working state, as `fine_tune` does, without its output folder."""
    config = FinetuneConfig(
        data=str(place / "images"), base=str(place / "base"), out=place / "out",
        cache=place / "cache", resolution=side, device="cpu", hldf_every=2,
        hldf_steps=SOLVER_STEPS, hldf_loss="published", hldf_checkpoint="none",
        train_text_encoder=False, compile=way == "compiled",
        base_format=way if way in ("int8", "nf4") else None,
    )  # fmt: skip
    data = reading.read_training_rows(config)
    named = (place / "base", hash_base(place / "base"))
    work = setup.build_work(config, named, data.rows, setup.build_accelerator(config))
    setup.cache_images(work)
    setup.cache_captions(work)
    if config.compile:
        # One folder for all bases: PyTorch keeps for the whole process where its headers lie.
        compiled.keep_code_in(place.parent / "compiled")
        work.text_length = setup.find_text_length(work)
        compiled.compile_blocks(work.transformer)
    setup.prepare_training(work, TURNS)
    return work


def take_example_step(work, text_encoder, step):
    """One step as the examples of diffusers make it, on the same models; each other one HLDF's."""
    family, row = work.family, work.rows[step % len(work.rows)]
    image = image_to_tensor(fit_image(load_image(row.path), work.facts["resolution"]))[None]
    mean, std = family.encode_images(work.vae, image)
    latents = mean + std * torch.randn_like(mean)
    noise = torch.randn_like(latents)
    with torch.no_grad():
        embeds, mask = family.read_prompts(
            work.tokenizer, text_encoder, [row.text], pad=True, limit=work.kind.tokens
        )
    times = work.process.draw_time(work.scheduler, work.times, None)[None]
    noisy = work.process.corrupt(work.scheduler, latents, noise, times)
    timesteps = work.process.to_timesteps(work.scheduler, times)
    predicted = family.predict(work.transformer, noisy, timesteps, embeds, mask)
    target = work.process.find_target(work.scheduler, latents, noise, times)
    loss = (predicted - target).square().mean()
    if step % 2 == 0:
        drawn = draw_plainly(work, text_encoder, row.text, latents)
        gap = squared_gap(color_moments(drawn), color_moments(image))
        loss = loss + gap / SOLVER_STEPS
    work.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(work.parameters, 1.0)
    work.optimizer.step()
    return loss.item()


def draw_plainly(work, text_encoder, text, latents):
    """Draw an image with guidance; all of it is kept for the backward pass."""
    family = work.family
    with torch.no_grad():
        embeds, mask = family.read_prompts(
            work.tokenizer, text_encoder, [text, ""], pad=True, limit=work.kind.tokens
        )
    denoise = build_denoiser(
        family, work.transformer, (embeds[:1], mask[:1]), (embeds[1:], mask[1:]), GUIDANCE
    )
    tokens = latents.shape[-1] * latents.shape[-2]
    scheduler = family.renew_scheduler(work.scheduler, tokens)
    drawn = solve(denoise, torch.randn_like(latents), scheduler, SOLVER_STEPS)
    return family.decode_latents(work.vae, drawn)


def list_takers(place, side):
    """Return for each way a function that takes step N."""
    works = {way: build_work(place, side, way) for way in WAYS}
    example = works["example"]
    text_encoder = example.family.load_text_encoder(
        example.base, torch.float32, torch.device("cpu")
    )
    takers = {"example": lambda step: take_example_step(example, text_encoder, step)}
    plain = works["medart"]
    takers["medart"] = lambda step: train.take_step(plain, step, [draw_batch(plain, step - 1)])
    for way in WAYS[2:]:
        feed = draw_ahead(works[way], 0, TURNS)
        takers[way] = lambda step, work=works[way], feed=feed: train.take_step(
            work, step, [next(feed)]
        )
    return takers


def measure(name, place, rounds, kinds):
    build, side = BASES[name]
    build(place / "base")
    build_images(place / "images")
    takers, graphs = list_takers(place, side), compiled.count_graphs()
    times = {(way, kind): [] for way in WAYS for kind in ("noise", "HLDF")}
    for step in range(1, 2 * (rounds + 1) + 1):
        kind = "noise" if step % 2 else "HLDF"
        for way, take in takers.items():
            if kind not in kinds:
                continue
            started = time.perf_counter()
            take(step)
            times[way, kind].append(time.perf_counter() - started)
        if step == 2:
            begun = compiled.count_graphs()
    assert compiled.count_graphs()[0] == begun[0]  # nothing is compiled after the first of a kind
    for kind in ("noise", "HLDF"):
        for way in WAYS:
            own, base = times[way, kind][1:], times["medart", kind][1:]
            if own:
                ratio = statistics.median(b / o for o, b in zip(own, base, strict=True))
                print(
                    f"| {name} | {kind} | {way} | {statistics.median(own):.3f} | {ratio:.2f} |",
                    flush=True,
                )
    print(f"{name}: {begun[0] - graphs[0]} graphs compiled in {begun[1] - graphs[1]:.0f} s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", choices=("noise", "HLDF"), nargs="+", default=["noise", "HLDF"])
    parser.add_argument("--base", choices=BASES, nargs="+", default=list(BASES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    hush_libraries("transformers", "diffusers")
    print("| base | step | way | seconds | times as fast as medart before |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.base:
            (Path(folder) / name).mkdir()
            measure(name, Path(folder) / name, options.rounds, options.kinds)


if __name__ == "__main__":
    main()
