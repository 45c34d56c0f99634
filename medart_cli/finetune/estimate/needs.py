"""What a run will need, before anything is fetched or loaded: memory, disk space, steps, hours.

Only counts and shapes are read: of the data the rows, of a base that lies here its config.json and
its tokenizer; of one that does not, the published sizes.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from medart_cli.data.cache import default_cache
from medart_cli.data.dataset import open_data
from medart_cli.data.manifest import Record
from medart_cli.data.numbers import write_number
from medart_cli.data.splits import split_groups
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.finetune.estimate.captions import CaptionLengths, count_captions
from medart_cli.finetune.estimate.footprint import Footprint, Reckoner
from medart_cli.finetune.estimate.pace import Pace, measure_pace
from medart_cli.finetune.hldf import AUTO, choose_every, plan_hldf
from medart_cli.finetune.optimizer import HEADROOM
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.previews import count_previews
from medart_cli.finetune.rows import TrainingData, plan_steps
from medart_cli.log import log
from medart_cli.models.bases import find_base
from medart_cli.models.device import DTYPES, find_device, find_precision, hush_libraries
from medart_cli.models.optimizers import OPTIMIZERS, check_optimizer
from medart_cli.models.shapes import BaseShape, count_numbers, known_shape, read_shape
from medart_cli.models.sizes import HUB_SIZES, find_size
from medart_cli.options import parse_levels
from medart_cli.ranks import count_ranks

CARDS = (12, 16, 24, 40, 80)  # GB of memory of GPUs in use
# What a run may take of a card of N GB. Makers count in GiB, 7 % more; CUDA itself and what the
# allocator cannot use take that and some, and the estimate has been off by up to 8 %.
USABLE = 0.93e9
WORTH = 100_000_000  # numbers of a transformer from which a run says at its start what it takes
MODES = ("none", "block", "step")  # of --hldf-checkpoint, fastest first


def estimate_run(config: FinetuneConfig, *, timed: bool = True) -> dict[str, Any]:
    """Estimate a run.

    Args:
        config: Its options.
        timed: Whether to measure passes on this device, for the hours.

    Returns:
        What `--dry-run` reports; docs/formats.md has the keys.

    Raises:
        ConfigError: The data or an option cannot work.
        MissingModelError: The base is neither here nor of a known size.
    """
    hush_libraries("transformers", "diffusers")
    rows, held = list_rows(config)
    shape, folder = find_shape(config)
    captions = count_captions(config, shape.kind, shape.family, rows, held)
    device = find_device(config.device)
    precision = find_precision(config.precision, device)
    resolution = config.resolution or find_native(shape, folder)
    total = plan_steps(config, len(rows), count_ranks())
    if config.hldf_every == AUTO:
        config = replace(config, hldf_every=str(choose_every(plan_hldf(config), total)))
    reckoner = Reckoner(shape, resolution, captions.longest, gpu=device.type == "cuda")
    modes = list_modes(config)
    prints = {mode: reckoner.reckon(config, precision, mode) for mode in modes}
    recompute = choose_mode(prints, device)
    cards = prints
    if device.type != "cuda":  # what a card would take is another question than what this one does
        on_card = Reckoner(shape, resolution, captions.longest, gpu=True)
        width = "bf16" if config.precision == "auto" else precision
        cards = {mode: on_card.reckon(config, width, mode) for mode in modes}
    pace = None
    if timed:
        pace = measure_pace(reckoner, captions, config, precision, recompute, device)
    every = plan_hldf(config).every
    return {
        "base": shape.kind.name, "device": str(device), "precision": precision,
        "resolution": resolution, "images": len(rows), "steps": total,
        "hldf_steps": total // every if every else 0, "hldf_checkpoint": recompute,
        "memory": describe_memory(prints, recompute),
        "cards": {f"{card}": find_fastest(cards, card) for card in CARDS},
        "disk": describe_disk(
            config, reckoner, (len(rows), captions.stored), folder, prints[recompute]
        ),
        "captions": asdict(captions),
        "time": describe_time(pace, config, len(rows), total) if pace else None,
        "problems": list_problems(config, device),
    }  # fmt: skip


def list_rows(config: FinetuneConfig) -> tuple[list[Record], list[Record]]:
    """Return the rows that would be trained on, and those held out; no image is opened."""
    found = open_data(config.data, root=config.root, levels=parse_levels(config.folders))
    rows = [row for row in found if row.split in (None, "train")]
    held = [] if config.val_every == 0 else [row for row in found if row.split == "val"]
    if config.val_fraction is not None and config.val_every != 0:
        labels = [row.label or "(none)" for row in rows]
        groups = [row.group or row.file_name for row in rows]
        parts = split_groups(labels, groups, config.val_fraction, config.seed)
        rows, held = ([rows[place] for place in part] for part in parts)
    if not rows:
        raise ConfigError(f"{config.data}: no training image; rows need split train or no split")
    return rows, held


def find_shape(config: FinetuneConfig) -> tuple[BaseShape, Path | None]:
    """Return the shape of the base, and its folder where it lies here.

    Raises:
        MissingModelError: It does not, and its size is not known.
    """
    try:
        folder = find_base(config.base, offline=True)
    except MissingModelError:
        size = find_size(config.base)
        if size is None:
            raise MissingModelError(
                f"{config.base}: is not here, and its size is not known; known are "
                f"{', '.join(sorted(HUB_SIZES))}"
            ) from None
        return known_shape(size), None
    return read_shape(folder), folder


def find_native(shape: BaseShape, folder: Path | None) -> int:
    """Return the image side, in pixels, that a base was made for."""
    if folder is None:
        assert shape.native is not None  # a published size
        return shape.native
    return shape.family.native_size(folder, shape.build_transformer(), shape.build_vae())


def list_modes(config: FinetuneConfig) -> Sequence[str]:
    """List the activation checkpointing that HLDF may use, fastest first."""
    if config.hldf_checkpoint != "auto":
        return (config.hldf_checkpoint,)
    return ("step",) if config.gradient_checkpointing else MODES


def choose_mode(prints: dict[str, Footprint], device: torch.device) -> str:
    """Choose one as a run would: by a GPU's free memory; the least on a CPU."""
    least = list(prints)[-1]
    if device.type != "cuda":
        return least
    free = HEADROOM * torch.cuda.mem_get_info(device)[0]
    return next((mode for mode, found in prints.items() if found.peak < free), least)


