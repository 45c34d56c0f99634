import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.stats import binomtest

from medart_cli.metrics import copies
from medart_cli.metrics.copies import (
    NEXT,
    Nearest,
    describe_layout,
    find_chance,
    find_nearest_features,
    find_nearest_layouts,
    focus_image,
    judge_copies,
    wilson_interval,
)

CPU = torch.device("cpu")


def draw_picture(seed):
    """A smooth random picture, as photographs are at low resolution."""
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    return noise.resize((96, 96), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def crop(image):
    return image.crop((11, 3, 91, 83)).resize((96, 96), Image.Resampling.BICUBIC)


def compress(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer).convert("RGB")


CHANGES = {
    "exact": lambda image: image,
    "cropped": crop,
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "compressed": compress,
    "flipped": ImageOps.mirror,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "all of it": lambda image: compress(
        ImageEnhance.Brightness(ImageOps.mirror(crop(image))).enhance(1.2)
    ),
}


def describe(images):
    return np.stack([describe_layout(image).numpy() for image in images])


@pytest.fixture(scope="module")
def training():
    return [draw_picture(seed) for seed in range(60)]


def nearest(images, training, own=None):
    codes = np.full(len(images), -1) if own is None else own
    theirs = np.arange(len(training))
    return find_nearest_layouts(describe(images), describe(training), codes, theirs, CPU)


@pytest.mark.parametrize("name", CHANGES)
def test_planted_copies_are_all_found_and_paired_with_their_source(training, name):
    planted = [CHANGES[name](image) for image in training[:8]]
    heldout = nearest(training, training, np.arange(60))
    found = nearest(planted, training)
    verdict = judge_copies([found], [heldout], rate=0.02)
    assert verdict.flagged.all()
    assert list(found.index) == list(range(8))


def test_unseen_images_are_not_flagged_beyond_the_stated_rate(training):
    heldout = nearest(training, training, np.arange(60))
    unseen = nearest([draw_picture(seed) for seed in range(1000, 1150)], training)
    verdict = judge_copies([unseen], [heldout], rate=0.05)
    assert verdict.false_alarms == pytest.approx(3 / 61)
    assert binomtest(int(verdict.flagged.sum()), 150, verdict.false_alarms).pvalue > 0.01


def test_the_nearest_features_are_the_nearest_by_hand_over_the_views():
    random = np.random.default_rng(0)
    training, plain, mirrored = (random.normal(size=(n, 6)) for n in (9, 4, 4))
    theirs = np.arange(9)
    found = find_nearest_features([plain, mirrored], training, np.full(4, -1), theirs)
    centered = [item - training.mean(axis=0) for item in (plain, mirrored, training)]
    units = [item / np.linalg.norm(item, axis=1, keepdims=True) for item in centered]
    distance = np.min(
        [np.linalg.norm(view[:, None] - units[2][None], axis=2) for view in units[:2]], axis=0
    )
    ordered = np.sort(distance, axis=1)
    assert list(found.index) == list(distance.argmin(axis=1))
    np.testing.assert_allclose(found.distance, ordered[:, 0])
    np.testing.assert_allclose(found.ratio, ordered[:, 0] / ordered[:, 1 + 7 // 2])


def test_images_of_the_own_group_are_not_compared():
    training = np.random.default_rng(0).normal(size=(6, 5))
    groups = np.array([0, 0, 1, 1, 2, 2])
    found = find_nearest_features([training], training, groups, groups)
    assert all(groups[index] != groups[row] for row, index in enumerate(found.index))
    alone = find_nearest_features([training], training, groups * 0, groups * 0)
    assert (alone.ratio == 1).all()


def judge_by_hand(likeness, own, theirs):
    """Index, distance and ratio from the whole table of cosines, one query after the other."""
    found = []
    for row, cosines in enumerate(likeness):
        others = np.flatnonzero(theirs != own[row])
        distance = np.sqrt(np.maximum(2 - 2 * cosines[others], 0))
        order = np.argsort(distance, kind="stable")
        following = distance[order[1 : NEXT + 1]]
        middle = following[(len(following) - 1) // 2] if len(following) else None
        ratio = distance[order[0]] / max(middle, 1e-9) if middle is not None else 1.0
        found.append((others[order[0]], distance[order[0]], ratio))
    return [np.array(column) for column in zip(*found, strict=True)]


def test_the_nearest_features_over_many_blocks_are_those_of_the_whole_table():
    random = np.random.default_rng(0)
    training = random.normal(size=(5000, 12)).astype(np.float32)
    training[4500] = training[100]  # the first of equals is named
    views = [random.normal(size=(700, 12)).astype(np.float32) for _ in range(2)]
    views[1][600] = training[100]
    own, theirs = np.arange(700) // 2, np.arange(5000) // 4
    found = find_nearest_features(views, training, own, theirs)
    units = [item - training.mean(axis=0, dtype=np.float64) for item in (*views, training)]
    units = [item / np.linalg.norm(item, axis=1, keepdims=True) for item in units]
    likeness = np.maximum(units[0] @ units[2].T, units[1] @ units[2].T)
    index, distance, ratio = judge_by_hand(likeness, own, theirs)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, atol=1e-7)
    np.testing.assert_allclose(found.ratio, ratio, atol=1e-6)
    assert found.index[600] == 100


def test_the_nearest_layouts_over_many_blocks_are_those_of_the_whole_table(training):
    pictures = describe(training)
    assert len(pictures) > 3 * copies.TOGETHER
    groups = np.arange(len(pictures)) // 2
    found = find_nearest_layouts(pictures, pictures, groups, groups, CPU)
    turned, crops = copies._orientations(pictures), copies._crops(pictures)
    likeness = np.array([[(one @ other.T).max() for other in crops] for one in turned.unbind(1)])
    index, distance, ratio = judge_by_hand(likeness.astype(np.float64), groups, groups)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, atol=1e-5)
    np.testing.assert_allclose(found.ratio, ratio, atol=1e-5)


def ratios(values):
    values = np.asarray(values, dtype=np.float64)
    return Nearest(np.zeros(len(values), dtype=int), np.ones(len(values)), values)


def test_the_threshold_is_the_order_statistic_of_the_rate():
    heldout = ratios(np.linspace(0.5, 0.99, 99))
    verdict = judge_copies([ratios([0.4, 0.505, 0.52])], [heldout], rate=0.02)
    assert verdict.thresholds == [pytest.approx(0.505)]  # the second of 99: 2 / 100
    assert verdict.false_alarms == pytest.approx(0.02)
    assert list(verdict.flagged) == [True, False, False]
    assert verdict.score[0] == pytest.approx(0.505 / 0.4)


def test_few_held_out_images_state_the_larger_rate():
    verdict = judge_copies([ratios([0.1])] * 3, [ratios([0.5, 0.6, 0.7])] * 3, rate=0.01)
    assert verdict.false_alarms == pytest.approx(3 / 4)
    assert verdict.heldout == 3


def test_held_out_images_that_are_twins_of_a_training_image_are_left_out():
    verdict = judge_copies([ratios([0.5])], [ratios([0.1, 0.6, 0.7, 0.8])], rate=0.01)
    assert verdict.twins == 1 and verdict.thresholds == [0.6] and verdict.flagged.all()
    with pytest.raises(ValueError, match="every held-out image is the twin"):
        judge_copies([ratios([0.2])], [ratios([0.2])], rate=0.01)


def test_as_many_near_copies_as_chance_gives_are_no_excess_and_more_are():
    """Ratios that mean nothing, with thresholds that are drawn too: one in a hundred at most."""
    random = np.random.default_rng(0)
    small, naive = 0, 0
    for _ in range(600):
        heldout, own = (
            [Nearest(np.zeros(n), np.ones(n), 0.6 + random.random(n)) for _ in range(3)]
            for n in (60, 50)
        )
        verdict = judge_copies(own, heldout, rate=0.01)
        count = int(verdict.flagged.sum())
        small += find_chance(count, 50, verdict) <= 0.01
        naive += wilson_interval(count, 50)[0] > verdict.false_alarms
    assert small <= 12 < naive
    assert find_chance(0, 50, verdict) == 1
    assert find_chance(30, 50, verdict) < 1e-4


def test_the_focused_image_does_not_depend_on_brightness_and_borders():
    image = draw_picture(0)
    framed = ImageOps.expand(image.crop((6, 6, 90, 90)), 6, "black")
    darker = ImageEnhance.Brightness(framed).enhance(0.7)
    first, second = (np.asarray(focus_image(item), dtype=float) for item in (image, darker))
    assert np.abs(first - second).mean() < 4


def test_the_wilson_interval_agrees_with_scipy():
    for count, total in ((0, 10), (3, 10), (600, 600), (7, 612)):
        expected = binomtest(count, total).proportion_ci(method="wilson")
        assert wilson_interval(count, total) == pytest.approx(
            (expected.low, expected.high), abs=1e-9
        )
    assert wilson_interval(0, 0) == (0.0, 1.0)
