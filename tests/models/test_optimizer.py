import sys

import pytest
import torch

from medart_cli.errors import ConfigError
from medart_cli.models.optimizer import build_optimizer, build_schedule, choose_recompute


def test_the_learning_rate_warms_up_and_then_follows_its_schedule():
    parameter = torch.nn.Parameter(torch.ones(1))
    for name, last in (("constant", 1.0), ("linear", 0.1), ("cosine", 0.0245)):
        optimizer = build_optimizer("adamw", [parameter], 1.0, 0.0)
        schedule = build_schedule(optimizer, name, warmup=10, total=20)
        rates = []
        for _ in range(20):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        assert rates[:11] == pytest.approx([i / 10 for i in range(11)])
        assert rates[-1] == pytest.approx(last, abs=1e-3)


def test_8_bit_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'medart-cli\[8bit\]'"):
        build_optimizer("adamw8bit", [torch.nn.Parameter(torch.ones(1))], 1.0, 0.0)


@pytest.mark.parametrize(("free", "choice"), [(40e9, "none"), (6e9, "block"), (2e9, "step")])
def test_hldf_recomputes_no_more_than_memory_asks_for(free, choice):
    assert choose_recompute(free, pass_bytes=1.5e9, latent_bytes=0.1e9, steps=20) == choice
