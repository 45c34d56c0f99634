import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from medart_cli.classify.network import (
    PROBE_C,
    augment,
    build_network,
    draw_order,
    fit_probe,
    weigh_classes,
)
from medart_cli.models.backbone import load_backbone
from tests.small_classifier import CPU, save_resnet, save_timm, save_vit


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


def test_building_a_network_leaves_the_backbone_alone(tmp_path):
    backbone = load_backbone(str(save_timm(tmp_path)), device=CPU)
    network = build_network(backbone, nn.Linear(backbone.width, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    first = next(backbone.module.parameters())
    assert not torch.equal(first, next(network.parameters()))
    assert not network.training