def find_fastest(prints: dict[str, Footprint], card: int) -> str | None:
    """Return the fastest HLDF checkpointing with which a run fits a card of GB; None for none."""
    return next((mode for mode, found in prints.items() if found.peak < USABLE * card), None)


def describe_memory(prints: dict[str, Footprint], recompute: str) -> dict[str, Any]:
    """Return memory by part and peaks, in GB."""
    chosen = prints[recompute]
    return {
        "parts_gb": {name: _gb(size) for name, size in chosen.parts.items()},
        "reading_gb": None if chosen.reading is None else _gb(chosen.reading),
        "step_gb": _gb(chosen.step),
        "hldf_gb": {mode: _gb(it.hldf) for mode, it in prints.items() if it.hldf is not None},
        "peak_gb": _gb(chosen.peak),
    }


def describe_disk(
    config: FinetuneConfig,
    reckoner: Reckoner,
    counts: tuple[int, int],
    folder: Path | None,
    found: Footprint,
) -> dict[str, Any]:
    """Return the disk space that is needed, by what for, and what is free, in GB.

    Args:
        config: The options.
        reckoner: Of the base.
        counts: Training images, and the embeddings of their distinct captions.
        folder: Of the base, where it lies here.
        found: The run's footprint.
    """
    size = find_size(config.base)
    download = sum(size.download_gb.values()) if folder is None and size else 0.0
    latents = 8 * reckoner.channels * reckoner.side**2 * counts[0] * (1 + config.flip)
    width = DTYPES[find_precision(config.precision, find_device(config.device))].itemsize
    texts = counts[1] * reckoner.shape.embed_width * width
    latents, texts = (it if config.use_cache else 0 for it in (latents, texts))
    state = OPTIMIZERS[config.optimizer].state_bytes
    one = found.trained * (4 + state + 4 * bool(config.ema))
    weights = found.trained * 4
    merged = 0.0
    if config.merge:
        merged = 2 * 4 * sum(reckoner.count_parts().values())
    return {
        "download_gb": round(download, 3),
        "cache_gb": _gb(latents + texts * (not config.train_text_encoder)),
        "run_gb": _gb((config.keep + 1) * one + weights + merged),
        "free_gb": {
            "output": _free(config.out),
            "cache": _free(config.cache or _default_cache()),
        },
    }


def describe_time(pace: Pace, config: FinetuneConfig, rows: int, total: int) -> dict[str, Any]:
    """Return the seconds of steps and the hours of all, as measured on this device."""
    every = plan_hldf(config).every
    colors = total // every if every else 0
    seconds = (total - colors) * pace.step + colors * (pace.hldf or 0)
    seconds += count_previews(config, total) * pace.preview
    before = rows * pace.encode * (1 + config.flip)
    return {
        "step_s": round(pace.step, 3),
        "hldf_step_s": None if pace.hldf is None else round(pace.hldf, 3),
        "encode_s": round(pace.encode, 3),
        "preview_s": round(pace.preview, 3),
        "hours": round((seconds + before) / 3600, 3),
    }


