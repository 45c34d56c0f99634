import sys
from importlib.util import find_spec

import pytest
import torch
from transformers.optimization import Adafactor

from medart_cli.errors import ConfigError
from medart_cli.finetune.optimizer import balance_gradients, take_gradients
from medart_cli.models.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    check_optimizer,
    check_rate,
    read_rate,
)

INSTALLED = [
    pytest.param(name, marks=pytest.mark.skipif(
        facts.package is not None and find_spec(facts.package) is None,
        reason=f"needs {facts.package}",
    ))
    for name, facts in OPTIMIZERS.items() if name != "adamw8bit"  # which needs a GPU
]  # fmt: skip


def build_weights(*shapes):
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(optimizer, weights, steps=5):
    """Make steps with gradients that are the same for equal weights."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        for weight in weights:
            weight.grad = weight.detach() + torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


SHAPES = ((8, 32), (24, 24), (6, 3, 2, 2), (5,))


def both(name, other, *shapes, rate=1e-2):
    """Train equal weights with an optimizer of ours, and with another."""
    own, others = build_weights(*shapes), build_weights(*shapes)
    return train(build_optimizer(name, own, rate, 0.1), own), train(other(others), others)


def test_adamw_is_that_of_pytorch():
    own, other = both("adamw", lambda it: torch.optim.AdamW(it, lr=1e-2, weight_decay=0.1), *SHAPES)
    torch.testing.assert_close(own, other)


def test_muon_of_timm_is_that_of_pytorch_on_matrices_also_on_long_ones():
    def other(weights):
        return torch.optim.Muon(weights, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")

    own, others = both("muon", other, (8, 32), (24, 24), (2, 512), (512, 2))
    torch.testing.assert_close(own, others, rtol=1e-3, atol=1e-4)  # both compute in bf16


def test_muon_moves_weights_of_any_shape_about_as_far_as_adamw():
    for shape in ((8, 32), (24, 24), (4, 1152), (6, 3, 2, 2), (5,)):
        before = build_weights(shape)
        weights = build_weights(shape)
        after = train(build_optimizer("muon", weights, 1e-2, 0.0), weights, steps=1)
        size = (after[0] - before[0].detach()).square().mean().sqrt().item()
        # Of matrices, AdamW's typical 0.2 of the learning rate; a first step of NAdamW is 1.9.
        assert 0.1 < size / 1e-2 < (0.4 if len(shape) > 1 else 2), shape


def test_adafactor_is_that_of_transformers_without_scaling_by_the_size_of_the_weights():
    def other(weights):
        return Adafactor(
            weights, lr=1e-2, weight_decay=0.1, scale_parameter=False, relative_step=False
        )

    # Smaller ones timm does not factorize.
    own, others = both("adafactor", other, (24, 32), (40, 17), (5,))
    torch.testing.assert_close(own, others)


def test_lion_is_the_algorithm_of_its_paper():
    """Chen et al. 2023, algorithm 2, written out."""
    own, weights = (build_weights(*SHAPES) for _ in range(2))
    found = train(build_optimizer("lion", own, 1e-2, 0.1), own)
    generator = torch.Generator().manual_seed(2)
    averages = [torch.zeros_like(weight) for weight in weights]
    with torch.no_grad():
        for _ in range(5):
            for weight, average in zip(weights, averages, strict=True):
                gradient = weight + torch.randn(weight.shape, generator=generator)
                step = torch.sign(0.9 * average + 0.1 * gradient)
                weight -= 1e-2 * (step + 0.1 * weight)
                average.mul_(0.99).add_(0.01 * gradient)
    torch.testing.assert_close(found, [weight.detach() for weight in weights])


def test_prodigy_is_its_authors_with_what_they_advise_and_prints_nothing(capsys):
    prodigyopt = pytest.importorskip("prodigyopt")

    own = build_weights(*SHAPES)
    found = train(build_optimizer("prodigy", own, 1.0, 0.1), own)
    assert capsys.readouterr() == ("", "")
    others = build_weights(*SHAPES)
    other = prodigyopt.Prodigy(
        others, lr=1.0, weight_decay=0.1, use_bias_correction=True, safeguard_warmup=True
    )
    torch.testing.assert_close(found, train(other, others), rtol=0, atol=0)


def test_the_rate_of_prodigy_is_what_it_has_found_times_the_factor():
    pytest.importorskip("prodigyopt")
    weights = [torch.nn.Parameter(torch.zeros(4))]
    optimizer = build_optimizer("prodigy", weights, 1.0, 0.0)
    rates = []
    for _ in range(80):
        weights[0].grad = torch.ones(4)
        before = weights[0].detach().clone()
        rates.append(read_rate(optimizer))
        optimizer.step()
    assert rates[0] == pytest.approx(1e-6)
    assert rates[-1] > 1e3 * rates[0]
    moved = (before - weights[0].detach()).abs().max().item()
    assert 1 < moved / rates[-1] < 3  # more than the rate where that grows: averages are older
    assert read_rate(build_optimizer("adamw", weights, 0.5, 0.0)) == 0.5


@pytest.mark.parametrize("name", INSTALLED)
def test_weight_decay_is_decoupled_and_times_the_learning_rate(name):
    if name == "prodigy":
        pytest.skip("its rate is its own; test_prodigy_is_its_authors has weight decay in it")
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((8, 8), (5,))]
    optimizer = build_optimizer(name, weights, 1e-2, 0.5)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for weight in weights:
        torch.testing.assert_close(weight.detach(), torch.full_like(weight, 1 - 1e-2 * 0.5))


@pytest.mark.parametrize("name", INSTALLED)
def test_a_rare_large_gradient_no_longer_rules_any_optimizer(name):
    """Why the color loss's gradients are balanced, whatever the optimizer."""

    def learn(scale, balanced):
        generator = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(2)]
        optimizer = build_optimizer(name, weights, OPTIMIZERS[name].rate, 0.0)
        for step in range(1, 201):
            noise = [torch.randn(4, 4, generator=generator) for _ in weights]
            for weight, item in zip(weights, noise, strict=True):
                weight.grad = 1 + item  # of one sign in the mean
            if step % 20 == 0:
                first = take_gradients(weights)
                for weight in weights:
                    weight.grad = torch.full((4, 4), -scale)  # the rare one pulls back
                if balanced:
                    balance_gradients(weights, first, 1.0)
                else:
                    for weight, item in zip(weights, first, strict=True):
                        weight.grad += item
            optimizer.step()
        return torch.stack([weight.detach() for weight in weights])

    one, large = learn(1.0, balanced=True), learn(300.0, balanced=True)
    torch.testing.assert_close(large, one, rtol=1e-3, atol=1e-4 * one.abs().max().item())
    assert one.mean() < 0  # 190 steps against 10
    ruled = learn(300.0, balanced=False)
    assert ruled.mean() > 0.5 * one.mean()  # most of what the others do is lost, or more


@pytest.mark.parametrize("name", [name for name, it in OPTIMIZERS.items() if it.package])
def test_an_optimizer_without_its_package_says_how_to_get_it(monkeypatch, name):
    package = OPTIMIZERS[name].package
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=f"pip install {package}, or use"):
        build_optimizer(name, [torch.nn.Parameter(torch.ones(1))], 1.0, 0.0)


def test_8_bit_on_a_cpu_is_refused_before_its_state_is_lost(monkeypatch):
    monkeypatch.setattr("medart_cli.models.optimizers.find_spec", lambda name: name)
    check_optimizer("adamw8bit")
    with pytest.raises(ConfigError, match="its state cannot be saved on a CPU; use --optimizer"):
        check_optimizer("adamw8bit", "cpu")
    check_optimizer("adamw8bit", "cuda")
    check_optimizer("adamw", "cpu")


def test_a_rate_of_adamw_is_refused_where_it_would_be_a_factor():
    with pytest.raises(ConfigError, match="--learning-rate 0.0001: with --optimizer prodigy it"):
        check_rate("prodigy", 1e-4)
    check_rate("prodigy", 0.5)
    check_rate("lion", 1e-5)
