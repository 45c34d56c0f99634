"""The estimate of a step's memory beside what a run takes: on a GPU, or on a CPU with small bases.

    python -m tests.bench.bench_footprint               # small and mid-size bases, on a CPU
    python -m tests.bench.bench_footprint --recorded    # full size, beside docs/benchmarks.md
    python -m tests.bench.bench_footprint --device cuda # small and mid-size; not run on a GPU yet
    python -m tests.bench.bench_footprint --device cuda --reading  # not run on a GPU yet

On a CPU memory is what PyTorch's profiler counts as allocated during a step, over what is held; on
a GPU the same by `torch.cuda.max_memory_allocated`. Prints Markdown: for each base and setting the
estimate and what was measured, in MB, of the normal step and of the HLDF step in each mode.

With --reading: text encoders of full size and random weights, in bf16, read a caption of full
length for each `--offload`: the peak of the GPU in GB, estimated and measured, and the seconds of a
caption. The machine holds the weights: 10 GB for T5-XXL.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from medart_cli.finetune import rows as reading
from medart_cli.finetune import setup, train
from medart_cli.finetune.batches import draw_batch
from medart_cli.finetune.estimate.footprint import Reckoner
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.work import Work, embed_captions
from medart_cli.models.bases import hash_base
from medart_cli.models.device import hush_libraries
from medart_cli.models.offload import BY_LAYERS, find_reader, find_stack, load_reader
from medart_cli.models.shapes import known_shape, read_shape
from medart_cli.models.sizes import BASE_SIZES
from tests.allocations import count_peak
from tests.bench.bench_finetune import build_base as build_middle
from tests.bench.bench_finetune import build_images
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

MODES = ("none", "block", "step")
BUILDERS = {
    "PixArt, small": (build_base, 64), "PixArt, 12 layers": (build_middle, 256),
    "SANA, small": (build_sana, 64), "PRX, small": (build_prx, 64),
    "klein, small": (build_klein, 64),
}  # fmt: skip
# Peaks in GB on one H200 (docs/benchmarks.md): normal step, HLDF none, block, step.
RECORDED = {
    ("pixart", "LoRA, also on T5"): (13.6, 40.0, 16.1, 15.9),
    ("pixart", "LoRA"): (3.8, 30.3, 6.0, 6.0),
    ("pixart", "full weights"): (10.2, None, None, 15.9),
    ("sana-600m", "LoRA"): (3.6, 18.5, 8.8, 8.6),
    ("sana-600m", "full weights"): (11.1, None, None, 19.2),
    ("sana-1600m", "LoRA"): (6.1, 24.5, 11.0, 10.7),
    ("sana-1600m", "full weights"): (27.8, None, None, 40.7),
    ("prx", "LoRA"): (5.3, 34.5, 7.4, 7.7),
    ("prx", "full weights"): (19.2, None, None, 28.8),
    ("klein", "LoRA"): (14.9, 87.9, 15.2, 21.5),
    ("klein", "full weights"): (62.5, None, None, 94.3),
}
TOKENS = 6  # of the captions in that run


def print_recorded() -> None:
    """Print the estimate beside what was measured at full size."""
    print("| base | trained | normal step | HLDF none | block | step |\n|---|---|---|---|---|---|")
    reckoners = {}
    for (name, case), measured in RECORDED.items():
        shape = known_shape(BASE_SIZES[name])
        if name not in reckoners:
            reckoners = {name: Reckoner(shape, 512, TOKENS, gpu=True)}
        config = FinetuneConfig(
            data="-", out=Path(), hldf_steps=20, train_text_encoder="T5" in case,
            method="full" if "full" in case else "lora", gradient_checkpointing="full" in case,
        )  # fmt: skip
        prints = [reckoners[name].reckon(config, "bf16", mode) for mode in MODES]
        found = [prints[0].step, *(it.hldf for it in prints)]
        cells = [
            "" if real is None else f"{own / 1e9:.1f} / {real} ({own / 1e7 / real - 100:+.0f} %)"
            for own, real in zip(found, measured, strict=True)
        ]
        print(f"| {BASE_SIZES[name].title} | {case} | {' | '.join(cells)} |", flush=True)


def print_reading(device: torch.device, names: Sequence[str] = ("pixart", "sana-600m", "klein")):
    """Print what reading a caption takes for each `--offload`."""
    print("| text encoder | --offload | peak | seconds |\n|---|---|---|---|")
    for name in names:
        shape = known_shape(BASE_SIZES[name])
        text_encoder = shape.build_text_encoder(device="cpu").to(torch.bfloat16).eval()
        reckoner = Reckoner(shape, 512, TOKENS, gpu=True)
        for offload in ("none", "text-encoder", BY_LAYERS):  # its hooks stay, so that it is last
            config = FinetuneConfig(
                data="-", out=Path(), hldf_every=0, train_text_encoder=False, offload=offload
            )
            estimate = reckoner.reckon(config, "bf16", "step").reading or 0
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            model = find_stack(load_reader(text_encoder.to, offload, device))
            seconds = time_reading(model, shape.kind.tokens, find_reader(offload, device))
            peak = torch.cuda.max_memory_allocated() - before
            cells = f"{estimate / 1e9:.1f} / {peak / 1e9:.1f} | {seconds:.2f}"
            print(f"| {shape.kind.text_encoder} | {offload} | {cells} |", flush=True)
            text_encoder.to("cpu")


def time_reading(model: torch.nn.Module, tokens: int, device: torch.device) -> float:
    """Return the seconds in which a text encoder reads a caption, after a first one."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device=device)
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
        start = time.perf_counter()
        for _ in range(3):
            # Read back, as its cache does; so the device has finished.
            model(input_ids=ids, attention_mask=torch.ones_like(ids))[0].cpu()
    return (time.perf_counter() - start) / 3


