import pytest
import torch

from medart_cli.finetune.optimizer import (
    balance_gradients,
    build_schedule,
    choose_recompute,
    take_gradients,
)
from medart_cli.models.optimizers import build_optimizer


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


@pytest.mark.parametrize(("free", "choice"), [(40e9, "none"), (6e9, "block"), (2e9, "step")])
def test_hldf_recomputes_no_more_than_memory_asks_for(free, choice):
    assert choose_recompute(free, pass_bytes=1.5e9, latent_bytes=0.1e9, steps=20) == choice


def build_parameters(*gradients):
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    return parameters


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_gradient_is_scaled_to_a_share_of_the_norm_of_another_and_added(share):
    parameters = build_parameters([3.0, 0.0], [0.0, 4.0])  # norm 5
    noise = take_gradients(parameters)
    assert all(parameter.grad is None for parameter in parameters)
    for parameter, gradient in zip(parameters, ([0.0, 60.0], [80.0, 0.0]), strict=True):
        parameter.grad = torch.tensor(gradient)  # norm 100
    balance_gradients(parameters, noise, share)
    added = share * 5 / 100
    torch.testing.assert_close(parameters[0].grad, torch.tensor([3.0, 60 * added]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([80 * added, 4.0]))


def test_parameters_that_one_loss_alone_reaches_keep_its_gradient():
    parameters = build_parameters([0.0, 2.0], None, [0.0, 0.0])
    noise = take_gradients(parameters)
    parameters[1].grad = torch.tensor([10.0, 0.0])
    balance_gradients(parameters, noise, 1.0)
    assert [parameter.grad.tolist() for parameter in parameters] == [[0, 2], [2, 0], [0, 0]]


def test_a_loss_without_any_gradient_changes_nothing():
    parameters = build_parameters([0.0, 2.0])
    noise = take_gradients(parameters)
    parameters[0].grad = torch.zeros(2)
    balance_gradients(parameters, noise, 1.0)
    assert parameters[0].grad.tolist() == [0.0, 2.0]


def test_a_rare_large_gradient_no_longer_rules_adamw():
    """Why gradients are balanced: what a rare gradient of any size does to the other steps."""

    def train(scale, balanced):
        noisy, rare = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        optimizer = torch.optim.AdamW([noisy, rare], lr=1e-3, weight_decay=0)
        for step in range(1, 401):
            noisy.grad, rare.grad = torch.ones(1), torch.zeros(1)
            if step % 20 == 0:
                first = take_gradients([noisy, rare])
                noisy.grad, rare.grad = scale * torch.ones(1), scale * torch.ones(1)
                if balanced:
                    balance_gradients([noisy, rare], first, 1.0)
                else:
                    noisy.grad += first[0]
            optimizer.step()
        return noisy.item(), rare.item()

    large, small = train(100.0, balanced=False), train(1.0, balanced=True)
    assert large[0] > -0.2  # 400 steps of 1e-3 are 0.4: the other loss has lost most of them
    assert small[0] < -0.35
    assert train(100.0, balanced=True) == pytest.approx(small)
