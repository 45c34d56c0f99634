"""The memory of a pass, forward and backward, counted without weights and without a GPU.

The pass is run for real on tensors that have shapes and no numbers (PyTorch's fake tensors), and
every storage is counted from when it is made to when it is freed. So number formats, adapters and
activation checkpointing count as they are. What is not seen: memory that GPU libraries take for
themselves, and what the allocator cannot use.
"""

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medart_cli.models.device import DTYPES


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are made in it, until they are freed.

    Attributes:
        now: Bytes in use.
        peak: The most since it was last set.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        function: Any,  # noqa: ANN401 - an operation of PyTorch, its inputs and results
        types: object,
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Run an operation and count what it makes."""
        found = function(*args, **(kwargs or {}))
        for item in tree_leaves(found):
            if isinstance(item, Tensor):
                self._count(item.untyped_storage())
        return found

    def pass_over(self, tensors: Iterable[Tensor]) -> None:
        """Leave out what is there already."""
        for tensor in tensors:
            self._seen.add(tensor.untyped_storage())

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class Cost:
    """What a pass takes, in bytes.

    Attributes:
        kept: Stored for the backward pass by the first of several; further ones share its weights
            that autocast has cast.
        more: By each further one.
        forward: Peak of a forward pass.
        backward: Peak of the backward pass of one alone, without gradients of weights.
        weights: Of the model itself.
        trained: Numbers that are trained.
    """

    kept: float = 0
    more: float = 0
    forward: float = 0
    backward: float = 0
    weights: float = 0
    trained: float = 0

    def join(self, other: "Cost", share: float) -> "Cost":
        """Return this one plus a share of another, figure by figure."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Cost(*(one + share * two for one, two in pairs))

    @property
    def working(self) -> float:
        """What the backward pass takes beyond what was stored."""
        return self.backward - self.kept


NO_PASS = Cost()


def measure_pass(
    model: nn.Module,
    make: Callable[[nn.Module], tuple[list[Tensor], Callable[[], Tensor]]],
    precision: str,
) -> Cost:
    """Run a pass with its backward, and two passes in a row, on tensors without numbers.

    Args:
        model: On the meta device.
        make: Model -> inputs, and the pass, which returns a tensor of its result.
        precision: bf16 for autocast, or fp32.
    """
    held = [*model.parameters(), *model.buffers()]
    weights = sum(item.numel() * item.element_size() for item in held)
    trained = sum(item.numel() for item in model.parameters() if item.requires_grad)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        for parameter in model.parameters():
            if parameter.requires_grad:  # gradients are counted by their number, elsewhere
                parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
        inputs, run = make(model)
        with Tally() as tally:
            tally.pass_over([*model.parameters(), *model.buffers(), *inputs])
            with _autocast(precision):
                found = run()
                forward = tally.peak
            kept = tally.peak = tally.now  # without what autocast has cast and nothing else holds
            torch.autograd.backward(found, torch.empty_like(found))
            backward = tally.peak
            del found
            with _autocast(precision):
                found, first = run(), tally.now
                second = run()
                more = tally.now - first
            del found, second
    return Cost(kept, more, forward, backward, weights, trained)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _autocast(precision: str) -> AbstractContextManager[object]:
    return nullcontext() if precision == "fp32" else torch.autocast("cpu", DTYPES[precision])


def imitate_gpu(model: nn.Module) -> None:
    """Let norms keep what they keep on a GPU: autocast lifts layer norms there, others are fused.

    Fake tensors are on the CPU, where PyTorch does neither.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.float().register_forward_pre_hook(lambda _, given: (given[0].float(),))
        elif isinstance(module, nn.RMSNorm):
            module.forward = _FusedNorm.apply  # type: ignore[method-assign]


class _FusedNorm(torch.autograd.Function):
    """Keeps what the fused RMS norm of a GPU keeps: its input and a number for each row."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:  # noqa: ANN401 - of autograd
        values = values.contiguous()
        context.save_for_backward(values, values.new_empty(values.shape[:-1], dtype=torch.float32))
        return torch.empty_like(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return torch.empty_like(gradient)
