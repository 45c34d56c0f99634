"""Draw images: run folder + prompts -> SYN/*.png, SYN/metadata.jsonl, a contact sheet.

T5 reads all distinct prompts first and is then released. An image's noise depends on the seed and
its row alone, so neither batch size nor a stop in between changes it.
"""

import hashlib
import json
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medart_cli import stop
from medart_cli.config import RUN_ONLY, SampleConfig, settings_of
from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.images import save_png, tensor_to_image, tile_images
from medart_cli.data.manifest import (
    MANIFEST_NAME,
    ManifestWriter,
    read_data,
    read_manifest,
    repair_manifest,
    write_manifest,
)
from medart_cli.data.profiles import read_profile
from medart_cli.data.report import Output, open_output, read_versions, write_json, write_text
from medart_cli.diffusion.solver import solve
from medart_cli.errors import ConfigError
from medart_cli.log import log, progress
from medart_cli.models import adapters, pixart
from medart_cli.models.device import (
    DTYPES,
    build_generator,
    find_device,
    find_precision,
    hush_libraries,
)

SHEET_IMAGES = 64  # a contact sheet of more is too small to look at
SHEET_NAME = "contact-sheet.png"


@dataclass
class Source:
    """What the images are drawn with.

    Attributes:
        base: Pipeline folder of the base model.
        trained: Folder with trained parts; the base itself where nothing was trained.
        facts: The run's facts; empty for a plain base.
        mark: What `run` says in each manifest line: the checkpoint's hash.
    """

    base: Path
    trained: Path
    facts: dict[str, Any]
    mark: str


@dataclass
class Drawing:
    """What lives while images are drawn."""

    config: SampleConfig
    embeds: dict[str, Tensor]  # of each distinct prompt, unpadded
    transformer: Any
    vae: Any
    scheduler: Any
    resolution: int
    tokens: int
    device: torch.device
    precision: str


def run(config: SampleConfig) -> dict[str, Any]:
    """Draw an image for each prompt; skip those that are there already."""
    hush_libraries()
    source = find_source(config)
    if config.merge_to is not None:
        merge(source, config.merge_to)
    if config.out is None:
        return {"result": str(config.merge_to), "merged": str(config.merge_to)}
    rows = read_prompts(config)
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    settings = settings_of(config) | {"_checkpoint": source.mark, "_rows": digest}
    ignore = RUN_ONLY | {"batch_size"}
    inputs = (config.run, config.from_data, config.prompts)
    with open_output(Output(config.out, "sample", settings, ignore, config.overwrite, inputs)):
        done = finished_rows(config.out)
        waiting = [index for index in range(len(rows)) if index not in done]
        if waiting:
            drawing = build_drawing(config, source, [rows[index] for index in waiting])
            draw_all(drawing, source, rows, waiting)

        write_sheet(config.out, len(rows))
        training = source.trained / checkpoints.TRAINING_HASHES
        if training.is_file():  # lets classify see whether test images were trained on
            write_text(config.out / training.name, training.read_text(encoding="utf-8"))
        summary = {
            "result": str(config.out), "images": len(rows), "drawn": len(waiting), "failures": 0,
            "run": source.mark, "run_folder": str(source.trained.resolve()),
            "versions": read_versions(),
        }  # fmt: skip
        write_json(config.out / "sample.json", summary)
    return summary


def find_source(config: SampleConfig) -> Source:
    """Find the run, checkpoint or base that is asked for, and check that its base is the same."""
    found = checkpoints.find_run(Path(config.run))
    if found is None:
        base = pixart.find_base(config.run, offline=config.offline)
        return Source(base, base, {}, pixart.hash_weights(base / "transformer"))
    trained, facts = found
    base = pixart.find_base(facts["base"], offline=config.offline)
    for part, known in facts["base_hashes"].items():
        if pixart.hash_weights(base / part) != known:
            raise ConfigError(f"{base}: its {part} is not the one that {trained} was trained on")
    mark = facts.get("checkpoint") or checkpoints.hash_trained(trained)  # a checkpoint has none
    return Source(base, trained, facts, mark)


