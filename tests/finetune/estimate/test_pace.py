from pathlib import Path

import pytest
import torch

from medart_cli.finetune.estimate.footprint import Reckoner
from medart_cli.finetune.estimate.pace import Pass, _Clock, measure_pace
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.models.shapes import read_shape


def test_steps_are_put_together_from_passes(small_base, monkeypatch):
    seconds = {"transformer": Pass(1, 2), "text_encoder": Pass(10, 20)}
    monkeypatch.setattr(
        _Clock, "time_blocks", lambda self, part, rows: seconds[part].add(seconds[part], rows - 1)
    )
    monkeypatch.setattr(_Clock, "time_vae", lambda self, rows: (Pass(100, 200), 7))
    reckoner = Reckoner(read_shape(small_base), 32, 8, gpu=False)

    def measure(recompute, **options):
        config = FinetuneConfig(data="-", out=Path(), **options)
        return measure_pace(reckoner, config, "fp32", recompute, torch.device("cpu"))

    frozen = {"train_text_encoder": False, "hldf_steps": 4, "hldf_grad_steps": 2}
    pace = measure("none", **frozen)
    assert (pace.step, pace.encode) == (3, 7)
    # Two images of 4 solver steps of 2 s; backward through 2 each, of 4 s; decoders run twice more.
    assert pace.hldf == 3 + 2 * 4 * 2 + 2 * 2 * 4 + 2 * 100 + 2 * (2 * 100 + 200)
    assert measure("step", **frozen).hldf == pace.hldf + 2 * 2 * 2
    again = measure("step", gradient_checkpointing=True, accumulate=2, hldf_every=0)
    assert (again.step, again.hldf) == (2 * ((1 + 10) * 2 + 2 + 20), None)


def test_real_passes_take_time_and_more_blocks_take_more(small_base):
    reckoner = Reckoner(read_shape(small_base), 64, 8, gpu=False)
    clock = _Clock(reckoner, ("lora", 8, None, None, None), "fp32", torch.device("cpu"))
    few, many = (clock._time("transformer", [depth], 2) for depth in (1, 24))
    assert 0 < few.forward < many.forward and 0 < few.backward < many.backward
    decode, encode = clock.time_vae(1)
    assert decode.forward > 0 and decode.backward > 0 and encode > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_passes_are_timed_on_a_gpu(small_base):
    config = FinetuneConfig(data="-", out=Path())
    reckoner = Reckoner(read_shape(small_base), 32, 8, gpu=True)
    pace = measure_pace(reckoner, config, "bf16", "step", torch.device("cuda"))
    assert pace.step > 0 and pace.hldf > pace.step
