"""FLUX.2-klein-base: our parts against its own pipeline, and what differs from other bases."""

import math
import shutil
from unittest.mock import patch

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from peft import PeftModel
from safetensors.torch import load_file, save_file

from medart_cli.diffusion.losses import color_moments, squared_gap
from medart_cli.diffusion.solver import solve
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models import adapters, klein
from medart_cli.models.bases import (
    caption_tokens,
    count_tokens,
    find_base,
    find_kind,
    guess_size,
    hash_base,
    load_tokenizer,
    write_chat,
)
from medart_cli.models.families import build_denoiser, check_size, find_family
from medart_cli.models.parts import recompute_blocks
from tests.small_klein import build_klein

CPU = torch.device("cpu")
PROMPTS = ["A brown Nevus, with a smooth border.", " melanoma"]
SIDE = 8  # of the latents, for images of 32 pixels


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_klein(tmp_path_factory.mktemp("klein") / "base")


@pytest.fixture(scope="module")
def pipeline(base):
    loaded = Flux2KleinPipeline.from_pretrained(base)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def read(base, prompts, **options):
    text_encoder = klein.load_text_encoder(base, torch.float32, CPU)
    with torch.no_grad():
        return klein.read_prompts(
            load_tokenizer(base), text_encoder, prompts, limit=512, **{"pad": False, **options}
        )


def test_the_family_is_read_from_the_folder(base):
    assert find_base(str(base)) == base
    assert find_kind(base).name == "FLUX.2-klein-base"
    assert find_family(base) is klein.FAMILY
    assert "Qwen3" in guess_size("black-forest-labs/FLUX.2-klein-base-4B")


