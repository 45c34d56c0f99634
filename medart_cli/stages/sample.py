"""Draw images: run folder + prompts -> SYN/*.png, SYN/metadata.jsonl, a contact sheet.

T5 reads the prompts first and is then released, a thousand rows at a time. An image's noise depends
on the seed and its row alone, and rows share a batch with the same rows always; so neither a stop
nor the number of processes or shards changes a bit of it.
"""

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from medart_cli import stop
from medart_cli.config import RUN_ONLY, SampleConfig, parse_shard, settings_of
from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.hashes import hash_files
from medart_cli.data.images import save_png, tensor_to_image, tile_images
from medart_cli.data.latents import try_cache
from medart_cli.data.manifest import (
    MANIFEST_NAME,
    PARTS,
    ManifestWriter,
    read_manifest,
    repair_manifest,
)
from medart_cli.data.report import Output, build_merged_card, open_output, write_json, write_text
from medart_cli.data.stored import join_manifests
from medart_cli.diffusion.solver import solve
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.log import log, progress
from medart_cli.models import adapters, pixart
from medart_cli.models.device import (
    DTYPES,
    ask_first,
    build_generator,
    find_precision,
    hush_libraries,
    join_processes,
)
from medart_cli.models.hub import EMBEDDED, is_hub_id
from medart_cli.ranks import Part, own_part
from medart_cli.stages.sample_prompts import Prompts, read_prompts
from medart_cli.versions import read_versions

# What may differ in another run of the same folder: the rows themselves are compared one by one.
MAY_CHANGE = RUN_ONLY | frozenset(
    "base batch_size count per_label split prompt prompts from_data profile folders _rows".split()
)
ROUND = 1024  # rows whose prompts T5 reads at a time: an embedding may take 2 MB
SHEET_IMAGES = 64  # a contact sheet of more is too small to look at
SUMMARY_NAME = "sample.json"
SHEET_NAME = "contact-sheet.png"
Flags = npt.NDArray[np.bool_]


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
    source: Source
    device: torch.device
    precision: str
    embeds: dict[str, Tensor] = field(default_factory=dict)  # of the prompts in use, unpadded
    transformer: Any = None
    vae: Any = None
    scheduler: Any = None
    resolution: int = 0
    tokens: int = 0


def run(config: SampleConfig) -> dict[str, Any]:
    """Draw an image for each prompt; skip those that are there already."""
    hush_libraries()
    device, state = join_processes(config.device), PartialState()
    source = find_source(config)
    if config.merge_to is not None and state.is_main_process:
        merge(source, config.merge_to)
    if config.out is None:
        return {"result": str(config.merge_to), "merged": str(config.merge_to)}
    rows = read_prompts(config)
    part = own_part(parse_shard(config.shard))
    output = describe_output(config, config.out, source, rows)
    with open_output(output) if state.is_main_process else nullcontext():
        files = list_files(config, config.out, part)
        if state.is_main_process or config.shard:
            for path in files:
                repair_manifest(path)
        state.wait_for_everyone()
        done = finished_rows(config.out, files, rows)
        say_what_is_left(config.out, done)
        state.wait_for_everyone()  # nobody draws before all have read what is done
        drawn = draw_all(build_drawing(config, source, device), rows, part, done)
        state.wait_for_everyone()
        if config.shard is None:  # also by the other processes
            drawn = int((~done).sum())
        summary = {
            "result": str(config.out), "images": len(rows), "drawn": drawn,
            "failures": 0, "inputs": [rows.account.facts()] if rows.account else [],
            "run": source.mark, "run_folder": str(source.trained.resolve()),
            **demonstration_mark(source), "versions": read_versions(),
        }  # fmt: skip
        if config.shard is not None:
            log.info("%s is done; when all parts are, leave out --shard to join them", config.shard)
        elif state.is_main_process:
            finish(source, config.out, summary)
    return summary


