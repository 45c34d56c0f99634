import pytest
import torch

from medart_cli.errors import ConfigError
from medart_cli.models.device import build_generator, find_device, find_precision


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
