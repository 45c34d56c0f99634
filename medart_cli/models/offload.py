"""Where a text encoder computes, and where its weights wait: `--offload`.

By layers, a GPU holds the weights of the layer at work, of the next one, which is fetched
meanwhile, and what stands outside the layers: the embeddings of the tokens and the last norm. All
others wait in the machine's memory. The weights are moved by diffusers (group offloading), which is
not loaded for what the options need.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from medart_cli.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

OffloadName = Literal["none", "text-encoder-layers", "text-encoder"]
BY_LAYERS: Final = "text-encoder-layers"
LAYERS_HELD = 2  # by a GPU at a time: the one at work, and the next


def check_offload(offload: str, precision: str, base_format: str | None = None) -> None:
    """Refuse number formats of a text encoder that cannot be where `--offload` has it.

    What an nf4 layer needs to be read lies in an object beside its weights, which stays behind when
    layers are moved.

    Raises:
        ConfigError: It is nf4 by layers, or fp16 on the CPU.
    """
    if offload == "text-encoder" and precision == "fp16":
        raise ConfigError(
            "--offload text-encoder: not with --precision fp16, which is for GPUs; use bf16, fp32 "
            f"or --offload {BY_LAYERS}"
        )
    if offload == BY_LAYERS and base_format == "nf4":
        raise ConfigError(
            f"--offload {BY_LAYERS}: layers in nf4 cannot be moved one by one; use --offload "
            "text-encoder or --base-format int8"
        )


def find_reader(offload: str, device: "torch.device") -> "torch.device":
    """Return where the text encoder computes, for a value of `--offload`."""
    import torch

    return torch.device("cpu") if offload == "text-encoder" else device


def load_reader(load: Callable[["torch.device"], Any], offload: str, device: "torch.device") -> Any:  # noqa: ANN401
    """Load a text encoder that computes where `--offload` says.

    Args:
        load: Device -> the text encoder, on it.
        offload: `none`, `text-encoder` or `text-encoder-layers`; the last for a frozen one alone:
            for a backward pass autograd would hold the weights of all layers on the GPU.
        device: That of the transformer.
    """
    if offload == BY_LAYERS:
        text_encoder = load(find_reader("text-encoder", device))
        fetch_layers(text_encoder, device)
        return text_encoder
    return load(find_reader(offload, device))


def fetch_layers(text_encoder: "nn.Module", device: "torch.device") -> None:
    """Let each layer's weights be on a device while it computes, and on the CPU otherwise.

    On a GPU the next layer's weights are copied beside the computation, out of pinned memory that
    holds these few layers alone; pinning all would double what the machine must hold. Layers are
    not copied back; what stands outside them is, after each pass.

    Args:
        text_encoder: On the CPU, possibly wrapped by peft.
        device: Where to compute.
    """
    from diffusers.hooks import apply_group_offloading

    gpu = device.type == "cuda"
    apply_group_offloading(
        find_stack(text_encoder), onload_device=device, offload_device="cpu",
        offload_type="block_level", num_blocks_per_group=1, use_stream=gpu, low_cpu_mem_usage=gpu,
    )  # fmt: skip


def find_stack(text_encoder: "nn.Module") -> "nn.Module":
    """Return the module that has the layers for children; diffusers looks no deeper than that."""
    from torch import nn

    return next(
        module
        for module in text_encoder.modules()
        if any(isinstance(child, nn.ModuleList) for child in module.children())
    )


def list_layers(text_encoder: "nn.Module") -> list["nn.Module"]:
    """List the layers that are moved one by one."""
    from torch import nn

    lists = [it for it in find_stack(text_encoder).children() if isinstance(it, nn.ModuleList)]
    return [layer for layers in lists for layer in layers]
