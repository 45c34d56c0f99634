"""Where and how to compute: device, number format, and generators that depend on the row alone."""

import hashlib
import os
import resource
import warnings
from datetime import timedelta
from importlib import import_module

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from medart_cli.errors import ConfigError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def find_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there.

    Raises:
        ConfigError: A GPU is asked for and there is none of that number.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: PyTorch sees {torch.cuda.device_count()} GPUs on this machine"
        )
    if device.index is not None:
        torch.cuda.set_device(device)  # accelerate takes the current one
    return device


def join_processes(name: str) -> torch.device:
    """Join the other processes of the run, if `accelerate launch` or torchrun started several.

    After this, accelerate's `PartialState()` tells them apart and lets them wait for each other.

    Args:
        name: As for `find_device`; each of several processes takes a GPU of its own.

    Returns:
        Where this process computes.

    Raises:
        ConfigError: As `find_device`; or one GPU is named for several processes.
    """
    device = find_device(name)
    # Patience: one process may measure or write for hours while the others wait. That one has
    # ended is noticed at once, not by this.
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=7))
    if state.num_processes > 1 and device.index is not None:
        raise ConfigError(
            f"--device {name}: names one GPU, but each of {state.num_processes} processes needs "
            "its own; leave it out"
        )
    for variable in ("ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU"):
        asked = os.environ.get(variable, "").lower() not in ("", "false", "0")
        if asked and state.device.type != device.type:
            raise ConfigError(
                f"--device {name}: accelerate's settings or environment ask for {state.device} "
                f"({variable}) instead of {device}; remove that setting"
            )
    return state.device if state.num_processes > 1 else device


def find_precision(name: str, device: torch.device) -> str:
    """Turn `auto` into bf16 on a GPU that has it, fp32 elsewhere; other names pass.

    Raises:
        ConfigError: fp16 on a CPU, where PyTorch lacks the kernels for it.
    """
    if name == "auto":
        usable = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return "bf16" if usable else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16: not on a CPU; use fp32 or bf16")
    return name


def build_generator(seed: int, *words: str | int) -> torch.Generator:
    """Make a CPU generator from the seed and what it is for.

    A row's draws then depend on nothing else: not on batch size, rank, or what was drawn before.
    """
    text = "/".join([str(seed), *map(str, words)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int(np.frombuffer(digest, dtype=np.int64)[0]))


def pin(tensor: Tensor, device: torch.device) -> Tensor:
    """Put a tensor of the CPU where a GPU can fetch it by itself; for other devices leave it."""
    return tensor.pin_memory() if device.type == "cuda" and not tensor.is_cuda else tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device, without waiting until it is there."""
    return pin(tensor, device).to(device, non_blocking=True)


def hush_libraries(*names: str) -> None:
    """Keep the loading bars and advice of diffusers and transformers off standard error.

    Args:
        names: Of the libraries, which this loads.
    """
    for name in names:
        logging = import_module(f"{name}.utils.logging")
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|diffusers")


def used_memory(device: torch.device) -> int:
    """Return the bytes in use on a GPU; 0 on a CPU, where nobody counts them."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_memory(device: torch.device) -> float:
    """Return the most memory used so far, in GB: the GPU's, or the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
