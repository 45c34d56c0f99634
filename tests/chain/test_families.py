"""Each kind of base through finetune, a stop, sample and merge, as one on PixArt."""

import json
import shutil
from fnmatch import fnmatch
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, PRXPipeline, SanaPipeline
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file

from medart_cli.diffusion.losses import color_moments
from medart_cli.diffusion.solver import solve
from medart_cli.models.bases import find_kind, load_tokenizer
from medart_cli.models.families import build_denoiser, find_family
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

CPU = torch.device("cpu")
# How to build a small one, its stock pipeline, and the image side that is 8 latents or 4.
KINDS = {
    "sana": (build_sana, SanaPipeline, 16),
    "prx": (build_prx, PRXPipeline, 16),
    "klein": (build_klein, Flux2KleinPipeline, 32),
}
SHORT = ("--hldf-every", 2, "--hldf-steps", 2, "--device", "cpu", "--freeze-text-encoder")


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    build, pipeline, side = KINDS[request.param]
    return build(tmp_path_factory.mktemp(request.param) / "base"), pipeline, side


@pytest.fixture
def train(kind, images, tmp_path, medart):
    def run(out, *options, steps=4, code=0, data=images):
        base, _, side = kind
        found, _, err = medart(
            "finetune", data, "--base", base, "--out", tmp_path / out, "--resolution", side,
            "--steps", steps, "--preview-every", 0, *SHORT, *options,
        )  # fmt: skip
        assert found == code, err
        return tmp_path / out

    return run


@pytest.mark.parametrize("build", [build_base, *(build for build, *_ in KINDS.values())])
def test_embeddings_are_counted_without_the_text_encoder(build, tmp_path):
    base = build(tmp_path / "base")
    family, tokenizer, limit = find_family(base), load_tokenizer(base), find_kind(base).tokens
    prompts = [" A red lesion ", "", "smooth border " * 100, "nevus"]
    reader = family.load_text_encoder(base, torch.float32, CPU)
    with torch.no_grad():
        _, mask = family.read_prompts(tokenizer, reader, prompts, pad=False, limit=limit)
    assert family.count_embeds(tokenizer, prompts, limit) == mask.sum(dim=1).tolist()


class Doubled:
    """A scheduler whose step lifts latents to float64 where it would lift them to float32."""

    def __init__(self, scheduler):
        self._scheduler = scheduler

    def __getattr__(self, name):
        return getattr(self._scheduler, name)

    def step(self, *arguments, **options):
        with patch.object(torch, "float32", torch.float64):
            return self._scheduler.step(*arguments, **options)


