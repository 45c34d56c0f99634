import numpy as np
import pytest
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_512_BIN
from PIL import Image

from medart_cli.data.buckets import (
    LONGEST_RATIO,
    batch_alike,
    find_bucket,
    find_largest_loss,
    find_loss,
    list_buckets,
    parse_shape,
    write_shape,
)
from medart_cli.data.images import fit_image
from medart_cli.errors import ConfigError

SIZES = [(512, 16), (512, 32), (1024, 16), (384, 16), (64, 4), (16, 4), (16, 16)]


@pytest.mark.parametrize(("resolution", "unit"), SIZES)
def test_buckets_are_whole_patches_and_none_is_larger_than_the_square(resolution, unit):
    buckets = list_buckets(resolution, unit)
    assert (resolution, resolution) in buckets
    assert len({*buckets}) == len(buckets)
    assert {(width, height) for height, width in buckets} == {*buckets}
    ratios = [height / width for height, width in buckets]
    assert ratios == sorted(ratios, reverse=True)
    assert max(ratios) <= LONGEST_RATIO
    for height, width in buckets:
        assert height % unit == width % unit == 0
        assert resolution**2 >= height * width > resolution**2 - unit * max(height, width)


@pytest.mark.parametrize(("resolution", "unit"), SIZES[:5])
def test_no_image_up_to_the_longest_loses_more_than_is_said(resolution, unit):
    buckets = list_buckets(resolution, unit)
    most = find_largest_loss(buckets)
    longest = max(height / width for height, width in buckets)
    losses = []
    for log_ratio in np.linspace(-np.log(longest), np.log(longest), 5000):
        size = (1000, 1000 * np.exp(log_ratio))  # as Pillow says it, but not rounded
        losses.append(find_loss(size, find_bucket(size, buckets)))
    assert most * 0.95 < max(losses) <= most + 1e-9


def test_less_is_cut_away_than_with_the_table_of_pixart():
    assert find_largest_loss(list_buckets(512, 16)) == pytest.approx(0.0378, abs=1e-4)
    table = [(int(height), int(width)) for height, width in ASPECT_RATIO_512_BIN.values()]
    assert find_largest_loss(table) == pytest.approx(0.134, abs=1e-3)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (640, 480), (512, 512)])
def test_the_loss_is_what_fitting_cuts_away_or_pads(size):
    bucket = (64, 80)
    across, down = (np.linspace(0, 255, side)[index] for side, index in
                    zip(size, (np.newaxis, (slice(None), np.newaxis)), strict=True))  # fmt: skip
    seen = 1.0
    for ramp in (across, down):
        pixels = np.broadcast_to(ramp, size[::-1]).astype(np.uint8)
        fitted = np.array(fit_image(Image.fromarray(pixels).convert("RGB"), bucket))
        assert fitted.shape == (*bucket, 3)
        seen *= (int(fitted.max()) - int(fitted.min())) / 255
    assert 1 - seen == pytest.approx(find_loss(size, bucket), abs=0.03)
    padded = np.array(fit_image(Image.new("RGB", size, "white"), bucket, "pad"))
    assert padded.shape == (*bucket, 3)
    assert (padded == 0).mean() == pytest.approx(find_loss(size, bucket), abs=0.02)


def test_a_shape_is_read_as_it_is_written():
    assert parse_shape(write_shape((448, 576)), "--size") == (448, 576)
    assert parse_shape("448X576", "--size") == (448, 576)


@pytest.mark.parametrize("text", ["512", "0x64", "64x", "ax64", "64x64x64", "-64x64", "6²x64", ""])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(ConfigError, match=f"^--size {text}: must be HEIGHTxWIDTH in pixels"):
        parse_shape(text, "--size")


def test_a_batch_has_one_shape_and_items_keep_their_order():
    shapes = [(1, 2), (2, 1), (1, 2), (1, 2), (2, 1), (1, 2), (1, 2)]
    found = batch_alike(range(len(shapes)), shapes.__getitem__, 2)
    assert found == [[0, 2], [1, 4], [3, 5], [6]]
    assert batch_alike(range(5), lambda item: None, 2) == [[0, 1], [2, 3], [4]]
