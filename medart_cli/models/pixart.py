"""PixArt-alpha and PixArt-Sigma: find the files, load each part, encode text and images, decode.

Every part is loaded by itself, in the number format asked for, from safetensors only. Nothing here
knows about training: functions take the loaded parts.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.log import log
from medart_cli.models.bases import normalize_prompt
from medart_cli.models.families import Family
from medart_cli.models.parts import (
    at_least_float,
    count_embeds,
    load_frozen,
    load_part,
    read_native_size,
    renew_scheduler,
    unwrap,
)

STOCK_SIZES = (256, 512)  # image sides that the stock pipelines generate without being told
PREDICTIONS = ("epsilon", "v_prediction")
SOLVER = "dpmsolver++"


def load_text_encoder(
    folder: Path, dtype: torch.dtype, device: torch.device, *, dropout: float | None = None
) -> T5EncoderModel:
    """Load the T5 encoder, in evaluation mode and without gradients.

    The format is given at load time, so that transformers keeps in fp32 what fp16 would corrupt.

    Args:
        folder: Pipeline folder.
        dtype: Number format.
        device: Where to put it.
        dropout: Another dropout than its own; 0 where it is trained, as HLDF draws with it too.
    """
    changes = {} if dropout is None else {"dropout_rate": dropout}
    model = load_part(T5EncoderModel, folder / "text_encoder", dtype=dtype, **changes)
    return model.to(device).eval().requires_grad_(False)


def load_transformer(
    folder: Path, dtype: torch.dtype, device: torch.device
) -> PixArtTransformer2DModel:
    """Load the diffusion transformer from a pipeline folder, without gradients.

    Older folders name its class Transformer2DModel; the weights are the same.
    """
    return load_frozen(PixArtTransformer2DModel, folder / "transformer", dtype, device)


def load_vae(folder: Path, device: torch.device) -> AutoencoderKL:
    """Load the autoencoder in fp32, frozen: half precision costs it color, and it is small."""
    return load_frozen(AutoencoderKL, folder / "vae", torch.float32, device)


def load_scheduler(folder: Path) -> DPMSolverMultistepScheduler:
    """Load the noise schedule of a pipeline folder as multistep DPM-Solver++, and log what changes.

    Variants with random steps (sde) would draw other images each time.

    Raises:
        MissingModelError: There is none that can be read.
        ConfigError: The base predicts neither noise nor velocity.
    """
    place = folder / "scheduler" / "scheduler_config.json"
    try:
        facts = json.loads(place.read_text(encoding="utf-8"))
        kind, betas = facts["_class_name"], "beta_schedule" in facts or "trained_betas" in facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingModelError(f"{place}: cannot be read; copy it again") from error
    predicted = facts.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS or not betas:
        raise ConfigError(
            f"{place}: {kind} with prediction_type {predicted}; medart needs "
            f"{' or '.join(PREDICTIONS)} on a schedule of betas"
        )
    own = f"{kind} {facts.get('algorithm_type', '')}".strip()
    if own.removesuffix(f" {SOLVER}") != DPMSolverMultistepScheduler.__name__:
        log.warning(
            "%s: the base's own scheduler is %s; medart samples with multistep DPM-Solver++ on its "
            "noise schedule, so images differ", folder, own,
        )  # fmt: skip
    return DPMSolverMultistepScheduler.from_config(facts, algorithm_type=SOLVER)


def native_size(folder: Path, transformer: PixArtTransformer2DModel, vae: AutoencoderKL) -> int:
    """Return the image side, in pixels, that a base was made for, or a merged run trained at."""
    own = transformer.config.sample_size * latent_scale(vae)
    return read_native_size(folder) or int(own)


def latent_scale(vae: AutoencoderKL) -> int:
    """Return how many pixels of a side one latent stands for."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def tokenize(
    tokenizer: T5Tokenizer, prompts: Sequence[str], limit: int, *, pad: bool
) -> tuple[Tensor, Tensor]:
    """Turn prompts into T5 token ids and their mask, each (B, L); too long ones are truncated.

    Args:
        tokenizer: The T5 tokenizer.
        prompts: Texts; they are normalized here.
        limit: Most tokens, the end mark included.
        pad: Pad to `limit` as the pipeline does, instead of to the longest prompt.
    """
    tokens = tokenizer(
        [normalize_prompt(prompt) for prompt in prompts],
        padding="max_length" if pad else "longest",
        max_length=limit,
        truncation=True,
        return_tensors="pt",
    )
    return tokens.input_ids, tokens.attention_mask


