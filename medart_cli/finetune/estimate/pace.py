"""The seconds of training steps, from a few seconds of the real shapes on this device.

A transformer's pass is timed with one and with two blocks of each kind, and the time of all is
reckoned from both; one of few blocks is timed whole. On a CPU the autoencoder is timed on a smaller
image, since its time goes with the pixels. What is left out: reading files; reading captions with a
frozen text encoder, once or (`--no-cache`) in each step; that a trained one is slower on the CPU
(`--offload`); and a GPU that slows down when it is hot.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn

from medart_cli.errors import ConfigError
from medart_cli.finetune.estimate.captions import CaptionLengths
from medart_cli.finetune.estimate.footprint import Reckoner, name_adapters
from medart_cli.finetune.hldf import plan_hldf
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.previews import PREVIEW_STEPS
from medart_cli.models.device import DTYPES
from medart_cli.models.optimizers import build_optimizer, check_optimizer

LONG_ENOUGH = 0.3  # seconds that a pass is repeated for, where one takes less
FEW_BLOCKS = 8  # of a model that is timed whole
SMALL_LATENTS = 16  # side of latents that an autoencoder is timed with on a CPU, where it has more


@dataclass(frozen=True)
class Pass:
    """Seconds of a pass.

    Attributes:
        plain: Forward, without gradients.
        forward: Forward, with what the backward pass needs.
        backward: The backward pass.
        update: What the optimizer takes for the weights that are trained.
    """

    plain: float = 0
    forward: float = 0
    backward: float = 0
    update: float = 0

    def add(self, other: "Pass", share: float) -> "Pass":
        """Return this one plus a share of another, figure by figure."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Pass(*(one + share * two for one, two in pairs))


@dataclass(frozen=True)
class Pace:
    """Seconds.

    Attributes:
        step: Of a normal step.
        hldf: Of a step with the color loss; None without HLDF.
        encode: Of encoding one image, before training.
        preview: Of drawing a preview; 0 where none is drawn.
    """

    step: float
    hldf: float | None
    encode: float
    preview: float = 0


def measure_pace(
    reckoner: Reckoner,
    captions: CaptionLengths,
    config: FinetuneConfig,
    precision: str,
    recompute: str,
    device: torch.device,
) -> Pace:
    """Measure passes on this device and put the seconds of steps together.

    Args:
        reckoner: Knows the base's shapes.
        captions: How long they are.
        config: The options of the run.
        precision: `bf16` or `fp32`.
        recompute: The activation checkpointing of HLDF: `none`, `block` or `step`.
        device: To measure on.
    """
    hldf = plan_hldf(config)
    clock = _Clock(reckoner, config, precision, device)
    rows, reader = config.batch_size, Pass()
    model = clock.time_blocks("transformer", rows, captions.step)
    if config.train_text_encoder:
        reader = clock.time_blocks("text_encoder", rows, captions.step)
    again = int(config.gradient_checkpointing)
    both = model.add(reader, 1)
    step = both.forward + again * both.plain + both.backward
    decode, encode = clock.time_vae(rows, 1 if recompute == "step" else rows)
    color, preview = None, 0.0
    sides = 2 if config.hldf_guidance > 1 else 1
    if config.preview_every:  # its images are drawn one by one
        one = clock.time_blocks("transformer", sides, captions.color)
        preview = config.preview_count * (PREVIEW_STEPS * one.plain + decode.plain / rows)
    if hldf.every:
        wide = clock.time_blocks("transformer", sides * rows, captions.color)
        if config.train_text_encoder:  # it reads the empty caption too
            reader = clock.time_blocks("text_encoder", rows + 1, captions.color)
        passes = hldf.with_gradient * hldf.grad_steps
        color = step + (hldf.draws * hldf.steps - passes) * wide.plain
        extra = again + (recompute != "none")  # passes that run again for their gradient
        color += passes * ((1 + extra) * wide.forward + wide.backward)
        color += hldf.draws * decode.forward
        color += hldf.with_gradient * (2 * decode.forward + decode.backward)  # runs again, twice
        color += reader.forward + again * reader.plain + reader.backward
        color = config.accumulate * color + both.update
    return Pace(config.accumulate * step + both.update, color, encode, preview)


