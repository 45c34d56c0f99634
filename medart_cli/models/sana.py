"""SANA: load each part, encode text and images, decode. Gemma reads, a deep autoencoder compresses.

Its transformer predicts the velocity of a straight flow; one latent stands for 32 pixels a side.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaTransformer2DModel
from diffusers.pipelines.sana.pipeline_sana import SanaPipeline
from torch import Tensor, nn
from transformers import Gemma2Model

from medart_cli.errors import ConfigError
from medart_cli.models.bases import normalize_prompt
from medart_cli.models.families import Family
from medart_cli.models.parts import (
    at_least_float,
    load_frozen,
    load_part,
    pad_embeds,
    read_native_size,
    read_scheduler,
    renew_scheduler,
    unwrap,
)

# What SANA's own pipeline writes before a prompt, and its models learned with.
INSTRUCTION = "\n".join(
    inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
)


def load_text_encoder(
    folder: Path, dtype: torch.dtype, device: torch.device, *, dropout: float | None = None
) -> Gemma2Model:
    """Load Gemma's decoder, in evaluation mode and without gradients; it has no dropout of its own.

    Args:
        folder: Pipeline folder.
        dtype: Number format; fp16 overflows in Gemma.
        device: Where to put it.
        dropout: Ignored: Gemma is not trained here.
    """
    model = load_part(Gemma2Model, folder / "text_encoder", dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def load_transformer(
    folder: Path, dtype: torch.dtype, device: torch.device
) -> SanaTransformer2DModel:
    """Load the diffusion transformer from a pipeline folder, without gradients."""
    return load_frozen(SanaTransformer2DModel, folder / "transformer", dtype, device)


def load_vae(folder: Path, device: torch.device) -> AutoencoderDC:
    """Load the autoencoder in fp32, frozen: half precision costs it color."""
    return load_frozen(AutoencoderDC, folder / "vae", torch.float32, device)


def load_scheduler(folder: Path) -> DPMSolverMultistepScheduler:
    """Load the folder's own scheduler, DPM-Solver++ on the flow.

    Raises:
        MissingModelError: There is none that can be read.
        ConfigError: It is another one.
    """
    facts = read_scheduler(folder, DPMSolverMultistepScheduler)
    predicted = facts.get("prediction_type", "epsilon")
    if not facts.get("use_flow_sigmas") or predicted != "flow_prediction":
        raise ConfigError(
            f"{folder / 'scheduler'}: predicts {predicted}; SANA's own scheduler predicts a flow"
        )
    # Variants with random steps (sde) would draw other images each time.
    return DPMSolverMultistepScheduler.from_config(facts, algorithm_type="dpmsolver++")


def read_prompts(
    tokenizer: Any,  # noqa: ANN401 - of transformers
    text_encoder: Gemma2Model,
    prompts: Sequence[str],
    *,
    pad: bool,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of prompts (B, L, D) and their mask (B, L).

    As SanaPipeline: before a prompt that is not empty stands an instruction, of which the first
    embedding and the last one remain. The transformer masks padding, and Gemma reads from left to
    right, so that none is needed.

    Args:
        tokenizer: That of Gemma.
        text_encoder: Gemma.
        prompts: Texts.
        pad: Pad to `limit` as the pipeline does, instead of to the longest prompt.
        limit: Most embeddings of a prompt.
    """
    rows = [_read_prompt(tokenizer, text_encoder, prompt, limit) for prompt in prompts]
    return pad_embeds(rows, limit if pad else None)


def _read_prompt(tokenizer: Any, text_encoder: Gemma2Model, prompt: str, limit: int) -> Tensor:  # noqa: ANN401
    """Return the embeddings of one prompt, (L, D)."""
    text, longest, kept = normalize_prompt(prompt), limit, 0
    if text:
        before = len(tokenizer.encode(INSTRUCTION))
        text, longest, kept = INSTRUCTION + text, before + limit - 2, before - 1
    tokens = tokenizer([text], max_length=longest, truncation=True, return_tensors="pt")
    ids = tokens.input_ids.to(text_encoder.device)
    hidden: Tensor = text_encoder(ids, attention_mask=torch.ones_like(ids))[0][0]  # (N, D)
    return torch.cat([hidden[:1], hidden[max(kept, 1) :]])  # (L, D)


