import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import wasserstein_distance

from medart_cli.metrics import color
from medart_cli.metrics.color import (
    bootstrap_color,
    color_gap,
    describe_colors,
    pooled_histograms,
)


def draw_images(count, seed=0, low=40, high=200):
    random = np.random.default_rng(seed)
    return [
        Image.fromarray(random.integers(low, high, (20, 30, 3), dtype=np.uint8))
        for _ in range(count)
    ]


def describe(images):
    return np.stack([describe_colors(image).numpy() for image in images])


def pixels_of(images, channel):
    return np.concatenate([np.asarray(image)[..., channel].ravel() for image in images]) / 255


def test_color_gaps_equal_those_of_the_pixels_themselves():
    real, synthetic = draw_images(4), draw_images(5, seed=1, low=60, high=250)
    gap = color_gap(describe(real), describe(synthetic))
    for channel in range(3):
        first, second = pixels_of(real, channel), pixels_of(synthetic, channel)
        assert gap.mean[channel] == pytest.approx(second.mean() - first.mean(), abs=1e-6)
        expected = wasserstein_distance(first, second)
        assert gap.histogram[channel] == pytest.approx(expected, rel=1e-5)
        spreads = [
            np.mean([np.asarray(image)[..., channel].std() / 255 for image in images])
            for images in (real, synthetic)
        ]
        assert gap.spread[channel] == pytest.approx(spreads[1] - spreads[0], abs=1e-6)


def test_a_set_has_no_gap_to_itself():
    colors = describe(draw_images(3))
    gap = color_gap(colors, colors)
    assert max(np.abs([*gap.mean, *gap.spread, *gap.histogram])) == pytest.approx(0, abs=1e-9)


def test_more_saturation_shows_in_the_saturation_and_beyond_its_interval():
    real = [ImageEnhance.Color(image).enhance(0.4) for image in draw_images(12)]
    loud = [ImageEnhance.Color(image).enhance(1.6) for image in real]
    gap = color_gap(describe(real), describe(loud))
    assert gap.mean[3] > 0.05 and gap.histogram[3] > 0.05
    repeats = bootstrap_color(describe(real), describe(loud), np.random.default_rng(0), 50)
    assert len(repeats) == 50
    assert min(item.mean[3] for item in repeats) > 0.05


def test_bootstrap_means_lie_about_the_gap():
    real, synthetic = describe(draw_images(20)), describe(draw_images(20, seed=1, high=220))
    means = [gap.mean for gap in bootstrap_color(real, synthetic, np.random.default_rng(0), 300)]
    expected = color_gap(real, synthetic).mean
    np.testing.assert_allclose(np.mean(means, axis=0), expected, atol=2e-3)


def test_large_images_are_shrunk_and_histograms_sum_to_one():
    colors = describe([Image.new("RGB", (2000, 11), (255, 0, 128))])
    pooled = pooled_histograms(colors)
    np.testing.assert_allclose(pooled.sum(axis=1), 1, rtol=1e-6)
    assert pooled[0, 255] == pooled[1, 0] == pooled[2, 128] == pooled[3, 255] == 1


def test_the_number_of_images_at_a_time_changes_no_color(monkeypatch):
    random = np.random.default_rng(0)
    real, synthetic = (random.random((n, color.WIDTH), dtype=np.float32) for n in (11, 7))
    whole = color_gap(real, synthetic)
    monkeypatch.setattr(color, "ROWS", 4)
    for name in ("mean", "spread", "histogram"):
        np.testing.assert_array_equal(
            getattr(color_gap(real, synthetic), name), getattr(whole, name)
        )
