"""What lives during a run of `medart finetune`: models, caches, optimizer."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from medart_cli.data.buckets import Shape, find_bucket
from medart_cli.data.images import fit_image, load_image
from medart_cli.data.manifest import HashedRecord
from medart_cli.data.tensors import TensorCache, image_to_tensor
from medart_cli.diffusion.losses import (
    STATISTICS,
    color_statistics,
)
from medart_cli.diffusion.process import PROCESSES, Process, Times
from medart_cli.errors import RunError
from medart_cli.finetune.masks import Masks
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.order import BatchOrder, RowOrder
from medart_cli.models import adapters
from medart_cli.models.bases import Kind
from medart_cli.models.compiled import Graphs
from medart_cli.models.device import DTYPES, send
from medart_cli.models.families import Family
from medart_cli.models.offload import find_reader
from medart_cli.models.parts import pad_embeds


@dataclass
class Heldout:
    """What is measured beside the training, and what was found; (2, n): held-out, trained rows.

    Attributes:
        rows: The held-out images, n of them.
        trained: As many training images, place by place of the same label where there is one.
        draws: Noises for each image.
        before: Loss of each image before training, (2, n).
        last: The newest such losses.
        curve: The mean held-out loss of each step that was measured.
    """

    rows: list[HashedRecord]
    trained: list[HashedRecord]
    draws: int
    before: Tensor | None = None
    last: Tensor | None = None
    curve: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Region:
    """Where colors are compared.

    Attributes:
        weights: Of each shape of images, (1, 1, H, W), in [0, 1]: in what share of the masks a
            pixel lies.
        digest: A hash of the weights.
    """

    weights: dict[Shape, Tensor]
    digest: str


@dataclass
class Work:
    """What lives during a run: models, caches, optimizer."""

    config: FinetuneConfig
    accelerator: Accelerator
    base: Path
    kind: Kind
    family: Family
    rows: list[HashedRecord]
    facts: dict[str, Any]
    transformer: Any
    text_encoder: Any  # None where it is frozen and its embeddings are cached
    tokenizer: Any
    vae: Any
    scheduler: Any
    latents: TensorCache
    texts: TensorCache
    optimizer: Any = None
    schedule: Any = None
    ema: Any = None
    graphs: Graphs | None = None  # what was compiled, with --compile
    times: Times = Times("uniform")  # how noisy the rows of a step are
    recompute: str = "step"
    text_length: int | None = None  # of all prompts; None for that of the longest of a batch
    auto_hldf: bool = False  # whether N is to be chosen
    heldout: Heldout | None = None
    masks: Masks = field(default_factory=dict)  # of rows, by their place
    region: Region | None = None  # where colors are compared; None for the whole image
    held: Sequence[str] = ()  # SHA-256 of each image that is held out, measured or not
    unit: int = 1  # what the sides of images are multiples of
    buckets: Sequence[Shape] = ()  # the shapes that images may get; without --buckets one square
    shapes: dict[str, Shape] = field(default_factory=dict)  # of images that were read, by SHA-256

    @cached_property
    def order(self) -> RowOrder:
        """The order in which rows are trained on, once no more are left out."""
        labels = [row.label or "" for row in self.rows]
        return RowOrder(labels, self.config.seed, balance=self.config.balance)

    @cached_property
    def batches(self) -> BatchOrder:
        """The order in which batches of them are."""
        shapes = [self.shapes[row.sha256] for row in self.rows]
        return BatchOrder(self.order, shapes, self.config.batch_size)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The weights that are trained, in a fixed order."""
        models = [self.transformer, self.text_encoder]
        return [p for model in models if model for p in model.parameters() if p.requires_grad]

    @property
    def side(self) -> int:
        """Side of the latents of a square."""
        return int(self.facts["resolution"]) // self.family.latent_scale(self.vae)

    @property
    def process(self) -> Process:
        """How images become noise."""
        return PROCESSES[self.family.process]

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the transformer's weights (FSDP)."""
        return bool(self.accelerator.is_fsdp2)


def count_weights(work: Work) -> int:
    """Count the trained weights that this process holds."""
    parameters: list[Any] = work.parameters  # DTensors, where they are sharded
    return sum((item.to_local() if work.sharded else item).numel() for item in parameters)


def trained_parts(work: Work) -> dict[str, Any]:
    """Return the models whose weights the run saves, without the wrapper for several processes."""
    models = {"transformer": work.transformer, "text_encoder": work.text_encoder}
    return {name: work.accelerator.unwrap_model(models[name]) for name in work.facts["trained"]}


def gather_parts(work: Work) -> dict[str, Any]:
    """Return the models to save, with whole weights; of several processes all must call it."""
    parts = trained_parts(work)
    if work.sharded:
        state = work.accelerator.get_state_dict(work.transformer)  # process 0 alone gets it
        if work.accelerator.is_main_process:
            parts["transformer"] = adapters.gather_transformer(parts["transformer"], state)
    return parts


def read_pixels(work: Work, row: HashedRecord, flip: bool, place: tuple[float, float]) -> Tensor:
    """Return a row's image as it is trained on, (1, 3, H, W) in [-1, 1]."""
    image = load_image(row.path)
    fitted = fit_image(image, find_bucket(image.size, work.buckets), work.config.crop, place)
    tensor = image_to_tensor(fitted)[None]  # (1, 3, H, W)
    return tensor.flip(3) if flip else tensor


def read_latents(
    work: Work, row: HashedRecord, flip: bool, place: tuple[float, float]
) -> dict[str, Tensor]:
    """Return mean and std of a row's latents (C, h, w), and its color statistics by name."""

    def encode() -> dict[str, Tensor]:
        tensor = read_pixels(work, row, flip, place)
        mean, std = work.family.encode_images(work.vae, tensor)
        colors = {name: color_statistics(tensor, [name])[0] for name in STATISTICS}
        return {"mean": mean[0].cpu(), "std": std[0].cpu(), **colors}

    return work.latents.get(encode, row.sha256, str(flip))


def embed_captions(work: Work, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Return embeddings (B, L, D) and mask (B, L) of captions, on the device."""
    device = work.accelerator.device
    if work.text_encoder is None:
        embeds, mask = read_embeds(work, captions)
        return send(embeds, device), send(mask, device)
    with reading_autocast(work):
        embeds, mask = work.family.read_prompts(
            work.tokenizer, work.text_encoder, captions, pad=False, limit=work.kind.tokens
        )
    missing = max(0, (work.text_length or 0) - embeds.shape[1])
    embeds, mask = functional.pad(embeds, (0, 0, 0, missing)), functional.pad(mask, (0, missing))
    return embeds.to(device), mask.to(device)  # from the CPU with --offload; gradients pass


def read_embeds(work: Work, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Return the cached embeddings of captions, as `embed_captions`, but on the CPU.

    Raises:
        RunError: The cache has lost one.
    """
    rows = [work.texts.find(work.kind.normalize(caption)) for caption in captions]
    if any(row is None for row in rows):
        raise RunError("the text cache lost an entry while in use; run the same command again")
    return pad_embeds([row["embeds"] for row in rows if row], work.text_length)


def reading_autocast(work: Work) -> AbstractContextManager[object]:
    """Return autocast for where the text encoder computes, which --offload may have moved."""
    device = work.accelerator.device
    if find_reader(work.config.offload, device).type == device.type:
        return work.accelerator.autocast()  # type: ignore[no-any-return]
    precision = work.facts["precision"]
    return torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32")
