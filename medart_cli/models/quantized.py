"""The frozen base in fewer bits: linear layers stored as bf16, int8 or nf4, under adapters.

Quantized are the linear layers of the repeated blocks, which have nearly all of the weights.
Embeddings, norms, convolutions and all that stands before and after the blocks are not; nor are the
layers that transformers keeps in float32, as T5's `wo`, which reads its own weights' format.

The layers are those of bitsandbytes, which run on a GPU and on a CPU, rather than its door in
diffusers, which refuses a CPU. A layer computes with the weights that its codes stand for and with
nothing else rounded, so that gradients are exact, and training, held-out loss and drawing see one
model.
"""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from medart_cli.log import log
from medart_cli.models.bases import NEED_BITSANDBYTES

INT8_MOST = 127  # the largest code; a row's scale is its largest weight
# Name of a format, or None for that of the computation.
Format = str | None


def load_frozen_base(
    load: Callable[..., Any],
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    base_format: Format,
    **options: Any,  # noqa: ANN401 - as the family's loader takes them
) -> Any:  # noqa: ANN401 - of the family's class
    """Load a frozen part of a base in a format; a GPU never holds more of it than that and a layer.

    Args:
        load: The family's loader of the part.
        folder: Pipeline folder.
        dtype: Number format of the computation.
        device: Where to put it.
        base_format: See `quantize`.
        options: Of the loader.
    """
    if base_format is None:
        return load(folder, dtype, device, **options)
    return quantize(load(folder, dtype, torch.device("cpu"), **options), base_format, dtype, device)


def quantize(model: Any, base_format: str, dtype: torch.dtype, device: torch.device) -> Any:  # noqa: ANN401
    """Store the linear layers of a model's blocks in a format, in place, and move all to a device.

    Args:
        model: A frozen model of diffusers or transformers, on the CPU.
        base_format: `bf16`; `int8`, a scale for each row (Dettmers et al. 2022, LLM.int8(), but the
            inputs are not rounded); `nf4`, 4 bits in blocks of 64 with their scales quantized too
            (Dettmers et al. 2023, QLoRA).
        dtype: Number format of the computation.
        device: Where to put it.
    """
    before = count_bytes(model)
    for name in list_quantized(model):
        linear = model.get_submodule(name)
        if base_format == "nf4":
            model.set_submodule(name, _store_nf4(linear, dtype, device))
        else:
            model.set_submodule(name, StoredLinear(linear, base_format, device))
    model.is_loaded_in_4bit = base_format == "nf4"  # for peft, which has a LoRA layer for these
    model.to(device)
    if device.type == "cpu":  # the rest is mapped, and would keep the pages of the whole file
        for weight in model.parameters():
            weight.data = weight.data.clone()
    log.info(
        "%s in %s: %.1f MB of weights instead of %.1f", type(model).__name__, base_format,
        count_bytes(model) / 1e6, before / 1e6,
    )  # fmt: skip
    return model


def list_quantized(model: nn.Module) -> list[str]:
    """Name the layers of a model that are quantized: linear ones in its lists of blocks.

    Subclasses of `nn.Linear` are passed over: their models may use the weights themselves.
    """
    lists = [f"{name}." for name, it in model.named_modules() if isinstance(it, nn.ModuleList)]
    kept = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    return [
        name
        for name, it in model.named_modules()
        if type(it) is nn.Linear and name.startswith(tuple(lists)) and not kept & {*name.split(".")}
    ]


def count_bytes(model: nn.Module) -> int:
    """Count the bytes of a model's weights, with what quantized ones need to be read."""
    tensors = [*model.parameters(), *model.buffers()]
    states = (getattr(weight, "quant_state", None) for weight in model.parameters())
    for state in states:
        if state is not None:  # of nf4; `code` is one table for all
            tensors.append(state.absmax)
            tensors += [state.state2.absmax] if state.nested else []
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def name_format(base_format: Format) -> str:
    """Name a format for the keys of caches, with the version of what rounds; empty for none."""
    if base_format in NEED_BITSANDBYTES:
        rounding = " 2" if base_format == "int8" else ""  # since it scales rows, not weights
        return f" {base_format}{rounding} bitsandbytes {metadata.version('bitsandbytes')}"
    return f" {base_format}" if base_format else ""


class StoredLinear(nn.Linear):
    """A frozen linear layer whose weights are stored in bf16 or int8, and brought back at each use.

    bitsandbytes' own int8 product rounds its inputs too on a GPU, and on a CPU in evaluation mode
    alone; and it keeps them where activation checkpointing cannot free them, so that the memory of
    the color loss would grow with its solver steps.

    Attributes:
        weight: The codes.
        scale: Of each row, (out,), float32; None for bf16.
    """

    scale: Tensor | None

    def __init__(self, linear: nn.Linear, base_format: str, device: torch.device) -> None:
        """Take over the weights of a layer, which is on the CPU."""
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        weight, scale = linear.weight.detach(), None
        if base_format == "int8":
            from bitsandbytes.nn import Int8Params  # by which peft (DoRA) knows what it holds

            stored = Int8Params(weight, requires_grad=False).to(device)
            weight, scale, stored.CB, stored.SCB = stored, stored.SCB, None, None
        else:
            weight = nn.Parameter(weight.to(device, torch.bfloat16), requires_grad=False)
        self.weight, self.bias = weight, linear.bias
        self.register_buffer("scale", scale, persistent=False)

    @property
    def state(self) -> SimpleNamespace:
        """Return what peft reads the scale from, as in bitsandbytes' own layer."""
        return SimpleNamespace(SCB=self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b, for x (..., in), in the number format of x or of autocast."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        product: Tensor = _Product.apply(x, self.weight, self.scale)
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _Product(torch.autograd.Function):
    """The product with stored weights; for the backward pass it keeps the codes alone.

    A row's scale is a factor of what the row gives. Applied to that, and not to each weight, it
    leaves one conversion of the codes, which are exact in each number format.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(weight, scale)
        if scale is not None and x.dtype == torch.float16:  # where sums of codes would overflow
            return functional.linear(x, _apply_scale(weight.T.to(x.dtype), scale).T)
        return _apply_scale(functional.linear(x, weight.to(x.dtype)), scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        weight, scale = ctx.saved_tensors
        return _apply_scale(gradient, scale) @ weight.to(gradient.dtype), None, None


def _apply_scale(rows: Tensor, scale: Tensor | None) -> Tensor:
    """Multiply (..., out) by the scales of int8 codes (out,), in float32; None is 1."""
    return rows if scale is None else (rows * (scale / INT8_MOST)).to(rows.dtype)


def _store_nf4(linear: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    """Return the layer with its weights in nf4, on a device."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    layer: Any = Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=dtype, quant_type="nf4",
        device="meta",
    )  # fmt: skip
    weight = Params4bit(linear.weight.detach(), quant_type="nf4", module=layer)
    layer.weight, layer.bias = weight.to(device), linear.bias
    # With it, a pass without gradients on some CPUs would repack the weights, round them once more,
    # and cut the gradients of all passes that follow.
    layer.support_avx512bf16_for_cpu = False
    return layer  # type: ignore[no-any-return]
