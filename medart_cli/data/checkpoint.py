"""Run folders: checkpoints that are whole or not there, and how to find the last one.

A folder is written beside its place, brought to the disk, and moved there. Weights and optimizer
state are safetensors, all else is JSON. Tensors are whole on the disk, also where each process has
a part of them (FSDP): such a run may go on without FSDP.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from medart_cli.data.files import draft_of
from medart_cli.errors import ConfigError, RunError

CHECKPOINTS = "checkpoints"
STATE_NAME = "state.json"
RUN_NAME = "run.json"
TRAINING_HASHES = "training_hashes.txt"  # of the training images' bytes, one a line
TRAINED = ("transformer", "text_encoder")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that appears under its name only when it is whole on the disk.

    An older folder of that name is kept until the new one is whole.

    Raises:
        RunError: It could not be written; nothing under its name has changed.
    """
    draft = folder.with_name(f".{folder.name}.part")
    old = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write(draft)
        for path in sorted(draft.rglob("*")):
            _sync(path)
        _sync(draft)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
        draft.replace(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk has many names
        shutil.rmtree(draft, ignore_errors=True)
        raise RunError(
            f"{folder}: could not be written ({error}); what was saved before is intact, free some "
            "space and run the same command again"
        ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoint_folder(run: Path, step: int) -> Path:
    """Return where the checkpoint of a step belongs."""
    return run / CHECKPOINTS / f"step-{step:06d}"


def find_checkpoints(run: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    folders = [path for path in (run / CHECKPOINTS).glob("step-*") if (path / STATE_NAME).is_file()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")))


def prune_checkpoints(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what interrupted writes left."""
    for path in find_checkpoints(run)[:-keep]:
        shutil.rmtree(path)
    for path in (run / CHECKPOINTS).glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors to a safetensors file whose header carries JSON facts."""
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"medart": json.dumps(facts)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, json.loads(file.metadata()["medart"])


def gather(tensor: Tensor) -> Tensor:
    """Return a tensor whole: on the CPU of process 0, empty in the others; all must call this.

    A tensor that is not shared out among processes comes back as it is.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    part: Any = tensor.detach()  # torch's annotations do not know a DTensor's own methods
    whole: Tensor = part.full_tensor()
    return whole.cpu() if part.device_mesh.get_rank() == 0 else whole.new_empty(0)


def deal_out(whole: Tensor, like: Tensor) -> Tensor:
    """Share a tensor out as another of its shape is; all must call this. Else return it."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    mesh = like.device_mesh
    return distribute_tensor(whole.to(mesh.device_type), mesh, like.placements)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into whole tensors and plain values, instead of pickling it."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, values in state["state"].items():
        # bitsandbytes keeps a part of its state one level down, and takes it back from here.
        nested = [value for value in values.values() if isinstance(value, dict)]
        for group in (values, *nested):
            for name, value in group.items():
                if isinstance(value, Tensor):
                    tensors[f"{index}.{name}"] = gather(value)
                elif not isinstance(value, dict):
                    plain[f"{index}.{name}"] = value
    return tensors, {"plain": plain, "groups": state["param_groups"]}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], facts: dict[str, Any]
) -> None:
    """Put back what `flatten_optimizer` took out."""
    parameters = [item for group in optimizer.param_groups for item in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **facts["plain"]}.items():
        index, name = key.split(".", 1)
        if isinstance(value, Tensor):
            value = deal_out(value, parameters[int(index)])
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})


def read_facts(path: Path) -> dict[str, Any]:
    """Read a JSON file of facts.

    Raises:
        ConfigError: It is missing or not a JSON object.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    return facts


def find_run(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Tell what stands in a folder that `sample` is pointed at.

    Args:
        folder: A run folder or one of its checkpoints.

    Returns:
        The folder with the trained parts, and the run's facts; None if it is neither.

    Raises:
        ConfigError: It is a run that has not saved its result yet, or a trained part is missing.
    """
    if (folder / STATE_NAME).is_file():
        facts = dict(read_facts(folder / STATE_NAME)["run"])
    elif (folder / RUN_NAME).is_file():
        facts = read_facts(folder / RUN_NAME)
        if facts.get("status") != "done":
            saved = find_checkpoints(folder)
            hint = f"or draw from its checkpoint {saved[-1]}" if saved else "it has no checkpoint"
            raise ConfigError(f"{folder}: this run is not finished; run its command again, {hint}")
        if facts["checkpoint"] != hash_trained(folder):
            raise ConfigError(f"{folder}: its weights are not those that run.json tells of")
    else:
        return None
    for name in facts["trained"]:
        if not (folder / name).is_dir():
            raise ConfigError(f"{folder}: the folder {name} is missing, which this run trained")
    return folder, facts


def hash_trained(folder: Path) -> str:
    """Return a SHA-256 over the trained weights in a run folder or checkpoint."""
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _weight_files(folder: Path) -> Iterator[Path]:
    for name in TRAINED:
        yield from sorted((folder / name).glob("*.safetensors"))


def trim_log(path: Path, last_step: int) -> None:
    """Drop the lines of metrics.jsonl after a step, which a resumed run will write again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and json.loads(line)["step"] <= last_step:
            kept.append(line)
    with draft_of(path) as draft:
        draft.write_text("".join(kept), encoding="utf-8")
