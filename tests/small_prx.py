"""A small PRX pipeline of random weights, of the same classes and in the same folders as the real.

Its tokenizer knows single letters, so that all prompts can be read.
"""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    PRXTransformer2DModel,
)
from transformers import GemmaTokenizer, T5GemmaConfig
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from tests.small_sana import LETTERS

ENCODER = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8,
    "rope_theta": 10000.0,
}  # fmt: skip


def build_prx(folder: Path, *, deep: bool = False, hub_layout: bool = False, seed: int = 0) -> Path:
    """Save a pipeline folder laid out like the hub's prx-512-t2i.

    Args:
        folder: Where to.
        deep: With a deep autoencoder, as prx-512-t2i-dc-ae, instead of Flux'.
        hub_layout: With a config.json of T5Gemma's encoder alone, as on the hub. PRXPipeline reads
            nothing of it but takes the sizes of the real one, so that it cannot open this folder.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = {piece: place for place, piece in enumerate([*specials, *dict.fromkeys(LETTERS)])}
    GemmaTokenizer(
        vocab=vocab, merges=[], add_bos_token=True, model_max_length=256, padding_side="right"
    ).save_pretrained(folder / "tokenizer")
    config = T5GemmaConfig(encoder=ENCODER | {"vocab_size": len(vocab)})
    text_encoder = T5GemmaEncoder(config.encoder)
    _fill(text_encoder, 0.3)
    text_encoder.save_pretrained(folder / "text_encoder")
    if not hub_layout:
        config.save_pretrained(folder / "text_encoder")
    channels = 4
    transformer = PRXTransformer2DModel(
        in_channels=channels, patch_size=1 if deep else 2, context_in_dim=16, hidden_size=16,
        mlp_ratio=2.0, num_heads=2, depth=2, axes_dim=[4, 4],
    )  # fmt: skip
    _fill(transformer, 0.2)  # its own start is no change at all in each block
    transformer.save_pretrained(folder / "transformer")
    vae = _build_deep(channels) if deep else _build_flux(channels)
    vae.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    for path in (folder / "transformer/config.json", folder / "scheduler/scheduler_config.json"):
        facts = json.loads(path.read_text())
        del facts["_diffusers_version"]  # the hub's were written by hand
        if path.parent.name == "transformer":
            del facts["_class_name"]
        path.write_text(json.dumps(facts))
    index = {
        "_class_name": "PRXPipeline",
        "_diffusers_version": "0.36.0",
        "default_sample_size": 512,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["prx", "T5GemmaEncoder"],
        "tokenizer": ["transformers", "GemmaTokenizerFast"],
        "transformer": ["diffusers", "PRXTransformer2DModel"],
        "vae": ["diffusers", type(vae).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _fill(model: torch.nn.Module, deviation: float) -> None:
    for parameter in model.parameters():
        parameter.data.normal_(0, deviation)


def _build_flux(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def _build_deep(channels: int) -> AutoencoderDC:
    return AutoencoderDC(
        latent_channels=channels, attention_head_dim=4, scaling_factor=0.41407,
        encoder_block_types=("ResBlock",) * 2, decoder_block_types=("ResBlock",) * 2,
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        downsample_block_type="conv", upsample_block_type="interpolate",
    )  # fmt: skip
