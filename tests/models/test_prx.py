"""PRX: our parts against its own pipeline, HLDF's gradient, and the commands."""

import json
import shutil
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PRXPipeline,
    PRXTransformer2DModel,
)
from diffusers.pipelines.prx import pipeline_prx
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import T5Config, T5GemmaConfig, T5GemmaModel

from medart_cli.diffusion.losses import color_moments, squared_gap
from medart_cli.diffusion.solver import solve
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models import adapters, prx
from medart_cli.models.bases import find_base, find_kind, guess_size, load_tokenizer
from medart_cli.models.device import build_generator
from medart_cli.models.families import build_denoiser, check_size, find_family
from medart_cli.models.parts import recompute_blocks
from tests.models.test_pixart import edit
from tests.small import DAMAGES, damage
from tests.small_prx import ENCODER, build_prx

CPU = torch.device("cpu")
PROMPTS = ["A brown nevus, with a smooth border.", "melanoma"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_prx(tmp_path_factory.mktemp("prx") / "base")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    return build_prx(tmp_path_factory.mktemp("prx") / "deep", deep=True)


@pytest.fixture(autouse=True)
def mojibake(monkeypatch):
    """The pipeline mends broken letters with ftfy, which medart does without; these have none."""
    monkeypatch.setattr(
        pipeline_prx, "ftfy", SimpleNamespace(fix_text=lambda text: text), raising=False
    )


def open_pipeline(folder, **parts):
    pipeline = PRXPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read(base, prompts, *, pad=False):
    text_encoder = prx.load_text_encoder(base, torch.float32, CPU)
    with torch.no_grad():
        return prx.read_prompts(
            load_tokenizer(base), text_encoder, prompts, pad=pad, limit=find_kind(base).tokens
        )


def draw_latents(base, transformer, noise, guidance, steps=5):
    embeds, mask = read(base, [*PROMPTS, ""])
    text, empty = (embeds[:-1], mask[:-1]), (embeds[-1:], mask[-1:])
    denoise = build_denoiser(prx.FAMILY, transformer, text, empty, guidance)
    with torch.no_grad():
        return solve(denoise, noise, prx.load_scheduler(base), steps)


def stock_latents(pipeline, noise, guidance, steps=5):
    """Draw one prompt after the other: with guidance, the pipeline fails on several at once."""
    height, width = (2 * side for side in noise.shape[2:])
    drawn = [
        pipeline(
            prompt, num_inference_steps=steps, guidance_scale=guidance, latents=row[None],
            height=height, width=width, output_type="latent", use_resolution_binning=False,
        ).images
        for prompt, row in zip(PROMPTS, noise, strict=True)
    ]  # fmt: skip
    return torch.cat(drawn)


def test_the_family_is_read_from_the_folder(base):
    assert find_base(str(base)) == base
    assert find_kind(base).name == "PRX"
    assert find_family(base) is prx.FAMILY
    assert "T5Gemma" in guess_size("Photoroom/prx-512-t2i")


def test_prompts_are_read_as_its_pipeline_reads_them(base):
    theirs, their_mask, empty, empty_mask = open_pipeline(base).encode_prompt(PROMPTS)
    assert find_kind(base).tokens == load_tokenizer(base).model_max_length
    embeds, mask = read(base, PROMPTS, pad=True)
    assert embeds.shape == theirs.shape == (2, 256, 16)
    assert torch.equal(mask.bool(), their_mask)
    torch.testing.assert_close(embeds[mask == 1], theirs[their_mask], atol=1e-5, rtol=1e-5)
    ours, mask = read(base, [""])
    torch.testing.assert_close(ours[0], empty[0][empty_mask[0]], atol=1e-5, rtol=1e-5)


def test_padding_on_the_left_reads_the_same(base):
    pipeline = open_pipeline(base)
    pipeline.tokenizer.padding_side = "left"
    theirs, their_mask, _, _ = pipeline.encode_prompt(PROMPTS)
    embeds, mask = read(base, PROMPTS)
    torch.testing.assert_close(embeds[mask == 1], theirs[their_mask], atol=1e-5, rtol=1e-5)


def test_what_its_pipeline_cuts_out_as_noise_of_the_web_is_read(base):
    prompt = "A (brown) nevus of 3x5 mm, image ab123"
    pipeline = open_pipeline(base)
    whole, mask, _, _ = pipeline.encode_prompt(prompt.lower(), skip_text_cleaning=True)
    ours, _ = read(base, [prompt])
    torch.testing.assert_close(ours[0], whole[mask], atol=1e-5, rtol=1e-5)
    assert int(pipeline.encode_prompt(prompt)[1].sum()) < ours.shape[1] - 10


def test_a_prompt_that_is_too_long_is_cut_as_its_pipeline_cuts_it(base):
    long = "large red lesion " * 40
    theirs, mask, _, _ = open_pipeline(base).encode_prompt(long)
    embeds, _ = read(base, [long])
    assert embeds.shape == (1, 256, 16) and bool(mask.all())
    torch.testing.assert_close(embeds, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("guidance", "sides"), [(1.0, (8, 8)), (4.5, (8, 8)), (4.5, (4, 12))])
@pytest.mark.parametrize("kind", ["base", "deep"])
def test_latents_are_those_of_its_pipeline(request, kind, guidance, sides):
    folder = request.getfixturevalue(kind)
    noise = torch.randn(2, 4, *sides, generator=torch.Generator().manual_seed(0))
    theirs = stock_latents(open_pipeline(folder), noise, guidance)
    ours = draw_latents(folder, prx.load_transformer(folder, torch.float32, CPU), noise, guidance)
    assert (ours - noise).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["base", "deep"])
