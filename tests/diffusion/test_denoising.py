import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from medart_cli.diffusion.denoising import denoising_losses
from medart_cli.diffusion.process import PROCESSES, Times


def build_rows(count=3):
    generator = torch.Generator().manual_seed(0)
    return [
        {"mean": torch.randn(4, 6, 6, generator=generator), "std": torch.rand(4, 6, 6),
         "moments": torch.zeros(6)}
        for _ in range(count)
    ]  # fmt: skip


def measure(rows, seeds, predict, process="ddpm", scheduler=None):
    scheduler = scheduler or DDPMScheduler()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return denoising_losses(
        PROCESSES[process], scheduler, Times("uniform"), rows, generators, predict
    )


def test_the_loss_is_that_of_the_library_s_own_noise():
    rows, scheduler, seen = build_rows(1), DDPMScheduler(), []

    def predict(noisy, timesteps):
        seen.append((noisy, timesteps))
        return 0.5 * noisy

    loss = measure(rows, [7], predict)
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(4, 6, 6, generator=generator) for _ in range(2)]
    step = torch.randint(1000, (), generator=generator)
    latents = rows[0]["mean"] + rows[0]["std"] * drawn[0]
    noisy = scheduler.add_noise(latents[None], drawn[1][None], step[None])
    assert seen[0][1].tolist() == [int(step)]
    torch.testing.assert_close(seen[0][0], noisy)
    truth = torch.nn.functional.mse_loss(0.5 * noisy[0], drawn[1])
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(truth.item(), rel=1e-5)


@pytest.mark.parametrize("process", ["ddpm", "flow"])
def test_a_row_s_loss_depends_on_its_generator_alone_and_not_on_its_batch(process):
    scheduler = FlowMatchEulerDiscreteScheduler() if process == "flow" else None
    rows = build_rows()

    def predict(noisy, timesteps):
        return noisy * timesteps.view(-1, 1, 1, 1) / 1000

    together = measure(rows, [1, 2, 2], predict, process, scheduler)
    alone = [
        measure([row], [seed], predict, process, scheduler).item()
        for row, seed in zip(rows, (1, 2, 2), strict=True)
    ]
    assert together.tolist() == pytest.approx(alone, rel=1e-6)
    assert len({*alone}) == 3


def test_no_gradient_is_kept():
    weight = torch.ones((), requires_grad=True)
    assert not measure(build_rows(), [1, 2, 3], lambda noisy, _: weight * noisy).requires_grad
