"""A classifier is saved, loaded and refused in the layouts of timm and of transformers."""

import json

import pytest
import torch
import transformers
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    ViTImageProcessor,
)

from medart_cli.classify.network import (
    build_network,
)
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models.backbone import load_backbone
from medart_cli.models.classifier import (
    check_backbone,
    load_classifier,
    resize_input,
    save_classifier,
)
from tests.classify.test_network import SAVERS
from tests.models.test_backbone import CPU, draw_image
from tests.small import DAMAGES, damage
from tests.small_classifier import CLASSES, save_timm, save_vit


@pytest.mark.parametrize("kind", SAVERS)
def test_a_saved_classifier_opens_in_a_transformers_pipeline_and_in_medart(kind, tmp_path):
    backbone = load_backbone(str(SAVERS[kind](tmp_path / "base")), device=CPU)
    check_backbone(backbone)
    torch.manual_seed(1)
    network = build_network(backbone, nn.Linear(backbone.width, 3))
    network.to(memory_format=torch.channels_last)
    out = tmp_path / "CLF"
    out.mkdir()
    (out / "metrics.json").write_text("{}")  # what else lies there must not disturb
    layout = save_classifier(out, backbone, network, CLASSES)
    assert layout == kind.split("-")[0]

    image = draw_image(size=(64, 64))
    inputs = backbone.prepare(image)[None]
    with torch.no_grad():
        wanted = network(inputs).softmax(dim=1)[0]
    answers = transformers.pipeline("image-classification", str(out), device="cpu")(image, top_k=3)
    found = {answer["label"]: answer["score"] for answer in answers}
    assert [found[name] for name in CLASSES] == pytest.approx(wanted.tolist(), abs=1e-4)

    again = load_classifier(out, CPU)
    assert again.classes == CLASSES
    torch.testing.assert_close(again.prepare(image), inputs[0])
    with torch.no_grad():
        torch.testing.assert_close(again.module(inputs).softmax(dim=1)[0], wanted)
        features = load_backbone(str(out), device=CPU).module(inputs)  # evaluate --features CLF
        torch.testing.assert_close(features, network[0](inputs))
    assert not list(out.glob("*.bin"))


def test_another_input_size_is_kept_in_the_saved_classifier(tmp_path):
    backbone = load_backbone(str(save_timm(tmp_path / "base")), device=CPU)
    small = resize_input(backbone, 64)
    assert (small.image_size, backbone.image_size) == (64, 160)
    assert small.prepare(draw_image()).shape == (3, 64, 64)
    assert small.fingerprint[:32] != backbone.fingerprint[:32]
    (tmp_path / "CLF").mkdir()
    network = build_network(small, nn.Linear(small.width, 3))
    save_classifier(tmp_path / "CLF", small, network, CLASSES)
    assert load_classifier(tmp_path / "CLF", CPU).prepare(draw_image()).shape == (3, 64, 64)
    image = draw_image(size=(64, 64))
    pipe = transformers.pipeline("image-classification", str(tmp_path / "CLF"), device="cpu")
    assert pipe.image_processor(image)["pixel_values"].shape == (1, 3, 64, 64)


def test_a_backbone_of_fixed_input_size_refuses_another(tmp_path):
    backbone = load_backbone(str(save_vit(tmp_path)), device=CPU)
    with pytest.raises(ConfigError, match=r"--image-size 64: .* needs 32 pixels"):
        resize_input(backbone, 64)


def test_a_backbone_that_is_no_classifier_is_refused_before_training(tmp_path):
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="cannot be used for a classifier"):
        check_backbone(load_backbone(str(tmp_path), device=CPU))


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        load_classifier(tmp_path, CPU)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    with pytest.raises(ConfigError, match="has no safetensors"):
        load_classifier(tmp_path, CPU)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["timm-vit", "transformers-vit"])
def test_no_weight_of_a_classifier_is_made_up_or_left_out(tmp_path, kind, how):
    folder = SAVERS[kind](tmp_path)
    damage(folder, how)
    text = "is not an image classifier" if kind == "timm-vit" else DAMAGES[how]
    with pytest.raises((MissingModelError, ConfigError), match=text) as caught:
        load_classifier(folder, CPU)
    assert len(str(caught.value)) < 500