def test_images_go_through_the_autoencoder_as_its_own_methods_do(request, kind):
    folder = request.getfixturevalue(kind)
    vae, pipeline = prx.load_vae(folder, CPU), open_pipeline(folder)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, deviation = prx.encode_images(vae, images)
    assert mean.shape == (2, prx.FAMILY.latent_channels(vae), 8, 8)
    own = vae.config
    with torch.no_grad():
        coded = pipeline.vae.encode(images)
        if kind == "base":
            scaled = (coded.latent_dist.mean - own.shift_factor) * own.scaling_factor
            torch.testing.assert_close(deviation, coded.latent_dist.std * own.scaling_factor)
        else:
            scaled = coded.latent * own.scaling_factor
            assert not deviation.any()
        torch.testing.assert_close(mean, scaled)
        back = scaled / own.scaling_factor + (own.get("shift_factor") or 0)
        torch.testing.assert_close(
            prx.decode_latents(vae, mean), pipeline.vae.decode(back).sample, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("kind", ["base", "deep"])
def test_sizes_are_whole_patches_of_latents_and_the_native_one_is_in_the_index(request, kind):
    folder = request.getfixturevalue(kind)
    vae, transformer = prx.load_vae(folder, CPU), prx.load_transformer(folder, torch.float32, CPU)
    assert prx.latent_scale(vae) == 2
    assert prx.native_size(folder, transformer, vae) == 512
    unit = 4 if kind == "base" else 2
    check_size(prx.FAMILY, 8 * unit, transformer, vae)
    with pytest.raises(ConfigError, match=f"this base needs a multiple of {unit}"):
        check_size(prx.FAMILY, 8 * unit + 1, transformer, vae)
    assert prx.count_inputs(transformer, 8) == (16 if kind == "base" else 64) * 16 * 2


def test_what_the_blocks_are_given_is_what_is_counted(base):
    transformer = prx.load_transformer(base, torch.float32, CPU)
    seen = []
    for block in transformer.blocks:
        block.register_forward_pre_hook(
            lambda _, inputs, named: seen.append(named["hidden_states"].numel()), with_kwargs=True
        )
    embeds, mask = read(base, ["cell"])
    prx.predict_velocity(transformer, torch.zeros(1, 4, 8, 8), torch.tensor([5.0]), embeds, mask)
    assert sum(seen) == prx.count_inputs(transformer, 8)


def test_the_times_of_training_are_shifted_as_those_of_drawing(base):
    assert prx.FAMILY.recipe(prx.load_scheduler(base), 8) == ("logit-normal", 3.0)


def test_the_text_encoder_is_whole_in_the_hubs_layout_too(base, tmp_path):
    """transformers reads nothing of its config.json by itself (issue 13608 of diffusers)."""
    hub = build_prx(tmp_path / "base", hub_layout=True)
    for one, other in zip(read(base, PROMPTS), read(hub, PROMPTS), strict=True):
        assert torch.equal(one, other)
    assert T5GemmaConfig.from_pretrained(hub / "text_encoder").encoder.hidden_size == 2304


def test_another_text_encoder_is_refused_before_any_is_built(base, tmp_path):
    (shutil.copytree(base, tmp_path / "base") / "text_encoder/config.json").write_text(
        T5Config().to_json_string()
    )
    with pytest.raises(MissingModelError, match="is a t5; PRX reads with T5Gemma's encoder"):
        prx.load_text_encoder(tmp_path / "base", torch.float32, CPU)


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
@pytest.mark.parametrize("how", DAMAGES)
def test_no_weight_is_made_up_or_left_out(base, tmp_path, part, how):
    folder = shutil.copytree(base, tmp_path / "base")
    damage(folder / part, how)
    load = {
        "text_encoder": lambda: prx.load_text_encoder(folder, torch.float32, CPU),
        "transformer": lambda: prx.load_transformer(folder, torch.float32, CPU),
        "vae": lambda: prx.load_vae(folder, CPU),
    }
    with pytest.raises(MissingModelError) as caught:
        load[part]()
    assert DAMAGES[how] in str(caught.value)


def test_a_whole_t5gemma_in_the_encoders_place_is_refused(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    shutil.rmtree(folder / "text_encoder")
    sizes = ENCODER | {"vocab_size": 100}
    T5GemmaModel(T5GemmaConfig(encoder=sizes, decoder=sizes, vocab_size=100)).save_pretrained(
        folder / "text_encoder"
    )
    with pytest.raises(MissingModelError, match="weights are missing"):
        prx.load_text_encoder(folder, torch.float32, CPU)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            DPMSolverMultistepScheduler(),
            "this base's own scheduler is FlowMatchEuler",
        ),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "has use_dynamic_shifting"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "has stochastic_sampling"),
        (FlowMatchEulerDiscreteScheduler(num_train_timesteps=500), "has num_train_timesteps 500"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_another_scheduler_is_refused(tmp_path, scheduler, message):
    scheduler.save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ConfigError, match=message):
        prx.load_scheduler(tmp_path)


