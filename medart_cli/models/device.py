"""Where and how to compute: device, number format, and generators that depend on the row alone."""

import hashlib

import numpy as np
import torch

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
            f"--device {name}: this machine shows {torch.cuda.device_count()} GPUs to PyTorch"
        )
    return device


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
