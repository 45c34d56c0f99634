import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from medart_cli.diffusion.noise import add_noise, mix_velocity, signal_to_noise


def scheduler():
    return DDPMScheduler(beta_start=1e-4, beta_end=2e-2, beta_schedule="linear")


def test_noisy_latents_are_those_of_diffusers():
    clean, noise = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    timesteps = torch.tensor([0, 500, 999])
    expected = scheduler().add_noise(clean, noise, timesteps)
    mixed = add_noise(clean, noise, timesteps, scheduler().alphas_cumprod)
    torch.testing.assert_close(mixed, expected)


def test_the_signal_to_noise_ratio_is_that_of_diffusers():
    timesteps = torch.arange(1000)
    expected = compute_snr(scheduler(), timesteps)
    ratio = signal_to_noise(timesteps, scheduler().alphas_cumprod)
    torch.testing.assert_close(ratio, expected, rtol=1e-4, atol=1e-6)


def test_the_velocity_is_that_of_diffusers():
    clean, noise = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    timesteps = torch.tensor([0, 500, 999])
    expected = scheduler().get_velocity(clean, noise, timesteps)
    mixed = mix_velocity(clean, noise, timesteps, scheduler().alphas_cumprod)
    torch.testing.assert_close(mixed, expected)
