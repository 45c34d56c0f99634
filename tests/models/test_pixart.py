import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, PixArtAlphaPipeline
from safetensors.torch import load_file, save_file

from medart_cli.diffusion.solver import solve
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models import hub, pixart
from medart_cli.models.bases import (
    find_base,
    find_kind,
    load_tokenizer,
    normalize_prompt,
)
from medart_cli.models.parts import pad_embeds, renew_scheduler
from tests.small import DAMAGES, build_base, damage

CPU = torch.device("cpu")


def test_the_hubs_own_layout_loads(small_base):
    assert [path.name for path in (small_base / "tokenizer").iterdir()] == ["spiece.model"]
    assert (
        "Transformer2DModel"
        == json.loads((small_base / "transformer/config.json").read_text())["_class_name"]
    )
    assert len(hub.find_weights(small_base / "text_encoder")) > 1
    folder = find_base(str(small_base), offline=True)
    assert find_kind(folder).tokens == 120
    vae = pixart.load_vae(folder, CPU)
    transformer = pixart.load_transformer(folder, torch.float32, CPU)
    assert pixart.native_size(folder, transformer, vae) == 64


def test_every_part_has_the_format_asked_for_and_is_frozen(small_base):
    for load in (pixart.load_transformer, pixart.load_text_encoder):
        model = load(small_base, torch.bfloat16, CPU)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert not any(p.requires_grad for p in model.parameters())
        assert not model.training  # no dropout in the sampled image, nor in the empty prompt
    assert pixart.load_vae(small_base, CPU).dtype == torch.float32


@pytest.mark.parametrize("text", ["A Dermoscopic IMAGE of melanoma ", "nevus (3 mm), #2 \n", ""])
def test_prompts_are_normalized_as_the_pipeline_does(text):
    pipeline = PixArtAlphaPipeline.__new__(PixArtAlphaPipeline)
    expected = PixArtAlphaPipeline._text_preprocessing(pipeline, text, clean_caption=False)
    assert normalize_prompt(text) == expected[0]


def test_unpadded_embeddings_are_the_padded_ones(small_base):
    text_encoder = pixart.load_text_encoder(small_base, torch.float32, CPU)
    tokenizer, prompts = load_tokenizer(small_base), ["red lesion", "small round dark cell"]
    ids, mask = pixart.tokenize(tokenizer, prompts, 120, pad=True)
    padded = pixart.encode_tokens(text_encoder, ids, mask)
    rows = []
    for prompt in prompts:
        single, single_mask = pixart.tokenize(tokenizer, [prompt], 120, pad=False)
        rows.append(pixart.encode_tokens(text_encoder, single, single_mask)[0])
    embeds, joined = pad_embeds(rows, 120)
    assert torch.equal(joined, mask)
    torch.testing.assert_close(embeds, padded * mask[..., None], rtol=1e-4, atol=1e-5)


def test_sigma_reads_longer_prompts(tmp_path):
    base = build_base(tmp_path, sigma=True)
    assert find_kind(base).tokens == 300
    ids, _ = pixart.tokenize(load_tokenizer(base), ["cell"], 300, pad=True)
    assert ids.shape == (1, 300)


def test_latents_are_those_of_the_vae_scaled_for_pixart(small_base):
    vae = pixart.load_vae(small_base, CPU)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, std = pixart.encode_images(vae, images)
    posterior = vae.encode(images).latent_dist
    torch.testing.assert_close(mean, posterior.mean * vae.config.scaling_factor)
    torch.testing.assert_close(std, posterior.std * vae.config.scaling_factor)
    decoded = pixart.decode_latents(vae, mean)
    torch.testing.assert_close(decoded, vae.decode(posterior.mean).sample, rtol=1e-4, atol=1e-5)


def test_pickled_weights_are_refused_with_the_reason(small_base, tmp_path):
    base = shutil.copytree(small_base, tmp_path / "base")
    weights = hub.find_weights(base / "transformer")[0]
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(MissingModelError, match="pickled weights"):
        find_base(str(base))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda base: shutil.rmtree(base / "vae"), MissingModelError, "the folder vae is missing"),
        (
            lambda base: (base / "model_index.json").unlink(),
            MissingModelError,
            "no readable",
        ),
        (
            lambda base: hub.find_weights(base / "text_encoder")[1].unlink(),
            MissingModelError,
            "model-00002-of-0000. ?.*missing, which model.safetensors.index.json names",
        ),
        (
            lambda base: (base / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'),
            ConfigError,
            "is a FluxPipeline",
        ),
    ],
)
def test_an_incomplete_base_is_named(small_base, tmp_path, damage, error, message):
    base = shutil.copytree(small_base, tmp_path / "base")
    damage(base)
    with pytest.raises(error, match=message):
        find_base(str(base))