def test_a_base_without_its_autoencoder_or_with_another_is_refused(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    edit(folder / "vae/config.json", _class_name="AutoencoderTiny")
    with pytest.raises(ConfigError, match="is a AutoencoderTiny; PRX has AutoencoderKL or"):
        prx.load_vae(folder, CPU)
    shutil.rmtree(folder / "vae")
    edit(folder / "model_index.json", vae=[None, None])
    with pytest.raises(MissingModelError, match="the folder vae is missing; copy it too"):
        find_base(str(folder))


@pytest.mark.parametrize(
    ("place", "facts"),
    [
        ("prx-512-t2i-sft-distilled", {}),
        ("models--Photoroom--prx-512-t2i-sft-distilled/snapshots/0a1b", {}),
        ("base", {"_name_or_path": "prx-512-t2i-sft-distilled"}),
    ],
)
def test_a_distilled_one_is_known_by_its_name(tmp_path, place, facts):
    (tmp_path / place).mkdir(parents=True)
    index = {"_class_name": "PRXPipeline", **facts}
    (tmp_path / place / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="is a distilled PRXPipeline, which has no guidance"):
        find_kind(tmp_path / place)


class Toy:
    """HLDF on a small base in float64: from a few weights to the color loss."""

    def __init__(self, base):
        self.base = base
        self.transformer = prx.load_transformer(base, torch.float32, CPU).double()
        self.vae = prx.load_vae(base, CPU).double()
        embeds, self.mask = read(base, [*PROMPTS, ""])
        self.embeds = embeds.double()
        generator = torch.Generator().manual_seed(2)
        self.noise = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
        self.moments = color_moments(torch.rand(2, 3, 16, 16, generator=generator).double())
        self.weights = [
            self.transformer.blocks[0].attention.img_qkv_proj.weight,
            self.transformer.blocks[1].attention.txt_kv_proj.weight,
            self.transformer.blocks[1].down_proj.weight,
            self.transformer.final_layer.linear.weight,
        ]
        for weight in self.weights:
            weight.requires_grad_(True)

    def loss(self, blocks=False, **how):
        recompute_blocks(self.transformer, blocks)
        text = self.embeds[:2], self.mask[:2]
        empty = self.embeds[2:], self.mask[2:]
        denoise = build_denoiser(prx.FAMILY, self.transformer, text, empty, 4.5)
        latents = solve(denoise, self.noise, prx.load_scheduler(self.base), 3, **how)
        return squared_gap(color_moments(prx.decode_latents(self.vae, latents)), self.moments)

    def gradients(self, **how):
        return torch.autograd.grad(self.loss(**how), self.weights)


@pytest.fixture
def toy(base):
    toy = Toy(base)
    with (  # its scheduler, norms and rotations go to float32 by themselves
        patch.object(torch, "float32", torch.float64),
        patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield toy


def test_the_gradient_agrees_with_finite_differences(toy):
    for weight, gradient in zip(toy.weights, toy.gradients(), strict=True):
        place, step = divmod(gradient.abs().argmax().item(), weight.shape[1]), 1e-4
        values = []
        for shift in (step, -2 * step):
            weight.data[place] += shift
            with torch.no_grad():
                values.append(toy.loss().item())
        weight.data[place] += step
        slope = (values[0] - values[1]) / (2 * step)
        assert abs(slope) > 1e-6
        assert gradient[place].item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("how", [{"recompute": True}, {"blocks": True}, {"grad_steps": 3}])
def test_recomputing_does_not_change_the_gradient(toy, how):
    for plain, other in zip(toy.gradients(), toy.gradients(**how), strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-9, atol=1e-14)


# The commands

OPTIONS = (
    "--freeze-text-encoder", "--resolution", 16, "--hldf-every", 2, "--hldf-steps", 2,
    "--preview-every", 0, "--quiet",
)  # fmt: skip


@pytest.fixture
def finetune(medart, images, base, tmp_path):
    def run(*options, out="run", source=base, steps=4):
        folder = tmp_path / out
        code, _, errors = medart(
            "finetune", images, "--base", source, "--out", folder, "--steps", steps, *OPTIONS,
            *options,
        )  # fmt: skip
        assert code == 0, errors
        return folder

    return run


def weights(run):
    return load_file(run / "transformer/adapter_model.safetensors")


def test_a_run_draws_alike_in_medart_plain_peft_and_its_own_pipeline(
    finetune, medart, base, tmp_path
):
    run = finetune("--merge", "--learning-rate", 1e-2)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "color_loss" in row] == [2, 4]
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ours = draw_latents(
        base, adapters.load_trained_transformer(base, run, torch.float32, CPU), noise, 4.5
    )
    plain = PRXTransformer2DModel.from_pretrained(base, subfolder="transformer")
    adapted = PeftModel.from_pretrained(plain, run / "transformer").merge_and_unload()
    merged = open_pipeline(run / "merged")
    for pipeline in (merged, open_pipeline(base, transformer=adapted)):
        torch.testing.assert_close(stock_latents(pipeline, noise, 4.5), ours, atol=1e-4, rtol=1e-4)
    gap = stock_latents(open_pipeline(base), noise, 4.5) - ours
    assert gap.abs().max() > 1e-2

    out = tmp_path / "syn"
    code, _, errors = medart(
        "sample", run, "--prompt", PROMPTS[0], "--steps", 3, "--out", out, "--quiet"
    )
    assert code == 0, errors
    noise = torch.randn(4, 8, 8, generator=build_generator(0, "sample", 0))[None]
    drawn = np.asarray(Image.open(out / "000000.png")).astype(int)
    stock = merged(
        PROMPTS[0], num_inference_steps=3, guidance_scale=4.5, latents=noise, height=16, width=16,
        use_resolution_binning=False,
    ).images[0]  # fmt: skip
    assert drawn.shape == (16, 16, 3)
    assert abs(np.asarray(stock).astype(int) - drawn).max() <= 1  # one level of 255, from rounding


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(finetune):
    whole = finetune()
    finetune(out="parts", steps=2)
    first, second = weights(whole), weights(finetune(out="parts"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_ways_of_recomputing_train_the_same(finetune):
    first = weights(finetune("--hldf-checkpoint", "none"))
    for how in ("block", "step"):
        second = weights(finetune("--hldf-checkpoint", how, "--gradient-checkpointing", out=how))
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)


def test_one_with_a_deep_autoencoder_trains_and_its_blocks_are_not_recomputed(finetune, deep):
    first = weights(finetune("--hldf-checkpoint", "none", source=deep))
    second = weights(finetune("--gradient-checkpointing", source=deep, out="again"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)


def test_the_adapters_cover_every_matrix_of_the_transformer(base):
    transformer = prx.load_transformer(base, torch.float32, CPU)
    matrices = {
        name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)
    }
    assert len(matrices) == 2 * 7 + 6
    adapted = adapters.add_adapter(
        transformer, "lora", rank=2, alpha=None, targets=prx.FAMILY.targets
    )
    assert set(adapted.targeted_module_names) == matrices


def test_all_weights_can_be_trained(finetune, base):
    run = finetune("--method", "full", "--merge")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    transformer = adapters.load_trained_transformer(base, run, torch.float32, CPU)
    ours = draw_latents(base, transformer, noise, 4.5)
    theirs = stock_latents(open_pipeline(run / "merged"), noise, 4.5)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


def test_its_text_encoder_is_not_trained(medart, images, base, tmp_path):
    code, _, errors = medart("finetune", images, "--base", base, "--out", tmp_path / "run")
    assert code == 2
    assert "PRX is trained with its text encoder (T5Gemma) frozen" in errors


@pytest.mark.parametrize(("side", "told"), [(256, 256), (16, 512)])
def test_a_merged_folder_tells_its_pipeline_the_size_and_the_autoencoder(
    base, tmp_path, side, told
):
    folder = shutil.copytree(base, tmp_path / "base")
    edit(folder / "model_index.json", vae=[None, None])
    prx.finish_merge(folder, side)
    pipeline = open_pipeline(folder)
    assert pipeline.get_default_resolution() == told
    assert isinstance(pipeline.vae, AutoencoderKL)
