"""PRX: load each part, encode text and images, decode. T5Gemma's encoder reads.

Its transformer predicts the velocity of a straight flow. Its bases come with Flux' autoencoder (one
latent stands for 8 pixels a side, and is shifted as well as scaled) or with a deep one (32 pixels).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    PRXTransformer2DModel,
)
from torch import Tensor, nn
from transformers import T5GemmaConfig, T5GemmaModuleConfig
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models import pixart, sana
from medart_cli.models.bases import normalize_prompt
from medart_cli.models.families import Family
from medart_cli.models.parts import (
    at_least_float,
    count_embeds,
    load_frozen,
    load_part,
    pad_embeds,
    read_native_size,
    read_scheduler,
    renew_scheduler,
    unwrap,
)

TIMESTEPS = 1000  # of its schedule; the transformer counts from 0 to 1
NATIVE_SIZE = 512  # image side, in pixels, where model_index.json has none, as in PRXPipeline
STOCK_SIZES = (256, 512, 1024)  # image sides that PRXPipeline draws without being told
AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderDC": AutoencoderDC}
# What its scheduler may not do here: draw random noise at each step, which gives other images each
# time; or ask for a shift by the size, which PRXPipeline does not give.
UNUSED = ("stochastic_sampling", "use_dynamic_shifting")


def load_text_encoder(
    folder: Path, dtype: torch.dtype, device: torch.device, *, dropout: float | None = None
) -> T5GemmaEncoder:
    """Load T5Gemma's encoder, in evaluation mode and without gradients.

    Its config.json is that of the encoder alone, as on the hub, or one of encoder and decoder. Left
    to itself, transformers 5 takes nothing of the former and builds an encoder of default size.

    Args:
        folder: Pipeline folder.
        dtype: Number format; fp16 overflows in Gemma.
        device: Where to put it.
        dropout: Ignored: T5Gemma is not trained here.

    Raises:
        MissingModelError: There is none that can be read, or its weights are not the encoder's.
    """
    place = folder / "text_encoder"
    facts = _read_json(place / "config.json")
    own = facts.get("encoder", facts)
    if own.get("model_type") != T5GemmaModuleConfig.model_type:  # else a large one would be built
        raise MissingModelError(
            f"{place}: is a {own.get('model_type')}; PRX reads with T5Gemma's encoder"
        )
    config = T5GemmaConfig(encoder=own).encoder
    model = load_part(T5GemmaEncoder, place, config=config, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingModelError(f"{path}: cannot be read; copy it again") from error
    if not isinstance(facts, dict):
        raise MissingModelError(f"{path}: holds no settings; copy it again")
    return facts


def load_transformer(
    folder: Path, dtype: torch.dtype, device: torch.device
) -> PRXTransformer2DModel:
    """Load the diffusion transformer from a pipeline folder, without gradients."""
    return load_frozen(PRXTransformer2DModel, folder / "transformer", dtype, device)


def load_vae(folder: Path, device: torch.device) -> AutoencoderKL | AutoencoderDC:
    """Load the autoencoder in fp32, frozen: half precision costs it color.

    Raises:
        MissingModelError: There is none that can be read.
        ConfigError: It is neither of the two kinds that PRX is made with.
    """
    place = folder / "vae"
    name = _read_json(place / "config.json").get("_class_name")
    if name not in AUTOENCODERS:
        raise ConfigError(f"{place}: is a {name}; PRX has {' or '.join(AUTOENCODERS)}")
    model = load_part(AUTOENCODERS[name], place, torch_dtype=torch.float32)
    return model.to(device).eval().requires_grad_(False)


def load_scheduler(folder: Path) -> FlowMatchEulerDiscreteScheduler:
    """Load the folder's own scheduler, Euler's steps on the flow.

    Raises:
        MissingModelError: There is none that can be read.
        ConfigError: It is another one.
    """
    place = folder / "scheduler"
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        read_scheduler(folder, FlowMatchEulerDiscreteScheduler)
    )
    asked = [name for name in UNUSED if scheduler.config[name]]
    if asked:
        raise ConfigError(f"{place}: has {asked[0]}, which PRX's own scheduler does not have")
    return scheduler


def read_prompts(
    tokenizer: Any,  # noqa: ANN401 - of transformers
    text_encoder: T5GemmaEncoder,
    prompts: Sequence[str],
    *,
    pad: bool,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of prompts (B, L, D) and their mask (B, L).

    As PRXPipeline, but without its cleaning, which was made for captions from the web: it would
    cut clinical ones, as "3x5 mm". Each prompt is read by itself, unpadded: encoder and transformer
    both mask padding, and know the place of a token by its distance to others alone.

    Autocast is off, as in its training; its weights may wait elsewhere than where they compute.

    Args:
        tokenizer: That of Gemma.
        text_encoder: T5Gemma's encoder.
        prompts: Texts.
        pad: Pad to `limit` as the pipeline does, instead of to the longest prompt.
        limit: Most tokens, the begin mark included.
    """
    rows = []
    with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        for prompt in prompts:
            text = normalize_prompt(prompt)
            tokens = tokenizer([text], max_length=limit, truncation=True, return_tensors="pt")
            ids = tokens.input_ids.to(text_encoder.device)  # (1, L)
            rows.append(text_encoder(ids, attention_mask=torch.ones_like(ids))[0][0])  # (L, D)
    return pad_embeds(rows, limit if pad else None)