def build_work(config: FinetuneConfig) -> Work:
    """Make finetune's working state, as a run does."""
    data = reading.read_training_rows(config)
    named = (Path(config.base), hash_base(Path(config.base)))
    work = setup.build_work(config, named, data.rows, setup.build_accelerator(config))
    setup.cache_images(work)
    setup.cache_captions(work)
    setup.prepare_training(work, 100)
    return work


def measure(work: Work, step: int) -> int:
    """Return the most bytes that a step allocates over what is held."""
    work.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if work.accelerator.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        train.take_step(work, step, [draw_batch(work, step - 1)])
        return torch.cuda.max_memory_allocated() - before
    return count_peak(lambda: train.take_step(work, step, [draw_batch(work, step - 1)]))


def compare(place: Path, side: int, **chosen: object) -> list[tuple[float, float]]:
    """Return estimate and measurement, in bytes over what is held: normal step, HLDF by mode."""
    options = {"hldf_steps": 3, "hldf_every": 2, "train_text_encoder": False} | chosen
    config = FinetuneConfig(
        data=str(place / "images"), base=str(place / "base"), out=place / "out",
        cache=place / "cache", resolution=side, **options,
    )  # fmt: skip
    work = build_work(config)
    train.take_step(work, 1, [draw_batch(work, 0)])  # from here on the optimizer has its state
    with torch.no_grad():
        embeds, _ = embed_captions(
            work, ["" if row.text is None else row.text for row in work.rows]
        )
    gpu = work.accelerator.device.type == "cuda"
    reckoner = Reckoner(read_shape(place / "base"), side, embeds.shape[1], gpu=gpu)
    pairs = []
    for mode in MODES:
        work.config, work.recompute = replace(config, hldf_checkpoint=mode), mode
        found = reckoner.reckon(work.config, work.facts["precision"], mode)
        held = sum(found.parts.values())
        if not pairs:
            pairs.append((found.step - held, measure(work, 3)))
        pairs.append((found.hldf - held, measure(work, 2)))
    return pairs


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recorded", action="store_true")
    parser.add_argument("--reading", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--base", choices=BUILDERS, nargs="+", default=list(BUILDERS))
    options = parser.parse_args()
    hush_libraries("transformers", "diffusers")
    if options.recorded:
        print_recorded()
        return
    if options.reading:
        if options.device == "cpu":
            parser.error("--reading: is for a GPU; use --device cuda")
        print_reading(torch.device(options.device))
        return
    print("| base | setting | normal step | HLDF none | block | step |\n|---|---|---|---|---|---|")
    for name in options.base:
        build, side = BUILDERS[name]
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            build(place / "base")
            build_images(place / "images")
            cases = {"LoRA": {}, "LoRA, batch 2": {"batch_size": 2}, "full": {"method": "full"}}
            if name.startswith("PixArt"):
                cases["LoRA, also on T5"] = {"train_text_encoder": True}
                cases["published loss"] = {"hldf_loss": "published"}
            cases["LoRA, --gradient-checkpointing"] = {"gradient_checkpointing": True}
            for case, chosen in cases.items():
                pairs = compare(place, side, device=options.device, **chosen)
                cells = [
                    f"{a / 1e6:.1f} / {b / 1e6:.1f} ({100 * a / b - 100:+.0f} %)" for a, b in pairs
                ]
                print(f"| {name} | {case} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
