"""The published sizes of the bases that medart knows by name, so that one can be judged unseen.

Facts alone: what each part's config.json on the hub says of its shape, in the words of its class.
Where a base lies on the disk, its own files say it; `shapes.py` builds models of either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PartFacts = Mapping[str, Any]


@dataclass(frozen=True)
class Size:
    """The shape of a base.

    Attributes:
        title: As people call it.
        pipeline: Class that its model_index.json names.
        resolution: Image side, in pixels, that it was made for.
        transformer: Settings of its transformer that are not its class's defaults.
        text_encoder: The same of its text encoder.
        vae: The same of its autoencoder, with `_class_name`.
        download_gb: What the hub holds of each part, in GB; some makers keep fp32.
    """

    title: str
    pipeline: str
    resolution: int
    transformer: PartFacts
    text_encoder: PartFacts
    vae: PartFacts
    download_gb: Mapping[str, float]


T5_XXL: PartFacts = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
    "num_heads": 64, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.1,
}  # fmt: skip
GEMMA_2B: PartFacts = {
    "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
}  # fmt: skip
QWEN3_4B: PartFacts = {
    "vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "tie_word_embeddings": True,
}  # fmt: skip
SD_VAE: PartFacts = {
    "_class_name": "AutoencoderKL", "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
FLUX_VAE: PartFacts = {
    **SD_VAE, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
_DEEP = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
DEEP_VAE: PartFacts = {
    "_class_name": "AutoencoderDC", "encoder_block_types": _DEEP, "decoder_block_types": _DEEP,
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
}  # fmt: skip
_PIXART: dict[str, Any] = {
    "pipeline": "PixArtAlphaPipeline", "text_encoder": T5_XXL, "vae": SD_VAE,
    "download_gb": {"transformer": 2.4, "text_encoder": 19.0, "vae": 0.3},
}  # fmt: skip
_GEMMA: dict[str, Any] = {"pipeline": "SanaPipeline", "text_encoder": GEMMA_2B, "vae": DEEP_VAE}
BASE_SIZES = {
    "pixart": Size(
        title="PixArt-alpha XL, T5-XXL", resolution=512,
        transformer={"sample_size": 64, "caption_channels": 4096}, **_PIXART,
    ),
    "sana-600m": Size(
        title="SANA 0.6B", resolution=512,
        transformer={
            "num_attention_heads": 36, "attention_head_dim": 32, "num_layers": 28,
            "num_cross_attention_heads": 16, "cross_attention_head_dim": 72,
            "cross_attention_dim": 1152, "sample_size": 16,
        },
        download_gb={"transformer": 1.2, "text_encoder": 5.2, "vae": 0.6}, **_GEMMA,
    ),
    "sana-1600m": Size(
        title="SANA 1.6B", resolution=512, transformer={"sample_size": 16},
        download_gb={"transformer": 3.2, "text_encoder": 5.2, "vae": 1.2}, **_GEMMA,
    ),
    "prx": Size(
        title="PRX 1.3B", pipeline="PRXPipeline", resolution=512, transformer={},
        text_encoder=GEMMA_2B, vae=FLUX_VAE,
        download_gb={"transformer": 4.7, "text_encoder": 10.5, "vae": 0.3},
    ),
    "klein": Size(
        title="FLUX.2-klein-base 4B", pipeline="Flux2KleinPipeline", resolution=1024,
        transformer={
            "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
            "joint_attention_dim": 7680, "guidance_embeds": False,
        },
        text_encoder=QWEN3_4B, vae={"_class_name": "AutoencoderKLFlux2"},
        download_gb={"transformer": 7.8, "text_encoder": 8.0, "vae": 0.2},
    ),
}  # fmt: skip
# Hub ids (lower case) of which each size is; others of these families have other sizes.
HUB_SIZES = {
    "pixart-alpha/pixart-xl-2-512x512": "pixart",
    "pixart-alpha/pixart-sigma-xl-2-512-ms": "pixart",
    "efficient-large-model/sana_600m_512px_diffusers": "sana-600m",
    "efficient-large-model/sana_1600m_512px_diffusers": "sana-1600m",
    "photoroom/prx-512-t2i": "prx",
    "photoroom/prx-512-t2i-sft": "prx",
    "black-forest-labs/flux.2-klein-base-4b": "klein",
}


def find_size(name: str) -> Size | None:
    """Return the published size of a hub id; None of one that is not known."""
    known = HUB_SIZES.get(name.lower())
    return BASE_SIZES[known] if known else None
