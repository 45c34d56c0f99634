"""An optimizer's state on the disk: whole tensors as safetensors, plain values as JSON.

Tensors are whole there, also where each process has a part of them (FSDP): such a run may be
resumed without FSDP.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


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
