from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from medart_cli.finetune.estimate.captions import CaptionLengths
from medart_cli.finetune.estimate.footprint import Reckoner
from medart_cli.finetune.estimate.pace import Pass, _Clock, measure_pace
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.models.optimizers import OPTIMIZERS
from medart_cli.models.shapes import read_shape


def test_steps_are_put_together_from_passes(small_base, monkeypatch):
    seconds = {  # of a row of 5 tokens
        "transformer": Pass(0.5, 1, 2, 0.25), "text_encoder": Pass(5, 10, 20, 0.25)
    }  # fmt: skip
    monkeypatch.setattr(
        _Clock, "time_blocks",
        lambda self, part, rows, tokens: Pass().add(seconds[part], rows * tokens / 5),
    )  # fmt: skip
    monkeypatch.setattr(_Clock, "time_vae", lambda self, rows, together: (Pass(50, 100, 200), 7))
    reckoner = Reckoner(read_shape(small_base), 32, 8, gpu=False)
    captions = CaptionLengths(5, 10, 8, 8, "counted")

    def measure(recompute, **options):
        config = FinetuneConfig(data="-", out=Path(), **options)
        return measure_pace(reckoner, captions, config, "fp32", recompute, torch.device("cpu"))

    frozen = {"train_text_encoder": False, "hldf_steps": 4, "hldf_grad_steps": 2}
    pace = measure("none", **frozen)
    assert (pace.step, pace.encode) == (3.25, 7)
    assert pace.preview == 4 * (20 * 2 + 50)  # four images of 20 steps, each with guidance
    assert measure("none", **frozen, preview_every=0).preview == 0
    # Two images of 4 solver steps, 2 without gradients of 2 s and 2 with, of 4 s and 8 s backward,
    # as their captions have twice the length; decoders run twice more.
    color = 2 * 2 * 2 + 2 * 2 * (4 + 8) + 2 * 100 + 2 * (2 * 100 + 200)
    assert pace.hldf == 3.25 + color
    assert measure("step", **frozen).hldf == pace.hldf + 2 * 2 * 4
    read = measure("none", **frozen | {"train_text_encoder": True})
    # The text encoder reads the caption and the empty one, again of twice the length.
    assert (read.step, read.hldf - read.step) == (3 + 30 + 0.5, color + 2 * 2 * 30)
    again = measure("step", gradient_checkpointing=True, accumulate=2, hldf_every=0)
    assert (again.step, again.hldf) == (2 * (1.5 * (1 + 10) + 2 + 20) + 0.5, None)


def test_real_passes_take_time_and_more_blocks_take_more(small_base):
    reckoner = Reckoner(read_shape(small_base), 64, 8, gpu=False)
    config = FinetuneConfig(data="-", out=Path())
    clock = _Clock(reckoner, config, "fp32", torch.device("cpu"))
    few, many = (clock._time("transformer", [depth], 2, 8) for depth in (1, 24))
    assert all(0 < one < other for one, other in zip(astuple(few), astuple(many), strict=True))
    decode, encode = clock.time_vae(2, 1)
    assert decode.forward > 0 and decode.backward > 0 and decode.update == 0 and encode > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_update_of_each_optimizer_is_timed(small_base, optimizer):
    if find_spec(OPTIMIZERS[optimizer].package or "torch") is None:
        pytest.skip("not installed")
    config = FinetuneConfig(data="-", out=Path(), optimizer=optimizer)
    reckoner = Reckoner(read_shape(small_base), 32, 8, gpu=False)
    clock = _Clock(reckoner, config, "fp32", torch.device("cpu"))
    assert clock._time("transformer", [1], 1, 8).update > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_passes_are_timed_on_a_gpu(small_base):
    config = FinetuneConfig(data="-", out=Path())
    reckoner = Reckoner(read_shape(small_base), 32, 8, gpu=True)
    captions = CaptionLengths(8, 8, 8, 8, "counted")
    pace = measure_pace(reckoner, captions, config, "bf16", "step", torch.device("cuda"))
    assert pace.step > 0 and pace.hldf > pace.step
