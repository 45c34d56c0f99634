"""FLUX.2-klein-base from captions to images: what is trained is what is drawn, also elsewhere."""

import json

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image
from safetensors.torch import load_file

from medart_cli.diffusion.solver import solve
from medart_cli.models import adapters, klein
from medart_cli.models.bases import load_tokenizer
from medart_cli.models.device import build_generator
from medart_cli.models.families import build_denoiser
from tests.small_klein import build_klein

CPU = torch.device("cpu")
# The last two are one to a base that lower-cases and strips, and two to this one.
TEXTS = ["A red field, OD.", "a small nevus", "A small Nevus ", "A small Nevus"]
SHORT = (
    "--freeze-text-encoder", "--resolution", 32, "--steps", 4, "--hldf-every", 2,
    "--hldf-steps", 2, "--learning-rate", 5e-3, "--preview-every", 0, "--quiet",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_klein(tmp_path_factory.mktemp("klein") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = []
    for index, text in enumerate(TEXTS):
        pixels = generator.normal((200, 120, 110), 30, (32, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append({"file_name": f"{index}.png", "text": text, "label": "eye"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def finetune(medart, base, data, tmp_path):
    def run(*options):
        ended, _, errors = medart(
            "finetune", data, "--base", base, "--out", tmp_path / "run", *SHORT, *options
        )
        assert ended == 0, errors
        return tmp_path / "run"

    return run


def pixels(image):
    return torch.from_numpy(np.asarray(image).astype(int))


def latents_of(transformer, base, prompt, noise):
    """Draw latents for a prompt with our parts, three steps at a guidance of 4."""
    text_encoder = klein.load_text_encoder(base, torch.float32, CPU)
    with torch.no_grad():
        embeds, mask = klein.read_prompts(
            load_tokenizer(base), text_encoder, [prompt, ""], pad=True, limit=512
        )
        denoise = build_denoiser(
            klein.FAMILY, transformer, (embeds[:1], mask[:1]), (embeds[1:], mask[1:]), 4.0
        )
        scheduler = klein.renew_scheduler(klein.load_scheduler(base), noise.shape[-1] ** 2)
        return solve(denoise, noise, scheduler, 3)


def test_a_run_is_drawn_by_medart_and_merged_by_the_stock_pipeline(
    finetune, medart, base, tmp_path
):
    run = finetune("--merge")
    code, _, errors = medart(
        "sample", run, "--prompt", TEXTS[0], "--count", 2, "--steps", 3, "--guidance", 4,
        "--out", tmp_path / "syn", "--quiet",
    )  # fmt: skip
    assert code == 0, errors
    stock = Flux2KleinPipeline.from_pretrained(run / "merged")
    stock.set_progress_bar_config(disable=True)
    assert not stock.config.is_distilled
    noise = torch.stack(
        [torch.randn(16, 8, 8, generator=build_generator(0, "sample", row)) for row in range(2)]
    )
    how = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 32, "width": 32}
    drawn = stock(prompt=[TEXTS[0]] * 2, latents=noise, **how).images
    for row, image in enumerate(drawn):
        ours = Image.open(tmp_path / f"syn/{row:06d}.png")
        assert (pixels(ours) - pixels(image)).abs().max() <= 1

    card = (run / "merged/README.md").read_text()  # says how plain diffusers draws the same
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("=20", "=3, latents=noise").replace("=4.5", "=4.0")
    names = {"folder": run / "merged", "prompt": TEXTS[0], "noise": noise[:1]}
    exec(code, names)
    assert (pixels(names["image"]) - pixels(drawn[0])).abs().max() <= 1

    theirs = stock(prompt=TEXTS[0], latents=noise[:1], output_type="latent", **how).images
    merged = klein.load_transformer(run / "merged", torch.float32, CPU)
    adapted = adapters.load_trained_transformer(base, run, torch.float32, CPU)
    plain = klein.load_transformer(base, torch.float32, CPU)
    vae, scale = stock.vae, (stock.vae.bn.running_var + stock.vae.config.batch_norm_eps).sqrt()
    unlike = []
    for transformer in (merged, adapted, plain):
        ours = latents_of(transformer, base, TEXTS[0], noise[:1])
        ours = ours * scale.view(1, -1, 1, 1) + vae.bn.running_mean.view(1, -1, 1, 1)
        unlike.append((stock._unpatchify_latents(ours) - theirs).abs().max().item())
    assert max(unlike[:2]) <= 1e-4 < 1e-2 < unlike[2]


def test_captions_that_differ_in_case_or_spaces_are_read_and_kept_apart(
    finetune, monkeypatch, tmp_path
):
    monkeypatch.setenv("MEDART_CACHE", str(tmp_path / "cache"))
    finetune("--steps", 1)
    kept = [load_file(path)["embeds"] for path in (tmp_path / "cache/text").rglob("*.safetensors")]
    assert len(kept) == len({*TEXTS, ""}) == 5
    assert {embeds.shape for embeds in kept} == {(512, 48)}
