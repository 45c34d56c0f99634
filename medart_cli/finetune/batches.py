"""The batches of training: drawn and read by another thread, ahead of the device.

All that can be done of a step on the CPU is done there: random numbers, latents, noise, embeddings
of cached captions. A batch is a function of its number, so that it is the same whoever reads it.
"""

from collections.abc import Generator
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from medart_cli import stop
from medart_cli.ahead import map_ahead
from medart_cli.diffusion.losses import min_snr_weights
from medart_cli.finetune.hldf import plan_hldf
from medart_cli.finetune.region import read_region_colors, weigh_latents
from medart_cli.finetune.work import Work, read_embeds, read_latents
from medart_cli.models.device import build_generator, pin, send


@dataclass
class Batch:
    """Rows of one training step, with every random number they need."""

    captions: list[str]
    shown: list[str]  # the same to the noise loss: empty where it is dropped
    positions: list[int]
    noisy: Tensor  # (B, C, h, w)
    target: Tensor  # (B, C, h, w), what is to be predicted: the noise, or a velocity
    timesteps: Tensor  # (B,), as the transformer counts them
    weights: Tensor | None  # (B,), of min-SNR
    pixels: Tensor | None  # (B, 1, h, w), weights of the noise loss inside and outside masks
    statistics: Tensor  # (B, S), of the real images' colors
    # Embeddings and mask, (B, L, D) and (B, L), where captions are cached: of `shown`, and for the
    # color loss of `captions` and the empty one, (B + 1, ...).
    text: tuple[Tensor, Tensor] | None = None
    prompts: tuple[Tensor, Tensor] | None = None

    def to(self, device: torch.device, *, pinned: bool = False) -> "Batch":
        """Return the batch on a device, without waiting for it; or `pinned`, ready to be sent."""

        def move(value: object) -> object:
            if isinstance(value, tuple):
                return tuple(map(move, value))
            if not isinstance(value, Tensor):
                return value
            return pin(value, device) if pinned else send(value, device)

        return Batch(*(move(getattr(self, field.name)) for field in fields(self)))  # type: ignore[arg-type]


def draw_ahead(work: Work, first: int, total: int) -> Generator[Batch]:
    """Yield the batches of the steps after `first`, on the CPU; a step has `accumulate` of them.

    They are read by a thread while the device computes, as many as a step has. Where latents are
    not cached a batch runs the autoencoder; then it is made when its turn comes, as two passes at
    once would need the memory of both.

    Raises:
        Stopped: A stop signal has arrived. Several processes are not told here: they leave
            together, between two steps.
    """
    each, alone = work.config.accumulate, work.accelerator.num_processes == 1
    return map_ahead(
        partial(draw_batch, work),
        range(first * each, total * each),
        threads=0 if work.latents.folder is None else 1,
        ahead=each,
        poll=stop.check if alone else lambda: None,
    )


def draw_batch(work: Work, number: int) -> Batch:
    """Draw the batch of a number, counted over micro-batches; each row from its own generator.

    On the CPU, and in pinned memory where it is to go to a GPU.
    """
    config, accelerator = work.config, work.accelerator
    process, scheduler = work.process, work.scheduler
    hldf, step = plan_hldf(config), number // config.accumulate + 1
    place = number * accelerator.num_processes + accelerator.process_index
    drawn, pixels = [], []
    for position in work.batches[place]:
        row = work.rows[work.order[position]]
        generator = build_generator(config.seed, "train", position)
        chances = torch.rand(4, generator=generator).tolist()
        flip = config.flip and chances[0] < 0.5
        spot = (chances[1], chances[2])
        tensors = read_latents(work, row, flip, spot)
        mean = tensors["mean"]
        latents = mean + tensors["std"] * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        time_of_row = process.draw_time(scheduler, work.times, generator)
        caption = row.text or ""
        shown = "" if chances[3] < config.caption_dropout else caption
        told = torch.cat([tensors[name] for name in hldf.statistics])  # (S,)
        if work.region is not None:
            told = read_region_colors(work, row, flip, spot)
        if config.mask_weight != 1:
            pixels.append(weigh_latents(work, row, flip, spot))
        drawn.append((caption, shown, position, latents, noise, time_of_row, told))
    captions, shown_captions, positions, *stacks = zip(*drawn, strict=True)
    latents, noise, times, statistics = map(torch.stack, stacks)
    weights = None
    if config.min_snr is not None and process.snr is not None:  # never with a flow
        velocity = process.predicts_velocity(scheduler)
        ratio = process.snr(scheduler, times)
        weights = min_snr_weights(ratio, config.min_snr, velocity=velocity)
    batch = Batch(
        list(captions), list(shown_captions), list(positions),
        noisy=process.corrupt(scheduler, latents, noise, times),
        target=process.find_target(scheduler, latents, noise, times),
        timesteps=process.to_timesteps(scheduler, times),
        weights=weights, pixels=torch.stack(pixels) if pixels else None, statistics=statistics,
    )  # fmt: skip
    if work.text_encoder is None:
        batch.text = read_embeds(work, batch.shown)
        if hldf.every and step % hldf.every == 0:
            batch.prompts = read_embeds(work, [*batch.captions, ""])
    return batch.to(accelerator.device, pinned=True)
