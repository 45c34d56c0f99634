"""Generate images: prompts through T5, then batches of noise through solver and decoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from medart_cli import stop
from medart_cli.data.images import save_png
from medart_cli.data.manifest import (
    ManifestWriter,
)
from medart_cli.data.tensors import tensor_to_image
from medart_cli.diffusion.solver import solve
from medart_cli.log import log, progress
from medart_cli.models import adapters, pixart
from medart_cli.models.bases import load_tokenizer, max_tokens
from medart_cli.models.device import (
    DTYPES,
    build_generator,
    find_precision,
    hush_libraries,
    join_processes,
)
from medart_cli.ranks import Part
from medart_cli.sample.folder import Flags, own_file
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.prompts import Prompts
from medart_cli.sample.source import Source, demonstration_mark

ROUND = 1024  # rows whose prompts T5 reads at a time: an embedding may take 2 MB


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


def build_drawing(config: SampleConfig, source: Source) -> Drawing:
    """Choose device and number format; nothing is loaded before there is something to draw."""
    hush_libraries("transformers", "diffusers")
    device = join_processes(config.device)
    precision = find_precision(config.precision, device)
    trained = source.facts.get("precision", precision)
    if precision != trained:
        log.warning("trained in %s, sampling in %s; colors may differ slightly", trained, precision)
    return Drawing(config, source, device, precision)


def draw_all(config: SampleConfig, source: Source, asked: tuple[Prompts, Part], done: Flags) -> int:
    """Draw what waits of a part of all batches, in rounds, so that T5 and its output need not stay.

    A batch holds the same rows whatever is done of it and whoever draws it, since the rounding of
    a pass depends on its size.

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
                draw_and_save(drawing, rows, batch, done, writer)
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
    tokenizer = load_tokenizer(source.base)
    text_encoder = adapters.load_trained_text_encoder(
        source.base, source.trained, DTYPES[drawing.precision], device
    )
    limit, embeds, cut = max_tokens(source.base), {}, 0
    with progress("prompts", len(prompts)) as bar, torch.no_grad():
        for prompt in prompts:
            stop.check()
            ids, mask = pixart.tokenize(tokenizer, [prompt], limit, pad=True)
            hidden = pixart.encode_tokens(text_encoder, ids.to(device), mask.to(device))
            embeds[prompt] = hidden[0, : int(mask.sum())].cpu()  # (L_i, D)
            cut += int(mask.sum()) == limit
            bar.advance()
    if cut:
        log.warning("%d prompts fill all %d tokens and may be truncated", cut, limit)
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
    drawing.tokens = max_tokens(source.base)


def draw_and_save(
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
