"""A small SANA pipeline of random weights, of the same classes and in the same folders as the real.

Its tokenizer knows single letters, so that all prompts, and SANA's long instruction, can be read.
"""

import json
import string
from pathlib import Path

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaTransformer2DModel
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

LETTERS = "▁\n" + string.ascii_letters + string.digits + string.punctuation


def build_sana(folder: Path, *, levels: int = 2, seed: int = 0) -> Path:
    """Save a pipeline folder laid out like the hub's Sana_600M_512px_diffusers.

    Args:
        folder: Where to.
        levels: Levels of the autoencoder: one latent stands for 2 ** (levels - 1) pixels a side.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = {piece: place for place, piece in enumerate([*specials, *dict.fromkeys(LETTERS)])}
    GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True).save_pretrained(folder / "tokenizer")
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(vocab), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8,
        )
    )  # fmt: skip
    for parameter in text_encoder.parameters():  # its own start is far too quiet at this width
        parameter.data.normal_(0, 0.3)
    text_encoder.save_pretrained(folder / "text_encoder")
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=16, mlp_ratio=2, sample_size=8, patch_size=1,
    )  # fmt: skip
    transformer.save_pretrained(folder / "transformer")
    last = ("ResBlock",) * (levels - 1) + ("EfficientViTBlock",)
    scales = ((),) * (levels - 1) + ((5,),)
    AutoencoderDC(
        latent_channels=4, attention_head_dim=4, scaling_factor=0.41407,
        encoder_block_types=last, decoder_block_types=last,
        encoder_block_out_channels=(8,) * levels, decoder_block_out_channels=(8,) * levels,
        encoder_layers_per_block=(1,) * levels, decoder_layers_per_block=(1,) * levels,
        encoder_qkv_multiscales=scales, decoder_qkv_multiscales=scales,
        downsample_block_type="conv", upsample_block_type="interpolate",
    ).save_pretrained(folder / "vae")  # fmt: skip
    DPMSolverMultistepScheduler(
        beta_schedule="linear", prediction_type="flow_prediction", use_flow_sigmas=True,
        flow_shift=3.0, solver_order=2, algorithm_type="dpmsolver++", solver_type="midpoint",
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    index = {
        "_class_name": "SanaPipeline",
        "_diffusers_version": "0.32.0",
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "GemmaTokenizer"],
        "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
