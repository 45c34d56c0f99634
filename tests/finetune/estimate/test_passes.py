import torch

from medart_cli.finetune.estimate.passes import measure_pass
from tests.allocations import count_peak


def test_a_pass_counts_the_bytes_that_the_allocator_counts():
    def build(device):
        with torch.device(device):
            layers = [torch.nn.Linear(64, 64) for _ in range(4)]
            return torch.nn.Sequential(*(part for it in layers for part in (it, torch.nn.GELU())))

    def make(model):
        values = torch.zeros(128, 64)
        return [values], lambda: model(values)

    found = measure_pass(build("meta"), make, "fp32")
    model, (values,) = build("cpu"), make(None)[0]
    kept = []
    assert count_peak(lambda: kept.append(model(values))) == found.kept == found.forward
