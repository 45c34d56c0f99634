import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import energy_distance as energy_of_one_number
from scipy.stats import wasserstein_distance

from medart_cli.metrics import color
from medart_cli.metrics.color import (
    average_gaps,
    bootstrap_color,
    bootstrap_variety,
    channel_moments,
    color_floor,
    color_gap,
    color_variety,
    describe_colors,
    draw_means,
    energy_distance,
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
    groups = np.arange(12), np.arange(12)
    random = np.random.default_rng(0)
    draws = bootstrap_color(describe(real), describe(loud), groups, generator=random, repeats=50)
    assert draws.mean.shape == draws.histogram.shape == (50, 4)
    assert draws.mean[:, 3].min() > 0.05
    floor = color_floor(describe(real), describe(loud), groups, random)
    assert gap.mean[3] > floor.mean[3] and abs(gap.mean[0]) < floor.mean[0]


def test_bootstrap_means_lie_about_the_gap():
    real, synthetic = describe(draw_images(20)), describe(draw_images(20, seed=1, high=220))
    groups, random = (np.arange(20), np.arange(20)), np.random.default_rng(0)
    draws = bootstrap_color(real, synthetic, groups, generator=random, repeats=300)
    expected = color_gap(real, synthetic).mean
    np.testing.assert_allclose(draws.mean.mean(axis=0), expected, atol=2e-3)


def test_the_sizes_of_gaps_are_averages_and_their_resamples_are_not_folded():
    real, synthetic = describe(draw_images(20)), describe(draw_images(25, seed=1, high=220))
    random = np.random.default_rng(0)
    means = [draw_means(item, np.arange(len(item)), random, 50) for item in (real, synthetic)]
    found, gap = average_gaps(*means), color_gap(real, synthetic)
    for name in ("mean", "spread", "histogram"):
        assert found[name][0] == pytest.approx(np.abs(getattr(gap, name)[:3]).mean())
        assert found[name].shape == (51,)
    alike = average_gaps(means[0], draw_means(real, np.arange(20), random, 400)[:51])
    assert alike["mean"][0] == pytest.approx(0)
    far = describe(draw_images(25, seed=2, low=120, high=220))
    sizes = average_gaps(means[0], draw_means(far, np.arange(25), random, 50))
    draws = color_gap(real, far).mean[:3]
    assert sizes["mean"][1:].mean() == pytest.approx(np.abs(draws).mean(), rel=0.05)


def draw_colors(random, count, patients=None):
    """Histograms of bell shape, (count, 1024), of patients who differ from each other."""
    centers = 0.5 + 0.1 * random.normal(size=(count, 4, 1))
    if patients is not None:
        centers += 0.2 * random.normal(size=(patients.max() + 1, 4, 1))[patients]
    widths = 0.1 + 0.03 * random.random(size=(count, 4, 1))
    shares = np.exp(-0.5 * ((np.linspace(0, 1, 256) - centers) / widths) ** 2)
    return (shares / shares.sum(axis=2, keepdims=True)).reshape(count, 1024)


def names_any(real, synthetic, groups, random):
    gap, floor = color_gap(real, synthetic), color_floor(real, synthetic, groups, random)
    names = ("mean", "spread", "histogram")
    return any((np.abs(getattr(gap, it)) > getattr(floor, it)).any() for it in names)


@pytest.mark.parametrize(("n", "m"), [(20, 20), (90, 12), (12, 90)])
def test_of_sets_of_one_source_hardly_any_color_is_named_at_any_n(n, m, monkeypatch):
    """At most 4 % by construction; of 40 such pairs 6 or more are named once in 200 times."""
    monkeypatch.setattr(color, "FLOOR_PERMUTATIONS", 99)
    monkeypatch.setattr(color, "SCALED", 60)
    random = np.random.default_rng(0)
    groups = np.arange(n), np.arange(m)
    named = sum(
        names_any(draw_colors(random, n), draw_colors(random, m), groups, random) for _ in range(40)
    )
    assert named <= 5
    shifted = np.roll(draw_colors(random, m).reshape(m, 4, 256), 30, axis=2).reshape(m, 1024)
    assert names_any(draw_colors(random, n), shifted, groups, random)


def test_images_of_one_patient_do_not_count_as_many(monkeypatch):
    monkeypatch.setattr(color, "FLOOR_PERMUTATIONS", 99)
    monkeypatch.setattr(color, "SCALED", 60)
    random = np.random.default_rng(0)
    patients = np.minimum(np.arange(80) // 5, 9)  # the last has 35 images
    named, naive = 0, 0
    for _ in range(25):
        real = draw_colors(random, 80, patients)
        other = draw_colors(random, 40, np.arange(40))
        named += names_any(real, other, (patients, np.arange(40)), random)
        naive += names_any(real, other, (np.arange(80), np.arange(40)), random)
    assert named <= 4 < 9 < naive


def test_large_images_are_shrunk_and_histograms_sum_to_one():
    colors = describe([Image.new("RGB", (2000, 11), (255, 0, 128))])
    pooled = pooled_histograms(colors)
    np.testing.assert_allclose(pooled.sum(axis=1), 1, rtol=1e-6)
    assert pooled[0, 255] == pooled[1, 0] == pooled[2, 128] == pooled[3, 255] == 1


def test_the_number_of_images_at_a_time_changes_no_color(monkeypatch):
    random = np.random.default_rng(0)
    real, synthetic = (random.random((n, color.COLOR_WIDTH), dtype=np.float32) for n in (11, 7))
    whole = color_gap(real, synthetic)
    monkeypatch.setattr(color, "CHUNK_IMAGES", 4)
    for name in ("mean", "spread", "histogram"):
        np.testing.assert_array_equal(
            getattr(color_gap(real, synthetic), name), getattr(whole, name)
        )


def test_the_moments_of_images_are_those_of_their_pixels(monkeypatch):
    monkeypatch.setattr(color, "CHUNK_IMAGES", 2)
    images = draw_images(3)
    moments = channel_moments(describe(images))
    assert moments.shape == (3, 4, 2)
    for image, found in zip(images, moments, strict=True):
        pixels = np.asarray(image, dtype=np.float64) / 255
        np.testing.assert_allclose(found[:3, 0], pixels.mean(axis=(0, 1)), atol=1e-6)
        np.testing.assert_allclose(found[:3, 1], pixels.std(axis=(0, 1)), atol=1e-6)


def test_variety_is_the_ratio_of_deviations_and_no_average_shows_it():
    random = np.random.default_rng(0)
    real = 0.5 + 0.1 * random.normal(size=(4000, 4))
    alike = 0.5 + 0.03 * random.normal(size=(3000, 4))
    np.testing.assert_allclose(color_variety(real, alike), 0.3, rtol=0.06)
    np.testing.assert_allclose(color_variety(real, real), 1)
    assert np.isnan(color_variety(np.ones((5, 4)), alike)).all()


def test_the_variety_of_resamples_is_that_of_drawn_rows():
    """Against resampling by hand, and at about the coverage that an interval of 95 % claims."""
    random = np.random.default_rng(0)
    real, synthetic = random.normal(size=(40, 4)), 0.8 * random.normal(size=(30, 4))
    groups = np.arange(40), np.arange(30)
    generator = np.random.default_rng(1)
    draws = bootstrap_variety(real, synthetic, groups, generator=generator, repeats=4000)
    by_hand = [
        color_variety(real[random.integers(40, size=40)], synthetic[random.integers(30, size=30)])
        for _ in range(4000)
    ]
    right = ((30 / 29) / (40 / 39)) ** 0.5  # a resample's variance is too small by (n - 1) / n
    np.testing.assert_allclose(draws.mean(axis=0), right * np.mean(by_hand, axis=0), rtol=0.01)
    np.testing.assert_allclose(draws.std(axis=0), np.std(by_hand, axis=0), rtol=0.06)
    covered = 0
    for _ in range(200):
        sets = random.normal(size=(60, 4)), 0.5 * random.normal(size=(60, 4))
        groups = np.arange(60), np.arange(60)
        ratios = bootstrap_variety(*sets, groups, generator=random, repeats=200)
        low, high = np.quantile(ratios[:, 0], [0.025, 0.975])
        covered += low < 0.5 < high
    assert covered >= 178  # 89 %: percentile intervals are a little narrow


def test_the_energy_distance_is_that_of_scipy_and_zero_in_the_mean_where_sets_are_alike():
    random = np.random.default_rng(0)
    one, two = random.normal(size=(300, 1)), 0.5 + random.normal(size=(200, 1))
    # SciPy's is the root, and counts each image's distance to itself.
    biased = energy_of_one_number(one[:, 0], two[:, 0]) ** 2
    own = sum(np.abs(item - item.T).mean() / (len(item) - 1) for item in (one, two))
    assert energy_distance(one, two) == pytest.approx(biased - own, rel=1e-9)
    alike = [energy_distance(*random.normal(size=(2, 20, 6))) for _ in range(300)]
    assert abs(np.mean(alike)) < 3 * np.std(alike) / 300**0.5
