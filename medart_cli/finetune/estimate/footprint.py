"""The memory of training steps, put together from passes as train.py takes them.

A transformer's pass is measured with one and with two blocks of each kind: what it takes is linear
in their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from medart_cli.diffusion.losses import color_statistics
from medart_cli.finetune.estimate.passes import NO_PASS, Cost, imitate_gpu, measure_pass
from medart_cli.finetune.hldf import Hldf, plan_hldf
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.models import adapters, parts
from medart_cli.models.device import DTYPES
from medart_cli.models.offload import BY_LAYERS, LAYERS_HELD, list_layers
from medart_cli.models.optimizers import OPTIMIZERS
from medart_cli.models.quantized import list_quantized
from medart_cli.models.shapes import BaseShape, count_numbers

# Bytes of a quantized weight with its share of the scales: a row has one in int8; in nf4 64 weights
# have one of a byte, and 256 of these one in float32.
STORED = {"bf16": 2.0, "int8": 1.0, "nf4": 0.5 + (1 + 4 / 256) / 64}
QUANTIZED_PARTS = ("transformer", "text_encoder")
READING = 1.03  # what a frozen text encoder takes while it reads a caption, of its weights


@dataclass(frozen=True)
class Footprint:
    """The memory of a run, in bytes.

    Attributes:
        parts: Of what is held all the time, by name: weights, optimizer state, average.
        reading: Peak while a frozen text encoder reads the captions, before training.
        step: Peak of a normal step.
        hldf: Peak of a step with the color loss; None without HLDF.
        trained: Numbers that are trained.
    """

    parts: dict[str, float]
    reading: float | None
    step: float
    hldf: float | None
    trained: float

    @property
    def peak(self) -> float:
        """The most of all."""
        return max(self.reading or 0, self.step, self.hldf or 0)


class Reckoner:
    """Reckons the footprint of a base for several settings; passes are measured once.

    Args:
        shape: The base.
        resolution: Image side, in pixels.
        tokens: Of the longest caption, as the transformer gets it.
        gpu: Whether it is trained on a GPU.
    """

    def __init__(self, shape: BaseShape, resolution: int, tokens: int, *, gpu: bool) -> None:
        self.shape, self.family, self.gpu = shape, shape.family, gpu
        vae = shape.build_vae()
        self.blockwise = self.family.blockwise_decoder(vae)
        self.scale = self.family.latent_scale(vae)
        self.side = resolution // self.scale
        self.channels = self.family.latent_channels(vae)
        self.tokens = shape.kind.tokens if shape.kind.chat else tokens
        reader = shape.build_text_encoder()
        self.reader_numbers = count_numbers(reader)
        self.layer_numbers = [count_numbers(layer) for layer in list_layers(reader)]
        self._passes, self._quantized = cache(self._measure), cache(self._count_quantized)

    def reckon(self, config: FinetuneConfig, precision: str, recompute: str) -> Footprint:
        """Return the footprint of a run.

        Args:
            config: Its options.
            precision: `bf16` or `fp32`.
            recompute: The activation checkpointing of HLDF: `none`, `block` or `step`.
        """
        if not self.gpu:
            config = replace(config, offload="none")  # one memory, whatever is moved in it
        model, reader = self._list_trained(config, precision)
        vae = self._pass("vae", 1, self.blockwise, "fp32")
        trained = model.trained + reader.trained
        saved = {part: self._saved(part, config, precision) for part in QUANTIZED_PARTS}
        held = {
            "transformer": model.weights - saved["transformer"],
            "text encoder": 0.0,
            "autoencoder": vae.weights,
            "optimizer state": float(OPTIMIZERS[config.optimizer].state_bytes * trained),
            "average (EMA)": 4.0 * trained if config.ema else 0.0,
        }
        width = DTYPES[precision].itemsize
        reading: float | None = width * self.reader_numbers - saved["text_encoder"]
        if config.train_text_encoder or not config.use_cache:
            weights = reader.weights or width * self.reader_numbers
            held["text encoder"] = weights - saved["text_encoder"]
            reading = None
        step = self._step(config, precision)
        hldf = plan_hldf(config)
        color = self._color(config, hldf, precision, recompute) if hldf.every else None
        reading = reading and READING * reading
        if config.offload == "text-encoder":
            held["text encoder"], reading = 0.0, None
        elif config.offload == BY_LAYERS:
            moved = self._read_by_layers(width, saved["text_encoder"])
            if reading is None:  # each step reads, before anything else is computed
                step, color = max(step, moved), color and max(color, moved)
            held["text encoder"], reading = 0.0, reading and moved
        base = sum(held.values())
        held = {name: size for name, size in held.items() if size}
        return Footprint(held, reading, base + step, color and base + color, trained)

    def _read_by_layers(self, width: int, saved: float) -> float:
        """Return what a text encoder takes whose weights come to the GPU layer by layer.

        Args:
            width: Bytes of a number.
            saved: By how many bytes `--base-format` makes its layers smaller.
        """
        layers, all_layers = self.layer_numbers, sum(self.layer_numbers)
        at_work = LAYERS_HELD * max(layers)
        numbers = self.reader_numbers - all_layers + at_work
        weights = width * numbers - saved * at_work / all_layers
        return weights + (READING - 1) * width * self.reader_numbers

    def _saved(self, part: str, config: FinetuneConfig, precision: str) -> float:
        """Return by how many bytes `--base-format` makes a part's weights smaller."""
        if config.base_format is None or config.method == "full":
            return 0.0
        each = DTYPES[precision].itemsize - STORED[config.base_format]
        return each * self._quantized(part)

    def _count_quantized(self, part: str) -> int:
        build: Callable[[], Any] = self.shape.build_text_encoder
        model = self.shape.build_transformer() if part == "transformer" else build()
        return sum(model.get_submodule(name).weight.numel() for name in list_quantized(model))

    def count_parts(self) -> dict[str, int]:
        """Count the numbers of each part of the base."""
        return {
            "transformer": count_numbers(self.shape.build_transformer()),
            "text encoder": self.reader_numbers,
            "autoencoder": count_numbers(self.shape.build_vae()),
        }

    def _list_trained(self, config: FinetuneConfig, precision: str) -> tuple[Cost, Cost]:
        """Return the passes of transformer and, where it is trained, text encoder, of a batch."""
        how = name_adapters(config)
        rows, again = config.batch_size, config.gradient_checkpointing
        reader = NO_PASS
        if config.train_text_encoder and config.offload == "none":
            reader = self._pass("text_encoder", rows, again, precision, how)
        return self._pass("transformer", rows, again, precision, how), reader

    def _step(self, config: FinetuneConfig, precision: str) -> float:
        """Return what a normal step takes at its peak beyond what is held."""
        model, reader = self._list_trained(config, precision)
        gradients = 4 * model.trained
        return max(
            reader.kept + model.forward,
            reader.kept + model.backward,
            reader.kept + gradients + model.working,
            gradients + reader.backward,
            gradients + 4 * reader.trained + reader.working,
        )

    def _color(self, config: FinetuneConfig, hldf: Hldf, precision: str, recompute: str) -> float:
        """Return what a step with the color loss takes at its peak beyond what is held."""
        how, again = name_adapters(config), config.gradient_checkpointing
        rows = config.batch_size * (2 if config.hldf_guidance > 1 else 1)
        blockwise = again or recompute == "block"
        model = self._pass("transformer", rows, blockwise, precision, how)
        reader = NO_PASS
        if config.train_text_encoder and config.offload == "none":
            reader = self._pass("text_encoder", config.batch_size + 1, again, precision, how)
        images = 1 if recompute == "step" else config.batch_size  # decoded one by one, or at once
        decoder = self._pass("vae", images, self.blockwise, "fp32")
        gradients = 4 * (model.trained + reader.trained)
        noise = gradients  # of the noise loss: kept aside by the score, added to as published
        drawn = model.kept + (hldf.grad_steps - 1) * model.more
        passing = model.working
        if recompute == "step":
            latent = 4 * config.batch_size * self.channels * self.side**2
            drawn, passing = 3 * latent * hldf.grad_steps, max(model.backward, model.forward)
        # The images are gone through backward, last to first, each its decoder and its passes.
        stored = reader.kept + hldf.with_gradient * drawn
        whole = recompute == "step" or hldf.with_gradient > 1 or not self.blockwise
        decoding = decoder.backward if whole else decoder.backward - decoder.kept
        stored += 0 if whole else decoder.kept
        fresh = gradients if hldf.loss == "score" else 0.0  # as published they are added to noise's
        later = fresh if hldf.with_gradient > 1 else 0.0  # there from the second image on
        return noise + max(
            stored + max(decoding, passing),
            later + stored - drawn + max(decoding, passing),
            fresh + reader.kept + passing,
            fresh + reader.backward,
        )

    def _pass(
        self, part: str, rows: int, again: bool, precision: str, how: tuple[Any, ...] = ()
    ) -> Cost:
        return self._passes(part, rows, again, precision, how)

    def _measure(
        self, part: str, rows: int, again: bool, precision: str, how: tuple[Any, ...]
    ) -> Cost:
        """Measure a pass; a transformer's with one and two blocks of each kind, then all."""
        if part == "vae":
            model = self.shape.build_vae()
            if again:
                parts.recompute_blocks(model.train(), True)
            return measure_pass(model, partial(self._decode, rows), precision)

        def run(model: nn.Module) -> tuple[list[Tensor], Callable[[], Tensor]]:
            return self.inputs(part, rows, self.tokens, precision, model)

        depths = self.depths(part)
        ones = (1,) * len(depths)
        first = total = measure_pass(self.build(part, ones, again, precision, how), run, precision)
        for place, depth in enumerate(depths):
            more = tuple(1 + (place == index) for index in range(len(depths)))
            model = self.build(part, more, again, precision, how)
            total = total.join(measure_pass(model, run, precision).join(first, -1), depth - 1)
        return total

    def depths(self, part: str) -> tuple[int, ...]:
        """Return how many blocks of each kind a part has."""
        if part == "text_encoder":
            return (int(self.shape.text_encoder["num_layers"]),)
        return self.shape.depths

    def build(
        self, part: str, depths: Sequence[int], again: bool, precision: str, how: tuple[Any, ...]
    ) -> nn.Module:
        """Build transformer or text encoder as it is trained, on the meta device.

        Args:
            part: `transformer` or `text_encoder`.
            depths: Blocks of each kind.
            again: Whether they are recomputed.
            precision: Of what is frozen.
            how: From `name_adapters`.
        """
        if part == "text_encoder":
            return self._build_reader(depths, again, precision, how)
        return self._build_transformer(depths, again, precision, how)

    def inputs(
        self, part: str, rows: int, tokens: int, precision: str, model: nn.Module
    ) -> tuple[list[Tensor], Callable[[], Tensor]]:
        """Make the inputs of a part, so many rows with captions so long, and its pass."""
        if part == "text_encoder":
            return self._read(rows, tokens, model)
        return self._predict(rows, tokens, precision, model)

    def _build_transformer(
        self, depths: Sequence[int], again: bool, precision: str, how: tuple[Any, ...]
    ) -> nn.Module:
        method, rank, alpha, targets, _ = how
        model = self.shape.build_transformer(depths)
        if method == "full":
            model.requires_grad_(True)
        else:
            model = _to(model, precision)
            model = adapters.add_adapter(
                model, method, rank=rank, alpha=alpha, targets=targets or self.family.targets
            )
        return self._finish(model, again)

    def _build_reader(
        self, depths: Sequence[int], again: bool, precision: str, how: tuple[Any, ...]
    ) -> nn.Module:
        method, rank, alpha, _, targets = how
        model = adapters.add_adapter(
            _to(self.shape.build_text_encoder(depths[0]), precision),
            "lora" if method == "full" else method, rank=rank, alpha=alpha,
            targets=targets or self.family.text_targets,
        )  # fmt: skip
        return self._finish(model.train(), again)

    def _finish(self, model: nn.Module, again: bool) -> nn.Module:
        parts.recompute_blocks(adapters.spare_draws(model), again)
        if self.gpu:
            imitate_gpu(model)
        return model

    def _predict(
        self, rows: int, tokens: int, precision: str, model: nn.Module
    ) -> tuple[list[Tensor], Callable[[], Tensor]]:
        latents = torch.zeros(rows, self.channels, self.side, self.side)
        embeds = torch.zeros(rows, tokens, self.shape.embed_width, dtype=DTYPES[precision])
        mask = torch.ones(rows, tokens, dtype=torch.long)
        times = torch.zeros(rows, dtype=torch.float32 if self.shape.kind.flow else torch.long)
        run = partial(self.family.predict, model, latents, times, embeds, mask)
        return [latents, embeds, mask, times], run

    def _read(
        self,
        rows: int,
        tokens: int,
        model: Any,  # noqa: ANN401 - of transformers
    ) -> tuple[list[Tensor], Callable[[], Tensor]]:
        ids = torch.zeros(rows, tokens, dtype=torch.long)
        mask = torch.ones(rows, tokens, dtype=torch.long)
        return [ids, mask], lambda: model(ids, attention_mask=mask)[0]

    def _decode(self, rows: int, model: Any) -> tuple[list[Tensor], Callable[[], Tensor]]:  # noqa: ANN401
        latents = torch.zeros(rows, self.channels, self.side, self.side, requires_grad=True)

        def run() -> Tensor:
            return color_statistics(self.family.decode_latents(model, latents), ["moments"])

        return [latents], run


def name_adapters(config: FinetuneConfig) -> tuple[Any, ...]:
    """Return the options on which the adapters depend."""
    lists = (tuple(it) if it else None for it in (config.target, config.text_target))
    return config.method, config.rank, config.alpha, *lists


def _to(model: Any, precision: str) -> Any:  # noqa: ANN401 - of two libraries
    """Convert a model as its loader does, without the advice that diffusers logs."""
    return nn.Module.to(model, DTYPES[precision])
