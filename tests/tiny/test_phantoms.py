import numpy as np
import pytest

from medart_cli.tiny.phantoms import (
    BASE,
    COLORS,
    DOMAINS,
    SHIFTED,
    SIDE,
    SIZES,
    Phantom,
    describe_phantom,
    draw_phantom,
    read_attributes,
)

LABELS = [(domain, label) for domain, kinds in DOMAINS.items() for kind in kinds.values()
          for label in kind.labels]  # fmt: skip


def pixels(phantom, seed=0):
    return np.asarray(draw_phantom(phantom, np.random.default_rng(seed)), dtype=np.int64)


def plain(**changes):
    facts = {
        "modality": "skin", "label": "smooth mole", "size": "medium", "color": "black",
        "border": "sharp", "surface": "plain", "surroundings": "pale skin",
    }  # fmt: skip
    return Phantom(**{**facts, **changes})


@pytest.mark.parametrize(("domain", "label"), LABELS)
def test_every_class_is_drawn_in_64_pixels_of_color(domain, label):
    phantom = describe_phantom(np.random.default_rng(0), domain, label)
    image = pixels(phantom)
    assert image.shape == (SIDE, SIDE, 3)
    assert image.std() > 5


@pytest.mark.parametrize(("domain", "label"), LABELS)
def test_a_caption_tells_every_attribute(domain, label):
    generator = np.random.default_rng(1)
    for _ in range(30):
        phantom = describe_phantom(generator, domain, label)
        assert read_attributes(phantom.caption()) == phantom.attributes()
        assert phantom.caption().startswith(f"A phantom image of {label}.")


def test_attributes_that_a_caption_does_not_tell_are_not_read():
    assert read_attributes("A phantom image of star patch.") == {}
    assert read_attributes("It is large and blue, on a red carpet.") == {
        "size": "large", "color": "blue",
    }  # fmt: skip


def test_the_same_seed_draws_the_same_image_and_another_draws_another():
    phantom = plain()
    assert (pixels(phantom, 3) == pixels(phantom, 3)).all()
    assert (pixels(phantom, 3) != pixels(phantom, 4)).any()


def test_the_shifted_domain_has_other_colors_and_a_class_of_its_own():
    known, new = BASE["skin"], SHIFTED["dermoscopy"]
    assert set(new.labels) - set(known.labels) == {"ring lesion"}
    assert not set(new.colors) & set(known.colors)
    assert not set(new.surroundings) & set(known.surroundings)
    words = {color for kind in BASE.values() for color in kind.colors}
    assert set(new.colors) <= words, "its colors are words that the base knows"


def test_the_middle_of_a_mole_has_its_color():
    for name in ("black", "red", "purple", "blue", "white"):
        image = pixels(plain(color=name, size="large"))
        middle = image[28:36, 28:36].mean(axis=(0, 1))
        assert np.abs(middle - COLORS[name]).max() < 25, name


def test_larger_sizes_cover_more():
    covered = [(pixels(plain(size=size)).mean(axis=2) < 100).sum() for size in SIZES]
    assert covered[0] * 1.5 < covered[1]
    assert covered[1] * 1.5 < covered[2]


def test_borders_and_surfaces_show():
    def edge(phantom):
        return np.abs(np.diff(pixels(phantom), axis=1)).max()

    assert edge(plain(border="sharp")) > 2 * edge(plain(border="blurred"))
    middle = (slice(24, 40), slice(24, 40))
    flat = pixels(plain(size="large"))[middle].std()
    for surface in ("speckled", "striped"):
        assert pixels(plain(size="large", surface=surface))[middle].std() > 5 * flat
