"""FLUX.2-klein-base: load each part, encode text and images, decode. Qwen3 reads the prompts.

Its transformer predicts the velocity of a straight flow. A latent here is what it sees as a token:
2 x 2 of the autoencoder's, 16 pixels a side, normalized.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
)
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3ForCausalLM

from medart_cli.errors import ConfigError
from medart_cli.models.bases import KINDS, write_chat
from medart_cli.models.families import Family
from medart_cli.models.parts import (
    at_least_float,
    load_frozen,
    load_part,
    read_native_size,
    read_scheduler,
    unwrap,
)

LAYERS = (9, 18, 27)  # of Qwen3, whose outputs its pipeline joins to one embedding
PATCH = 2  # latents of the autoencoder, a side, that make one of the transformer
STOCK_LATENTS = 64  # a side; what its pipeline draws without being told


class KleinScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """The stock scheduler, which knows the number of image tokens as the klein pipeline does."""

    tokens = 0

    def set_timesteps(self, num_inference_steps: int, device: torch.device) -> None:
        """Choose the timesteps, shifted towards noise by the number of tokens and of steps."""
        super().set_timesteps(
            device=device,
            sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps),
            mu=compute_empirical_mu(self.tokens, num_inference_steps),
        )


def load_text_encoder(
    folder: Path, dtype: torch.dtype, device: torch.device, *, dropout: float | None = None
) -> Qwen3ForCausalLM:
    """Load Qwen3, in evaluation mode and without gradients; it has no dropout of its own.

    Args:
        folder: Pipeline folder.
        dtype: Number format.
        device: Where to put it.
        dropout: Ignored: Qwen3 is not trained here.
    """
    model = load_part(Qwen3ForCausalLM, folder / "text_encoder", dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def load_transformer(
    folder: Path, dtype: torch.dtype, device: torch.device
) -> Flux2Transformer2DModel:
    """Load the diffusion transformer from a pipeline folder, without gradients."""
    return load_frozen(Flux2Transformer2DModel, folder / "transformer", dtype, device)


def load_vae(folder: Path, device: torch.device) -> AutoencoderKLFlux2:
    """Load the autoencoder in fp32, frozen: half precision costs it color, and it is small."""
    return load_frozen(AutoencoderKLFlux2, folder / "vae", torch.float32, device)


def load_scheduler(folder: Path) -> FlowMatchEulerDiscreteScheduler:
    """Load the folder's own scheduler, Euler's method on the flow.

    Raises:
        MissingModelError: There is none that can be read.
        ConfigError: It is another one, or draws noise at each step.
    """
    place = folder / "scheduler"
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        read_scheduler(folder, FlowMatchEulerDiscreteScheduler)
    )
    if scheduler.config.stochastic_sampling or scheduler.config.invert_sigmas:
        raise ConfigError(
            f"{place}: has stochastic_sampling or invert_sigmas, which klein's own has not; copy "
            "that of the base"
        )
    return scheduler


def renew_scheduler(scheduler: Any, latents: int) -> KleinScheduler:  # noqa: ANN401 - of diffusers
    """Return a scheduler of the same settings that has seen no step, for so many latents."""
    fresh: KleinScheduler = KleinScheduler.from_config(scheduler.config)
    fresh.tokens = latents
    return fresh


def recipe(scheduler: Any, side: int) -> tuple[str, float]:  # noqa: ANN401 - of diffusers
    """Return how the times of training are drawn: logit-normal, with more noise for larger images.

    The exponent of the shift is linear in the number of image tokens. The pipeline's "empirical"
    one is higher, and for drawing only.

    Source:
        Labs et al. 2025 (FLUX.1 Kontext), section 3 (logit-normal, shifted by the resolution), with
        the numbers in the scheduler's settings, as FLUX.1 draws. Its makers confirmed that FLUX.2
        was trained with them too (github.com/Nerogar/OneTrainer/pull/1516).
    """
    facts = scheduler.config
    if not facts.use_dynamic_shifting:
        return "logit-normal", float(facts.shift)
    share = (side**2 - facts.base_image_seq_len) / (
        facts.max_image_seq_len - facts.base_image_seq_len
    )
    mu = facts.base_shift + (facts.max_shift - facts.base_shift) * share
    return "logit-normal", math.exp(mu) if facts.time_shift_type == "exponential" else mu


def read_prompts(
    tokenizer: Any,  # noqa: ANN401 - of transformers
    text_encoder: Qwen3ForCausalLM,
    prompts: Sequence[str],
    *,
    pad: bool,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of prompts, (B, L, D), and a mask of ones, (B, L).

    As Flux2KleinPipeline: in Qwen3's chat template, padded to L = `limit`. The transformer attends
    to the padding too, so that its embeddings are part of a prompt. Each prompt is read by itself,
    or its embeddings would depend on those beside it, by rounding.

    Args:
        tokenizer: That of Qwen3.
        text_encoder: Qwen3.
        prompts: Texts.
        pad: Ignored: all are of full length.
        limit: Length of all, the chat template included; what is beyond is cut.
    """
    rows = [_read_prompt(tokenizer, text_encoder, prompt, limit) for prompt in prompts]
    embeds = torch.stack(rows)  # (B, L, D)
    return embeds, torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)


