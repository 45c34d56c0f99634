"""What runs where with `--offload`, and that less memory means no other results."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from medart_cli.errors import ConfigError
from medart_cli.finetune import train
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.setup import text_device
from medart_cli.finetune.work import embed_captions, reading_autocast
from tests.bench.bench_footprint import build_work


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


@pytest.mark.parametrize("offload", ["none", "text-encoder"])
def test_the_text_encoder_runs_where_offload_says(offload):
    config = FinetuneConfig(data="-", out="run", offload=offload)
    accelerator = SimpleNamespace(device=torch.device("cuda", 0), num_processes=1)
    where = text_device(config, accelerator)
    assert where.type == ("cuda" if offload == "none" else "cpu")


def test_embeddings_go_from_the_cpu_to_the_device_of_the_transformer(work):
    plain, _ = embed_captions(work, ["nevus", "melanoma"])
    elsewhere = SimpleNamespace(device=torch.device("meta"), autocast=None)  # a second device
    work.accelerator, work.facts = elsewhere, work.facts | {"precision": "fp32"}
    embeds, mask = embed_captions(work, ["nevus", "melanoma"])
    assert embeds.is_meta and mask.is_meta and embeds.shape == plain.shape
    work.facts["precision"] = "bf16"
    with reading_autocast(work, work.text_encoder):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")


def test_several_processes_do_not_train_on_the_cpu_beside_a_gpu():
    accelerator = SimpleNamespace(device=torch.device("cuda", 0), num_processes=2)
    config = FinetuneConfig(data="-", out="run", offload="text-encoder")
    with pytest.raises(ConfigError, match="--offload text-encoder: several processes"):
        text_device(config, accelerator)
    assert text_device(replace(config, train_text_encoder=False), accelerator).type == "cpu"


@pytest.mark.parametrize("chosen", [{"ema": 0.9}, {"optimizer": "adamw8bit"}])
def test_what_cannot_be_done_on_the_cpu_is_refused(chosen):
    with pytest.raises(ConfigError, match="--offload text-encoder: trained on the CPU it cannot"):
        FinetuneConfig(data="-", out="run", offload="text-encoder", **chosen)
    FinetuneConfig(data="-", out="run", offload="text-encoder", train_text_encoder=False, **chosen)


@pytest.mark.parametrize("text", ["--train-text-encoder", "--freeze-text-encoder"])
def test_a_run_is_the_same_with_and_without_offloading(medart, images, small_base, tmp_path, text):
    found = []
    for name, more in (("plain", []), ("moved", ["--offload", "text-encoder"])):
        words = ["finetune", images, "--base", small_base, "--resolution", 32, "--steps", 2, text]
        words += ["--hldf-every", 2, "--hldf-steps", 2, "--preview-every", 0, "--device", "cpu"]
        code, _, errors = medart(*words, "--out", tmp_path / name, *more)
        assert code == 0, errors
        found.append(load_file(tmp_path / name / "transformer" / "adapter_model.safetensors"))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


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
        train.take_step(work, step)
    assert work.text_encoder.device.type == "cpu" and work.transformer.device.type == "cuda"
    assert all(it.grad is not None for it in work.text_encoder.parameters() if it.requires_grad)
