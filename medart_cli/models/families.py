"""What a command needs to know of a kind of base model: one record of plain functions for each.

`finetune` and `sample` know the record alone. A family is a file that ends in `FAMILY`, and a line
in `bases.KINDS`, which has what can be said of it without loading torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medart_cli.errors import ConfigError
from medart_cli.models.bases import find_kind
from medart_cli.models.parts import unwrap

TextEmbeds = tuple[
    Tensor, Tensor
]  # embeddings (B, L, D), and a mask (B, L): 1 for tokens, 0 for padding


@dataclass(frozen=True)
class Family:
    """A kind of base model, as plain functions of its loaded parts.

    Latents are (B, C, h, w), scaled as the transformer sees them; images (B, 3, H, W) in [-1, 1].

    Attributes:
        process: How images become noise: a name in diffusion/process.py.
        load_transformer: Folder, number format, device -> the transformer, frozen.
        load_text_encoder: The same -> the text encoder; `dropout` sets another one than its own.
        load_vae: Folder, device -> the autoencoder in fp32, frozen.
        load_scheduler: Folder -> the scheduler of its noise schedule.
        renew_scheduler: Scheduler, number of latents of an image (h * w) -> one to draw with, that
            has seen no step.
        recipe: Scheduler, side of latents -> how its makers drew the times of training: `uniform`
            or `logit-normal`, and the shift towards noise.
        read_prompts: Tokenizer, text encoder, prompts, `pad` (to `limit` tokens as its pipeline
            does, or to the longest prompt), `limit` -> text. Where the transformer attends to
            padding, all are of full length and the mask is 1 throughout.
        count_embeds: Tokenizer, prompts, `limit` -> how many embeddings `read_prompts` makes of
            each by itself; the text encoder is not needed.
        predict: Transformer, latents, timesteps (B,), embeddings, mask -> noise or velocity, as the
            scheduler takes it, (B, C, h, w), float32 or more.
        encode_images: Autoencoder, images -> mean and deviation of their latents.
        decode_latents: Autoencoder, latents -> images; in fp32, and gradients pass.
        latent_scale: Autoencoder -> pixels of a side that one latent stands for.
        latent_channels: Autoencoder -> C.
        native_size: Folder, transformer, autoencoder -> image side, in pixels, it was made for.
        count_inputs: Transformer, side of latents -> numbers that the inputs of all blocks hold.
        decoder_bytes: Autoencoder, image side -> what the decoder's backward pass holds.
        blockwise_decoder: Autoencoder -> whether it can recompute its blocks one by one.
        targets: Ends of the names of the transformer's modules that get an adapter; `*` in one
            stands for any text.
        text_targets: The same of the text encoder; empty where it is not trained.
        finish_merge: Merged pipeline folder, image side -> None; what its own class needs besides.
    """

    process: str
    load_transformer: Callable[[Path, torch.dtype, torch.device], Any]
    load_text_encoder: Callable[..., Any]
    load_vae: Callable[[Path, torch.device], Any]
    load_scheduler: Callable[[Path], Any]
    renew_scheduler: Callable[[Any, int], Any]
    recipe: Callable[[Any, int], tuple[str, float]]
    read_prompts: Callable[..., TextEmbeds]
    count_embeds: Callable[[Any, Sequence[str], int], list[int]]
    predict: Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor]
    encode_images: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
    decode_latents: Callable[[Any, Tensor], Tensor]
    latent_scale: Callable[[Any], int]
    latent_channels: Callable[[Any], int]
    native_size: Callable[[Path, Any, Any], int]
    count_inputs: Callable[[Any, float], float]
    decoder_bytes: Callable[[Any, int], int]
    blockwise_decoder: Callable[[Any], bool]
    targets: Sequence[str]
    text_targets: Sequence[str]
    finish_merge: Callable[[Path, int], None]


def find_family(folder: Path) -> Family:
    """Return the family of a pipeline folder.

    Raises:
        ConfigError: medart has none for it.
        MissingModelError: It is no pipeline folder.
    """
    module = import_module(f"medart_cli.models.{find_kind(folder).module}")
    family: Family = module.FAMILY
    return family


def check_size(
    family: Family,
    size: int | Sequence[int],
    transformer: Any,  # noqa: ANN401 - of several classes
    vae: Any,  # noqa: ANN401
) -> int:
    """Check that the sides of an image make whole patches of latents; return a patch's, in pixels.

    Raises:
        ConfigError: One does not.
    """
    unit = family.latent_scale(vae) * int(unwrap(transformer).config.patch_size)
    if isinstance(size, int):
        if size % unit:
            raise ConfigError(f"--resolution {size}: this base needs a multiple of {unit}")
    elif any(side % unit for side in size):
        told = "x".join(map(str, size))
        raise ConfigError(f"--size {told}: this base needs multiples of {unit}")
    return unit


def build_denoiser(
    family: Family,
    transformer: nn.Module,
    text: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor],
    guidance: float,
    *,
    poll: Callable[[], None] = lambda: None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the function that the solver calls: latents and a timestep -> noise, with guidance.

    Args:
        family: Of the transformer.
        transformer: The transformer.
        text: Embeddings (B, L, D) and mask (B, L) of the prompts.
        empty: The same of the empty prompt, one row of the same length L.
        guidance: Scale of classifier-free guidance (Ho & Salimans 2022); 1 is none.
        poll: Called before each pass; may raise to leave the solver.
    """
    embeds, mask = text
    rows = len(embeds)
    if guidance > 1:
        embeds = torch.cat([empty[0].expand(rows, -1, -1), embeds])  # (2B, L, D)
        mask = torch.cat([empty[1].expand(rows, -1), mask])  # (2B, L)

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        poll()
        if guidance <= 1:
            return family.predict(transformer, latents, timestep.expand(rows), embeds, mask)
        both = torch.cat([latents, latents])  # (2B, C, h, w)
        noise = family.predict(transformer, both, timestep.expand(2 * rows), embeds, mask)
        without, with_text = noise.chunk(2)  # each (B, C, h, w)
        return without + guidance * (with_text - without)

    return denoise