class _Clock:
    """Times passes of one base on one device."""

    def __init__(
        self, reckoner: Reckoner, config: FinetuneConfig, precision: str, device: torch.device
    ) -> None:
        self.reckoner, self.config = reckoner, config
        self.precision, self.device = precision, device
        self._known = cache(self._time_blocks)

    def time_blocks(self, part: str, rows: int, tokens: int) -> Pass:
        """Return the seconds of a pass with all blocks, of so many rows with captions so long."""
        return self._known(part, rows, tokens)

    def _time_blocks(self, part: str, rows: int, tokens: int) -> Pass:
        depths = self.reckoner.depths(part)
        if sum(depths) <= FEW_BLOCKS:
            return self._time(part, depths, rows, tokens)
        ones = [1] * len(depths)
        first = total = self._time(part, ones, rows, tokens)
        for place, depth in enumerate(depths):
            more = [*ones]
            more[place] = 2
            other = self._time(part, more, rows, tokens)
            total = total.add(other.add(first, -1), depth - 1)
        return Pass(*(max(seconds, 0) for seconds in vars(total).values()))

    def _time(self, part: str, depths: Sequence[int], rows: int, tokens: int) -> Pass:
        how = name_adapters(self.config)
        model = self._fill(self.reckoner.build(part, depths, False, self.precision, how))
        with torch.device(self.device):
            _, run = self.reckoner.inputs(part, rows, tokens, self.precision, model)
        return self._repeat(run, self.precision).add(Pass(update=self._time_update(model)), 1)

    def time_vae(self, rows: int, together: int) -> tuple[Pass, float]:
        """Return the seconds of decoding a batch, and those of encoding an image.

        Args:
            rows: In the batch.
            together: How many are decoded at once.
        """
        cpu, side = self.device.type == "cpu", self.reckoner.side
        side = min(side, SMALL_LATENTS) if cpu else side
        share = (self.reckoner.side / side) ** 2
        vae = self._fill(self.reckoner.shape.build_vae())
        family, scale = self.reckoner.family, self.reckoner.scale
        latents = torch.randn(together, self.reckoner.channels, side, side, device=self.device)
        latents.requires_grad_(True)
        decoded = self._repeat(lambda: family.decode_latents(vae, latents), "fp32")
        image = torch.zeros(1, 3, side * scale, side * scale, device=self.device)
        encoded = self._repeat(lambda: family.encode_images(vae, image)[0], "fp32")
        return Pass().add(decoded, share * rows / together), share * encoded.plain

    def _fill(self, model: nn.Module) -> nn.Module:
        """Put weights on the device: any numbers, but not what memory happens to hold."""
        model.to_empty(device=self.device)
        with torch.no_grad():
            for item in [*model.parameters(), *model.buffers()]:
                item.fill_(0.01 if item.is_floating_point() else 0)
        return model

    def _repeat(self, run: Callable[[], Tensor], precision: str) -> Pass:
        """Time a pass and its backward a few times, after one to warm up; return the medians."""
        taken: list[list[float]] = []
        started = time.perf_counter()
        while len(taken) < 2 or time.perf_counter() - started < LONG_ENOUGH:
            marks = [self._now()]
            with torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"):
                with torch.no_grad():
                    run()
                torch.clear_autocast_cache()  # or the pass below would reuse weights cast without
                marks.append(self._now())
                found = run()
            marks.append(self._now())
            if found.requires_grad:
                torch.autograd.backward(found, torch.ones_like(found))
            marks.append(self._now())
            taken.append([later - earlier for earlier, later in pairwise(marks)])
        return Pass(*map(median, zip(*taken[1:], strict=True)))

    def _time_update(self, model: nn.Module) -> float:
        """Return the seconds of clipping and stepping, after a backward pass."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            return 0.0
        config, name = self.config, self.config.optimizer
        try:
            check_optimizer(name, self.device.type)
        except ConfigError:  # the estimate says that it cannot run here
            name = "adamw"
        optimizer = build_optimizer(name, trained, config.peak_rate, config.weight_decay)
        taken = []
        for _ in range(4):  # its state is made in the first step
            begun = self._now()
            nn.utils.clip_grad_norm_(trained, config.max_grad_norm or math.inf)
            optimizer.step()
            taken.append(self._now() - begun)
        return median(taken[1:])

    def _now(self) -> float:
        """Return seconds; on a CPU those of its threads, so that other work does not count."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time() / torch.get_num_threads()