def merge(source: Source, out: Path) -> None:
    """Write run and base as one pipeline folder that plain diffusers opens."""
    if out.exists():
        raise ConfigError(f"{out}: is there already; name a new folder")

    def write(folder: Path) -> None:
        adapters.merge_run(source.base, source.trained, folder)
        training = source.trained / checkpoints.TRAINING_HASHES
        if training.is_file():
            write_text(folder / training.name, training.read_text(encoding="utf-8"))

    checkpoints.write_folder(out, write)
    log.info("%s: whole pipeline written", out)


def read_prompts(config: SampleConfig) -> list[dict[str, Any]]:
    """Return a row for each image: `text`, and of a manifest's rows the label too."""
    if config.from_data is not None:
        return choose_rows(config)
    prompts = list(config.prompt or ())
    if config.prompts is not None:
        try:
            path = Path(config.prompts)
            text = sys.stdin.read() if config.prompts == "-" else path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--prompts {config.prompts}: cannot be read: {error}") from error
        prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ConfigError(f"--prompts {config.prompts}: holds no prompt; one a line is needed")
    count = config.count or len(prompts)
    return [{"text": prompts[index % len(prompts)]} for index in range(count)]


def choose_rows(config: SampleConfig) -> list[dict[str, Any]]:
    """Choose the captions of a manifest to draw: all, `--count` at random, or `--per-label`."""
    profile, rows, plain = read_profile(config.profile), [], 0
    for record in read_data(config.from_data or "", root=config.root):
        text, plain = record.text, plain + (record.text is None)
        row = {"text": profile.simple_caption(record.label) if text is None else text}
        rows.append(row | ({"label": record.label} if record.label else {}))
    if plain:
        log.warning(
            '%d of %d rows have no caption; they get the simple one, such as "%s"; --profile '
            "words it", plain, len(rows), rows[0]["text"],
        )  # fmt: skip
    order = np.random.default_rng(config.seed).permutation(len(rows)).tolist()
    if config.count is not None:
        return [rows[order[index % len(order)]] for index in range(config.count)]
    if config.per_label is None:
        return rows
    groups: dict[str, list[int]] = defaultdict(list)
    for index in order:
        if "label" in rows[index]:
            groups[rows[index]["label"]].append(index)
    if not groups:
        raise ConfigError(f"--from {config.from_data}: no row has a label; --per-label needs them")
    return [
        rows[groups[label][index % len(groups[label])]]
        for label in sorted(groups)
        for index in range(config.per_label)
    ]


def finished_rows(out: Path) -> set[int]:
    """Return the rows that are done; a line whose image is gone is dropped and drawn again."""
    manifest = out / MANIFEST_NAME
    repair_manifest(manifest)
    if not manifest.is_file() or manifest.stat().st_size == 0:
        return set()
    kept = [record for record in read_manifest(manifest) if record.path.is_file()]
    write_manifest(manifest, (record.fields for record in kept))
    return {int(record.fields["row"]) for record in kept}


def build_drawing(config: SampleConfig, source: Source, rows: Sequence[dict[str, Any]]) -> Drawing:
    """Encode the prompts, release T5, then load what draws."""
    device = find_device(config.device)
    precision = find_precision(config.precision, device)
    trained = source.facts.get("precision", precision)
    if precision != trained:
        log.warning("trained in %s, drawn in %s; colors may differ a little", trained, precision)
    embeds = encode_prompts(source, {row["text"] for row in rows}, device, precision)
    transformer = adapters.load_trained_transformer(
        source.base, source.trained, DTYPES[precision], device
    )
    vae = pixart.load_vae(source.base, device)
    native = source.facts.get("resolution") or pixart.native_size(transformer, vae)
    pixart.check_size(config.resolution or native, transformer, vae)
    return Drawing(
        config=config, embeds=embeds, transformer=transformer, vae=vae,
        scheduler=pixart.load_scheduler(source.base), resolution=config.resolution or native,
        tokens=pixart.max_tokens(source.base), device=device, precision=precision,
    )  # fmt: skip