def test_the_gradient_of_the_color_loss_agrees_with_finite_differences(kind):
    base, _, _ = kind
    family = find_family(base)
    transformer = family.load_transformer(base, torch.float32, CPU).double()
    vae = family.load_vae(base, CPU).double()
    reader = family.load_text_encoder(base, torch.float32, CPU)
    with torch.no_grad():
        embeds, mask = family.read_prompts(
            load_tokenizer(base), reader, ["a nevus", ""], pad=False, limit=find_kind(base).tokens
        )
    embeds, generator = embeds.double(), torch.Generator().manual_seed(2)
    shape = (1, family.latent_channels(vae), 4, 4)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    names = [name for name, weight in transformer.named_parameters() if weight.dim() == 2]
    weight = dict(transformer.named_parameters())[names[len(names) // 2]].requires_grad_(True)
    scheduler = family.load_scheduler(base)

    def find_loss():
        denoise = build_denoiser(
            family, transformer, (embeds[:1], mask[:1]), (embeds[1:], mask[1:]), 4.5
        )
        latents = solve(denoise, noise, Doubled(family.renew_scheduler(scheduler, 16)), 3)
        return color_moments(family.decode_latents(vae, latents)).square().sum()

    gradient = torch.autograd.grad(find_loss(), weight)[0]
    place = divmod(gradient.abs().argmax().item(), weight.shape[1])
    values = []
    with torch.no_grad():
        for shift in (1e-3, -2e-3):
            weight[place] += shift
            values.append(find_loss().item())
    slope = (values[0] - values[1]) / 2e-3
    # Norms and the timestep embedding keep to float32, which bounds the agreement.
    assert gradient[place].item() == pytest.approx(slope, rel=5e-3)


def weights(run):
    return load_file(run / "transformer" / "adapter_model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_resumed_run_is_the_uninterrupted_one(train):
    previews = ("--preview-every", 2, "--preview-count", 1)
    whole = train("whole", *previews)
    half = train("half", *previews, steps=2)
    train("half", *previews, steps=4)
    assert same(weights(whole), weights(half))
    rows = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert [("color_loss" in row) for row in rows] == [False, True, False, True]
    assert Image.open(half / "previews" / "step-000004.png").size[0] > 0


def test_a_cache_changes_nothing(train):
    assert same(weights(train("with")), weights(train("without", "--no-cache")))


def test_masks_weigh_the_latents_of_each_family(train, images, tmp_path):
    data = shutil.copytree(images, tmp_path / "masked")
    Image.new("L", (40, 32), 0).save(data / "mask.png")
    with Image.open(data / "mask.png") as mask:
        mask.paste(255, (8, 8, 24, 24))
        mask.save(data / "mask.png")
    rows = [{"file_name": f"nevus/{place}.png", "mask": "mask.png"} for place in (1, 3, 5, 7)]
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    masked = ("--mask-weight", 4, "--hldf-region", "mask")
    assert not same(weights(train("plain", data=data)), weights(train("run", *masked, data=data)))


def test_all_ways_to_recompute_give_the_same_weights(train):
    plain = weights(train("plain", "--hldf-checkpoint", "none"))
    for mode in ("none", "block", "step"):
        other = weights(train(mode, "--hldf-checkpoint", mode, "--gradient-checkpointing"))
        for key in plain:
            torch.testing.assert_close(other[key], plain[key], atol=1e-6, rtol=1e-5)


def test_plain_peft_loads_the_adapters_and_all_of_the_targets_have_one(kind, train):
    base, _, _ = kind
    run, family = train("run"), find_family(base)
    transformer = family.load_transformer(base, torch.float32, CPU)
    loaded = PeftModel.from_pretrained(transformer, str(run / "transformer"))
    names = {name.split(".lora_A")[0] for name, _ in loaded.named_modules() if ".lora_A" in name}
    for target in family.targets:
        assert any(fnmatch(f".{name}", f"*.{target}") for name in names), target


def test_the_merged_folder_is_the_run_to_its_own_pipeline(kind, train, tmp_path, medart, images):
    base, pipeline, side = kind
    run = train("run", "--merge", "--rank", 2)
    loaded = pipeline.from_pretrained(run / "merged")
    merged = loaded.transformer.state_dict()
    plain = find_family(base).load_transformer(base, torch.float32, CPU).state_dict()
    assert merged.keys() == plain.keys()
    assert any(not torch.equal(merged[key], plain[key]) for key in plain)
    for source, name in ((run, "one"), (run / "merged", "two")):
        code, _, err = medart(
            "sample", source, "--from", images, "--count", 2, "--steps", 3, "--resolution", side,
            "--out", tmp_path / name, "--device", "cpu",
        )  # fmt: skip
        assert code == 0, err
    one, two = (
        np.asarray(Image.open(tmp_path / it / "000001.png"), float) for it in ("one", "two")
    )
    assert abs(one - two).max() <= 1


def test_the_cards_name_the_base_and_its_license(kind, train):
    base, pipeline, _ = kind
    run, known = train("run", "--merge"), find_kind(base)
    for card in (run / "README.md", run / "merged" / "README.md"):
        text = card.read_text()
        assert f"# {known.name} fine-tuned with medart" in text
        assert known.license in text and known.forbids in text
    assert f"from diffusers import {pipeline.__name__}" in text and known.call in text


def test_full_weights_are_trained_and_drawn(train, tmp_path, medart):
    run = train("full", "--method", "full")
    assert (run / "transformer" / "diffusion_pytorch_model.safetensors").is_file()
    code, _, err = medart(
        "sample", run, "--prompt", "a nevus", "--steps", 2, "--out", tmp_path / "s"
    )
    assert code == 0, err


def test_what_the_family_cannot_do_is_refused_in_one_line(kind, images, tmp_path, medart):
    base, _, side = kind
    words = ("finetune", images, "--base", base, "--out", tmp_path / "run", "--resolution", side)
    code, _, err = medart(*words, "--steps", 1)
    assert code == 2 and "add --freeze-text-encoder" in err
    code, _, err = medart(*words, "--steps", 1, "--freeze-text-encoder", "--min-snr", 5)
    assert code == 2 and "--min-snr: means nothing for the flow of" in err
    assert not (tmp_path / "run").exists()
    words = ("sample", base, "--out", tmp_path / "drawn", "--prompt", "a nevus")
    code, _, err = medart(*words, "--precision", "fp16")
    assert code == 2 and "--precision fp16: overflows in" in err and find_kind(base).name in err


def test_timesteps_are_chosen_by_the_recipe_or_by_the_options(train):
    plain = train("plain")
    other = train("other", "--timesteps", "uniform", "--timestep-shift", 1)
    assert not same(weights(plain), weights(other))


def test_a_broken_part_is_named(kind, images, tmp_path, medart):
    base = shutil.copytree(kind[0], tmp_path / "torn")
    for path in (base / "text_encoder").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    code, _, err = medart(
        "finetune", images, "--base", base, "--out", tmp_path / "run", "--steps", 1,
        "--freeze-text-encoder", "--resolution", kind[2],
    )  # fmt: skip
    assert code == 4 and "text_encoder" in err


def test_with_buckets_a_run_trains_resumes_and_draws_at_the_shape_of_its_images(
    kind, train, images, tmp_path, medart
):
    buckets = ("--buckets", "--resolution", 2 * kind[2])
    whole, half = train("whole", *buckets, "--merge"), train("half", *buckets, steps=2)
    train("half", *buckets)
    assert same(weights(whole), weights(half))
    (name,) = json.loads((whole / "run.json").read_text())["buckets"]["images"]
    height, width = map(int, name.split("x"))
    assert height < 2 * kind[2] < width  # images of 40 x 32 pixels
    drawn = {}
    for source in (whole, whole / "merged"):
        out = tmp_path / f"drawn-{source.name}"
        code, _, err = medart("sample", source, "--from", images, "--count", 2, "--steps", 3,
                              "--out", out, "--device", "cpu")  # fmt: skip
        assert code == 0, err
        drawn[source.name] = np.asarray(Image.open(out / "000001.png"), float)
        assert drawn[source.name].shape == (height, width, 3)
    assert abs(drawn["whole"] - drawn["merged"]).max() <= 1