def test_prompts_are_read_as_its_pipeline_reads_them_padding_and_capitals_too(base, pipeline):
    prompts = [*PROMPTS, "", PROMPTS[0].lower(), "red lesion " * 60]  # the last one is cut
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(prompts, device=CPU)
    for pad in (True, False):
        embeds, mask = read(base, prompts, pad=pad)
        assert embeds.shape == theirs.shape == (5, 512, 48)
        assert mask.shape == (5, 512) and bool(mask.all())
        torch.testing.assert_close(embeds, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(embeds[0], embeds[3])


def test_an_embedding_does_not_depend_on_those_beside_it(base):
    together, _ = read(base, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        assert torch.equal(read(base, [prompt])[0][0], together[row])


def test_a_caption_has_the_tokens_that_the_chat_template_leaves(base):
    tokenizer, kind = load_tokenizer(base), find_kind(base)
    own = caption_tokens(kind, tokenizer)
    assert own == 512 - len(tokenizer(write_chat(tokenizer, "")).input_ids)
    caption = "Ab" * (own // 2) + "c" * (own % 2)  # the small tokenizer reads single letters
    assert count_tokens(kind, tokenizer, caption) == own
    assert len(tokenizer(write_chat(tokenizer, caption)).input_ids) == 512
    assert count_tokens(kind, tokenizer, " A ") == 3


def test_a_tokenizer_without_its_chat_template_is_refused(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base/tokenizer/chat_template.jinja").unlink()
    with pytest.raises(MissingModelError, match=r"there is no chat template; copy its \.jinja"):
        load_tokenizer(tmp_path / "base")


def test_another_chat_template_is_another_base(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    place = tmp_path / "base/tokenizer/chat_template.jinja"
    place.write_text(place.read_text().replace("assistant", "painter"))
    known, other = hash_base(base), hash_base(tmp_path / "base")
    assert {name for name in known if known[name] != other[name]} == {"tokenizer"}


@pytest.mark.parametrize("tied", [True, False])
def test_qwens_head_may_be_in_its_file_or_not_since_it_is_tied(base, tmp_path, tied):
    shutil.copytree(base, tmp_path / "base")
    place = tmp_path / "base/text_encoder/model.safetensors"
    weights = load_file(place)
    assert "lm_head.weight" not in weights
    if not tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, place, metadata={"format": "pt"})
    assert torch.equal(read(tmp_path / "base", PROMPTS)[0], read(base, PROMPTS)[0])


@pytest.mark.parametrize(
    ("part", "file", "weight"),
    [
        ("text_encoder", "model", "model.layers.3.mlp.up_proj.weight"),
        (
            "transformer",
            "diffusion_pytorch_model",
            "single_transformer_blocks.1.attn.to_out.weight",
        ),
        ("vae", "diffusion_pytorch_model", "bn.running_var"),
    ],
)
def test_a_part_that_lacks_a_weight_is_refused(base, tmp_path, part, file, weight):
    shutil.copytree(base, tmp_path / "base")
    place = tmp_path / "base" / part / f"{file}.safetensors"
    weights = load_file(place)
    del weights[weight]
    save_file(weights, place, metadata={"format": "pt"})
    with pytest.raises(MissingModelError, match=f"1 weights are missing, such as {weight}"):
        if part == "vae":
            klein.load_vae(tmp_path / "base", CPU)
        else:
            getattr(klein, f"load_{part}")(tmp_path / "base", torch.float32, CPU)


@pytest.mark.parametrize(
    ("guidance", "sides"), [(1.0, (SIDE, SIDE)), (4.0, (SIDE, SIDE)), (4.0, (4, 12))]
)
def test_latents_are_those_of_its_pipeline(base, pipeline, guidance, sides):
    noise = torch.randn(2, 16, *sides, generator=torch.Generator().manual_seed(0))
    theirs = pipeline(
        prompt=PROMPTS, num_inference_steps=5, guidance_scale=guidance, latents=noise,
        height=4 * sides[0], width=4 * sides[1], output_type="latent",
    ).images  # fmt: skip
    transformer = klein.load_transformer(base, torch.float32, CPU)
    embeds, mask = read(base, [*PROMPTS, ""])
    denoise = build_denoiser(
        klein.FAMILY, transformer, (embeds[:-1], mask[:-1]), (embeds[-1:], mask[-1:]), guidance
    )
    with torch.no_grad():
        scheduler = klein.renew_scheduler(klein.load_scheduler(base), sides[0] * sides[1])
        ours = solve(denoise, noise, scheduler, 5)
    variance = pipeline.vae.bn.running_var.view(1, -1, 1, 1) + pipeline.vae.config.batch_norm_eps
    ours = ours * variance.sqrt() + pipeline.vae.bn.running_mean.view(1, -1, 1, 1)
    assert not torch.allclose(ours, noise, atol=0.1)
    torch.testing.assert_close(pipeline._unpatchify_latents(ours), theirs, atol=1e-4, rtol=1e-4)


def test_images_go_through_the_autoencoder_as_its_own_methods_do(base, pipeline):
    vae = klein.load_vae(base, CPU)
    assert vae.dtype == torch.float32 and not vae.training
    images = torch.rand(2, 3, 16, 32) * 2 - 1
    mean, deviation = klein.encode_images(vae, images)
    scale = klein.latent_scale(vae)
    assert mean.shape == (2, klein.FAMILY.latent_channels(vae), 16 // scale, 32 // scale)
    with torch.no_grad():
        theirs = pipeline._encode_vae_image(images, torch.Generator())
        torch.testing.assert_close(mean, theirs)
        posterior = pipeline.vae.encode(images).latent_dist
        torch.testing.assert_close(klein.decode_latents(vae, mean), vae.decode(posterior.mean)[0])
        spread = vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps
        own = pipeline._patchify_latents(posterior.std)
        torch.testing.assert_close(deviation, own / spread.sqrt())


def test_sizes_are_whole_latents_and_the_native_one_is_its_pipelines_own(base, pipeline):
    vae = klein.load_vae(base, CPU)
    transformer = klein.load_transformer(base, torch.float32, CPU)
    assert klein.latent_scale(vae) == 2 * pipeline.vae_scale_factor == 4
    own = pipeline.default_sample_size * pipeline.vae_scale_factor
    assert klein.native_size(base, transformer, vae) == own
    check_size(klein.FAMILY, 32, transformer, vae)
    with pytest.raises(ConfigError, match="this base needs a multiple of 4"):
        check_size(klein.FAMILY, 34, transformer, vae)


def test_the_planned_memory_of_block_inputs_is_what_recomputing_keeps(base):
    transformer = klein.load_transformer(base, torch.float32, CPU)
    transformer.x_embedder.weight.requires_grad_(True)
    recompute_blocks(transformer, True)
    text, inputs = (torch.randn(1, 512, 48), torch.ones(1, 512)), 0

    def count(module, arguments):
        nonlocal inputs
        inputs += sum(item.numel() for item in arguments[:2] if item is not None)

    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        block.register_forward_pre_hook(count)
    klein.predict_velocity(
        transformer, torch.randn(1, 16, SIDE, SIDE), torch.tensor([500.0]), *text
    )
    assert klein.count_inputs(transformer, SIDE) == inputs


def test_training_times_take_flux1s_shift_and_not_the_empirical_one(base):
    scheduler = klein.load_scheduler(base)
    for side, mu in {16: 0.5, 64: 1.15, 32: 0.63}.items():  # 256, 1024 and 512 pixels
        kind, shift = klein.recipe(scheduler, side)
        assert kind == "logit-normal"
        assert shift == pytest.approx(math.exp(mu))
        # The scheduler's own arithmetic, for the same exponent.
        share = torch.tensor(0.3)
        shifted = shift * share / (1 + (shift - 1) * share)
        assert scheduler.time_shift(mu, 1.0, share).item() == pytest.approx(shifted.item())
    plain = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert klein.recipe(plain, 32) == ("logit-normal", 3.0)
    linear = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    assert klein.recipe(linear, 64) == ("logit-normal", pytest.approx(1.15))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            DPMSolverMultistepScheduler(),
            "is a DPMSolverMultistepScheduler; this base's own scheduler is FlowMatch",
        ),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "has stochastic_sampling or"),
    ],
)
def test_other_schedulers_are_refused(tmp_path, scheduler, message):
    scheduler.save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ConfigError, match=message):
        klein.load_scheduler(tmp_path)


