"""What runs where with `--offload`, and that less memory means no other results."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from medart_cli.errors import ConfigError
from medart_cli.finetune import train
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.setup import check_text_device
from medart_cli.finetune.work import embed_captions, reading_autocast
from medart_cli.models.offload import BY_LAYERS
from tests.bench.bench_footprint import build_work

MOVED = [BY_LAYERS, "text-encoder"]


@pytest.fixture
def work(images, small_base, tmp_path):
    config = FinetuneConfig(
        data=str(images), base=str(small_base), out=tmp_path / "out", resolution=32, batch_size=2,
        hldf_every=2, hldf_steps=2, device="cpu",
    )  # fmt: skip
    return build_work(config)


def test_images_decoded_one_by_one_give_the_gradients_of_the_batch(work):
    found = []
    for mode in ("block", "step"):
        work.recompute = mode
        work.optimizer.zero_grad()
        train.add_gradients(work, [train.draw_batch(work, 3)], loss_of=train.pixel_loss)
        found.append([it.grad.clone() for it in work.parameters if it.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    assert any(one.abs().max() > 0 for one in found[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_each_image_is_decoded_alone_where_steps_are_recomputed(work, monkeypatch):
    sizes, decode = [], work.family.decode_latents

    def note(vae, latents):
        sizes.append(len(latents))
        return decode(vae, latents)

    work.family = replace(work.family, decode_latents=note)
    for mode, expected in (("block", {2}), ("step", {1})):
        work.recompute = mode
        sizes.clear()
        train.pixel_loss(work, train.draw_batch(work, 3))
        assert {*sizes} == expected


def test_embeddings_go_from_the_cpu_to_the_device_of_the_transformer(work):
    plain, _ = embed_captions(work, ["nevus", "melanoma"])
    elsewhere = SimpleNamespace(device=torch.device("meta"), autocast=None)  # a second device
    work.config = replace(work.config, offload="text-encoder")
    work.accelerator, work.facts = elsewhere, work.facts | {"precision": "fp32"}
    embeds, mask = embed_captions(work, ["nevus", "melanoma"])
    assert embeds.is_meta and mask.is_meta and embeds.shape == plain.shape
    work.facts["precision"] = "bf16"
    with reading_autocast(work):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")


def test_by_layers_the_format_is_that_of_the_gpu_though_the_weights_wait_elsewhere(work):
    work.config = replace(work.config, train_text_encoder=False, offload=BY_LAYERS)
    asked = nullcontext()
    work.accelerator = SimpleNamespace(device=torch.device("meta"), autocast=lambda: asked)
    assert work.text_encoder.device.type == "cpu" and reading_autocast(work) is asked


def test_several_processes_do_not_train_on_the_cpu_beside_a_gpu():
    accelerator = SimpleNamespace(device=torch.device("cuda", 0), num_processes=2)
    config = FinetuneConfig(data="-", out="run", offload="text-encoder")
    with pytest.raises(ConfigError, match="--offload text-encoder: several processes"):
        check_text_device(config, accelerator)
    check_text_device(replace(config, train_text_encoder=False), accelerator)


@pytest.mark.parametrize("chosen", [{"ema": 0.9}, {"optimizer": "adamw8bit"}])
def test_what_cannot_be_done_on_the_cpu_is_refused(chosen):
    with pytest.raises(ConfigError, match="--offload text-encoder: trained on the CPU it cannot"):
        FinetuneConfig(data="-", out="run", offload="text-encoder", **chosen)
    FinetuneConfig(data="-", out="run", offload="text-encoder", train_text_encoder=False, **chosen)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "is for a frozen text encoder, since training would hold the layers on the GPU"),
        (["--freeze-text-encoder", "--base-format", "nf4"], "layers in nf4 cannot be moved"),
    ],
)
def test_what_cannot_go_by_layers_is_refused_at_once(medart, tmp_path, more, message):
    words = ["finetune", tmp_path / "none", "--out", tmp_path / "run", "--offload", BY_LAYERS]
    code, _, errors = medart(*words, *more)
    assert code == 2
    assert len(errors.splitlines()) == 1 and f"--offload {BY_LAYERS}: {message}" in errors


@pytest.mark.parametrize(
    ("text", "values"),
    [("--train-text-encoder", ["text-encoder"]), ("--freeze-text-encoder", MOVED)],
)
def test_a_run_is_the_same_with_and_without_offloading(
    medart, images, small_base, tmp_path, fetched, text, values
):
    found, caches = [], []
    for value in ("none", *values):
        words = ["finetune", images, "--base", small_base, "--resolution", 32, "--steps", 2, text]
        words += ["--hldf-every", 2, "--hldf-steps", 2, "--preview-every", 0, "--device", "cpu"]
        words += ["--out", tmp_path / value, "--cache", tmp_path / f"cache {value}"]
        code, _, errors = medart(*words, "--offload", value)
        assert code == 0, errors
        found.append(load_file(tmp_path / value / "transformer" / "adapter_model.safetensors"))
        caches.append(read_folder(tmp_path / f"cache {value}" / "text"))
    for weights in found[1:]:
        assert weights.keys() == found[0].keys()
        assert all(torch.equal(found[0][key], weights[key]) for key in found[0])
    assert bool(caches[0]) == (text == "--freeze-text-encoder")
    assert all(cache == caches[0] for cache in caches)  # the same keys, and the same bits
    assert len(fetched) == values.count(BY_LAYERS)


def read_folder(folder):
    """The content of each file, by its place."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_without_a_cache_each_step_reads_by_layers(images, small_base, tmp_path, fetched):
    found = []
    for offload in ("none", BY_LAYERS):
        config = FinetuneConfig(
            data=str(images), base=str(small_base), out=tmp_path / offload, resolution=32,
            train_text_encoder=False, use_cache=False, hldf_every=2, hldf_steps=2, device="cpu",
            offload=offload,
        )  # fmt: skip
        work = build_work(config)
        for step in (1, 2):
            train.take_step(work, step, [train.draw_batch(work, step - 1)])
        found.append([it.detach().clone() for it in work.parameters])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True)) and len(fetched) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_text_encoder_on_the_cpu_is_trained_beside_a_transformer_on_the_gpu(
    images, small_base, tmp_path
):
    config = FinetuneConfig(
        data=str(images), base=str(small_base), out=tmp_path / "out", resolution=32,
        hldf_every=2, hldf_steps=2, device="cuda", offload="text-encoder",
    )  # fmt: skip
    work = build_work(config)
    for step in (1, 2):
        train.take_step(work, step, [train.draw_batch(work, step - 1)])
    assert work.text_encoder.device.type == "cpu" and work.transformer.device.type == "cuda"
    assert all(it.grad is not None for it in work.text_encoder.parameters() if it.requires_grad)
