"""The trainings run end to end; what they save is what plain diffusers and transformers load."""

import json
import sys

import numpy as np
import pytest
import torch
from diffusers import PixArtAlphaPipeline
from PIL import Image

from medart_cli.data.profiles import read_profile
from medart_cli.models.bases import find_base, is_demonstration, load_tokenizer
from medart_cli.models.captioner import Captioner
from medart_cli.models.questions import Question, Sampling
from medart_cli.tiny.make import __main__ as build
from medart_cli.tiny.make import base as build_base
from medart_cli.tiny.make import captioner as build_captioner
from medart_cli.tiny.make import vae as build_vae
from medart_cli.tiny.make.training import images_to_tensor
from medart_cli.tiny.phantoms import describe_phantom, draw_phantom


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Both models after a handful of steps."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "LEAST_STEPS", 3)
        patch.setattr(build_base, "PHANTOMS", 64)
        patch.setattr(build, "check_models", lambda place, device: {"place": place.name})
        patch.setattr(sys, "argv", ["build", "--out", str(folder), "--share", "0.0001"])
        build.main()
    return folder


def test_a_build_writes_models_and_figures(built):
    assert json.loads((built / "figures.json").read_text()) == {"place": built.name}
    assert is_demonstration(find_base(str(built / "base")))


def test_plain_diffusers_draws_with_the_base(built):
    pipeline = PixArtAlphaPipeline.from_pretrained(built / "base", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        "a phantom image of star patch.", num_inference_steps=2, clean_caption=False,
        use_resolution_binning=False,
    )  # fmt: skip
    assert drawn.images[0].size == (64, 64)


def test_the_tokenizer_knows_each_word_as_one_piece(built):
    tokenizer = load_tokenizer(built / "base")
    caption = describe_phantom(np.random.default_rng(0)).caption().lower()
    words = caption.replace(",", " ,").replace(".", " .").split()
    assert [piece.strip("▁") for piece in tokenizer.tokenize(caption)] == words


def test_the_captioner_answers_and_says_that_it_is_a_demonstration(built):
    captioner = Captioner(
        built / "captioner", device=torch.device("cpu"), dtype=torch.float32,
        sampling=Sampling(max_new_tokens=5),
    ).load()  # fmt: skip
    assert captioner.demonstration
    answers = [item for item in captioner.ask([Question(Image.new("RGB", (64, 64)), "Hi", 0)])]
    assert answers[0] is not None and not answers[0][1].error


def test_training_shows_the_captioner_what_it_will_be_asked(built):
    """The tokens before the answer are those that the captioner itself makes of the question."""
    profile = read_profile("phantom")
    processor = build_captioner.build_processor(profile)
    generator = np.random.default_rng(0)
    batch = build_captioner.draw_dialogs(generator, processor, profile)
    again = np.random.default_rng(0)
    phantoms = [
        describe_phantom(again, "shifted" if again.random() < 0.35 else "base")
        for _ in range(build_captioner.BATCH_SIZE)
    ]
    image = draw_phantom(phantoms[0], again)
    captioner = Captioner(
        built / "captioner", device=torch.device("cpu"), dtype=torch.float32, sampling=Sampling()
    ).load()
    question = Question(image, build_captioner.ask(profile, phantoms[0]), 0)
    asked = captioner.chat.encode([question])
    length = asked["input_ids"].shape[1]
    assert batch["input_ids"][0, :length].tolist() == asked["input_ids"][0].tolist()
    assert torch.allclose(batch["pixel_values"][0], asked["pixel_values"][0])
    said = batch["labels"][0, length:]
    text = processor.tokenizer.decode(said[said != -100], skip_special_tokens=True)
    assert text.strip() == phantoms[0].caption()


def test_the_loss_of_the_autoencoder_sees_colors_and_edges():
    images = images_to_tensor(
        [draw_phantom(describe_phantom(g), g) for g in [np.random.default_rng(0)]]
    )
    assert build_vae.rebuild_loss(images, images) == 0
    shifted = build_vae.rebuild_loss(images + 0.5, images).item()
    assert shifted == pytest.approx(0.5 + build_vae.SQUARE_WEIGHT * 0.25, rel=1e-5)
    mirrored = build_vae.rebuild_loss(images.flip(3), images).item()
    assert mirrored > 0


def test_the_divergence_of_a_unit_gaussian_is_nothing():
    zero = torch.zeros(2, 4, 8, 8)
    assert build_vae.kl_loss(zero, zero) == 0
    q = torch.distributions.Normal(0.3, 0.5)
    p = torch.distributions.Normal(0.0, 1.0)
    own = build_vae.kl_loss(zero + 0.3, zero + 2 * np.log(0.5))
    assert own.item() == pytest.approx(torch.distributions.kl_divergence(q, p).item(), rel=1e-5)
