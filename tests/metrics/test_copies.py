import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

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


def crop_to(image, share):
    side = round(image.width * share)
    left = (image.width - side) // 2
    part = image.crop((left, left, left + side, left + side))
    return part.resize(image.size, Image.Resampling.BICUBIC)


def put_into(image, ground, side, place):
    canvas = ground.copy()
    canvas.paste(image.resize((side, side), Image.Resampling.LANCZOS), place)
    return canvas


BLACK = Image.new("RGB", (96, 96))
GRAY = Image.new("RGB", (96, 96), "gray")
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
    "inverted": ImageOps.invert,
    "turned by 45 degrees": lambda image: image.rotate(45, Image.Resampling.BICUBIC),
    "turned by 20 degrees": lambda image: image.rotate(-20, Image.Resampling.BICUBIC),
    "cropped to 60 %": lambda image: crop_to(image, 0.6),
    "shrunk": lambda image: put_into(image, BLACK, 67, (14, 14)),
    "shifted": lambda image: put_into(image, BLACK, 96, (12, 7)),
    "covered": lambda image: put_into(GRAY, image, 34, (30, 36)),
    "half of it": lambda image: put_into(draw_picture(999), image, 96, (50, 0)),
}


def describe(images):
    return np.stack([describe_layout(image).numpy() for image in images])


@pytest.fixture(scope="module")
def training():
    return [draw_picture(seed) for seed in range(60)]


def judge(synthetic, heldout, *, groups=None, rate=0.01, trained=False):
    groups = np.arange(len(heldout[0].ratio)) if groups is None else groups
    return judge_copies(synthetic, heldout, groups, rate=rate, trained=trained)


def nearest(images, training, own=None):
    codes = np.full(len(images), -1) if own is None else own
    theirs = np.arange(len(training))
    return find_nearest_layouts(describe(images), describe(training), codes, theirs, CPU)


@pytest.fixture(scope="module")
def heldout(training):
    return nearest(training, training, np.arange(60))


@pytest.mark.parametrize("name", CHANGES)
def test_planted_copies_are_all_found_and_paired_with_their_source(training, heldout, name):
    planted = [CHANGES[name](image) for image in training[:8]]
    found = nearest(planted, training)
    verdict = judge([found], [heldout], rate=0.02)
    assert verdict.flagged.all()
    assert list(found.index) == list(range(8))


@pytest.mark.parametrize("count, heldout", [(70, 0), (150, 0), (70, 70)])
def test_unseen_images_are_not_flagged_beyond_the_stated_rate(count, heldout):
    """Many draws of training, held-out and unseen images, in two spaces of their own."""
    random = np.random.default_rng(0)
    flagged, stated, single = [], [], []
    for _ in range(60):
        spaces = random.normal(size=(2, count + heldout + 40, 12))
        training, other, unseen = np.split(spaces, [count, count + heldout], axis=1)
        rows, new = np.arange(count), np.full(40, -1)
        known = rows if not heldout else np.full(heldout, -1)
        sides = zip(unseen, training, strict=True)
        found = [find_nearest_features(q, [t], new, rows) for q, t in sides]
        sides = zip(other if heldout else training, training, strict=True)
        held = [find_nearest_features(q, [t], known, rows) for q, t in sides]
        verdict = judge(found, held, trained=not heldout)
        flagged.append(verdict.flagged.mean())
        stated.append(verdict.false_alarms)
        single.append(2 / (verdict.heldout + 1))
    error = np.std(flagged) / len(flagged) ** 0.5
    assert np.mean(flagged) < np.mean(stated) + 2 * error
    if not heldout:  # the rate of held-out images would not hold
        assert np.mean(flagged) > np.mean(single)


