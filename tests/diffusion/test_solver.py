"""The solver and HLDF's gradient, against the pipelines of diffusers and finite differences."""

from unittest.mock import patch

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline

from medart_cli.diffusion.losses import color_moments, squared_gap
from medart_cli.diffusion.noise import mix_velocity
from medart_cli.diffusion.solver import solve
from medart_cli.models import pixart
from medart_cli.models.bases import find_kind, load_tokenizer
from medart_cli.models.families import build_denoiser
from medart_cli.models.parts import recompute_blocks, renew_scheduler
from tests.small import build_base

CPU = torch.device("cpu")
PROMPTS = ["A dermoscopic image of melanoma", " small NEVUS "]


@pytest.fixture(scope="module")
def alpha(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("alpha"), sample_size=8)


@pytest.fixture(scope="module")
def sigma(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("sigma"), sigma=True, sample_size=8)


@pytest.fixture(scope="module")
def alpha_1024(tmp_path_factory):  # a sample size of 128 switches the size conditions on
    return build_base(tmp_path_factory.mktemp("alpha1024"), sample_size=128, latent_levels=4)


def encode(base, prompts):
    text_encoder = pixart.load_text_encoder(base, torch.float32, CPU)
    tokenizer, limit = load_tokenizer(base), find_kind(base).tokens
    ids, mask = pixart.tokenize(tokenizer, prompts, limit, pad=True)
    return pixart.encode_tokens(text_encoder, ids, mask), mask


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("steps", [3, 20])
@pytest.mark.parametrize(
    ("fixture", "kind"),
    [
        ("alpha", PixArtAlphaPipeline),
        ("sigma", PixArtSigmaPipeline),
        ("alpha_1024", PixArtAlphaPipeline),
    ],
)
@pytest.mark.parametrize("sides", [(8, 8), (4, 12)])
def test_latents_are_those_of_the_pipeline_for_the_same_noise(
    request, fixture, kind, guidance, steps, sides
):
    base = request.getfixturevalue(fixture)
    noise = torch.randn(2, 4, *sides, generator=torch.Generator().manual_seed(1))
    scale = 8 if fixture == "alpha_1024" else 2
    expected = kind.from_pretrained(base)(
        PROMPTS, num_inference_steps=steps, guidance_scale=guidance, latents=noise.clone(),
        height=sides[0] * scale, width=sides[1] * scale, output_type="latent", clean_caption=False,
        use_resolution_binning=False, max_sequence_length=find_kind(base).tokens,
    ).images  # fmt: skip
    transformer = pixart.load_transformer(base, torch.float32, CPU)
    text, empty = encode(base, PROMPTS), encode(base, [""])
    with torch.no_grad():
        denoise = build_denoiser(pixart.FAMILY, transformer, text, empty, guidance)
        latents = solve(denoise, noise, pixart.load_scheduler(base), steps)
    assert (latents - expected).abs().max() <= 1e-4 * expected.abs().max()


class Float64Scheduler(DPMSolverMultistepScheduler):
    """The stock scheduler, whose step lifts latents to float32, lifting them to float64."""

    def step(self, *arguments, **options):
        with patch.object(torch, "float32", torch.float64):
            return super().step(*arguments, **options)


class Toy:
    """HLDF on a small base in float64: from a few weights to the color loss."""

    def __init__(self, base):
        self.transformer = pixart.load_transformer(base, torch.float32, CPU).double()
        self.text_encoder = pixart.load_text_encoder(base, torch.float32, CPU).double()
        self.vae = pixart.load_vae(base, CPU).double()
        self.scheduler = Float64Scheduler.from_pretrained(base, subfolder="scheduler")
        tokenizer = load_tokenizer(base)
        self.ids, self.mask = pixart.tokenize(tokenizer, [*PROMPTS, ""], 16, pad=False)
        generator = torch.Generator().manual_seed(2)
        self.noise = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
        self.moments = color_moments(torch.rand(2, 3, 16, 16, generator=generator).double())
        self.weights = [
            self.transformer.transformer_blocks[0].attn1.to_q.weight,
            self.transformer.transformer_blocks[1].attn2.to_k.weight,
            self.text_encoder.encoder.block[0].layer[0].SelfAttention.v.weight,
        ]
        for weight in self.weights:
            weight.requires_grad_(True)

    def loss(self, steps=4, blocks=False, **how):
        recompute_blocks(self.transformer, blocks)
        embeds = pixart.encode_tokens(self.text_encoder, self.ids, self.mask)
        text, empty = (embeds[:2], self.mask[:2]), (embeds[2:], self.mask[2:])
        denoise = build_denoiser(pixart.FAMILY, self.transformer, text, empty, 4.5)
        scheduler = renew_scheduler(self.scheduler, 8)
        latents = solve(denoise, self.noise, scheduler, steps, **how)
        return squared_gap(color_moments(pixart.decode_latents(self.vae, latents)), self.moments)

    def gradients(self, **how):
        return torch.autograd.grad(self.loss(**how), self.weights)


@pytest.fixture(scope="module")
def toy(alpha):
    return Toy(alpha)


def test_the_gradient_agrees_with_finite_differences(toy):
    gradients = toy.gradients()
    for weight, gradient in zip(toy.weights, gradients, strict=True):
        largest = gradient.abs().argmax().item()
        place, step = divmod(largest, weight.shape[1]), 1e-3
        values = []
        for shift in (step, -2 * step):
            weight.data[place] += shift
            values.append(toy.loss().item())
        weight.data[place] += step
        slope = (values[0] - values[1]) / (2 * step)
        # T5's norms and the timestep embedding keep to float32, which bounds the agreement.
        assert gradient[place].item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(
    "how",
    [{"recompute": True}, {"blocks": True}, {"recompute": True, "blocks": True}, {"grad_steps": 4}],
)
def test_recomputing_does_not_change_the_gradient(toy, how):
    for plain, other in zip(toy.gradients(), toy.gradients(**how), strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-6, atol=1e-12)


def test_fewer_gradient_steps_leave_the_image_and_change_the_gradient(toy):
    assert toy.loss(grad_steps=1).item() == pytest.approx(toy.loss().item(), rel=1e-9)
    assert not torch.allclose(toy.gradients(grad_steps=1)[0], toy.gradients()[0], rtol=1e-3)


def test_memory_of_recomputed_steps_is_one_latent_a_step(toy):
    def remembered(**how):
        size = 0

        def pack(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            toy.loss(**how)
        return size

    growth = remembered(steps=6, recompute=True) - remembered(steps=3, recompute=True)
    plain = remembered(steps=6) - remembered(steps=3)
    assert growth < plain / 50


def test_a_model_of_velocity_draws_what_the_same_model_of_noise_draws(alpha):
    """Both know one image: each says what it is to predict for that image exactly."""
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    drawn = []
    for kind in ("epsilon", "v_prediction"):
        scheduler = DPMSolverMultistepScheduler.from_config(
            pixart.load_scheduler(alpha).config, prediction_type=kind
        )
        alpha_bar = scheduler.alphas_cumprod

        def denoise(latents, timestep, kind=kind, alpha_bar=alpha_bar):
            kept = alpha_bar[timestep]
            told = (latents - kept.sqrt() * clean) / (1 - kept).sqrt()
            times = timestep.expand(2)
            return told if kind == "epsilon" else mix_velocity(clean, told, times, alpha_bar)

        drawn.append(solve(denoise, noise, scheduler, 6))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(drawn[1], clean, rtol=1e-2, atol=1e-2)
