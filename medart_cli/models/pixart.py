"""PixArt-alpha and PixArt-Sigma: find the files, load each part, encode text and images, decode.

Every part is loaded by itself, in the number format asked for, from safetensors only. Nothing here
knows about training: functions take the loaded parts.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.log import log
from medart_cli.models.bases import COMPONENTS, normalize_prompt
from medart_cli.models.hub import (
    check_loaded,
)

# An embedding that earlier diffusers kept in the transformer's file; nothing ever read it.
SPARE = ("caption_projection.y_embedding",)
RESOLUTION = "_medart_resolution"  # in model_index.json of a merged run: image side, pixels
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
    model = _load(T5EncoderModel, folder / "text_encoder", dtype=dtype, **changes)
    return model.to(device).eval().requires_grad_(False)


def load_transformer(
    folder: Path, dtype: torch.dtype, device: torch.device
) -> PixArtTransformer2DModel:
    """Load the diffusion transformer from a pipeline folder, without gradients.

    Older folders name its class Transformer2DModel; the weights are the same.
    """
    model = _load(PixArtTransformer2DModel, folder / "transformer", torch_dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def load_vae(folder: Path, device: torch.device) -> AutoencoderKL:
    """Load the autoencoder in fp32, frozen: half precision costs it color, and it is small."""
    model = _load(AutoencoderKL, folder / "vae", torch_dtype=torch.float32)
    return model.to(device).eval().requires_grad_(False)


def _load(kind: Any, folder: Path, **options: Any) -> Any:  # noqa: ANN401 - of two libraries
    """Load a model from its own folder, and nothing that its file does not hold.

    Raises:
        MissingModelError: The folder is corrupt, or holds other weights than its config.json says.
    """
    try:
        model, report = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingModelError(f"{folder}: cannot be loaded: {error}; copy it again") from error
    check_loaded(folder, report, spare=SPARE)
    return model


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


def renew_scheduler(scheduler: DPMSolverMultistepScheduler) -> DPMSolverMultistepScheduler:
    """Return a scheduler of the same settings that has seen no step; one solve uses one up."""
    return type(scheduler).from_config(scheduler.config)


def native_size(folder: Path, transformer: PixArtTransformer2DModel, vae: AutoencoderKL) -> int:
    """Return the image side, in pixels, that a base was made for, or a merged run trained at."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return int(index.get(RESOLUTION) or transformer.config.sample_size * latent_scale(vae))


def latent_scale(vae: AutoencoderKL) -> int:
    """Return how many pixels of a side one latent stands for."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def check_size(resolution: int, transformer: PixArtTransformer2DModel, vae: AutoencoderKL) -> None:
    """Check that an image side makes whole patches of latents.

    Raises:
        ConfigError: It does not.
    """
    unit = latent_scale(vae) * int(unwrap(transformer).config.patch_size)
    if resolution % unit:
        raise ConfigError(f"--resolution {resolution}: this base needs a multiple of {unit}")


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


def pad_embeds(rows: Sequence[Tensor], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Join unpadded embeddings, each (L_i, D), to (B, L, D) and their mask (B, L)."""
    length = length or max(len(row) for row in rows)
    embeds = rows[0].new_zeros(len(rows), length, rows[0].shape[1])  # (B, L, D)
    mask = torch.zeros(len(rows), length, dtype=torch.long, device=rows[0].device)  # (B, L)
    for index, row in enumerate(rows):
        embeds[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return embeds, mask


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
        sides = torch.tensor([[height, width]], device=latents.device, dtype=embeds.dtype)
        ratio = torch.tensor([[height / width]], device=latents.device, dtype=embeds.dtype)
        rows = len(latents)
        conditions = {"resolution": sides.repeat(rows, 1), "aspect_ratio": ratio.repeat(rows, 1)}
    output = transformer(
        latents.to(embeds.dtype),
        encoder_hidden_states=embeds,
        encoder_attention_mask=mask,
        timestep=timesteps,
        added_cond_kwargs=conditions,
        return_dict=False,
    )[0]  # (B, 2C, h, w), or (B, C, h, w) without learned sigma
    return at_least_float(output[:, : latents.shape[1]])  # (B, C, h, w)


def unwrap(model: PixArtTransformer2DModel) -> PixArtTransformer2DModel:
    """Return the model inside the wrappers of torch's data-parallel training and of peft."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def recompute_blocks(model: nn.Module, wanted: bool) -> None:
    """Switch activation checkpointing of a model's blocks: less memory, slower."""
    verb = "enable" if wanted else "disable"
    names = (
        f"{verb}_gradient_checkpointing",  # diffusers
        f"activation_checkpointing_{verb}",  # transformers
        f"gradient_checkpointing_{verb}",  # transformers before 5.23
    )
    inner = unwrap(model)
    getattr(inner, next(name for name in names if hasattr(inner, name)))()


def build_denoiser(
    transformer: nn.Module,
    text: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor],
    guidance: float,
    *,
    poll: Callable[[], None] = lambda: None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the function that the solver calls: latents and a timestep -> noise, with guidance.

    Args:
        transformer: PixArt transformer.
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
            return predict_noise(transformer, latents, timestep.expand(rows), embeds, mask)
        both = torch.cat([latents, latents])  # (2B, C, h, w)
        noise = predict_noise(transformer, both, timestep.expand(2 * rows), embeds, mask)
        without, with_text = noise.chunk(2)  # each (B, C, h, w)
        return without + guidance * (with_text - without)

    return denoise


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


def at_least_float(tensor: Tensor) -> Tensor:
    """Lift half precision to float32, and leave float64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def save_pipeline(
    base: Path, out: Path, save: Callable[[Path], set[str]], resolution: int | None
) -> None:
    """Write a whole pipeline folder: trained parts by `save`, all others copied from the base.

    Args:
        base: Pipeline folder of the base model.
        out: Folder to fill; empty.
        save: Writes the trained parts below a folder, and returns their names.
        resolution: Image side that was trained at; the base's own by default.
    """
    saved = save(out)
    load_scheduler(base).save_pretrained(out / "scheduler")
    for part in set(COMPONENTS) - saved - {"scheduler"}:
        pickles = shutil.ignore_patterns("*.bin", "*.ckpt", "*.pt", "*.msgpack", "*.h5")
        shutil.copytree(base / part, out / part, ignore=pickles)
    index = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
    index["transformer"] = ["diffusers", "PixArtTransformer2DModel"]
    index["scheduler"] = ["diffusers", "DPMSolverMultistepScheduler"]
    if resolution is not None:
        index[RESOLUTION] = resolution
        _set_sample_size(out / "transformer" / "config.json", out / "vae", resolution)
    (out / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _set_sample_size(place: Path, vae: Path, resolution: int) -> None:
    """Let the stock pipelines draw at another size by default, where they can.

    They take the size from the transformer's `sample_size`, and refuse those that they have no
    table of shapes for. The model also counts positions by it: their scale makes up for that, so
    that an image of any size is the same as before.
    """
    facts = json.loads(place.read_text(encoding="utf-8"))
    levels = json.loads((vae / "config.json").read_text(encoding="utf-8"))["block_out_channels"]
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