def describe_output(config: SampleConfig, out: Path, source: Source, rows: Prompts) -> Output:
    """Say what the folder belongs to: the settings, the checkpoint, and what is drawn."""
    settings = settings_of(config) | {"_checkpoint": source.mark}
    return Output(
        out, "sample", settings, MAY_CHANGE, config.overwrite,
        inputs=(config.run, config.from_data, config.prompts),
        part=parse_shard(config.shard)[0] if config.shard else 0,
    )  # fmt: skip


def find_source(config: SampleConfig) -> Source:
    """Find the run, checkpoint or base that is asked for, and check that its base is the same.

    One process reads large files for their hashes, and tells the others.
    """
    found = ask_first(partial(checkpoints.find_run, Path(config.run)))
    if found is None:
        if config.base is not None:
            raise ConfigError(f"--base {config.base}: {config.run} is no run, but a base itself")
        known = config.run == EMBEDDED or is_hub_id(config.run) or Path(config.run).is_dir()
        if not known:
            raise MissingModelError(
                f"{config.run}: no such folder; RUN is a run folder that medart finetune wrote, "
                "one of its checkpoints, a pipeline folder, a hub id (OWNER/NAME), or tiny"
            )
        base = pixart.find_base(config.run, offline=config.offline, option="RUN")
        return Source(base, base, {}, ask_first(partial(hash_transformer, base)))
    trained, facts = found
    base = pixart.find_base(config.base or facts["base"], offline=config.offline)
    hashes = ask_first(partial(hash_base, base))
    for part, known in facts["base_hashes"].items():
        if hashes.get(part, known) != known:
            raise ConfigError(f"{base}: its {part} is not the one that {trained} was trained on")
    mark = facts.get("checkpoint")  # a checkpoint of a run has none
    mark = mark or ask_first(partial(checkpoints.hash_trained, trained))
    return Source(base, trained, facts, mark)


def hash_base(base: Path) -> dict[str, str]:
    """Return the hashes of a run's base."""
    return pixart.hash_base(base, hash_once(base, pixart.WEIGHTS))


def hash_transformer(base: Path) -> str:
    """Return what tells a base that was not trained."""
    return pixart.hash_weights(base / "transformer", hash_once(base, ["transformer"]))


def hash_once(base: Path, parts: Sequence[str]) -> dict[Path, str]:
    """Hash weight files of some parts of the base, with the memory of `hash_files`."""
    files = pixart.find_unhashed(base, parts)
    hashes, faults = hash_files(files, cache=try_cache(), poll=stop.check)
    for error in faults.values():
        raise error
    return hashes


def merge(source: Source, out: Path) -> None:
    """Write run and base as one pipeline folder that plain diffusers opens."""
    if out.exists():
        raise ConfigError(f"{out}: is there already; name a new folder")

    def write(folder: Path) -> None:
        side = source.facts.get("resolution")
        adapters.merge_run(source.base, source.trained, folder, resolution=side)
        training = source.trained / checkpoints.TRAINING_HASHES
        if training.is_file():
            write_text(folder / training.name, training.read_text(encoding="utf-8"))
        if source.facts:
            card = build_merged_card(source.facts, pixart.pipeline_class(folder))
            write_text(folder / "README.md", card)

    checkpoints.write_folder(out, write)
    log.info("%s: whole pipeline written", out)


def own_file(out: Path, part: Part) -> Path:
    """Return the file that takes the manifest lines of this process."""
    return out / PARTS / f"{part.name}.jsonl" if part.count > 1 else out / MANIFEST_NAME


def list_files(config: SampleConfig, out: Path, part: Part) -> list[Path]:
    """Return the files that list finished rows.

    Other shards may be at work: one looks at its own file, and at what was joined before.
    """
    others = [own_file(out, part)] if config.shard else sorted((out / PARTS).glob("*-of-*.jsonl"))
    return list(dict.fromkeys((out / MANIFEST_NAME, *others)))


