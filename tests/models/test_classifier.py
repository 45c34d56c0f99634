import json

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from sklearn.linear_model import LogisticRegression
from timm.models import save_for_hf
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models.backbone import load_backbone
from medart_cli.models.classifier import (
    PROBE_C,
    augment,
    build_network,
    check_backbone,
    draw_order,
    fit_probe,
    load_classifier,
    resize_input,
    save_classifier,
    weigh_classes,
)
from tests.small import DAMAGES, damage

CPU = torch.device("cpu")
CLASSES = ["melanoma", "nevus", "other thing"]


def draw_image(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save_timm(folder, name="test_efficientnet", **options):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options)
    save_for_hf(model, folder, safe_serialization=True)
    return folder


def save_vit(folder):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=16, num_labels=5,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_resnet(folder):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def make_features(count=60, width=12, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centers = generator.normal(size=(classes, width))
    features = 3 + 2 * (centers[labels] + generator.normal(size=(count, width)))
    return features.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_gives_the_probabilities_of_scikit_learn(classes):
    features, labels = make_features(classes=classes)
    layer = fit_probe(features, labels, classes, balance=True)
    scaled = (features - features.mean(axis=0)) / np.sqrt(features.var(axis=0).mean())
    known = LogisticRegression(C=PROBE_C, max_iter=2000, class_weight="balanced")
    wanted = known.fit(scaled, labels).predict_proba(scaled)
    with torch.no_grad():
        found = layer(torch.from_numpy(features)).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_class_the_probe_never_saw_is_never_predicted():
    features, labels = make_features(classes=2)
    layer = fit_probe(features, labels * 2, 3, balance=False)  # classes 0 and 2 of three
    with torch.no_grad():
        shares = layer(torch.from_numpy(features)).softmax(dim=1)
    assert shares[:, 1].max() < 1e-6
    assert ((shares.argmax(dim=1) == torch.from_numpy(labels * 2)).float().mean()) > 0.9


def test_class_weights_make_every_class_count_the_same():
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = weigh_classes(labels, 4)
    assert weights[2] == 0
    sums = torch.bincount(labels, weights=weights[labels], minlength=4)
    torch.testing.assert_close(sums, torch.tensor([10 / 3, 10 / 3, 0, 10 / 3], dtype=sums.dtype))


def test_balanced_sampling_draws_rare_classes_as_often():
    labels = torch.tensor([0] * 900 + [1] * 100)
    order = draw_order(labels, 2, torch.Generator().manual_seed(0), 1000, balance=True)
    assert 0.42 < labels[order].float().mean() < 0.58
    plain = draw_order(labels, 2, torch.Generator().manual_seed(0), 1000, balance=False)
    assert sorted(plain.tolist()) == list(range(1000))


def test_an_epoch_longer_than_the_images_passes_over_them_again():
    labels = torch.arange(10) % 2
    order = draw_order(labels, 2, torch.Generator().manual_seed(0), 27, balance=False)
    assert len(order) == 27 and sorted(order[10:20].tolist()) == list(range(10))
    assert set(torch.bincount(order).tolist()) == {2, 3}
    short = draw_order(labels, 2, torch.Generator().manual_seed(0), 4, balance=False)
    assert short.tolist() == order[:4].tolist()
    assert len(draw_order(labels, 2, torch.Generator().manual_seed(0), 27, balance=True)) == 27


def test_a_probe_of_repeated_images_is_the_probe_of_the_images():
    features, labels = make_features(count=30)
    once = fit_probe(features, labels, 3, balance=True)
    again = np.tile(features, (5, 1)), np.tile(labels, 5)
    worth = fit_probe(*again, 3, balance=True, worth=30)
    free = fit_probe(*again, 3, balance=True)
    with torch.no_grad():
        torch.testing.assert_close(worth.weight, once.weight, rtol=1e-2, atol=1e-4)
        assert free.weight.norm() > 1.5 * once.weight.norm()  # each repeat weakens the penalty


def test_augmentation_repeats_with_its_generator_and_keeps_the_shape():
    images = torch.rand(6, 3, 16, 16)
    first, again, other = (
        augment(images, torch.Generator().manual_seed(seed), flips=True) for seed in (1, 1, 2)
    )
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_images_are_mirrored_only_where_the_modality_allows_it():
    ramp = torch.linspace(-1, 1, 16).expand(64, 3, 16, 16)  # grows from left to right
    growth = {}
    for flips in (True, False):
        moved = augment(ramp, torch.Generator().manual_seed(0), flips=flips)
        growth[flips] = (moved[..., -1] > moved[..., 0]).float().mean()
    assert growth[False] == 1
    assert 0.2 < growth[True] < 0.8


def test_augmentation_keeps_colors():
    images = torch.full((8, 3, 16, 16), 0.3)
    moved = augment(images, torch.Generator().manual_seed(0), flips=True)
    torch.testing.assert_close(moved, images)


SAVERS = {
    "timm-cnn": save_timm,
    "timm-vit": lambda folder: save_timm(folder, "test_vit"),
    "timm-convnext": lambda folder: save_timm(folder, "test_convnext"),
    "transformers-vit": save_vit,
    "transformers-resnet": save_resnet,
}


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


def test_building_a_network_leaves_the_backbone_alone(tmp_path):
    backbone = load_backbone(str(save_timm(tmp_path)), device=CPU)
    network = build_network(backbone, nn.Linear(backbone.width, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    first = next(backbone.module.parameters())
    assert not torch.equal(first, next(network.parameters()))
    assert not network.training


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
    with pytest.raises(ConfigError, match=r"--image-size 64: .* takes 32 pixels only"):
        resize_input(backbone, 64)


def test_a_backbone_that_is_no_classifier_is_refused_before_training(tmp_path):
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="cannot carry a classifier"):
        check_backbone(load_backbone(str(tmp_path), device=CPU))


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        load_classifier(tmp_path, CPU)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    with pytest.raises(ConfigError, match="holds no safetensors"):
        load_classifier(tmp_path, CPU)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["timm-vit", "transformers-vit"])
def test_no_weight_of_a_classifier_is_made_up_or_left_out(tmp_path, kind, how):
    folder = SAVERS[kind](tmp_path)
    damage(folder, how)
    text = "is no image classifier" if kind == "timm-vit" else DAMAGES[how]
    with pytest.raises((MissingModelError, ConfigError), match=text) as caught:
        load_classifier(folder, CPU)
    assert len(str(caught.value)) < 500
