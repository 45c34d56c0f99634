"""The optimizers that --optimizer names: what is known of each, and how it is made.

All are of other libraries. None of them is loaded for what is only known of them.
"""

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Literal

from medart_cli.errors import ConfigError

if TYPE_CHECKING:
    import torch

OptimizerName = Literal["adamw", "adamw8bit", "adafactor", "lion", "muon", "prodigy"]


@dataclass(frozen=True)
class OptimizerFacts:
    """What is known of an optimizer before it is made.

    Attributes:
        rate: The learning rate that it is usually given, where AdamW has 1e-4.
        state_bytes: Memory of its state for each trained weight.
        package: What must be installed for it, beyond what medart needs.
    """

    rate: float
    state_bytes: int
    package: str | None = None


OPTIMIZERS: dict[str, OptimizerFacts] = {
    "adamw": OptimizerFacts(1e-4, 8),
    "adamw8bit": OptimizerFacts(1e-4, 2, "bitsandbytes"),
    "adafactor": OptimizerFacts(1e-4, 4),  # two vectors a matrix, but for narrow ones it is whole
    "lion": OptimizerFacts(3e-5, 4),  # a third to a tenth of AdamW's: Chen et al. 2023, section 5
    "muon": OptimizerFacts(1e-4, 4),  # AdamW's: Liu et al. 2025, section 2.2
    "prodigy": OptimizerFacts(1.0, 16, "prodigyopt"),  # a factor of the rate that it finds itself
}
LEAST_FACTOR = 0.1  # of prodigy's own rate; below, it finds none for thousands of steps


def check_optimizer(name: str, device: str | None = None) -> None:
    """Refuse an optimizer that cannot work here, before any work is done for it.

    Args:
        name: As --optimizer has it.
        device: Kind of the device it will run on, once that is known.

    Raises:
        ConfigError: Its package is not installed; or 8-bit is asked for on a CPU, where its state
            is in memory that cannot be saved.
    """
    package = OPTIMIZERS[name].package
    if package is not None and find_spec(package) is None:
        raise ConfigError(
            f"--optimizer {name}: {package} is not installed; pip install {package}, or "
            "use --optimizer adamw"
        )
    if name == "adamw8bit" and device == "cpu":
        raise ConfigError(
            "--optimizer adamw8bit: its state cannot be saved on a CPU; use --optimizer adamw"
        )


def check_rate(name: str, rate: float) -> None:
    """Refuse a learning rate of AdamW where it is a factor: almost nothing would be trained.

    Raises:
        ConfigError: It is that.
    """
    if name == "prodigy" and rate < LEAST_FACTOR:
        raise ConfigError(
            f"--learning-rate {rate:g}: with --optimizer prodigy it is a factor of the rate that "
            "prodigy finds itself; leave it out for 1"
        )


def build_optimizer(
    name: str,
    parameters: "Sequence[torch.nn.Parameter]",
    learning_rate: float,
    weight_decay: float,
) -> "torch.optim.Optimizer":
    """Make an optimizer; in all of them weight decay is decoupled, times the learning rate.

    Args:
        name: adamw (Loshchilov and Hutter 2019), fused, of PyTorch; adamw8bit (Dettmers et al.
            2022) of bitsandbytes; adafactor (Shazeer and Stern 2018), at a given rate that is not
            scaled by the size of the weights; lion (Chen et al. 2023) and muon (Jordan 2024),
            of timm; prodigy (Mishchenko and Defazio 2024) of its authors.
        parameters: What is trained.
        learning_rate: At its peak.
        weight_decay: How much of a weight is taken away in a step, over the learning rate.

    Raises:
        ConfigError: Its package is not installed.
    """
    check_optimizer(name)
    common = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **common)  # type: ignore[no-any-return]
    if name == "prodigy":
        from prodigyopt import Prodigy

        # Both settings are its authors' for diffusion models and for a warmup.
        with redirect_stdout(StringIO()):  # it prints that weight decay is decoupled
            return Prodigy(  # type: ignore[no-any-return]
                parameters, **common, use_bias_correction=True, safeguard_warmup=True
            )
    if name == "adamw":
        from torch.optim import AdamW

        return AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    from timm import optim

    if name == "muon":
        return optim.Muon(  # type: ignore[no-any-return]
            _split_by_shape(parameters), **common, nesterov=True, ns_coefficients="original"
        )
    kind = {"adafactor": optim.Adafactor, "lion": optim.Lion}[name]
    return kind(parameters, **common)  # type: ignore[no-any-return]


def _split_by_shape(parameters: "Sequence[torch.nn.Parameter]") -> "list[dict[str, object]]":
    """Give Muon all matrices and convolutions, and its AdamW all else.

    By itself timm's Muon leaves matrices that are 128 times as long as wide to AdamW: of a layer of
    1152, adapters of rank 8.
    """
    matrices = [item for item in parameters if item.ndim > 1]
    others = [item for item in parameters if item.ndim <= 1]
    groups = ({"params": matrices, "use_muon": True}, {"params": others, "use_muon": False})
    return [group for group in groups if group["params"]]


def read_rate(optimizer: "torch.optim.Optimizer") -> float:
    """Return the learning rate of the next step; of Prodigy, with the factor that it has found."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) * float(group.get("d", 1.0))