def finished_rows(out: Path, files: Sequence[Path], rows: Prompts) -> Flags:
    """Say for each row whether it is done; one whose image is gone is drawn again.

    More rows than before may be asked for, as long as those that are drawn stay what they are.

    Raises:
        ConfigError: The folder holds images of other prompts, or more than are asked for.
    """
    done = np.zeros(len(rows), dtype=np.bool_)
    for path in files:
        if path.is_file() and path.stat().st_size:
            for record in read_manifest(path, root=out):
                row = int(record.fields["row"])
                if row >= len(rows):
                    raise _other_rows(out, f"it holds image {row + 1}, of {len(rows)} asked for")
                now = rows[row]
                if (record.text, record.label) != (now["text"], now.get("label")):
                    raise _other_rows(out, f"image {row + 1} is of {record.text!r:.80}")
                done[row] |= record.path.is_file()
    return done


def _other_rows(out: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{out}: belongs to other prompts: {what}; name another folder, or start anew with "
        "--overwrite"
    )


def say_what_is_left(out: Path, done: Flags) -> None:
    """Say how far the folder is, where there is something; and what of a finished one is gone."""
    facts = out / SUMMARY_NAME
    finished = json.loads(facts.read_text(encoding="utf-8"))["images"] if facts.is_file() else 0
    gone = int((~done[:finished]).sum())
    if gone:
        log.warning(
            "%s: was finished, and %d of its %d images are gone or no longer in its %s; they are "
            "drawn again", out, gone, finished, MANIFEST_NAME,
        )  # fmt: skip
    elif done.any():
        log.info("%s: %d of %d images are there", out, int(done.sum()), len(done))


def build_drawing(config: SampleConfig, source: Source, device: torch.device) -> Drawing:
    """Choose the number format; nothing is loaded before there is something to draw."""
    precision = find_precision(config.precision, device)
    trained = source.facts.get("precision", precision)
    if precision != trained:
        log.warning("trained in %s, drawn in %s; colors may differ a little", trained, precision)
    return Drawing(config, source, device, precision)


