"""Generate images: prompts through the text encoder, then noise through solver and decoder."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from medart_cli import stop
from medart_cli.data.buckets import Shape, batch_alike, list_buckets, parse_shape
from medart_cli.data.cache import make_cache
from medart_cli.data.images import save_png
from medart_cli.data.manifest import (
    ManifestWriter,
)
from medart_cli.data.tensors import tensor_to_image
from medart_cli.diffusion.solver import solve
from medart_cli.log import log, progress
from medart_cli.models import adapters, compiled, parts
from medart_cli.models.bases import caption_tokens, count_tokens, find_kind, load_tokenizer
from medart_cli.models.device import (
    DTYPES,
    build_generator,
    find_precision,
    hush_libraries,
    join_processes,
)
from medart_cli.models.families import Family, build_denoiser, check_size, find_family
from medart_cli.models.offload import find_reader, load_reader
from medart_cli.models.parts import set_aside
from medart_cli.ranks import Part
from medart_cli.sample.folder import Flags, own_file
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.prompts import Prompts
from medart_cli.sample.shapes import choose_shapes, find_trained, wants_buckets
from medart_cli.sample.source import Source, choose_format, demonstration_mark

ROUND_TOKENS = 1024 * 120  # of the prompts that are read at a time: embeddings of some GB


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
    shape: Shape = (0, 0)  # of images that have no bucket
    unit: int = 0  # what the sides of images are multiples of
    graphs: compiled.Graphs | None = None  # what was compiled, with --compile
    tokens: int = 0

    @property
    def family(self) -> Family:
        """The kind of base."""
        return find_family(self.source.base)


def build_drawing(config: SampleConfig, source: Source) -> Drawing:
    """Choose device and number format; nothing is loaded before there is something to draw."""
    hush_libraries("transformers", "diffusers")
    device = join_processes(config.device)
    precision = find_precision(config.precision, device)
    if config.compile:
        compiled.check_compiler(device, make_cache(None) / "compiled")
    trained = source.facts.get("precision", precision)
    if precision != trained:
        log.warning("trained in %s, sampling in %s; colors may differ slightly", trained, precision)
    stored = [source.facts.get("base_format"), choose_format(config, source)]
    if source.facts and stored[0] != stored[1]:
        names = [name or "full precision" for name in stored]
        log.warning("trained on a base in %s, sampling on one in %s; images may differ", *names)
    return Drawing(config, source, device, precision)


def draw_all(config: SampleConfig, source: Source, asked: tuple[Prompts, Part], done: Flags) -> int:
    """Draw what waits of a part of all batches, in rounds.

    So the text encoder and its output need not stay in memory. A batch holds the same rows whatever
    is done of it and whoever draws it, since the rounding of a pass depends on its size. All of
    them have one shape.

    Args:
        config: The options.
        source: What to draw with.
        asked: The rows of all images, and which part of them is this process's.
        done: Which rows are drawn already.

    Returns:
        How many images were drawn.
    """
    drawing, (rows, part) = build_drawing(config, source), asked
    size, out = drawing.config.batch_size, drawing.config.out or Path()
    shapes = find_shapes(drawing, rows)
    batches = part.take(batch_alike(range(len(rows)), shapes.__getitem__, size))
    waiting = [batch for batch in batches if not done[batch].all()]
    total, drawn = sum(map(len, waiting)), 0
    per_round = max(1, ROUND_TOKENS // find_kind(source.base).tokens // size)
    for start in range(0, len(waiting), per_round):
        now = waiting[start : start + per_round]
        renew_embeds(drawing, {rows[row]["text"] for batch in now for row in batch})
        load_models(drawing)
        with (
            ManifestWriter(own_file(out, part)) as writer,
            progress("sample", total, done=drawn) as bar,
        ):
            for batch in now:
                draw_and_save(drawing, rows, (batch, shapes[batch[0]]), done, writer)
                bar.advance(count=len(batch))
                if drawing.graphs is not None:
                    drawing.graphs.say(f"rows {batch[0]} to {batch[-1]}")
                drawn += len(batch)
    return sum(int((~done[batch]).sum()) for batch in waiting)


def find_shapes(drawing: Drawing, rows: Prompts) -> Sequence[Shape | None]:
    """Return the shape of each image; None for that of all others."""
    config, source = drawing.config, drawing.source
    trained = find_trained(source)
    if not wants_buckets(config, trained):
        return [None] * len(rows)
    if trained and config.resolution in (None, source.resolution):
        return choose_shapes(rows, trained)
    load_models(drawing)  # the base says what the sides are multiples of
    buckets = dict.fromkeys(list_buckets(drawing.shape[0], drawing.unit), 0)
    return choose_shapes(rows, buckets | {drawing.shape: 1})


def renew_embeds(drawing: Drawing, prompts: set[str]) -> None:
    """Have the embeddings of these prompts alone; one that is missing needs the text encoder."""
    wanted = prompts | {""}  # the empty one is for guidance
    kept = {prompt: drawing.embeds[prompt] for prompt in wanted & drawing.embeds.keys()}
    missing = sorted(wanted - kept.keys())
    drawing.embeds = kept | (encode_prompts(drawing, missing) if missing else {})


def encode_prompts(drawing: Drawing, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Return the unpadded embeddings of each prompt."""
    source, device, family = drawing.source, drawing.device, drawing.family
    tokenizer = load_tokenizer(source.base)
    kind, embeds, cut = find_kind(source.base), {}, 0
    own = caption_tokens(kind, tokenizer)  # of the kind.tokens
    on_gpu = find_reader(drawing.config.offload, device).type == "cuda"
    load = partial(
        adapters.load_trained_text_encoder, source.base, source.trained, DTYPES[drawing.precision],
        base_format=choose_format(drawing.config, source),
    )  # fmt: skip
    with (
        set_aside(*((drawing.transformer, drawing.vae) if on_gpu else ())),
        progress("prompts", len(prompts)) as bar,
        torch.no_grad(),
    ):
        text_encoder = load_reader(load, drawing.config.offload, device)
        for prompt in prompts:
            stop.check()
            hidden, mask = family.read_prompts(
                tokenizer, text_encoder, [prompt], pad=True, limit=kind.tokens
            )
            embeds[prompt] = hidden[0, : int(mask.sum())].cpu()  # (L_i, D)
            cut += count_tokens(kind, tokenizer, prompt) > own
            bar.advance()
        del text_encoder
        gc.collect()  # hooks that move layers point to these, and these to the hooks
    if cut:
        log.warning("%d prompts are longer than %d tokens and are truncated", cut, own)
    return embeds