def count_embeds(
    tokenizer: Any,  # noqa: ANN401 - of transformers
    prompts: Sequence[str],
    limit: int,
) -> list[int]:
    """Return how many embeddings each prompt has by itself: without those of the instruction."""
    texts = [normalize_prompt(prompt) for prompt in prompts]
    before = len(tokenizer.encode(INSTRUCTION))
    ids = tokenizer([INSTRUCTION + text if text else "" for text in texts]).input_ids
    counts = (len(row) - bool(text) * (before - 2) for row, text in zip(ids, texts, strict=True))
    return [min(count, limit) for count in counts]


def predict_velocity(
    transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: Tensor, mask: Tensor
) -> Tensor:
    """Predict the velocity of the flow, noise less image.

    Args:
        transformer: SANA's transformer, possibly wrapped by peft or for several processes.
        latents: (B, C, h, w).
        timesteps: (B,), from 0 to 1000.
        embeds: Text embeddings, (B, L, D).
        mask: 1 for tokens, 0 for padding, (B, L).

    Returns:
        (B, C, h, w), float32 or more.
    """
    output = transformer(
        latents.to(embeds.dtype),
        encoder_hidden_states=embeds,
        encoder_attention_mask=mask,
        timestep=timesteps * unwrap(transformer).config.timestep_scale,
        return_dict=False,
    )[0]
    return at_least_float(output[:, : latents.shape[1]])


def encode_images(vae: AutoencoderDC, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the latents of images, (B, C, h, w), scaled for SANA, and their deviation: none."""
    with torch.no_grad():
        latents = vae.encode(images.to(vae.device)).latent * vae.config.scaling_factor
    return latents, torch.zeros_like(latents)


def decode_latents(vae: AutoencoderDC, latents: Tensor) -> Tensor:
    """Decode latents (B, C, h, w) to images (B, 3, H, W) around [-1, 1]; gradients pass."""
    with torch.autocast(latents.device.type, enabled=False):
        scaled = at_least_float(latents) / vae.config.scaling_factor
        images: Tensor = vae.decode(scaled, return_dict=False)[0]
        return images


def latent_scale(vae: AutoencoderDC) -> int:
    """Return how many pixels of a side one latent stands for."""
    return int(vae.spatial_compression_ratio)


def native_size(folder: Path, transformer: SanaTransformer2DModel, vae: AutoencoderDC) -> int:
    """Return the image side, in pixels, that a base was made for, or a merged run trained at."""
    own = transformer.config.sample_size * latent_scale(vae)
    return read_native_size(folder) or int(own)


def count_inputs(transformer: SanaTransformer2DModel, side: float) -> float:
    """Return how many numbers the inputs of all blocks hold, for latents of a side."""
    facts = unwrap(transformer).config
    width = facts.num_attention_heads * facts.attention_head_dim
    return float((side / facts.patch_size) ** 2 * width * facts.num_layers)


def decoder_bytes(vae: AutoencoderDC, resolution: int) -> int:
    """Estimate what the decoder's backward pass holds for one image, recomputed as a whole.

    All of its maps are held while its backward pass runs: in each level some 12 for each layer.
    """
    facts = vae.config
    levels = zip(facts.decoder_block_out_channels, facts.decoder_layers_per_block, strict=True)
    maps = (12 * layers * channels * (resolution >> level) ** 2
            for level, (channels, layers) in enumerate(levels))  # fmt: skip
    return int(4 * sum(maps))


FAMILY = Family(
    process="flow",
    load_transformer=load_transformer,
    load_text_encoder=load_text_encoder,
    load_vae=load_vae,
    load_scheduler=load_scheduler,
    renew_scheduler=renew_scheduler,
    # Xie et al. 2024 (SANA), section 3.3: logit-normal times, shifted as in drawing.
    recipe=lambda scheduler, side: ("logit-normal", float(scheduler.config.flow_shift)),
    read_prompts=read_prompts,
    count_embeds=count_embeds,
    predict=predict_velocity,
    encode_images=encode_images,
    decode_latents=decode_latents,
    latent_scale=latent_scale,
    latent_channels=lambda vae: int(vae.config.latent_channels),
    native_size=native_size,
    count_inputs=count_inputs,
    decoder_bytes=decoder_bytes,
    blockwise_decoder=lambda vae: False,
    # Attention, the two pointwise convolutions of the feed-forward, and what is outside the blocks.
    # peft cannot merge adapters of the depthwise convolution between them.
    targets=(
        "to_q", "to_k", "to_v", "to_out.0", "conv_inverted", "conv_point",
        "patch_embed.proj", "proj_out", "linear", "linear_1", "linear_2",
    ),
    text_targets=(),
    finish_merge=lambda folder, resolution: None,
)  # fmt: skip