def predict_velocity(
    transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: Tensor, mask: Tensor
) -> Tensor:
    """Predict the velocity of the flow, noise less image.

    Args:
        transformer: PRX's transformer, possibly wrapped by peft or for several processes.
        latents: (B, C, h, w).
        timesteps: (B,), from 0 to 1000.
        embeds: Text embeddings, (B, L, D).
        mask: 1 for tokens, 0 for padding, (B, L).

    Returns:
        (B, C, h, w), float32 or more.
    """
    output = transformer(
        hidden_states=latents.to(embeds.dtype),
        timestep=timesteps / TIMESTEPS,
        encoder_hidden_states=embeds,
        attention_mask=mask.bool(),
        return_dict=False,
    )[0]
    return at_least_float(output)


def encode_images(vae: AutoencoderKL | AutoencoderDC, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the images' latents, each (B, C, h, w), scaled for PRX.

    A deep autoencoder knows one latent for an image, and no deviation.

    Args:
        vae: The autoencoder.
        images: (B, 3, H, W) float32 in [-1, 1].
    """
    scale, shift = vae.config.scaling_factor, _shift(vae)
    with torch.no_grad():
        coded = vae.encode(images.to(vae.device))
    if isinstance(vae, AutoencoderDC):
        return (coded.latent - shift) * scale, torch.zeros_like(coded.latent)
    posterior = coded.latent_dist
    return (posterior.mean - shift) * scale, posterior.std * scale


def decode_latents(vae: AutoencoderKL | AutoencoderDC, latents: Tensor) -> Tensor:
    """Decode latents (B, C, h, w) to images (B, 3, H, W) around [-1, 1]; gradients pass."""
    with torch.autocast(latents.device.type, enabled=False):
        scaled = at_least_float(latents) / vae.config.scaling_factor + _shift(vae)
        images: Tensor = vae.decode(scaled, return_dict=False)[0]
        return images


def _shift(vae: AutoencoderKL | AutoencoderDC) -> float:
    """Return what is taken from latents before they are scaled; deep autoencoders have none."""
    return float(vae.config.get("shift_factor") or 0)


def latent_scale(vae: AutoencoderKL | AutoencoderDC) -> int:
    """Return how many pixels of a side one latent stands for."""
    deep = isinstance(vae, AutoencoderDC)
    return sana.latent_scale(vae) if deep else pixart.latent_scale(vae)


def decoder_bytes(vae: AutoencoderKL | AutoencoderDC, resolution: int) -> int:
    """Estimate what the decoder's backward pass holds for one image."""
    deep = isinstance(vae, AutoencoderDC)
    return sana.decoder_bytes(vae, resolution) if deep else pixart.decoder_bytes(vae, resolution)


def native_size(
    folder: Path, transformer: PRXTransformer2DModel, vae: AutoencoderKL | AutoencoderDC
) -> int:
    """Return the image side, in pixels, that a base was made for, or a merged run trained at."""
    own = _read_json(folder / "model_index.json").get("default_sample_size")
    return read_native_size(folder) or int(own or NATIVE_SIZE)


def count_inputs(transformer: PRXTransformer2DModel, side: float) -> float:
    """Return how many numbers the inputs of all blocks hold, for latents of a side."""
    facts = unwrap(transformer).config
    return float((side / facts.patch_size) ** 2 * facts.hidden_size * facts.depth)


def finish_merge(folder: Path, resolution: int) -> None:
    """Let PRXPipeline draw a merged folder at another size by default, where it can.

    It takes the size from model_index.json, and refuses those that it has no table of shapes for.
    It also opens a folder whose index names no autoencoder without the one that lies there.
    """
    place = folder / "model_index.json"
    facts = _read_json(place)
    facts["vae"] = ["diffusers", _read_json(folder / "vae" / "config.json")["_class_name"]]
    if resolution in STOCK_SIZES:
        facts["default_sample_size"] = resolution
    place.write_text(json.dumps(facts, indent=2), encoding="utf-8")


FAMILY = Family(
    process="flow",
    load_transformer=load_transformer,
    load_text_encoder=load_text_encoder,
    load_vae=load_vae,
    load_scheduler=load_scheduler,
    renew_scheduler=renew_scheduler,
    # Photoroom's training code (github.com/Photoroom/PRX, prx/schedulers/scheduler.py): times are
    # logit-normal, with the shift of drawing. A tenth of them is uniform, which is left out here.
    recipe=lambda scheduler, side: ("logit-normal", float(scheduler.config.shift)),
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
    blockwise_decoder=lambda vae: isinstance(vae, AutoencoderKL),
    # Attention, the gated feed-forward, each block's modulation, and what is outside the blocks.
    targets=(
        "img_qkv_proj", "txt_kv_proj", "to_out.0", "gate_proj", "up_proj", "down_proj", "lin",
        "img_in", "txt_in", "in_layer", "out_layer", "linear", "adaLN_modulation.1",
    ),
    text_targets=(),
    finish_merge=finish_merge,
)  # fmt: skip
