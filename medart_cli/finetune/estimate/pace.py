"""The seconds of training steps, from a few seconds of the real shapes on this device.

A transformer's pass is timed with one and with two blocks of each kind, and the
time of all is reckoned from both; on a CPU the autoencoder is timed on a smaller image, since its
time goes with the pixels. What is left out: reading files, the optimizer, and a GPU that slows down
when it is hot.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medart_cli.finetune.estimate.footprint import Reckoner, name_adapters
from medart_cli.finetune.hldf import plan_hldf
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.models.device import DTYPES

LONG_ENOUGH = 0.3  # seconds that a pass is repeated for, where one takes less
VAE_SHRUNK = 4  # an autoencoder's image side is divided by this on a CPU


@dataclass(frozen=True)
class Pass:
    """Seconds of a pass."""

    forward: float = 0
    backward: float = 0

    def add(self, other: "Pass", share: float) -> "Pass":
        """Return this one plus a share of another."""
        return Pass(self.forward + share * other.forward, self.backward + share * other.backward)


@dataclass(frozen=True)
class Pace:
    """Seconds.

    Attributes:
        step: Of a normal step.
        hldf: Of a step with the color loss; None without HLDF.
        encode: Of encoding one image, before training.
    """

    step: float
    hldf: float | None
    encode: float


def measure_pace(
    reckoner: Reckoner, config: FinetuneConfig, precision: str, recompute: str, device: torch.device
) -> Pace:
    """Measure passes on this device and put the seconds of steps together.

    Args:
        reckoner: Knows the base's shapes.
        config: The options of the run.
        precision: `bf16` or `fp32`.
        recompute: The activation checkpointing of HLDF: `none`, `block` or `step`.
        device: To measure on.
    """
    hldf = plan_hldf(config)
    clock = _Clock(reckoner, name_adapters(config), precision, device)
    model = clock.time_blocks("transformer", config.batch_size)
    reader = Pass()
    if config.train_text_encoder:
        reader = clock.time_blocks("text_encoder", config.batch_size)
    again = int(config.gradient_checkpointing)
    both = model.add(reader, 1)
    step = both.forward * (1 + again) + both.backward
    decode, encode = clock.time_vae(config.batch_size)
    color = None
    if hldf.every:
        double = config.hldf_guidance > 1
        wide = clock.time_blocks("transformer", 2 * config.batch_size) if double else model
        extra = again + (recompute != "none")
        passes = hldf.with_gradient * hldf.grad_steps
        color = step + hldf.draws * hldf.steps * wide.forward
        color += passes * (extra * wide.forward + wide.backward)
        color += hldf.draws * decode.forward
        color += hldf.with_gradient * (2 * decode.forward + decode.backward)  # runs again, twice
        color += reader.forward * (1 + again) + reader.backward
    rounds = config.accumulate
    return Pace(rounds * step, None if color is None else rounds * color, encode)


class _Clock:
    """Times passes of one base on one device."""

    def __init__(
        self, reckoner: Reckoner, how: tuple[Any, ...], precision: str, device: torch.device
    ) -> None:
        self.reckoner, self.how, self.precision, self.device = reckoner, how, precision, device

    def time_blocks(self, part: str, rows: int) -> Pass:
        """Return the seconds of a pass with all blocks."""
        depths = self.reckoner.depths(part)
        ones = [1] * len(depths)
        first = total = self._time(part, ones, rows)
        for place, depth in enumerate(depths):
            more = [*ones]
            more[place] = 2
            other = self._time(part, more, rows)
            total = total.add(other.add(first, -1), depth - 1)
        return Pass(max(total.forward, 0), max(total.backward, 0))

    def _time(self, part: str, depths: Sequence[int], rows: int) -> Pass:
        model = self._fill(self.reckoner.build(part, depths, False, self.precision, self.how))
        with torch.device(self.device):
            _, run = self.reckoner.inputs(part, rows, self.precision, model)
        return self._repeat(run, self.precision)

    def time_vae(self, rows: int) -> tuple[Pass, float]:
        """Return the seconds of decoding a batch, and those of encoding an image."""
        shrunk = VAE_SHRUNK if self.device.type == "cpu" else 1
        side = self.reckoner.side // shrunk or 1
        share = (self.reckoner.side / side) ** 2
        vae = self._fill(self.reckoner.shape.build_vae())
        family, scale = self.reckoner.family, self.reckoner.scale
        latents = torch.randn(rows, self.reckoner.channels, side, side, device=self.device)
        latents.requires_grad_(True)
        decoded = self._repeat(lambda: family.decode_latents(vae, latents), "fp32")
        image = torch.zeros(1, 3, side * scale, side * scale, device=self.device)
        encoded = self._repeat(lambda: family.encode_images(vae, image)[0], "fp32")
        return Pass(share * decoded.forward, share * decoded.backward), share * encoded.forward

    def _fill(self, model: nn.Module) -> nn.Module:
        """Put weights on the device: any numbers, but not what memory happens to hold."""
        model.to_empty(device=self.device)
        with torch.no_grad():
            for item in [*model.parameters(), *model.buffers()]:
                item.fill_(0.01 if item.is_floating_point() else 0)
        return model

    def _repeat(self, run: Callable[[], Tensor], precision: str) -> Pass:
        """Time a pass and its backward a few times, after one to warm up; return the fastest."""
        best = Pass(float("inf"), float("inf"))
        started, count = time.perf_counter(), 0
        while count < 2 or (time.perf_counter() - started < LONG_ENOUGH and count < 10):
            begun = self._now()
            with torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"):
                found = run()
            done = self._now()
            if found.requires_grad:
                torch.autograd.backward(found, torch.ones_like(found))
            ended = self._now()
            best = Pass(min(best.forward, done - begun), min(best.backward, ended - done))
            count += 1
        return best

    def _now(self) -> float:
        """Return seconds; on a CPU those of its threads, so that other work does not count."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time() / torch.get_num_threads()
