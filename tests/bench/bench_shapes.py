"""The real sizes of each family, without its weights: parameters, adapters, memory by part.

    python -m tests.bench.bench_shapes

Builds each part on torch's meta device, from the published sizes, which takes no memory; puts
adapters of rank 8 on the family's targets, and prints a Markdown table: parameters of each part, of
the adapters and how many layers have one, and what must be held on a card. That is the weights in
bf16 (the autoencoder in fp32), and of what is trained, adapters or the whole transformer, weights,
gradients and AdamW's state in fp32. The last columns say which of both a card holds, in decimal GB,
with a fifth of it left for activations.
"""

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    Flux2Transformer2DModel,
    PixArtTransformer2DModel,
    PRXTransformer2DModel,
    SanaTransformer2DModel,
)
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5GemmaConfig,
)
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from medart_cli.models import adapters, klein, pixart, prx, sana
from medart_cli.models.families import Family

CARDS = (24, 40, 80)  # GB
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
FLUX_VAE = SD_VAE | {
    "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
DEEP = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3


def t5_xxl() -> torch.nn.Module:
    return T5EncoderModel(
        T5Config(
            vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


GEMMA_2B = {
    "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
}  # fmt: skip


def gemma_2b() -> torch.nn.Module:
    return Gemma2Model(Gemma2Config(**GEMMA_2B))


def t5_gemma_2b() -> torch.nn.Module:
    return T5GemmaEncoder(T5GemmaConfig(encoder=GEMMA_2B).encoder)


def qwen_4b() -> torch.nn.Module:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=151_936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
            num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        )
    )  # fmt: skip


def small_sana() -> torch.nn.Module:
    return SanaTransformer2DModel(
        num_attention_heads=36, attention_head_dim=32, num_layers=28, num_cross_attention_heads=16,
        cross_attention_head_dim=72, cross_attention_dim=1152, sample_size=16,
    )  # fmt: skip


def klein_4b() -> torch.nn.Module:
    return Flux2Transformer2DModel(
        num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680,
        guidance_embeds=False,
    )  # fmt: skip


def deep_vae() -> torch.nn.Module:
    return AutoencoderDC(
        encoder_block_types=DEEP,
        decoder_block_types=DEEP,
        encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
    )


# Title, family, transformer, text encoder, autoencoder.
SHAPES = {
    "pixart": (
        "PixArt-alpha XL, T5-XXL", pixart.FAMILY,
        lambda: PixArtTransformer2DModel(sample_size=64, caption_channels=4096),
        t5_xxl, lambda: AutoencoderKL(**SD_VAE),
    ),
    "sana-600m": ("SANA 0.6B", sana.FAMILY, small_sana, gemma_2b, deep_vae),
    "sana-1600m": ("SANA 1.6B", sana.FAMILY, SanaTransformer2DModel, gemma_2b, deep_vae),
    "prx": (
        "PRX 1.3B", prx.FAMILY, PRXTransformer2DModel, t5_gemma_2b,
        lambda: AutoencoderKL(**FLUX_VAE),
    ),
    "klein": ("FLUX.2-klein-base 4B", klein.FAMILY, klein_4b, qwen_4b, AutoencoderKLFlux2),
}  # fmt: skip


def count(model: torch.nn.Module) -> int:
    """Count parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def adapt(family: Family, transformer: torch.nn.Module, reader: torch.nn.Module) -> tuple[int, int]:
    """Put adapters on; return how many weights they have, and how many layers got one."""
    layers = weights = 0
    for model, targets in ((transformer, family.targets), (reader, family.text_targets)):
        if targets:
            added = adapters.add_adapter(model, "lora", rank=8, alpha=None, targets=targets)
            weights += sum(p.numel() for n, p in added.named_parameters() if "lora_" in n)
            layers += sum(name.endswith("lora_A.default") for name, _ in added.named_modules())
    return weights, layers


def main() -> None:
    """Print the table."""
    heads = ["base", "transformer", "text encoder", "autoencoder", "adapters (layers)", "LoRA, GB"]
    heads += ["text encoder released, GB", "full weights, GB", *(f"{it} GB" for it in CARDS)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, family, *makers in SHAPES.values():
        with torch.device("meta"):
            transformer, reader, vae = (make() for make in makers)
            sizes = [count(model) for model in (transformer, reader, vae)]
            added, layers = adapt(family, transformer, reader)
        vae_bytes, trained = 4 * sizes[2], 16  # weight, gradient, two of AdamW's in fp32
        released = 2 * sizes[0] + vae_bytes + trained * added
        held = [released + 2 * sizes[1], released, trained * sizes[0] + vae_bytes]
        cells = [name, *(f"{size / 1e9:.2f} B" for size in sizes)]
        cells += [f"{added / 1e6:.1f} M ({layers})", *(f"{size / 1e9:.1f}" for size in held)]
        ways = {"LoRA": held[0] if family.text_targets else held[1], "full": held[2]}
        for card in CARDS:
            fit = [way for way, size in ways.items() if size < 0.8e9 * card]
            cells.append(", ".join(fit) or "neither")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
