"""What all families of base models share: load a part, recompute, pad, save a whole pipeline."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models.bases import COMPONENTS, RESOLUTION, normalize_prompt
from medart_cli.models.hub import (
    check_loaded,
)

# An embedding that earlier diffusers kept in the transformer's file; nothing ever read it.
SPARE = ("caption_projection.y_embedding",)


def load_part(kind: Any, folder: Path, **options: Any) -> Any:  # noqa: ANN401 - of two libraries
    """Load a model from its own folder, and nothing that its file does not hold.

    Raises:
        MissingModelError: The folder is corrupt or truncated, or holds other weights than its
            config.json says.
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


def renew_scheduler(scheduler: Any, latents: int) -> Any:  # noqa: ANN401 - of several classes
    """Return a scheduler of the same settings that has seen no step; one solve uses one up.

    Args:
        scheduler: Any of diffusers.
        latents: How many an image has, for families whose steps depend on it.
    """
    return type(scheduler).from_config(scheduler.config)


def pad_embeds(rows: Sequence[Tensor], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Join unpadded embeddings, each (L_i, D), to (B, L, D) and their mask (B, L)."""
    length = length or max(len(row) for row in rows)
    embeds = rows[0].new_zeros(len(rows), length, rows[0].shape[1])  # (B, L, D)
    mask = torch.zeros(len(rows), length, dtype=torch.long, device=rows[0].device)  # (B, L)
    for index, row in enumerate(rows):
        embeds[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return embeds, mask


def count_embeds(
    tokenizer: Any,  # noqa: ANN401 - of several classes
    prompts: Sequence[str],
    limit: int,
) -> list[int]:
    """Return how many embeddings each prompt has by itself: one for each token, up to `limit`."""
    texts = [normalize_prompt(prompt) for prompt in prompts]
    ids = tokenizer(texts, max_length=limit, truncation=True).input_ids
    return [len(row) for row in ids]


def unwrap(model: Any) -> Any:  # noqa: ANN401 - of several classes
    """Return the model inside the wrappers of torch's data-parallel training and of peft."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def recompute_blocks(model: nn.Module, wanted: bool) -> None:
    """Switch activation checkpointing of a model's blocks on or off: less memory, slower."""
    verb = "enable" if wanted else "disable"
    names = (
        f"{verb}_gradient_checkpointing",  # diffusers
        f"activation_checkpointing_{verb}",  # transformers
        f"gradient_checkpointing_{verb}",  # transformers before 5.23
    )
    inner = unwrap(model)
    getattr(inner, next(name for name in names if hasattr(inner, name)))()


def at_least_float(tensor: Tensor) -> Tensor:
    """Lift half precision to float32, and leave float64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def read_scheduler(folder: Path, own: Any) -> dict[str, Any]:  # noqa: ANN401 - class of diffusers
    """Return the settings of a base's scheduler, which must be of its family's own class.

    Raises:
        MissingModelError: There are none that can be read.
        ConfigError: They are of another class, or count other timesteps than 1000.
    """
    place = folder / "scheduler" / "scheduler_config.json"
    try:
        facts = dict(json.loads(place.read_text(encoding="utf-8")))
        kind, steps = str(facts["_class_name"]), int(facts.get("num_train_timesteps", 1000))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingModelError(f"{place}: cannot be read; copy it again") from error
    if kind != own.__name__:
        raise ConfigError(f"{place}: is a {kind}; this base's own scheduler is {own.__name__}")
    if steps != 1000:
        raise ConfigError(f"{place}: has num_train_timesteps {steps}; this base's own has 1000")
    return facts


def load_frozen(
    kind: Any,  # noqa: ANN401 - a class of diffusers
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
) -> Any:  # noqa: ANN401 - of that class
    """Load a model of diffusers from its own folder, in evaluation mode and without gradients."""
    model = load_part(kind, folder, torch_dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


@contextmanager
def set_aside(*models: Any) -> Iterator[None]:  # noqa: ANN401 - models, or None
    """Make room on a GPU while the block runs: the models wait in the machine's memory."""
    moved = [(model, model.device) for model in models if model is not None]
    moved = [(model, device) for model, device in moved if device.type == "cuda"]
    for model, _ in moved:
        model.to("cpu")
    try:
        yield
    finally:
        for model, device in moved:
            model.to(device)


def read_native_size(folder: Path) -> int | None:
    """Return the image side, in pixels, that a merged run was trained at; None for other bases."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    side: int | None = index.get(RESOLUTION)
    return side


def save_pipeline(
    base: Path, out: Path, save: Callable[[Path], set[str]], notes: Mapping[str, Any]
) -> None:
    """Write a whole pipeline folder: what `save` writes, and all other parts copied from the base.

    Args:
        base: Pipeline folder of the base model.
        out: Folder to fill; empty.
        save: Writes parts below a folder, and returns their names.
        notes: More for model_index.json; None takes away what the base has.
    """
    saved = save(out)
    for part in set(COMPONENTS) - saved:
        pickles = shutil.ignore_patterns("*.bin", "*.ckpt", "*.pt", "*.msgpack", "*.h5")
        shutil.copytree(base / part, out / part, ignore=pickles)
    index = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
    for part in ("transformer", "scheduler"):  # older folders name others
        config = next((out / part).glob("*config.json"))
        index[part] = ["diffusers", json.loads(config.read_text(encoding="utf-8"))["_class_name"]]
    for name, value in notes.items():
        index[name] = value
        if value is None:
            del index[name]
    (out / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