def encode_tokens(text_encoder: T5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Run T5 on token ids (B, L) and return embeddings (B, L, D)."""
    embeds: Tensor = text_encoder(ids, attention_mask=mask)[0]
    return embeds


def predict_noise(
    transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: Tensor, mask: Tensor
) -> Tensor:
    """Predict the noise in latents, or the velocity; the learned-sigma half of it is dropped.

    Args:
        transformer: PixArt transformer, possibly wrapped by peft or for several processes.
        latents: (B, C, h, w).
        timesteps: (B,) int64.
        embeds: Text embeddings, (B, L, D).
        mask: 1 for tokens, 0 for padding, (B, L).

    Returns:
        (B, C, h, w), float32 or more.
    """
    inner = unwrap(transformer)
    conditions: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if inner.use_additional_conditions:  # models of 1024 pixels are told the size; 8 is the VAE's
        height, width = 8 * latents.shape[2], 8 * latents.shape[3]
        column = (len(latents), 1)
        sides = [embeds.new_full(column, height), embeds.new_full(column, width)]
        ratio = embeds.new_full(column, height / width)
        conditions = {"resolution": torch.cat(sides, dim=1), "aspect_ratio": ratio}
    output = transformer(
        latents.to(embeds.dtype),
        encoder_hidden_states=embeds,
        encoder_attention_mask=mask,
        timestep=timesteps,
        added_cond_kwargs=conditions,
        return_dict=False,
    )[0]  # (B, 2C, h, w), or (B, C, h, w) without learned sigma
    return at_least_float(output[:, : latents.shape[1]])  # (B, C, h, w)


def encode_images(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the latents' posterior, each (B, C, h, w), scaled for PixArt.

    Args:
        vae: The autoencoder.
        images: (B, 3, H, W) float32 in [-1, 1].
    """
    with torch.no_grad():
        posterior = vae.encode(images.to(vae.device)).latent_dist
    scale = vae.config.scaling_factor
    return posterior.mean * scale, posterior.std * scale


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode latents (B, C, h, w) to images (B, 3, H, W) around [-1, 1]; gradients pass.

    In fp32 also where autocast is on: the colors are what HLDF is about.
    """
    with torch.autocast(latents.device.type, enabled=False):
        scaled = at_least_float(latents) / vae.config.scaling_factor
        images: Tensor = vae.decode(scaled, return_dict=False)[0]
        return images


def decoder_bytes(vae: AutoencoderKL, resolution: int) -> int:
    """Estimate what the decoder's backward pass holds for one image, with its blocks recomputed.

    Most of it is the last block, at full size: some 25 maps of its channels in fp32. The real one
    of 512 pixels takes 3.4 GB.
    """
    return int(25 * vae.config.block_out_channels[0] * resolution**2 * 4)


def finish_merge(folder: Path, resolution: int) -> None:
    """Let the stock pipelines draw a merged folder at another size by default, where they can.

    They take the size from the transformer's `sample_size`, and refuse those that they have no
    table of shapes for. The model also counts positions by it: their scale makes up for that, so
    that an image of any size is the same as before.
    """
    place = folder / "transformer" / "config.json"
    facts = json.loads(place.read_text(encoding="utf-8"))
    levels = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))[
        "block_out_channels"
    ]
    old, new = facts["sample_size"], resolution // 8
    told_the_size = facts.get("use_additional_conditions")
    told_the_size = old == 128 if told_the_size is None else told_the_size
    if len(levels) != 4 or resolution not in STOCK_SIZES or told_the_size:
        return
    scale = facts.get("interpolation_scale") or max(old // 64, 1)
    facts |= {
        "sample_size": new, "interpolation_scale": scale * new / old,
        "use_additional_conditions": False,
    }  # fmt: skip
    place.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_prompts(
    tokenizer: T5Tokenizer,
    text_encoder: T5EncoderModel,
    prompts: Sequence[str],
    *,
    pad: bool,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of prompts (B, L, D) and their mask (B, L).

    Args:
        tokenizer: The T5 tokenizer.
        text_encoder: T5.
        prompts: Texts.
        pad: Pad to `limit` as the pipeline does, instead of to the longest prompt.
        limit: Most tokens, the end mark included.
    """
    ids, mask = tokenize(tokenizer, prompts, limit, pad=pad)
    mask = mask.to(text_encoder.device)
    return encode_tokens(text_encoder, ids.to(text_encoder.device), mask), mask


def count_inputs(transformer: PixArtTransformer2DModel, side: float) -> float:
    """Return how many numbers the inputs of all blocks hold, for latents of a side."""
    inner = unwrap(transformer)
    tokens = (side / inner.config.patch_size) ** 2
    return float(tokens * inner.inner_dim * len(inner.transformer_blocks))


FAMILY = Family(
    process="ddpm",
    load_transformer=load_transformer,
    load_text_encoder=load_text_encoder,
    load_vae=load_vae,
    load_scheduler=load_scheduler,
    renew_scheduler=renew_scheduler,
    recipe=lambda scheduler, side: ("uniform", 1.0),
    read_prompts=read_prompts,
    count_embeds=count_embeds,
    predict=predict_noise,
    encode_images=encode_images,
    decode_latents=decode_latents,
    latent_scale=latent_scale,
    latent_channels=lambda vae: int(vae.config.latent_channels),
    native_size=native_size,
    count_inputs=count_inputs,
    decoder_bytes=decoder_bytes,
    blockwise_decoder=lambda vae: True,
    # The paper's targets. A name matches modules that end in it: "linear_1" is in the caption
    # projection and in the timestep embedding, "linear" is the adaptive layer norm.
    targets=(
        "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2",
        "pos_embed.proj", "proj_out", "linear", "linear_1", "linear_2",
    ),
    text_targets=("q", "k", "v", "o", "wi_0", "wi_1", "wo"),  # T5 v1.1: a gated feed-forward
    finish_merge=finish_merge,
)  # fmt: skip