def test_a_folder_without_a_scheduler_is_refused(tmp_path):
    with pytest.raises(MissingModelError, match="scheduler_config.json: cannot be read; copy"):
        klein.load_scheduler(tmp_path)


def test_adapters_are_on_all_layers_and_load_with_plain_peft(base, tmp_path):
    def load():
        return klein.load_transformer(base, torch.float32, CPU)

    adapted = adapters.add_adapter(load(), "lora", rank=2, alpha=None, targets=klein.FAMILY.targets)
    layers = {
        name for name, module in load().named_modules() if isinstance(module, torch.nn.Linear)
    }
    wrapped = {name.removeprefix("base_model.model.") for name, module in adapted.named_modules()
               if hasattr(module, "lora_A")}  # fmt: skip
    assert wrapped == layers and len(layers) > 20
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    (tmp_path / "saved").mkdir()
    adapters.save_part(adapted, tmp_path / "saved")
    inputs = torch.randn(1, 16, 4, 4), torch.tensor([500.0]), torch.randn(1, 512, 48), None
    with torch.no_grad():
        moved = klein.predict_velocity(adapted, *inputs)
        plain = Flux2Transformer2DModel.from_pretrained(base / "transformer")
        plain = PeftModel.from_pretrained(plain, tmp_path / "saved")
        torch.testing.assert_close(klein.predict_velocity(plain, *inputs), moved)
        merged = adapters.load_adapter(load(), tmp_path / "saved", merge=True)
        torch.testing.assert_close(
            klein.predict_velocity(merged, *inputs), moved, rtol=1e-3, atol=1e-4
        )
        assert not torch.allclose(klein.predict_velocity(load(), *inputs), moved, atol=1e-3)


class Toy:
    """HLDF on the small base in float64: from a few weights to the color loss."""

    def __init__(self, base):
        self.transformer = klein.load_transformer(base, torch.float32, CPU).double()
        self.vae = klein.load_vae(base, CPU).double()
        self.scheduler = klein.load_scheduler(base)
        embeds, mask = read(base, [PROMPTS[0], ""])
        self.text, self.empty = (embeds[:1].double(), mask[:1]), (embeds[1:].double(), mask[1:])
        generator = torch.Generator().manual_seed(2)
        self.noise = torch.randn(1, 16, 4, 4, generator=generator, dtype=torch.float64)
        self.moments = color_moments(torch.rand(1, 3, 16, 16, generator=generator).double())
        self.weights = [
            self.transformer.transformer_blocks[0].attn.add_v_proj.weight,
            self.transformer.single_transformer_blocks[1].attn.to_qkv_mlp_proj.weight,
            self.transformer.proj_out.weight,
        ]
        for weight in self.weights:
            weight.requires_grad_(True)

    def loss(self, *, blocks=False, **how):
        recompute_blocks(self.transformer, blocks)
        recompute_blocks(self.vae, blocks)
        denoise = build_denoiser(klein.FAMILY, self.transformer, self.text, self.empty, 4.0)
        scheduler = klein.renew_scheduler(self.scheduler, 16)
        step = scheduler.step

        def step_in_float64(*arguments, **options):  # the stock one lifts latents to float32
            with patch.object(torch, "float32", torch.float64):
                return step(*arguments, **options)

        with patch.object(scheduler, "step", step_in_float64):
            latents = solve(denoise, self.noise, scheduler, 3, **how)
        return squared_gap(color_moments(klein.decode_latents(self.vae, latents)), self.moments)

    def gradients(self, **how):
        return torch.autograd.grad(self.loss(**how), self.weights)


@pytest.fixture(scope="module")
def toy(base):
    return Toy(base)


def test_the_gradient_agrees_with_finite_differences(toy):
    for weight, gradient in zip(toy.weights, toy.gradients(), strict=True):
        place, step = divmod(gradient.abs().argmax().item(), weight.shape[1]), 1e-3
        values = []
        for shift in (step, -2 * step):
            weight.data[place] += shift
            values.append(toy.loss().item())
        weight.data[place] += step
        slope = (values[0] - values[1]) / (2 * step)
        # Rotary positions are applied in float32, which bounds the agreement.
        assert gradient[place].item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(
    "how", [{"recompute": True}, {"blocks": True}, {"recompute": True, "blocks": True}]
)
def test_recomputing_does_not_change_the_gradient(toy, how):
    for plain, other in zip(toy.gradients(), toy.gradients(**how), strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-6, atol=1e-12)