def draw_all(drawing: Drawing, rows: Prompts, part: Part, done: Flags) -> int:
    """Draw what waits of a part of all batches, in rounds, so that T5 and its output need not stay.

    A batch holds the same rows whatever is done of it and whoever draws it, since the rounding of
    a pass depends on its size.

    Returns:
        How many images were drawn.
    """
    size, out = drawing.config.batch_size, drawing.config.out or Path()
    starts = part.take(range(0, len(rows), size))
    batches = [range(start, min(start + size, len(rows))) for start in starts]
    waiting = [batch for batch in batches if not done[batch.start : batch.stop].all()]
    total, drawn = sum(map(len, waiting)), 0
    per_round = max(1, ROUND // size)
    for start in range(0, len(waiting), per_round):
        now = waiting[start : start + per_round]
        renew_embeds(drawing, {rows[row]["text"] for batch in now for row in batch})
        load_models(drawing)
        with (
            ManifestWriter(own_file(out, part)) as writer,
            progress("sample", total, done=drawn) as bar,
        ):
            for batch in now:
                draw_batch(drawing, rows, batch, done, writer)
                bar.advance(count=len(batch))
                drawn += len(batch)
    return sum(int((~done[batch.start : batch.stop]).sum()) for batch in waiting)


def renew_embeds(drawing: Drawing, prompts: set[str]) -> None:
    """Have the embeddings of these prompts, and no others; T5 is loaded where one is missing."""
    wanted = prompts | {""}  # the empty one is for guidance
    kept = {prompt: drawing.embeds[prompt] for prompt in wanted & drawing.embeds.keys()}
    missing = sorted(wanted - kept.keys())
    drawing.embeds = kept | (encode_prompts(drawing, missing) if missing else {})


def encode_prompts(drawing: Drawing, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Return the unpadded embeddings of each prompt."""
    source, device = drawing.source, drawing.device
    tokenizer = pixart.load_tokenizer(source.base)
    text_encoder = adapters.load_trained_text_encoder(
        source.base, source.trained, DTYPES[drawing.precision], device
    )
    limit, embeds, cut = pixart.max_tokens(source.base), {}, 0
    with progress("prompts", len(prompts)) as bar, torch.no_grad():
        for prompt in prompts:
            stop.check()
            ids, mask = pixart.tokenize(tokenizer, [prompt], limit, pad=True)
            hidden = pixart.encode_tokens(text_encoder, ids.to(device), mask.to(device))
            embeds[prompt] = hidden[0, : int(mask.sum())].cpu()  # (L_i, D)
            cut += int(mask.sum()) == limit
            bar.advance()
    if cut:
        log.warning("%d prompts fill all %d tokens, so their ends may be cut", cut, limit)
    return embeds


def load_models(drawing: Drawing) -> None:
    """Load what draws, once; T5 is gone by then."""
    if drawing.transformer is not None:
        return
    source, device, config = drawing.source, drawing.device, drawing.config
    transformer = adapters.load_trained_transformer(
        source.base, source.trained, DTYPES[drawing.precision], device
    )
    vae = pixart.load_vae(source.base, device)
    native = source.facts.get("resolution") or pixart.native_size(source.base, transformer, vae)
    drawing.resolution = config.resolution or native
    pixart.check_size(drawing.resolution, transformer, vae)
    drawing.transformer, drawing.vae = transformer, vae
    drawing.scheduler = pixart.load_scheduler(source.base)
    drawing.tokens = pixart.max_tokens(source.base)


def draw_batch(
    drawing: Drawing, rows: Prompts, batch: range, done: Flags, writer: ManifestWriter
) -> None:
    """Draw a batch, and keep what is not there; an image is on the disk before its line."""
    config, out = drawing.config, drawing.config.out or Path()
    prompts = [rows[row] for row in batch]
    images = draw_images(drawing, batch, [prompt["text"] for prompt in prompts])
    for row, prompt, image in zip(batch, prompts, images, strict=True):
        if done[row]:
            continue
        made = {
            "synthetic": True, "prompt": prompt["text"], "seed": config.seed, "row": row,
            "steps": config.steps, "guidance": config.guidance, "run": drawing.source.mark,
            **demonstration_mark(drawing.source),
        }  # fmt: skip
        name = f"{row:06d}.png"
        save_png(out / name, image, made)
        source = rows.find_source(row)
        writer.append(
            {"file_name": name, **prompt, **made, **({"source": source} if source else {})}
        )


def demonstration_mark(source: Source) -> dict[str, Any]:
    """Return what images of a demonstration model say of themselves; nothing for real models."""
    return {"demonstration": True} if pixart.is_demonstration(source.base) else {}


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


def finish(source: Source, out: Path, summary: dict[str, Any]) -> None:
    """Join the lines of all processes, in order, and write what stands beside the images."""
    parts = sorted((out / PARTS).glob("*-of-*.jsonl"))
    files = [path for path in (out / MANIFEST_NAME, *parts) if path.is_file()]
    join_manifests(out / MANIFEST_NAME, [path for path in files if path.stat().st_size], "row")
    shutil.rmtree(out / PARTS, ignore_errors=True)
    write_sheet(out, summary["images"])
    training = source.trained / checkpoints.TRAINING_HASHES
    if training.is_file():  # lets classify see whether test images were trained on
        write_text(out / training.name, training.read_text(encoding="utf-8"))
    write_json(out / SUMMARY_NAME, summary)


def write_sheet(out: Path, count: int) -> None:
    """Lay the first images on one sheet, to look at."""
    names = [f"{index:06d}.png" for index in range(min(count, SHEET_IMAGES))]
    images = []
    for name in names:
        with Image.open(out / name) as image:
            images.append(image.convert("RGB"))
    save_png(out / SHEET_NAME, tile_images(images, columns=math.ceil(math.sqrt(len(images)))))
