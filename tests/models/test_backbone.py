import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTModel,
)

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models.backbone import load_backbone
from tests.small import DAMAGES, damage

CPU = torch.device("cpu")
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 16,
}


def draw_image(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save_transformers(folder, model):
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model.eval()


def features_of(backbone):
    with torch.inference_mode():
        return backbone.module(backbone.prepare(draw_image())[None])


def test_the_embedded_backbone_gives_1280_features():
    backbone = load_backbone("efficientnet-lite0", device=CPU)
    assert (backbone.width, backbone.image_size) == (1280, 224)
    assert backbone.prepare(draw_image(size=(70, 300))).shape == (3, 224, 224)
    assert features_of(backbone).shape == (1, 1280)
    assert all(isinstance(item, nn.Parameter) for item in backbone.module.parameters())


def test_the_fingerprint_follows_weights_format_and_preprocessing(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    prints = set()
    for name, crop in (("a", 0.9), ("b", 1.0)):
        model.pretrained_cfg |= {"crop_pct": crop, "test_crop_pct": None}
        save_for_hf(model, tmp_path / name, safe_serialization=True)
        prints.add(load_backbone(str(tmp_path / name), device=CPU).fingerprint)
    again = load_backbone(str(tmp_path / "a"), device=CPU).fingerprint
    half = load_backbone(str(tmp_path / "a"), device=CPU, dtype=torch.bfloat16).fingerprint
    with torch.no_grad():
        model.conv1[0].weight[0] += 1e-3
    model.pretrained_cfg["crop_pct"] = 0.9
    save_for_hf(model, tmp_path / "c", safe_serialization=True)
    prints |= {again, half, load_backbone(str(tmp_path / "c"), device=CPU).fingerprint}
    assert len(prints) == 4 and again in prints


def test_a_timm_classifier_folder_gives_what_stands_before_its_head(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=3).eval()
    names = {"label_names": ["a", "b", "c"]}
    save_for_hf(model, tmp_path, safe_serialization=True, model_config=names)
    backbone = load_backbone(str(tmp_path), device=CPU)
    image = backbone.prepare(draw_image())[None]
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(image), pre_logits=True)
        torch.testing.assert_close(backbone.module(image), expected)
    assert backbone.width == model.num_features


def test_a_transformers_vit_classifier_gives_what_stands_before_its_head(tmp_path):
    torch.manual_seed(0)
    model = save_transformers(tmp_path, ViTForImageClassification(ViTConfig(**SMALL, num_labels=5)))
    backbone = load_backbone(str(tmp_path), device=CPU)
    image = backbone.prepare(draw_image())[None]
    with torch.inference_mode():
        logits = model.classifier(backbone.module(image))
        torch.testing.assert_close(logits, model(image).logits)
    assert (backbone.width, backbone.image_size) == (24, 32)


def test_a_transformers_resnet_classifier_gives_what_stands_before_its_head(tmp_path):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
    model = save_transformers(tmp_path, ResNetForImageClassification(config))
    backbone = load_backbone(str(tmp_path), device=CPU)
    image = backbone.prepare(draw_image())[None]
    with torch.inference_mode():
        logits = model.classifier[-1](backbone.module(image))
        torch.testing.assert_close(logits, model(image).logits)


def test_a_dinov2_folder_gives_its_pooled_output(tmp_path):
    torch.manual_seed(0)
    model = save_transformers(tmp_path, Dinov2Model(Dinov2Config(**SMALL)))
    backbone = load_backbone(str(tmp_path), device=CPU)
    image = backbone.prepare(draw_image())[None]
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(image), model(image).pooler_output)


def test_a_pooler_that_was_never_trained_is_not_used(tmp_path):
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SMALL), add_pooling_layer=False)
    save_transformers(tmp_path, model)
    first, second = (load_backbone(str(tmp_path), device=CPU) for _ in range(2))
    torch.testing.assert_close(features_of(first), features_of(second), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no-such-model", "no such folder, and not a hub id"),
        ("./no/such", "no such folder, and not a hub id"),
        ("{folder}", "has no config.json"),
    ],
)
def test_a_wrong_name_is_named(tmp_path, name, text):
    with pytest.raises(ConfigError, match=text):
        load_backbone(name.format(folder=tmp_path), device=CPU, offline=True)


def test_a_model_that_is_not_there_says_how_to_get_it():
    with pytest.raises(MissingModelError, match="hf download facebook/dinov2-base"):
        load_backbone("dinov2", device=CPU, offline=True)


def test_a_pickle_is_never_loaded(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(MissingModelError, match="medart loads no pickles"):
        load_backbone(str(tmp_path), device=CPU)


def test_weights_that_do_not_fit_the_config_are_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="cannot be loaded as an image model"):
        load_backbone(str(tmp_path), device=CPU)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["timm", "classifier", "features"])
def test_no_weight_of_a_network_is_made_up_or_left_out(tmp_path, kind, how):
    if kind == "timm":
        model = timm.create_model("test_resnet", num_classes=5)
        save_for_hf(model, tmp_path, safe_serialization=True)
    elif kind == "classifier":
        save_transformers(tmp_path, ViTForImageClassification(ViTConfig(**SMALL, num_labels=5)))
    else:
        save_transformers(tmp_path, Dinov2Model(Dinov2Config(**SMALL)))
    load_backbone(str(tmp_path), device=CPU)
    damage(tmp_path, how)
    text = "cannot be loaded as an image model" if kind == "timm" else DAMAGES[how]
    with pytest.raises((MissingModelError, ConfigError), match=text) as caught:
        load_backbone(str(tmp_path), device=CPU)
    assert len(str(caught.value)) < 500


def test_the_head_of_another_task_is_no_part_of_the_features(tmp_path):
    save_transformers(tmp_path, ViTForMaskedImageModeling(ViTConfig(**SMALL, encoder_stride=16)))
    assert load_backbone(str(tmp_path), device=CPU).width == 24