def load_models(drawing: Drawing) -> None:
    """Load what draws, once; the text encoder is gone by then."""
    if drawing.transformer is not None:
        return
    source, device, config = drawing.source, drawing.device, drawing.config
    family = drawing.family
    transformer = adapters.load_trained_transformer(
        source.base, source.trained, DTYPES[drawing.precision], device,
        choose_format(config, source),
    )  # fmt: skip
    vae = family.load_vae(source.base, device)
    side = config.resolution or source.resolution
    side = side or family.native_size(source.base, transformer, vae)
    drawing.shape = parse_shape(config.size, "--size") if config.size else (side, side)
    asked = drawing.shape if config.size else side
    drawing.unit = check_size(family, asked, transformer, vae)
    if config.compile:
        compiled.compile_blocks(transformer)
        drawing.graphs = compiled.Graphs()
    drawing.transformer, drawing.vae = transformer, vae
    drawing.scheduler = family.load_scheduler(source.base)
    drawing.tokens = find_kind(source.base).tokens


def draw_and_save(
    drawing: Drawing,
    rows: Prompts,
    asked: tuple[Sequence[int], Shape | None],
    done: Flags,
    writer: ManifestWriter,
) -> None:
    """Draw a batch, and keep what is not there; an image is on the disk before its line."""
    config, out, (batch, shape) = drawing.config, drawing.config.out or Path(), asked
    prompts = [rows[row] for row in batch]
    texts, whole = [prompt["text"] for prompt in prompts], list(batch)
    if config.compile:  # for batches of one size: the last row again, and left out
        missing = config.batch_size - len(batch)
        texts, whole = texts + texts[-1:] * missing, whole + whole[-1:] * missing
    images = draw_images(drawing, whole, texts, shape or drawing.shape)[: len(batch)]
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


def draw_images(
    drawing: Drawing, rows: Sequence[int], prompts: Sequence[str], shape: Shape
) -> list[Image.Image]:
    """Draw one batch: the noise of each row from (seed, row), prompts padded to a fixed length."""
    config, device, family = drawing.config, drawing.device, drawing.family
    scale, channels = family.latent_scale(drawing.vae), family.latent_channels(drawing.vae)
    sides = (channels, shape[0] // scale, shape[1] // scale)
    noise = torch.stack(
        [torch.randn(sides, generator=build_generator(config.seed, "sample", row)) for row in rows]
    )
    texts = [drawing.embeds[prompt].to(device) for prompt in (*prompts, "")]
    embeds, mask = parts.pad_embeds(texts, drawing.tokens)
    text, empty = (embeds[:-1], mask[:-1]), (embeds[-1:], mask[-1:])
    denoise = build_denoiser(
        family, drawing.transformer, text, empty, config.guidance, poll=stop.check
    )
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=drawing.precision == "bf16")
    with torch.no_grad(), mixed:
        scheduler = family.renew_scheduler(drawing.scheduler, sides[1] * sides[2])
        latents = solve(denoise, noise.to(device), scheduler, config.steps)
        images = family.decode_latents(drawing.vae, latents)
    return [tensor_to_image(image) for image in images]
