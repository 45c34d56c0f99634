"""Models without weights: the shapes of a base's parts, to count and to reckon with.

They stand on torch's meta device, which takes no memory. A transformer may be built with fewer
blocks than it has: what is linear in their number is known from two small ones.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
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

from medart_cli.models.bases import KINDS, Kind, find_kind
from medart_cli.models.families import Family
from medart_cli.models.parts import read_native_size
from medart_cli.models.sizes import Size

# Of each family: the transformer's class, the settings that say how many blocks of each kind it
# has, and the one that says how wide its text embeddings are.
TRANSFORMERS = {
    "pixart": ("PixArtTransformer2DModel", ("num_layers",), "caption_channels"),
    "sana": ("SanaTransformer2DModel", ("num_layers",), "caption_channels"),
    "prx": ("PRXTransformer2DModel", ("depth",), "context_in_dim"),
    "klein": (
        "Flux2Transformer2DModel",
        ("num_layers", "num_single_layers"),
        "joint_attention_dim",
    ),
}
READERS: dict[str, tuple[Any, Any]] = {
    "pixart": (T5EncoderModel, T5Config),
    "sana": (Gemma2Model, Gemma2Config),
    "prx": (T5GemmaEncoder, lambda **facts: T5GemmaConfig(encoder=facts).encoder),
    "klein": (Qwen3ForCausalLM, Qwen3Config),
}


@dataclass(frozen=True)
class BaseShape:
    """What a base is made of, as settings of its parts.

    Attributes:
        kind: What can be said of it without loading anything.
        transformer: Settings of the transformer.
        text_encoder: Of the text encoder.
        vae: Of the autoencoder.
        native: Image side, in pixels, it was made for; None where its parts say it.
    """

    kind: Kind
    transformer: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    vae: Mapping[str, Any]
    native: int | None

    @property
    def family(self) -> Family:
        """The functions of its family."""
        family: Family = import_module(f"medart_cli.models.{self.kind.module}").FAMILY
        return family

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings of the transformer, those that are its class's defaults too."""
        known = inspect.signature(getattr(diffusers, TRANSFORMERS[self.kind.module][0])).parameters
        defaults = {name: item.default for name, item in known.items() if name != "self"}
        return defaults | dict(self.transformer)

    @property
    def depths(self) -> tuple[int, ...]:
        """How many blocks of each kind the transformer has."""
        return tuple(int(self.settings[name]) for name in TRANSFORMERS[self.kind.module][1])

    @property
    def embed_width(self) -> int:
        """How wide its text embeddings are."""
        return int(self.settings[TRANSFORMERS[self.kind.module][2]])

    def build_transformer(
        self, depths: Sequence[int] | None = None, *, device: str = "meta"
    ) -> Any:  # noqa: ANN401
        """Build the transformer, with so many blocks of each kind instead of its own."""
        name, names, _ = TRANSFORMERS[self.kind.module]
        facts = dict(self.transformer)
        if depths is not None:
            facts |= dict(zip(names, depths, strict=True))
        return _build(getattr(diffusers, name), facts, device)

    def build_text_encoder(self, layers: int | None = None, *, device: str = "meta") -> Any:  # noqa: ANN401
        """Build the text encoder, with so many layers instead of its own; T5 only."""
        model, config = READERS[self.kind.module]
        facts = dict(self.text_encoder)
        facts = dict(facts.get("encoder", facts))  # T5Gemma's may be that of encoder and decoder
        if layers is not None:
            facts["num_layers"] = layers
        with torch.device(device):
            return model(config(**facts)).requires_grad_(False)

    def build_vae(self, *, device: str = "meta") -> Any:  # noqa: ANN401
        """Build the autoencoder."""
        return _build(getattr(diffusers, self.vae["_class_name"]), self.vae, device)


def _build(kind: Any, facts: Mapping[str, Any], device: str) -> Any:  # noqa: ANN401 - of diffusers
    with torch.device(device):
        return kind.from_config(dict(facts)).eval().requires_grad_(False)


def read_shape(folder: Path) -> BaseShape:
    """Return the shape of a base that lies on the disk."""
    parts = ("transformer", "text_encoder", "vae")
    facts = {part: json.loads((folder / part / "config.json").read_text("utf-8")) for part in parts}
    return BaseShape(find_kind(folder), native=read_native_size(folder), **facts)


def known_shape(size: Size) -> BaseShape:
    """Return the shape of a base of published size."""
    return BaseShape(
        KINDS[size.pipeline], size.transformer, size.text_encoder, size.vae, size.resolution
    )


def count_numbers(model: nn.Module) -> int:
    """Count the numbers in a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
