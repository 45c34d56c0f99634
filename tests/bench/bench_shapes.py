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

from medart_cli.models import adapters
from medart_cli.models.families import Family
from medart_cli.models.shapes import count_numbers, known_shape
from medart_cli.models.sizes import BASE_SIZES

CARDS = (24, 40, 80)  # GB


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
    for size in BASE_SIZES.values():
        shape = known_shape(size)
        family, name = shape.family, size.title
        with torch.device("meta"):
            transformer, reader = shape.build_transformer(), shape.build_text_encoder()
            sizes = [count_numbers(model) for model in (transformer, reader, shape.build_vae())]
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