def list_problems(config: FinetuneConfig, device: torch.device) -> list[str]:
    """Say what would keep this run from starting here."""
    try:
        check_optimizer(config.optimizer, device.type)
    except ConfigError as error:
        return [str(error)]
    return []


def say_memory(
    config: FinetuneConfig, data: TrainingData, folder: Path, device: torch.device
) -> None:
    """Say at the start of a run what it will take at its peak, and warn where that is too much.

    Small bases are passed over: they fit anywhere, and this takes some seconds.

    Args:
        config: The options.
        data: The training rows, each with its caption.
        folder: Of the base.
        device: Of the run.
    """
    shape = read_shape(folder)
    if count_numbers(shape.build_transformer()) < WORTH:
        return
    gpu = device.type == "cuda"
    precision = find_precision(config.precision, device)
    resolution = config.resolution or find_native(shape, folder)
    captions = count_captions(config, shape.kind, shape.family, data.rows, data.held)
    reckoner = Reckoner(shape, resolution, captions.longest, gpu=gpu)
    prints = {mode: reckoner.reckon(config, precision, mode) for mode in list_modes(config)}
    found = prints[choose_mode(prints, device)]
    log.info(
        "estimated memory: normal step %.1f GB%s", found.step / 1e9,
        "" if found.hldf is None else f", HLDF step {found.hldf / 1e9:.1f} GB",
    )  # fmt: skip
    total = torch.cuda.mem_get_info(device)[1] if gpu else machine_bytes()
    if found.peak > total:
        log.warning(
            "an estimated %.1f GB will not fit the %s's %.1f GB; use %s",
            *(found.peak / 1e9, "GPU" if gpu else "machine", total / 1e9),
            f"--fit {int(total / 1e9)}, {config.name_less_memory('GPU' if gpu else 'machine')}",
        )


def machine_bytes() -> int:
    """Return the size of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def format_estimate(facts: dict[str, Any]) -> list[str]:
    """Turn an estimate into lines to read."""
    memory, disk, hours = facts["memory"], facts["disk"], facts["time"]
    held = ", ".join(f"{name} {size:.3g}" for name, size in memory["parts_gb"].items())
    lines = [
        _line("base", f"{facts['base']}, {facts['resolution']} pixels, {facts['precision']}"),
        _line("steps", f"{facts['steps']} on {facts['images']} images, {facts['hldf_steps']} of "
              "them with HLDF"),
        _line("held", f"{held} GB"),
    ]  # fmt: skip
    if memory["reading_gb"] is not None:
        lines.append(_line("captions", f"{memory['reading_gb']:.1f} GB while they are read"))
    lines.append(_line("normal step", f"{memory['step_gb']:.1f} GB"))
    for mode, size in memory["hldf_gb"].items():
        used = " (used here)" if mode == facts["hldf_checkpoint"] else ""
        lines.append(_line("HLDF step", f"{size:.1f} GB with --hldf-checkpoint {mode}{used}"))
    fits = ", ".join(
        f"{card} GB: {f'yes ({mode})' if mode else 'no'}" for card, mode in facts["cards"].items()
    )
    lines.append(_line("fits a card of", fits))
    free = disk["free_gb"]["output"]
    lines.append(
        _line("disk", f"download {disk['download_gb']:.1f} GB, cache {disk['cache_gb']:.2f} GB, "
              f"run {disk['run_gb']:.2f} GB; {free:.1f} GB free")
    )  # fmt: skip
    if hours is not None:
        seconds = hours["hldf_step_s"]
        color = f", HLDF step {write_number(seconds)} s" if seconds else ""
        about = f"about {write_number(hours['hours'], '.2g')} hours on {facts['device']}"
        steps = f"step {write_number(hours['step_s'])} s{color}"
        source = "from passes of random weights, measured now"
        counted = CaptionLengths(**facts["captions"]).word()
        lines.append(_line("time", f"{about}: {steps}; {source}; {counted}"))
    return [*lines, *(_line("problem", text) for text in facts["problems"])]


def _line(label: str, text: str) -> str:
    return f"  {label:<16}{text}"


def _gb(size: float) -> float:
    return round(size / 1e9, 3)


def _default_cache() -> Path | None:
    try:
        return default_cache()
    except ConfigError:  # a user without a home folder
        return None


def _free(path: Path | None) -> float | None:
    """Return the free space where a folder is, or would be, in GB."""
    if path is None:
        return None
    path = path.absolute()
    there = next(item for item in (path, *path.parents) if item.exists())
    return _gb(shutil.disk_usage(there).free)
