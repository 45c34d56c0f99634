from types import SimpleNamespace

import pytest
import torch

from medart_cli.errors import ConfigError
from medart_cli.models import device as device_module
from medart_cli.models.device import build_generator, find_device, find_precision, join_processes


def test_a_rows_noise_depends_on_seed_purpose_and_row_alone():
    def draw(*words):
        return torch.randn(4, generator=build_generator(*words)).tolist()

    first = draw(0, "sample", 5)
    torch.manual_seed(99)
    assert draw(0, "sample", 5) == first
    others = [draw(1, "sample", 5), draw(0, "hldf", 5), draw(0, "sample", 6), draw(0, "sample", 55)]
    assert all(other != first for other in others)


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="cuda:99"):
        find_device("cuda:99")


def test_precision_follows_the_device():
    cpu = torch.device("cpu")
    assert find_precision("auto", cpu) == "fp32"
    assert find_precision("bf16", cpu) == "bf16"
    with pytest.raises(ConfigError, match="not on a CPU"):
        find_precision("fp16", cpu)


def test_a_process_alone_computes_where_it_is_told():
    assert join_processes("cpu") == torch.device("cpu")


def test_several_processes_do_not_share_one_gpu(monkeypatch):
    state = SimpleNamespace(num_processes=2, device=torch.device("cuda", 1))
    monkeypatch.setattr(device_module, "PartialState", lambda **_: state)
    monkeypatch.setattr(device_module, "find_device", torch.device)
    assert join_processes("cuda") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="--device cuda:0: names one GPU, but each of 2 "):
        join_processes("cuda:0")


def test_a_device_that_the_environment_asks_for_does_not_win_silently(monkeypatch):
    state = SimpleNamespace(num_processes=1, device=torch.device("meta"))
    monkeypatch.setattr(device_module, "PartialState", lambda **options: state)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    assert join_processes("cpu") == torch.device("cpu")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    with pytest.raises(ConfigError, match="--device cpu: accelerate's settings or environment ask"):
        join_processes("cpu")