LOADERS = {
    "transformer": lambda base: pixart.load_transformer(base, torch.float32, CPU),
    "text_encoder": lambda base: pixart.load_text_encoder(base, torch.float32, CPU),
    "vae": lambda base: pixart.load_vae(base, CPU),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("part", LOADERS)
def test_no_weight_is_made_up_or_left_out(small_base, tmp_path, part, how):
    base = shutil.copytree(small_base, tmp_path / "base")
    LOADERS[part](base)
    damage(base / part, how)
    with pytest.raises(MissingModelError, match=f"base/{part}: {DAMAGES[how]}.*; copy the model"):
        LOADERS[part](base)


def test_a_missing_embedding_of_t5_is_not_taken_for_a_tied_one(small_base, tmp_path):
    base = shutil.copytree(small_base, tmp_path / "base")
    for path in (base / "text_encoder").glob("*.safetensors"):
        weights = load_file(path)
        if weights.pop("shared.weight", None) is not None:
            save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(
        MissingModelError, match=r"missing, such as .*(shared|embed_tokens)\.weight"
    ):
        LOADERS["text_encoder"](base)


@pytest.mark.parametrize("part", LOADERS)
def test_a_torn_weight_file_is_one_error(small_base, tmp_path, part):
    base = shutil.copytree(small_base, tmp_path / "base")
    path = hub.find_weights(base / part)[0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(MissingModelError, match=f"{part}: cannot be loaded: .*copy it again"):
        LOADERS[part](base)


def test_the_embedding_that_the_papers_base_holds_for_nothing_is_passed_over(small_base, tmp_path):
    base = shutil.copytree(small_base, tmp_path / "base")
    path = hub.find_weights(base / "transformer")[0]
    weights = load_file(path) | {"caption_projection.y_embedding": torch.zeros(120, 16)}
    save_file(weights, path, metadata={"format": "pt"})
    LOADERS["transformer"](base)


def edit(place, **changes):
    facts = json.loads(place.read_text())
    place.write_text(json.dumps({**facts, **changes}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algorithm_type": "sde-dpmsolver++"}, "DPMSolverMultistepScheduler sde-dpmsolver++"),
        ({"_class_name": "LCMScheduler", "algorithm_type": ""}, "LCMScheduler"),
        ({}, None),
    ],
)
def test_another_scheduler_is_said_and_draws_the_same_each_time(
    small_base, tmp_path, monkeypatch, changes, told
):
    said = []
    monkeypatch.setattr(pixart.log, "warning", lambda text, *words: said.append(text % words))
    base = shutil.copytree(small_base, tmp_path / "base")
    edit(base / "scheduler/scheduler_config.json", **changes)
    scheduler = pixart.load_scheduler(base)
    assert scheduler.config.algorithm_type == "dpmsolver++"
    assert [f"the base's own scheduler is {told};" in line for line in said] == [True] * bool(told)
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        fresh = renew_scheduler(scheduler, 8)
        drawn.append(solve(lambda latents, timestep: latents / 2, noise, fresh, 4))
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    "changes", [{"prediction_type": "sample"}, {"beta_schedule": None}], ids=str
)
def test_a_base_of_another_kind_of_prediction_is_refused(small_base, tmp_path, changes):
    base = shutil.copytree(small_base, tmp_path / "base")
    place = base / "scheduler/scheduler_config.json"
    edit(place, **changes)
    if "beta_schedule" in changes:
        facts = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
        place.write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="needs epsilon or v"):
        pixart.load_scheduler(base)


def test_the_real_decoder_is_estimated_at_what_it_takes():
    """3.4 GB an image of 512 pixels; the first channels are all that the estimate looks at."""
    vae = AutoencoderKL(block_out_channels=(128,), norm_num_groups=32)
    assert pixart.decoder_bytes(vae, 512) == pytest.approx(3.4e9, rel=0.02)
    assert pixart.decoder_bytes(vae, 1024) == 4 * pixart.decoder_bytes(vae, 512)


def test_an_autoencoder_with_the_names_of_earlier_diffusers_is_whole(small_base, tmp_path):
    base = shutil.copytree(small_base, tmp_path / "base")
    path = hub.find_weights(base / "vae")[0]
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(path)
    for new, old in names.items():
        weights = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): weights[key]
                   for key in weights}  # fmt: skip
    save_file(weights, path, metadata={"format": "pt"})
    assert any("attentions.0.query." in key for key in weights)
    old, new = (
        pixart.load_vae(base, CPU).state_dict(),
        pixart.load_vae(small_base, CPU).state_dict(),
    )
    assert all(torch.equal(old[key], new[key]) for key in new)
