"""The ways from images to noise agree with diffusers' schedulers, and times with their laws."""

import math

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from medart_cli.diffusion.process import DDPM, FLOW, Times

LATENTS, NOISE = torch.randn(3, 4, 6, 6), torch.randn(3, 4, 6, 6)


def draw(times, count=4000):
    generator = torch.Generator().manual_seed(0)
    return torch.stack([times.draw(generator) for _ in range(count)])


def test_the_chain_is_that_of_ddpm():
    scheduler, times = DDPMScheduler(), torch.tensor([0, 400, 999])
    torch.testing.assert_close(
        DDPM.corrupt(scheduler, LATENTS, NOISE, times), scheduler.add_noise(LATENTS, NOISE, times)
    )
    assert DDPM.find_target(scheduler, LATENTS, NOISE, times) is NOISE
    velocity = DDPMScheduler(prediction_type="v_prediction")
    torch.testing.assert_close(
        DDPM.find_target(velocity, LATENTS, NOISE, times),
        velocity.get_velocity(LATENTS, NOISE, times),
    )
    assert DDPM.predicts_velocity(velocity) and not DDPM.predicts_velocity(scheduler)
    assert torch.equal(DDPM.to_timesteps(scheduler, times), times)


def test_uniform_times_of_the_chain_are_drawn_as_ever():
    scheduler = DDPMScheduler()
    drawn = DDPM.draw_time(scheduler, Times("uniform"), torch.Generator().manual_seed(3))
    assert drawn == torch.randint(1000, (), generator=torch.Generator().manual_seed(3))


def test_other_times_of_the_chain_are_steps_of_it():
    scheduler, generator = DDPMScheduler(), torch.Generator().manual_seed(0)
    drawn = [DDPM.draw_time(scheduler, Times("logit-normal", 8), generator) for _ in range(500)]
    assert all(item.dtype == torch.int64 and 0 <= item <= 999 for item in drawn)
    assert sum(map(int, drawn)) / 500 > 700  # a large shift is nearly all noise


def test_the_flow_is_that_of_flow_matching_schedulers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    timesteps = scheduler.timesteps[[1, 4, 8]]
    shares = timesteps / 1000
    torch.testing.assert_close(
        FLOW.corrupt(scheduler, LATENTS, NOISE, shares),
        scheduler.scale_noise(LATENTS, timesteps, NOISE),
    )
    torch.testing.assert_close(FLOW.to_timesteps(scheduler, shares), timesteps)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    ],
    ids=["Euler", "DPM-Solver++"],
)
def test_a_model_that_predicts_the_target_leads_a_solver_back_to_the_image(scheduler):
    scheduler.set_timesteps(8)
    first = float(scheduler.sigmas[0])
    shares = torch.full((3,), first)
    noisy = FLOW.corrupt(scheduler, LATENTS, NOISE, shares)
    target = FLOW.find_target(scheduler, LATENTS, NOISE, shares)
    for timestep in scheduler.timesteps:
        noisy = scheduler.step(target, timestep, noisy, return_dict=False)[0]
    left = float(scheduler.sigmas[-1])
    torch.testing.assert_close(noisy, LATENTS + left * (NOISE - LATENTS), atol=1e-3, rtol=1e-3)


def test_the_target_of_the_flow_is_how_fast_it_goes():
    one, two = (FLOW.corrupt(None, LATENTS, NOISE, torch.full((3,), s)) for s in (0.25, 0.75))
    torch.testing.assert_close((two - one) / 0.5, FLOW.find_target(None, LATENTS, NOISE, None))
    assert FLOW.snr is None and FLOW.predicts_velocity(None)


def test_logit_normal_times_have_normal_logits():
    logits = torch.logit(draw(Times("logit-normal")).double())
    assert abs(logits.mean()) < 0.06 and abs(logits.std() - 1) < 0.04
    assert abs((logits < 1).double().mean() - 0.5 * (1 + math.erf(1 / math.sqrt(2)))) < 0.02


@pytest.mark.parametrize("kind", ["uniform", "logit-normal"])
def test_a_shift_moves_times_as_schedulers_move_theirs(kind):
    plain, shifted = draw(Times(kind), 50), draw(Times(kind, 3.0), 50)
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))
    assert bool((shifted >= plain).all()) and float(shifted.max()) <= 1
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)  # shifts the same shares the same way
    scheduler.set_timesteps(sigmas=plain.sort(descending=True).values.tolist())
    torch.testing.assert_close(scheduler.sigmas[:-1], shifted.sort(descending=True).values)
