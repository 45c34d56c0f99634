"""Image classifiers in the layouts of timm and of transformers: prepare, run, save, load.

A classifier's folder has Hugging Face's image-classification layout, so that
`transformers.pipeline("image-classification", folder)` reads it: for a timm backbone that of timm's
hub models (`config.json` with the architecture, `model.safetensors`), for a backbone of
transformers what its own `save_pretrained` writes.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from medart_cli.errors import ConfigError
from medart_cli.models.backbone import Backbone, hash_module
from medart_cli.models.hub import check_loaded


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        module: Maps (B, 3, S, S) normalized images to logits (B, K).
        classes: Names of the K classes, in order.
        prepare: Turns an RGB image into its (3, S, S) float32 input.
        fingerprint: SHA-256 over weights and preprocessing, for cache keys.
    """

    module: nn.Module
    classes: list[str]
    prepare: Callable[[Image.Image], Tensor]
    fingerprint: str


def resize_input(backbone: Backbone, image_size: int | None) -> Backbone:
    """Return the backbone for inputs of another size; smaller ones train faster on a CPU.

    Args:
        backbone: A timm backbone of free input size.
        image_size: Side of the input, pixels; None for the backbone's own.

    Raises:
        ConfigError: The backbone's input size is fixed.
    """
    if image_size is None or image_size == backbone.image_size:
        return backbone
    facts: dict[str, Any] = getattr(backbone.module, "pretrained_cfg", {})
    if not facts or facts.get("fixed_input_size"):
        raise ConfigError(
            f"--image-size {image_size}: {backbone.name} needs {backbone.image_size} pixels"
        )
    module = copy.deepcopy(backbone.module)
    size = (3, image_size, image_size)
    # The three names are timm's: what it prepares images by, now and after saving and loading.
    facts = {**facts, "input_size": size, "pool_size": None}
    facts.pop("test_input_size", None)
    module.pretrained_cfg = facts  # type: ignore[assignment]
    return replace(
        backbone,
        module=module,
        image_size=image_size,
        fingerprint=hashlib.sha256(f"{backbone.fingerprint} {image_size}".encode()).hexdigest(),
        prepare=create_transform(**resolve_model_data_config(module), is_training=False),
    )


def check_backbone(backbone: Backbone) -> None:
    """Check that a classifier on this backbone can be saved and loaded again, before it is trained.

    Raises:
        ConfigError: It is no image classifier of timm or transformers with one last linear layer.
    """
    device, dtype = place_of(backbone.module)
    head = nn.Linear(backbone.width, 3).to(device, dtype)
    shape = (2, 3, backbone.image_size, backbone.image_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    with torch.inference_mode():
        wanted = head(backbone.module(images))
        joined = _join(backbone, head, ["a", "b", "c"]).to(device, dtype)
        found = joined(images)
        found = found if isinstance(found, Tensor) else found["logits"]
    if not torch.allclose(wanted, found, rtol=1e-3, atol=1e-3):
        raise ConfigError(f"{backbone.name}: its last layer is not a linear layer on its features")


def save_classifier(
    folder: Path, backbone: Backbone, network: nn.Sequential, classes: Sequence[str]
) -> str:
    """Write a classifier in Hugging Face's image-classification layout.

    Args:
        folder: An existing folder; `config.json`, `model.safetensors` and what prepares images for
            transformers are written into it.
        backbone: What the network was built on.
        network: From `build_network`.
        classes: Names of the classes, in order.

    Returns:
        Which library's layout it is: `timm` or `transformers`.
    """
    trained = replace(backbone, module=network[0])
    joined = _join(trained, network[1], list(classes)).cpu().float()
    joined = joined.to(memory_format=torch.contiguous_format)  # as safetensors wants it
    if isinstance(joined, PreTrainedModel):
        joined.save_pretrained(folder)
        backbone.prepare.args[0].save_pretrained(folder)  # type: ignore[attr-defined]
        return "transformers"
    save_for_hf(
        joined, str(folder), model_config={"label_names": list(classes)}, safe_serialization=True
    )
    path = folder / "config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    # timm notes the number of classes here a second time, on which transformers' wrapper fails.
    facts.get("model_args", {}).pop("num_classes", None)
    path.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return "timm"


def _join(backbone: Backbone, head: nn.Module, classes: list[str]) -> nn.Module:
    """Copy the backbone's module and give it back its library's own last layer."""
    refusal = ConfigError(
        f"{backbone.name}: cannot be used for a classifier; use an image-classification model of "
        "transformers or a timm model with one last linear layer"
    )
    module: Any = copy.deepcopy(backbone.module)  # of two libraries that have no types
    if hasattr(module, "reset_classifier"):  # timm
        module.reset_classifier(len(classes))
        last = module.get_classifier()
        if not isinstance(last, nn.Linear) or last.in_features != backbone.width:
            raise refusal
        last.load_state_dict(head.state_dict())
        return cast(nn.Module, module)
    inner = getattr(module, "model", None)
    if not isinstance(inner, PreTrainedModel):
        raise refusal
    places = [
        name
        for name, layer in inner.named_modules()
        if isinstance(layer, nn.Identity) and "classifier" in name
    ]
    if len(places) != 1:
        raise refusal
    inner.set_submodule(places[0], copy.deepcopy(head))
    inner.config.id2label = dict(enumerate(classes))
    inner.config.label2id = {name: index for index, name in enumerate(classes)}
    inner.num_labels = len(classes)
    return cast(nn.Module, inner)


def load_classifier(folder: Path, device: torch.device) -> Classifier:
    """Load a classifier that `save_classifier` wrote, or another one of the same layout.

    Raises:
        ConfigError: The folder holds no image classifier in safetensors.
        MissingModelError: Not all of its weights are there.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not any(folder.glob("*.safetensors")):
            raise ConfigError(f"{folder}: has no safetensors; medart loads no pickles")
        if "architecture" in config:
            module = timm.create_model(f"local-dir:{folder}", pretrained=True)
            settings = resolve_model_data_config(module)
            prepare = create_transform(**settings, is_training=False)
            names, facts = list(config["label_names"]), json.dumps(settings, sort_keys=True)
        else:
            model, report = AutoModelForImageClassification.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, dtype=torch.float32,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
            check_loaded(folder, report)
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            module, prepare = _Logits(model), partial(_apply_processor, processor)
            names = [model.config.id2label[index] for index in range(model.config.num_labels)]
            facts = processor.to_json_string()
    except FileNotFoundError as error:
        raise ConfigError(f"{folder}: has no config.json; use a folder of classify") from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = shorten(str(error), 300)
        raise ConfigError(f"{folder}: is not an image classifier: {reason}") from error
    fingerprint = hash_module(module.eval(), f"logits {facts}")
    return Classifier(module.to(device), names, prepare, fingerprint)


def _apply_processor(processor: Any, image: Image.Image) -> Tensor:  # noqa: ANN401 - any of theirs
    pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
    return pixels


class _Logits(nn.Module):
    """A classifier of transformers that returns its logits alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, K)."""
        logits: Tensor = self.model(pixel_values=images)["logits"]
        return logits


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return where a module is, and in which number format."""
    weight = next(module.parameters())
    return weight.device, weight.dtype


def run_module(module: nn.Module, inputs: Tensor) -> Tensor:
    """Compute what a module in evaluation mode makes of (B, 3, S, S) images: (B, D) on the CPU."""
    device, dtype = place_of(module)
    with torch.inference_mode():
        found: Tensor = module(inputs.to(device, dtype, memory_format=torch.channels_last))
    return found.float().cpu()
