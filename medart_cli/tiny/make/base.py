"""Train the text encoder and the diffusion transformer of the `tiny` base, together."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from medart_cli.diffusion.losses import min_snr_weights, noise_loss
from medart_cli.diffusion.noise import add_noise, signal_to_noise
from medart_cli.log import progress
from medart_cli.models import pixart
from medart_cli.models.bases import load_tokenizer
from medart_cli.models.hub import DEMONSTRATION_KEY
from medart_cli.tiny.make.training import (
    BATCH_SIZE,
    LEARNING_RATE,
    build_trapezoid,
    images_to_tensor,
    step_optimizer,
)
from medart_cli.tiny.phantoms import DOMAINS, describe_phantom, draw_phantom

PHANTOMS = 16_000
EMA = 0.998
EMPTY_SHARE = 0.1  # of captions left out, which classifier-free guidance needs
MIN_SNR = 5.0  # Hang et al. 2023: the weight of easy timesteps is cut, which trains faster
PIECES = 160


class Text(nn.Module):
    """The two networks that are trained, as one module for optimizer and average."""

    def __init__(self, text_encoder: T5EncoderModel, transformer: PixArtTransformer2DModel) -> None:
        """Hold both."""
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer


def build_base(folder: Path, *, steps: int, seed: int, device: torch.device) -> None:
    """Train on base-domain phantoms, and save in fp16 beside the autoencoder in `folder`.

    Args:
        folder: Pipeline folder with a `vae` in it; the other parts are written here.
        steps: Optimizer steps of 64 latents.
        seed: Of weights, images and noise.
        device: Where to train.
    """
    build_tokenizer(folder / "tokenizer", seed)
    build_scheduler().save_pretrained(folder / "scheduler")
    write_index(folder)
    captions, mean, deviation = encode_phantoms(folder, seed, device)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(seed)
    models = build_models(tokenizer).to(device)
    average = AveragedModel(
        models,
        multi_avg_fn=get_ema_multi_avg_fn(EMA),  # type: ignore[no-untyped-call]
    )
    optimizer = torch.optim.AdamW(
        models.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3
    )
    schedule = build_trapezoid(optimizer, steps)
    alpha_bar = build_scheduler().alphas_cumprod.to(device)
    generator = np.random.default_rng([seed, 3])
    with progress("base", steps) as bar:
        for _ in range(steps):
            rows = generator.integers(len(captions), size=BATCH_SIZE)
            latents = mean[rows].to(device)
            latents = latents + deviation[rows].to(device) * torch.randn_like(latents)
            texts = [captions[row] if generator.random() > EMPTY_SHARE else "" for row in rows]
            loss = denoise_loss(models, tokenizer, texts, latents, alpha_bar)
            step_optimizer(loss, models, optimizer, schedule)
            average.update_parameters(models)
            bar.advance({"loss": loss.item()})
    trained: Any = average.module.half()
    trained.text_encoder.save_pretrained(folder / "text_encoder")
    trained.transformer.save_pretrained(folder / "transformer")


def build_tokenizer(folder: Path, seed: int) -> None:
    """Train sentencepiece on captions of both domains; save `spiece.model`, as the hub has it.

    The words of the shifted domain belong to it, as a real T5 knows the words of any domain.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, 2])
    captions = [
        describe_phantom(generator, domain).caption().lower()
        for domain in DOMAINS
        for _ in range(999)
    ]
    words = sorted({word.strip(".,") for caption in captions for word in caption.split()})
    # In captions the same words follow each other always, and pieces would be made across them.
    shuffled = [", ".join(generator.permutation(words)) + "." for _ in range(2000)]
    model = io.BytesIO()  # a file's path would be written into the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(shuffled), model_writer=model, vocab_size=PIECES,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
        num_threads=1,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())


def build_scheduler() -> DPMSolverMultistepScheduler:
    """Make PixArt-alpha's noise schedule: linear betas, DPM-Solver++ of order 2."""
    return DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", solver_order=2,
        algorithm_type="dpmsolver++", solver_type="midpoint",
    )  # fmt: skip


def write_index(folder: Path) -> None:
    """Write model_index.json, by which diffusers knows the pipeline."""
    index = {
        "_class_name": "PixArtAlphaPipeline",
        f"_{DEMONSTRATION_KEY}": True,
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def encode_phantoms(
    folder: Path, seed: int, device: torch.device
) -> tuple[list[str], Tensor, Tensor]:
    """Draw the training set; return captions, the latents' means and deviations, (N, 4, 16, 16)."""
    vae: AutoencoderKL = pixart.load_vae(folder, device)
    generator = np.random.default_rng([seed, 4])
    captions, means, deviations = [], [], []
    with progress("phantoms", PHANTOMS) as bar:
        for start in range(0, PHANTOMS, BATCH_SIZE):
            count = min(BATCH_SIZE, PHANTOMS - start)
            phantoms = [describe_phantom(generator) for _ in range(count)]
            captions += [item.caption() for item in phantoms]
            images = images_to_tensor([draw_phantom(item, generator) for item in phantoms])
            mean, deviation = pixart.encode_images(vae, images)
            means.append(mean.cpu())
            deviations.append(deviation.cpu())
            bar.advance(count=count)
    return captions, torch.cat(means), torch.cat(deviations)


def build_models(tokenizer: T5Tokenizer) -> Text:
    """Make the untrained networks, of the real ones' classes."""
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    transformer = PixArtTransformer2DModel(
        num_attention_heads=5, attention_head_dim=32, num_layers=6, cross_attention_dim=160,
        sample_size=16, patch_size=2, in_channels=4, out_channels=8, caption_channels=128,
        use_additional_conditions=False,
    )  # fmt: skip
    return Text(text_encoder, transformer)


def denoise_loss(
    models: Text, tokenizer: T5Tokenizer, texts: list[str], latents: Tensor, alpha_bar: Tensor
) -> Tensor:
    """Return the weighted noise loss of one batch; latents are (B, 4, h, w)."""
    ids, mask = pixart.tokenize(tokenizer, texts, 120, pad=False)
    ids, mask = ids.to(latents.device), mask.to(latents.device)
    embeds = pixart.encode_tokens(models.text_encoder, ids, mask)
    timesteps = torch.randint(len(alpha_bar), (len(latents),), device=latents.device)
    noise = torch.randn_like(latents)
    noisy = add_noise(latents, noise, timesteps, alpha_bar)
    predicted = pixart.predict_noise(models.transformer, noisy, timesteps, embeds, mask)
    weights = min_snr_weights(signal_to_noise(timesteps, alpha_bar), MIN_SNR)
    return noise_loss(predicted, noise, weights)