def test_with_few_held_out_images_no_rate_is_stated():
    values = np.linspace(0.6, 0.99, copies.LEAST_HELDOUT)
    assert judge([ratios([0.5])], [ratios(values)]).false_alarms is not None
    few = judge([ratios([0.5, 0.7])], [ratios(values[1:])])
    assert few.false_alarms is None and list(few.flagged) == [True, False]
    patients = judge([ratios([0.5])], [ratios(values)], groups=np.arange(len(values)) // 2)
    assert patients.false_alarms is None and patients.heldout == copies.LEAST_HELDOUT // 2


def test_the_images_of_one_patient_count_as_one():
    values = np.concatenate([np.linspace(0.6, 0.62, 10), np.linspace(0.7, 0.99, 99)])
    groups = np.concatenate([np.zeros(10, dtype=int), np.arange(1, 100)])
    verdict = judge([ratios([0.5])], [ratios(values)], groups=groups, rate=0.03)
    assert verdict.thresholds == [pytest.approx(values[11])]  # the third patient of 100
    assert verdict.false_alarms == pytest.approx(3 / 101)
    assert (verdict.heldout, verdict.images) == (100, 109)


def test_the_nearest_features_are_the_nearest_by_hand_over_the_views():
    random = np.random.default_rng(0)
    queries, plain, mirrored = (random.normal(size=(n, 6)) for n in (4, 9, 9))
    theirs = np.arange(9)
    found = find_nearest_features(queries, [plain, mirrored], np.full(4, -1), theirs)
    centered = [item - plain.mean(axis=0) for item in (plain, mirrored, queries)]
    units = [item / np.linalg.norm(item, axis=1, keepdims=True) for item in centered]
    distance = np.min(
        [np.linalg.norm(units[2][:, None] - view[None], axis=2) for view in units[:2]], axis=0
    )
    ordered = np.sort(distance, axis=1)
    assert list(found.index) == list(distance.argmin(axis=1))
    np.testing.assert_allclose(found.distance, ordered[:, 0])
    np.testing.assert_allclose(found.ratio, ordered[:, 0] / ordered[:, 1 + 7 // 2])


def test_images_of_the_own_group_are_not_compared():
    training = np.random.default_rng(0).normal(size=(6, 5))
    groups = np.array([0, 0, 1, 1, 2, 2])
    found = find_nearest_features(training, [training], groups, groups)
    assert all(groups[index] != groups[row] for row, index in enumerate(found.index))
    alone = find_nearest_features(training, [training], groups * 0, groups * 0)
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
    views = [random.normal(size=(5000, 12)).astype(np.float32) for _ in range(2)]
    views[1][4500] = views[1][100]  # the first of equals is named
    queries = random.normal(size=(700, 12)).astype(np.float32)
    queries[600] = views[1][100]
    own, theirs = np.arange(700) // 2, np.arange(5000) // 4
    found = find_nearest_features(queries, views, own, theirs)
    units = [item - views[0].mean(axis=0, dtype=np.float64) for item in (*views, queries)]
    units = [item / np.linalg.norm(item, axis=1, keepdims=True) for item in units]
    likeness = np.maximum(units[2] @ units[0].T, units[2] @ units[1].T)
    index, distance, ratio = judge_by_hand(likeness, own, theirs)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, atol=1e-7)
    np.testing.assert_allclose(found.ratio, ratio, atol=1e-6)
    assert found.index[600] == 100


def test_the_nearest_layouts_over_many_blocks_are_those_of_the_whole_table(training, monkeypatch):
    pictures = describe(training)
    groups = np.arange(len(pictures)) // 2
    views = copies._read_pictures(pictures, CPU)
    likeness = np.zeros((len(pictures), len(pictures)))
    for own, theirs in zip(copies._look_for(views), copies._look_at(views), strict=True):
        for row, column in np.ndindex(likeness.shape):
            here = float((own[row] @ theirs[column].T).abs().max())
            likeness[row, column] = max(likeness[row, column], here)
    index, distance, ratio = judge_by_hand(likeness, groups, groups)
    monkeypatch.setattr(copies, "QUERIES", 25)
    monkeypatch.setattr(copies, "VIEW_BATCH", 16)
    found = find_nearest_layouts(pictures, pictures, groups, groups, CPU)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, atol=1e-5)
    np.testing.assert_allclose(found.ratio, ratio, atol=1e-5)


def test_a_crop_is_what_sampling_the_picture_gives(training):
    pictures = copies._read_pictures(describe(training[:2]), CPU)
    crops = copies._cut(pictures, 0.7, 5).view(2, 5, 5, 16, 16)
    place = torch.tensor([[[0.7, 0, 0.15], [0, 0.7, -0.3]]])  # column 3, row 0 of the places
    grid = torch.nn.functional.affine_grid(place, [1, 1, 48, 48], align_corners=False)
    cut = torch.nn.functional.grid_sample(
        pictures[:, None], grid.expand(2, -1, -1, -1), align_corners=False, padding_mode="border"
    )
    expected = torch.nn.functional.avg_pool2d(cut, 3)[:, 0]
    torch.testing.assert_close(crops[:, 0, 3], expected, atol=1e-5, rtol=0)


def ratios(values):
    values = np.asarray(values, dtype=np.float64)
    return Nearest(np.zeros(len(values), dtype=int), np.ones(len(values)), values)


def test_the_threshold_is_the_order_statistic_of_the_rate():
    heldout = ratios(np.linspace(0.5, 0.99, 99))
    verdict = judge([ratios([0.4, 0.505, 0.52])], [heldout], rate=0.02)
    assert verdict.thresholds == [pytest.approx(0.505)]  # the second of 99: 2 / 100
    assert verdict.false_alarms == pytest.approx(0.02) and verdict.place == 2
    assert list(verdict.flagged) == [True, False, False]
    assert verdict.score[0] == pytest.approx(0.505 / 0.4)
    left_out = judge([ratios([0.4])], [heldout], rate=0.02, trained=True)
    assert left_out.thresholds == [pytest.approx(0.5)] and left_out.place == 2
    assert left_out.false_alarms == pytest.approx(0.02)


def test_few_held_out_images_state_the_larger_rate():
    verdict = judge([ratios([0.1])] * 3, [ratios(np.linspace(0.5, 0.7, 60))] * 3)
    assert verdict.false_alarms == pytest.approx(3 / 61)
    assert verdict.heldout == 60


def test_twins_of_training_images_set_no_threshold_and_are_part_of_the_rate():
    values = np.concatenate([[0.1, 0.2], np.linspace(0.6, 0.9, 98)])
    verdict = judge([ratios([0.5])], [ratios(values)], rate=0.011)
    assert verdict.twins == 2 and verdict.thresholds == [0.6] and verdict.flagged.all()
    assert verdict.false_alarms == pytest.approx(1 / 99 + 2 / 100)
    with pytest.raises(ValueError, match="every held-out image is the twin"):
        judge([ratios([0.2])], [ratios([0.2])])


def test_as_many_near_copies_as_chance_gives_are_no_excess_and_more_are():
    """Ratios that mean nothing, with thresholds that are drawn too: one in a hundred at most."""
    random = np.random.default_rng(0)
    small, naive = 0, 0
    for _ in range(600):
        heldout, own = (
            [Nearest(np.zeros(n), np.ones(n), 0.6 + random.random(n)) for _ in range(3)]
            for n in (60, 50)
        )
        verdict = judge(own, heldout)
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


def test_the_interval_of_a_share_is_the_published_one():
    """Newcombe 1998, Statistics in Medicine 17, table I, the score method."""
    known = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611),
             (1, 29): (0.0061, 0.1718)}  # fmt: skip
    for (count, total), limits in known.items():
        assert wilson_interval(count, total) == pytest.approx(limits, abs=5e-5)
    assert wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)
