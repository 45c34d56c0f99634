"""What is trained: adapters of peft, from LoRA to LoKr, or all weights; save, load, merge."""

import difflib
import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lycoris_utils import LycorisLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models.bases import BUCKETS, RESOLUTION
from medart_cli.models.families import find_family
from medart_cli.models.hub import check_loaded
from medart_cli.models.parts import save_pipeline
from medart_cli.models.quantized import Format, load_frozen_base

ADAPTER_WEIGHTS = "adapter_model.safetensors"
LAYERS = (nn.Linear, nn.Conv2d, nn.Embedding)  # of these models, what peft puts adapters on
PRODUCTS = {"lokr": LoKrConfig, "loha": LoHaConfig}  # of small matrices; not for embeddings


def add_adapter(
    model: nn.Module, kind: str, *, rank: int, alpha: float | None, targets: Sequence[str]
) -> PeftModel:
    """Put fresh adapters on a frozen model; they start as no change at all.

    Args:
        model: A transformer of diffusers or transformers.
        kind: lora (Hu et al. 2021), dora (Liu et al. 2024), rslora (Kalajdzievski 2023), lokr
            (Yeh et al. 2024) or loha (Hyeon-Woo et al. 2022).
        rank: Rank of the update; of loha, of the two matrices whose entries are multiplied; of
            lokr, of the larger factor of the Kronecker product, which is whole where it is small.
        alpha: Scale of the update; the rank by default, so that the factor is 1.
        targets: Ends of the names of modules that get one; `*` in one stands for any text.

    Raises:
        ConfigError: A target matches no module, or one that is not a layer.
    """
    names = [name for target in targets for name in _spell_out(model, target)]
    for name in names:
        _check_target(model, name)
    scale = alpha if alpha is not None else rank
    if kind in PRODUCTS:
        _refuse_embeddings(model, names, kind)
        return get_peft_model(model, PRODUCTS[kind](r=rank, alpha=scale, target_modules=names))
    config = LoraConfig(
        r=rank,
        lora_alpha=scale,
        target_modules=names,
        init_lora_weights="gaussian",
        use_dora=kind == "dora",
        use_rslora=kind == "rslora",
    )
    return get_peft_model(model, config)


def spare_draws(model: nn.Module) -> nn.Module:
    """Let LoKr and LoHa layers draw no random number for a dropout that is 0; returns the model.

    In training mode they do at each pass, and decide by it: nothing that could be compiled, or
    reckoned without numbers.
    """
    for module in model.modules():
        if isinstance(module, LycorisLayer):
            module.training = False
    return model


def _refuse_embeddings(model: nn.Module, targets: Sequence[str], kind: str) -> None:
    """Refuse a target that LoRA can change and LoKr and LoHa of peft cannot."""
    modules = dict(model.named_modules())
    for target in targets:
        if any(isinstance(modules[name], nn.Embedding) for name in _matches(modules, target)):
            raise ConfigError(
                f"target {target}: is an embedding, which --method {kind} cannot change; leave it "
                "out, or use --method lora"
            )


def _spell_out(model: nn.Module, target: str) -> list[str]:
    """Return the layers that a target with `*` means; else, or where there are none, itself."""
    if "*" not in target:
        return [target]
    layers = [f".{name}" for name, module in model.named_modules() if _is_layer(module)]
    return [name[1:] for name in fnmatch.filter(layers, f"*.{target}")] or [target]


def _is_layer(module: nn.Module) -> bool:
    """Say whether peft puts an adapter on a module and can merge it: no grouped convolution."""
    return isinstance(module, LAYERS) and getattr(module, "groups", 1) == 1


def _matches(names: Iterable[str], target: str) -> list[str]:
    return [name for name in names if f".{name}".endswith(f".{target}")]


