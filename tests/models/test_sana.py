"""SANA: our parts against its own pipeline, and what differs from PixArt."""

import json

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, SanaPipeline

from medart_cli.diffusion.solver import solve
from medart_cli.errors import ConfigError
from medart_cli.models import sana
from medart_cli.models.bases import find_base, find_kind, load_tokenizer
from medart_cli.models.families import build_denoiser, check_size, find_family
from medart_cli.models.parts import pad_embeds
from tests.small_sana import build_sana

CPU = torch.device("cpu")
PROMPTS = ["A brown nevus, with a smooth border.", "melanoma"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_sana(tmp_path_factory.mktemp("sana") / "base")


@pytest.fixture(scope="module")
def pipeline(base):
    loaded = SanaPipeline.from_pretrained(base)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def read(base, prompts, **options):
    text_encoder = sana.load_text_encoder(base, torch.float32, CPU)
    with torch.no_grad():
        return sana.read_prompts(load_tokenizer(base), text_encoder, prompts, limit=300, **options)


def test_the_family_is_read_from_the_folder(base):
    assert find_base(str(base)) == base
    assert find_kind(base).name == "SANA"
    assert find_family(base) is sana.FAMILY


def test_prompts_are_read_as_its_pipeline_reads_them(base, pipeline):
    with torch.no_grad():
        theirs, their_mask, empty, empty_mask = pipeline.encode_prompt(
            PROMPTS, True, complex_human_instruction=sana.INSTRUCTION.split("\n"), device=CPU
        )
    embeds, mask = read(base, PROMPTS, pad=True)
    assert embeds.shape == theirs.shape == (2, 300, 16)
    assert torch.equal(mask, their_mask)
    torch.testing.assert_close(embeds[mask == 1], theirs[their_mask == 1], atol=1e-5, rtol=1e-5)
    ours, our_mask = read(base, [""], pad=True)
    assert torch.equal(our_mask, empty_mask[:1])
    torch.testing.assert_close(ours[our_mask == 1], empty[:1][our_mask == 1], atol=1e-5, rtol=1e-5)


def test_a_prompt_that_is_too_long_is_cut_as_its_pipeline_cuts_it(base, pipeline):
    long = "large red lesion " * 40
    with torch.no_grad():
        theirs, mask, _, _ = pipeline.encode_prompt(
            long, False, complex_human_instruction=sana.INSTRUCTION.split("\n"), device=CPU
        )
    embeds, _ = read(base, [long], pad=False)
    assert embeds.shape == (1, 300, 16) and bool(mask.all())
    torch.testing.assert_close(embeds, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("guidance", "sides"), [(1.0, (8, 8)), (4.5, (8, 8)), (4.5, (4, 12))])
def test_latents_are_those_of_its_pipeline(base, pipeline, guidance, sides):
    noise = torch.randn(2, 4, *sides, generator=torch.Generator().manual_seed(0))
    theirs = pipeline(
        PROMPTS, num_inference_steps=5, guidance_scale=guidance, latents=noise, height=32, width=32,
        output_type="latent", use_resolution_binning=False,
    ).images  # fmt: skip
    transformer = sana.load_transformer(base, torch.float32, CPU)
    rows, mask = read(base, [*PROMPTS, ""], pad=False)
    text = [row[: int(count)] for row, count in zip(rows, mask.sum(dim=1), strict=True)]
    embeds, mask = pad_embeds(text)
    denoise = build_denoiser(
        sana.FAMILY, transformer, (embeds[:-1], mask[:-1]), (embeds[-1:], mask[-1:]), guidance
    )
    # The pipeline in the folder is asked at 16 pixels a latent of 8 x 8, as its class counts them.
    with torch.no_grad():
        ours = solve(denoise, noise, sana.load_scheduler(base), 5)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_images_go_through_the_autoencoder_as_its_own_methods_do(base, pipeline):
    vae = sana.load_vae(base, CPU)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, deviation = sana.encode_images(vae, images)
    scale = sana.latent_scale(vae)
    assert mean.shape == (2, sana.FAMILY.latent_channels(vae), 16 // scale, 16 // scale)
    assert not deviation.any()
    with torch.no_grad():
        theirs = pipeline.vae.encode(images).latent * pipeline.vae.config.scaling_factor
        back = pipeline.vae.decode(theirs / pipeline.vae.config.scaling_factor).sample
        torch.testing.assert_close(mean, theirs)
        torch.testing.assert_close(sana.decode_latents(vae, mean), back)


def test_sizes_are_whole_latents_and_the_native_one_is_the_models_own(base):
    vae = sana.load_vae(base, CPU)
    transformer = sana.load_transformer(base, torch.float32, CPU)
    assert sana.native_size(base, transformer, vae) == 8 * sana.latent_scale(vae)
    check_size(sana.FAMILY, 32, transformer, vae)
    with pytest.raises(ConfigError, match="this base needs a multiple of 2"):
        check_size(sana.FAMILY, 33, transformer, vae)


def test_a_scheduler_that_is_no_flow_is_refused(base, tmp_path):
    build_sana(tmp_path / "base")
    DPMSolverMultistepScheduler().save_pretrained(tmp_path / "base" / "scheduler")
    with pytest.raises(ConfigError, match="predicts epsilon; SANA's own scheduler predicts a flow"):
        sana.load_scheduler(tmp_path / "base")


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("SanaSprintPipeline", {}, "is a distilled SanaSprintPipeline, which has no guidance"),
        ("Flux2KleinPipeline", {"is_distilled": True}, "is a distilled Flux2KleinPipeline"),
        (
            "StableDiffusionPipeline",
            {},
            "use a base of one of these: PixArt-alpha, PixArt-Sigma, SANA",
        ),
    ],
)
def test_other_pipelines_are_refused_with_the_reason(tmp_path, name, more, message):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, **more}))
    with pytest.raises(ConfigError, match=message):
        find_kind(tmp_path)
