import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import wasserstein_distance

from medart_cli.diffusion.losses import color_moments
from medart_cli.metrics.color import channel_moments, color_gap, describe_colors
from medart_cli.metrics.region import (
    CELLS,
    cover_cells,
    cut_square,
    describe_part,
    hash_part,
    share_marked,
)


def draw_pixels(seed, height=CELLS, width=CELLS):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def draw_weights(seed=0):
    weights = np.random.default_rng(seed).random((CELLS, CELLS)) ** 3
    weights[:20] = 0
    return weights


def describe(pixels, weights):
    return describe_part(Image.fromarray(pixels), weights).numpy()


def weigh(pixels, weights):
    """Mean and deviation of red, green and blue by the pixels themselves, (3, 2)."""
    values, shares = pixels.reshape(-1, 3) / 255, weights.ravel()[:, None] / weights.sum()
    means = (shares * values).sum(axis=0)
    return np.stack([means, np.sqrt((shares * (values - means) ** 2).sum(axis=0))], axis=1)


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (128, 128), (64, 91), (130, 128), (32, 32)]
)
def test_weighted_colors_are_those_of_the_weighted_pixels(height, width):
    weights, pixels = draw_weights(), draw_pixels(1, height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side >= CELLS:
        own = np.kron(weights, np.ones((side // CELLS, side // CELLS)))
    else:
        own = weights.reshape(side, CELLS // side, side, CELLS // side).mean(axis=(1, 3))
    found = channel_moments(describe(pixels, weights)[None])[0]
    np.testing.assert_allclose(found[:3], weigh(square, own), atol=1e-5)


def test_gaps_of_a_part_are_those_of_its_weighted_pixels():
    weights = draw_weights()
    real = [draw_pixels(seed) for seed in range(3)]
    drawn = [draw_pixels(seed) // 2 for seed in range(3, 7)]
    gap = color_gap(*(np.stack([describe(it, weights) for it in item]) for item in (real, drawn)))
    for channel in range(3):
        first, second = (np.stack(item)[..., channel].ravel() / 255 for item in (real, drawn))
        told = [np.tile(weights.ravel(), len(item)) for item in (real, drawn)]
        expected = wasserstein_distance(first, second, *told)
        assert gap.histogram[channel] == pytest.approx(expected, rel=1e-4)
        means = [np.average(it, weights=own) for it, own in zip((first, second), told, strict=True)]
        assert gap.mean[channel] == pytest.approx(means[1] - means[0], abs=1e-5)


def test_colors_are_weighted_as_the_color_loss_of_training_weighs_them():
    weights, pixels = draw_weights(), draw_pixels(2)
    tensor = torch.from_numpy(pixels / 255).permute(2, 0, 1)[None]
    trained = color_moments(tensor, torch.from_numpy(weights)[None, None])[0].numpy()
    found = channel_moments(describe(pixels, weights)[None])[0, :3]
    np.testing.assert_allclose(found[:, 0], trained[:3], atol=1e-6)
    np.testing.assert_allclose(found[:, 1], trained[3:], rtol=2e-3)  # that is the unbiased one


def test_both_parts_of_a_square_make_the_whole():
    weights, pixels = draw_weights(), draw_pixels(3, 512, 512)
    inside, around = (describe(pixels, it) for it in (weights, 1 - weights))
    share = weights.mean()
    whole = describe_colors(Image.fromarray(pixels)).numpy()
    np.testing.assert_allclose(share * inside + (1 - share) * around, whole, atol=1e-6)
    np.testing.assert_allclose(describe(pixels, np.ones((CELLS, CELLS))), whole, atol=1e-6)


def test_lesions_of_another_color_are_seen_where_the_whole_image_has_no_gap():
    """The skin is as much too blue as the lesions are too red: what a color loss may well draw."""
    random = np.random.default_rng(0)
    sets, masks = {"real": [], "drawn": []}, []
    axis = np.arange(CELLS)
    for number in range(40):
        x, y = random.integers(24, 40, 2)
        marked = np.hypot(axis[:, None] - y, axis - x) < 12
        plain = random.normal(128, 10, (CELLS, CELLS, 3))
        masks += [marked] if number % 2 else []
        if number % 2 == 0:
            skin = 40 * marked.mean() / (1 - marked.mean())
            plain[marked, 0] += 40
            plain[~marked, 0] -= skin
        sets["real" if number % 2 else "drawn"].append(plain.round().astype(np.uint8))
    mean = np.mean([cover_cells(it) for it in masks], axis=0)
    whole, inside, around = (
        color_gap(*(np.stack([take(it) for it in sets[name]]) for name in ("real", "drawn")))
        for take in (
            lambda it: describe_colors(Image.fromarray(it)).numpy(),
            lambda it: describe(it, mean),
            lambda it: describe(it, 1 - mean),
        )
    )
    assert abs(whole.mean[0]) < 0.002
    for weights, part in ((mean, inside), (1 - mean, around)):
        lesion = share_marked(mean, weights)  # what of the part is lesion; the rest is skin
        expected = 40 * lesion - skin * (1 - lesion)
        assert part.mean[0] == pytest.approx(expected / 255, abs=0.006)
    assert inside.mean[0] > 0.04 and around.mean[0] < -0.01
    assert abs(inside.mean[1]) < 0.002


def test_a_mask_covers_shares_of_the_cells_of_the_middle_square():
    marked = np.random.default_rng(0).random((200, 128)) < 0.3
    expected = marked[36:164].reshape(CELLS, 2, CELLS, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(cover_cells(marked), expected)
    np.testing.assert_allclose(cover_cells(marked.T), expected.T)
    small = cover_cells(marked[:32, :32])
    np.testing.assert_allclose(small, np.kron(marked[:32, :32], np.ones((2, 2))))
    assert cut_square((128, 200)) == (0, 36, 128, 164) and cut_square((3, 2)) == (0, 0, 2, 2)


def test_what_of_a_part_lies_on_the_masks_tells_how_clearly_it_is_apart():
    masks = [np.zeros((CELLS, CELLS)) for _ in range(4)]
    for number, mask in enumerate(masks):
        mask[:, 16 * (number % 2) : 16 * (number % 2) + 32] = 1
    mean = np.mean(masks, axis=0)
    expected = np.mean([(mean * it).sum() / mean.sum() for it in masks])
    assert share_marked(mean, mean) == pytest.approx(expected)
    around = np.mean([((1 - mean) * it).sum() / (1 - mean).sum() for it in masks])
    assert share_marked(mean, 1 - mean) == pytest.approx(around)
    assert share_marked(masks[0], masks[0]) == 1 and share_marked(masks[0], 1 - masks[0]) == 0


def test_other_weights_have_another_hash():
    assert hash_part(draw_weights()) == hash_part(draw_weights())
    assert hash_part(draw_weights()) != hash_part(draw_weights(1))