def _check_target(model: nn.Module, target: str) -> None:
    """Refuse a target that would train less than was asked for, and name what is like it."""
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if _is_layer(module)]
    found = _matches(modules, target)
    if found and set(found) <= set(layers):
        return
    if not found:
        known = sorted(
            {name if not name.isdigit() else ".".join(full.split(".")[-2:])
             for full in layers for name in [full.rpartition(".")[2]]}
        )  # fmt: skip
        fault = f"matches no module of {type(model).__name__}"
        near = difflib.get_close_matches(target, known, n=3, cutoff=0.5) or known
    else:
        block = next(name for name in found if name not in layers)
        fault = f"is not a layer but a {type(modules[block]).__name__}"
        if isinstance(modules[block], LAYERS):
            fault = "is a grouped convolution, whose adapters cannot be merged"
        inside = [name for name in layers if name.startswith(f"{block}.")]
        near = [target + name.removeprefix(block) for name in inside]
    raise ConfigError(f"target {target}: {fault}; use one of {', '.join(near[:12]) or 'no layers'}")


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds adapters rather than whole weights."""
    return (folder / ADAPTER_WEIGHTS).is_file()


def load_adapter(model: nn.Module, folder: Path, *, merge: bool = False) -> PeftModel:
    """Put saved adapters on their model; with `merge`, add them into its weights.

    Raises:
        MissingModelError: The folder is corrupt, or its adapters are not for this model.
    """
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True  # nothing is to be trained
        adapted = get_peft_model(model, config)
    except (OSError, ValueError, TypeError) as error:
        raise MissingModelError(f"{folder}: cannot be loaded: {error}") from error
    _fill(adapted, folder)
    return adapted.merge_and_unload() if merge else adapted.eval()


def _fill(model: PeftModel, folder: Path) -> None:
    """Fill adapters from a folder, each with its own weights and none beyond."""
    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise MissingModelError(f"{folder / ADAPTER_WEIGHTS}: cannot be read: {error}") from error
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes = [(key, weights[key].shape, own[key].shape) for key in own.keys() & weights.keys()]
    report = {
        "missing_keys": own.keys() - weights.keys(),
        "unexpected_keys": weights.keys() - own.keys(),
        "mismatched_keys": [item for item in shapes if item[1] != item[2]],
    }
    check_loaded(folder, report)
    set_peft_model_state_dict(model, weights)


def save_part(model: PeftModel, folder: Path) -> None:
    """Write adapters in peft's layout, or whole weights in the library's own; safetensors both."""
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; the run has its own
    _forget_paths(folder)


def _forget_paths(folder: Path) -> None:
    """Take out where the base lay on this machine, which the libraries note in their configs."""
    for path in folder.glob("*config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        if "base_model_name_or_path" in config:
            config["base_model_name_or_path"] = None
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def restore_part(model: PeftModel, folder: Path) -> None:
    """Load what `save_part` wrote back into a model of the same shape."""
    if is_adapter(folder):
        _fill(model, folder)
        return
    weights: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(path))
    # Each process takes its part where the weights are shared out (FSDP).
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))


def reshard(model: nn.Module) -> None:
    """Let go of the weights that FSDP keeps whole after a pass, for a backward pass to come."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather_transformer(model: Any, weights: dict[str, torch.Tensor]) -> Any:  # noqa: ANN401
    """Build a transformer to save from gathered weights.

    Args:
        model: The one of whose weights this process holds a part (FSDP).
        weights: All of them, as `Accelerator.get_state_dict` brings them to process 0.
    """
    with torch.device("meta"):
        whole = type(model).from_config(model.config)
    whole.load_state_dict(weights, assign=True)
    return whole


def load_trained_transformer(
    base: Path,
    trained: Path,
    dtype: torch.dtype,
    device: torch.device,
    base_format: Format = None,
) -> Any:  # noqa: ANN401 - of its family's class
    """Load a run's transformer for sampling: full weights, or the base's with adapters merged.

    Adapters are added in fp32 and the sum is rounded once, so a pass costs what the base's costs.
    On a quantized base they are not merged: the sum would be rounded to the few values of its
    format, and most of what was learned with it.
    """
    folder, load_transformer = trained / "transformer", find_family(base).load_transformer
    if not is_adapter(folder):
        source = trained if folder.is_dir() else base
        return load_frozen_base(load_transformer, source, dtype, device, base_format)
    if base_format is not None:
        model = load_frozen_base(load_transformer, base, dtype, device, base_format)
        return load_adapter(model, folder)
    merged = load_adapter(load_transformer(base, torch.float32, device), folder, merge=True)
    return merged.to(dtype).requires_grad_(False)


def load_trained_text_encoder(
    base: Path,
    trained: Path,
    dtype: torch.dtype,
    device: torch.device,
    base_format: Format = None,
) -> Any:  # noqa: ANN401 - of its family's class
    """Load the text encoder with the run's adapters, if any; unmerged, as it only reads prompts."""
    load = find_family(base).load_text_encoder
    model = load_frozen_base(load, base, dtype, device, base_format)
    folder = trained / "text_encoder"
    return load_adapter(model, folder) if is_adapter(folder) else model


def merge_run(
    base: Path,
    trained: Path,
    out: Path,
    *,
    resolution: int | None = None,
    buckets: Mapping[str, Any] | None = None,
) -> None:
    """Write a run as a whole diffusers pipeline, in fp32, that needs neither peft nor medart.

    Args:
        base: Pipeline folder of the base model.
        trained: Run folder or checkpoint.
        out: Empty folder to fill.
        resolution: Image side, in pixels, that it was trained at.
        buckets: What run.json says of its aspect buckets, if it has them.
    """
    cpu, family = torch.device("cpu"), find_family(base)

    def save(folder: Path) -> set[str]:
        transformer = load_trained_transformer(base, trained, torch.float32, cpu)
        save_part(transformer, folder / "transformer")
        family.load_scheduler(base).save_pretrained(folder / "scheduler")
        if not is_adapter(trained / "text_encoder"):
            return {"transformer", "scheduler"}
        text_encoder = family.load_text_encoder(base, torch.float32, cpu)
        text_encoder = load_adapter(text_encoder, trained / "text_encoder", merge=True)
        save_part(text_encoder, folder / "text_encoder")
        return {"transformer", "text_encoder", "scheduler"}

    notes = {} if resolution is None else {RESOLUTION: resolution, BUCKETS: buckets}
    save_pipeline(base, out, save, notes)
    if resolution is not None:
        family.finish_merge(out, resolution)


def build_ema(parameters: Sequence[nn.Parameter], decay: float, *, sharded: bool) -> EMAModel:
    """Make a moving average of parameters, with the usual warm-up of its decay.

    Sharded ones go one after the other: DTensor cannot copy many at once.
    """
    return EMAModel(parameters, decay=decay, foreach=not sharded)
