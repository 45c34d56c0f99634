import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from medart_cli.classify.images import load_sets
from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.sets import read_sets
from medart_cli.errors import ConfigError
from medart_cli.models.backbone import Backbone


def draw_set(folder, count, seed):
    folder.mkdir()
    generator = np.random.default_rng(seed)
    lines = []
    for index in range(count):
        pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "label": ("ill", "well")[index % 2]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def train(tmp_path):
    return draw_set(tmp_path / "train", 12, 1)


@pytest.fixture
def test(tmp_path):
    return draw_set(tmp_path / "test", 8, 2)


class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images.mean(dim=(2, 3)) * self.scale


def build_mean_backbone():
    def prepare(image):
        return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1) / 255

    return Backbone("mean", "print", 3, 8, Mean(), prepare)


def load(tmp_path, backbone, **options):
    if options.get("freeze"):
        options |= {"cache": tmp_path / "cache", "workers": 0}
    config = ClassifyConfig(
        data=str(tmp_path / "train"), test=str(tmp_path / "test"), out=tmp_path / "out", **options
    )
    cache = config.cache if config.freeze else None
    return load_sets(config, read_sets(config), backbone, cache)


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (5, 3), (64, 2)])
def test_features_stand_in_the_order_of_rows_whatever_batch_size_and_workers(
    freeze, batch_size, workers, tmp_path, train, test
):
    (train / "4.png").write_bytes(b"broken")
    backbone = build_mean_backbone()
    images, lost = load(tmp_path, backbone, freeze=freeze, batch_size=batch_size, workers=workers)
    assert lost == 1
    part = images["train"]
    assert len(part.labels) == len(part.features) == 11
    assert len(part.pixels) == (0 if freeze else 11)
    for row, label, feature in zip(part.rows, part.labels, part.features, strict=True):
        with Image.open(row.path) as image:
            wanted = np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) / 255
        np.testing.assert_allclose(feature, wanted, rtol=1e-5 if freeze else 1e-3)
        assert row.label == ("ill", "well")[label]


def test_features_are_computed_once_and_not_for_another_backbone(tmp_path, train, test):
    first, _ = load(tmp_path, build_mean_backbone(), freeze=True)
    doubled = build_mean_backbone()
    with torch.no_grad():
        doubled.module.scale.fill_(2)  # its fingerprint is wrongly the same: shows the cache's use
    again, _ = load(tmp_path, doubled, freeze=True)
    np.testing.assert_array_equal(first["test"].features, again["test"].features)
    other, _ = load(tmp_path, replace(doubled, fingerprint="f" * 64), freeze=True)
    np.testing.assert_allclose(other["test"].features, 2 * first["test"].features, rtol=1e-6)


@pytest.mark.parametrize("freeze", [True, False])
def test_a_class_whose_images_are_all_broken_is_named(freeze, tmp_path, train, test):
    for path in sorted(test.glob("*[1357].png")):
        path.write_bytes(path.name.encode())
    with pytest.raises(ConfigError, match="the test set: only one class, 'ill'"):
        load(tmp_path, build_mean_backbone(), freeze=freeze)


def test_picked_and_joined_images_keep_their_rows(tmp_path, train, test):
    images, _ = load(tmp_path, build_mean_backbone())
    both = images["train"].pick([3, 0]).join(images["test"].pick([1]))
    assert [record.file_name for record in both.rows] == ["3.png", "0.png", "1.png"]
    assert both.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(both.features[2], images["test"].features[1])
    assert torch.equal(both.pixels[1], images["train"].pixels[0])