def encode_prompts(
    source: Source, prompts: set[str], device: torch.device, precision: str
) -> dict[str, Tensor]:
    """Return the unpadded embeddings of each prompt, and of the empty one that guidance needs."""
    tokenizer = pixart.load_tokenizer(source.base)
    text_encoder = adapters.load_trained_text_encoder(
        source.base, source.trained, DTYPES[precision], device
    )
    limit, embeds, cut = pixart.max_tokens(source.base), {}, 0
    wanted = sorted(prompts | {""})
    with progress("prompts", len(wanted)) as bar, torch.no_grad():
        for prompt in wanted:
            stop.check()
            ids, mask = pixart.tokenize(tokenizer, [prompt], limit, pad=True)
            hidden = pixart.encode_tokens(text_encoder, ids.to(device), mask.to(device))
            embeds[prompt] = hidden[0, : int(mask.sum())].cpu()  # (L_i, D)
            cut += int(mask.sum()) == limit
            bar.advance()
    if cut:
        log.warning("%d prompts fill all %d tokens, so their ends may be cut", cut, limit)
    return embeds


def draw_all(
    drawing: Drawing, source: Source, rows: Sequence[dict[str, Any]], waiting: Sequence[int]
) -> None:
    """Draw the waiting rows in batches; an image is on the disk before its manifest line."""
    config = drawing.config
    out = config.out or Path()
    size = config.batch_size
    with (
        ManifestWriter(out / MANIFEST_NAME) as writer,
        progress("sample", len(rows), done=len(rows) - len(waiting)) as bar,
    ):
        for start in range(0, len(waiting), size):
            batch = waiting[start : start + size]
            prompts = [rows[index]["text"] for index in batch]
            for index, image in zip(batch, draw_images(drawing, batch, prompts), strict=True):
                made = {
                    "synthetic": True, "prompt": rows[index]["text"], "seed": config.seed,
                    "row": index, "steps": config.steps, "guidance": config.guidance,
                    "run": source.mark,
                }  # fmt: skip
                if demonstration:
                    made["demonstration"] = True
                name = f"{index:06d}.png"
                save_png(out / name, image, made)
                writer.append({"file_name": name, **rows[index], **made})
                bar.advance()


def draw_images(drawing: Drawing, rows: Sequence[int], prompts: Sequence[str]) -> list[Image.Image]:
    """Draw one batch: the noise of each row from (seed, row), prompts padded to a fixed length."""
    config, device = drawing.config, drawing.device
    side = drawing.resolution // pixart.latent_scale(drawing.vae)
    shape = (drawing.vae.config.latent_channels, side, side)
    noise = torch.stack(
        [torch.randn(shape, generator=build_generator(config.seed, "sample", row)) for row in rows]
    )
    texts = [drawing.embeds[prompt].to(device) for prompt in (*prompts, "")]
    embeds, mask = pixart.pad_embeds(texts, drawing.tokens)
    text, empty = (embeds[:-1], mask[:-1]), (embeds[-1:], mask[-1:])
    denoise = pixart.build_denoiser(
        drawing.transformer, text, empty, config.guidance, poll=stop.check
    )
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=drawing.precision == "bf16")
    with torch.no_grad(), mixed:
        scheduler = pixart.renew_scheduler(drawing.scheduler)
        latents = solve(denoise, noise.to(device), scheduler, config.steps)
        images = pixart.decode_latents(drawing.vae, latents)
    return [tensor_to_image(image) for image in images]


def write_sheet(out: Path, count: int) -> None:
    """Lay the first images on one sheet, to look at."""
    names = [f"{index:06d}.png" for index in range(min(count, SHEET_IMAGES))]
    images = []
    for name in names:
        with Image.open(out / name) as image:
            images.append(image.convert("RGB"))
    save_png(out / SHEET_NAME, tile_images(images, columns=math.ceil(math.sqrt(len(images)))))