def _read_prompt(tokenizer: Any, text_encoder: Any, prompt: str, limit: int) -> Tensor:  # noqa: ANN401
    """Return the embeddings of one prompt, (L, D)."""
    tokens = tokenizer(
        [write_chat(tokenizer, prompt)],
        padding="max_length",
        max_length=limit,
        truncation=True,
        return_tensors="pt",
    ).to(text_encoder.device)
    # The model below its head, which would score all words at all places.
    states = text_encoder.model(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states
    return torch.cat([states[layer][0] for layer in LAYERS], dim=-1)  # (L, 3 * width)


def predict_velocity(
    transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: Tensor, mask: Tensor
) -> Tensor:
    """Predict the velocity of the flow, noise less image.

    Args:
        transformer: Klein's transformer, possibly wrapped by peft or for several processes.
        latents: (B, C, h, w).
        timesteps: (B,), from 0 to 1000.
        embeds: Text embeddings, (B, L, D), of full length.
        mask: Ignored: the transformer attends to all of them.

    Returns:
        (B, C, h, w), float32 or more.
    """
    device, (height, width) = latents.device, latents.shape[2:]
    nought = torch.zeros(1, dtype=torch.long, device=device)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    places = torch.arange(embeds.shape[1], device=device)
    # A token's place: image in a series, row, column, place in the text.
    output = transformer(
        latents.to(embeds.dtype).flatten(2).transpose(1, 2),  # (B, h * w, C)
        encoder_hidden_states=embeds,
        timestep=timesteps / 1000,
        img_ids=torch.cartesian_prod(nought, rows, columns, nought),  # (h * w, 4)
        txt_ids=torch.cartesian_prod(nought, nought, nought, places),  # (L, 4)
        return_dict=False,
    )[0]  # (B, h * w, C)
    return at_least_float(output.transpose(1, 2).reshape(latents.shape))


def _statistics(vae: AutoencoderKLFlux2, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of latents, (1, C, 1, 1), which the autoencoder holds."""
    shape = (1, -1, 1, 1)
    mean = vae.bn.running_mean.to(like).view(shape)
    return mean, (vae.bn.running_var.to(like) + vae.config.batch_norm_eps).sqrt().view(shape)


def encode_images(vae: AutoencoderKLFlux2, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the latents' posterior, each (B, C, h, w), normalized.

    Args:
        vae: The autoencoder.
        images: (B, 3, H, W) float32 in [-1, 1].
    """
    with torch.no_grad():
        posterior = vae.encode(images.to(vae.device)).latent_dist
    patches = functional.pixel_unshuffle(posterior.mean, PATCH)  # (B, C, h, w)
    mean, deviation = _statistics(vae, patches)
    own = functional.pixel_unshuffle(posterior.std, PATCH)
    return (patches - mean) / deviation, own / deviation


def decode_latents(vae: AutoencoderKLFlux2, latents: Tensor) -> Tensor:
    """Decode latents (B, C, h, w) to images (B, 3, H, W) around [-1, 1]; gradients pass.

    In fp32 also where autocast is on: the colors are what HLDF is about.
    """
    with torch.autocast(latents.device.type, enabled=False):
        lifted = at_least_float(latents)
        mean, deviation = _statistics(vae, lifted)
        patches = functional.pixel_shuffle(lifted * deviation + mean, PATCH)
        images: Tensor = vae.decode(patches, return_dict=False)[0]
        return images


def latent_scale(vae: AutoencoderKLFlux2) -> int:
    """Return how many pixels of a side one latent stands for."""
    return int(PATCH * 2 ** (len(vae.config.block_out_channels) - 1))


def native_size(folder: Path, transformer: Any, vae: AutoencoderKLFlux2) -> int:  # noqa: ANN401
    """Return the image side, in pixels, that its pipeline draws, or a merged run trained at."""
    return read_native_size(folder) or STOCK_LATENTS * latent_scale(vae)


def count_inputs(transformer: Flux2Transformer2DModel, side: float) -> float:
    """Return how many numbers the inputs of all blocks hold, for latents of a side."""
    facts = unwrap(transformer).config
    tokens = side**2 + KINDS["Flux2KleinPipeline"].tokens  # of image and text
    width = facts.num_attention_heads * facts.attention_head_dim
    return float(tokens * width * (facts.num_layers + facts.num_single_layers))


def decoder_bytes(vae: AutoencoderKLFlux2, resolution: int) -> int:
    """Estimate what the decoder's backward pass holds for one image, with its blocks recomputed.

    Most of it is the last block, at full size: some 25 maps of its channels in fp32, as PixArt's,
    which is of the same class.
    """
    channels = vae.config.decoder_block_out_channels or vae.config.block_out_channels
    return int(25 * channels[0] * resolution**2 * 4)


FAMILY = Family(
    process="flow",
    load_transformer=load_transformer,
    load_text_encoder=load_text_encoder,
    load_vae=load_vae,
    load_scheduler=load_scheduler,
    renew_scheduler=renew_scheduler,
    recipe=recipe,
    read_prompts=read_prompts,
    count_embeds=lambda tokenizer, prompts, limit: [limit] * len(prompts),  # padded, all of them
    predict=predict_velocity,
    encode_images=encode_images,
    decode_latents=decode_latents,
    latent_scale=latent_scale,
    latent_channels=lambda vae: int(vae.config.latent_channels * PATCH**2),
    native_size=native_size,
    count_inputs=count_inputs,
    decoder_bytes=decoder_bytes,
    blockwise_decoder=lambda vae: True,
    # Attention and feed-forward of the double blocks, for image and text; the single blocks, where
    # the two share their projections; and what is outside the blocks.
    targets=(
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
        "linear_in", "linear_out", "to_qkv_mlp_proj", "single_transformer_blocks.*.attn.to_out",
        "x_embedder", "context_embedder", "proj_out", "linear", "linear_1", "linear_2",
    ),
    text_targets=(),
    finish_merge=lambda folder, resolution: None,  # its pipeline takes the size from its caller
)  # fmt: skip
