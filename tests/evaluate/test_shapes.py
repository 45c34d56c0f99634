import numpy as np
import pytest
from PIL import Image

from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import read_sets
from medart_cli.evaluate.shapes import find_gap, warn_of_shapes


def save_blank(folder, sizes):
    folder.mkdir()
    for index, size in enumerate(sizes):
        Image.new("RGB", size).save(folder / f"{index}.png")
    return str(folder)


@pytest.mark.parametrize(
    ("real", "synthetic", "warned"),
    [
        ([(40, 30)] * 4, [(30, 30)] * 3, True),
        ([(40, 30)] * 4, [(41, 30)] * 3, False),
        ([(40, 30), (30, 40)] * 2, [(30, 30)] * 4, True),  # square in the middle, but none of them
        ([(40, 30), (30, 40)] * 2, [(36, 28), (28, 36)], False),
    ],
)
def test_other_shapes_are_said(tmp_path, said, real, synthetic, warned):
    names = [save_blank(tmp_path / name, sizes) for name, sizes in
             (("real", real), ("syn", synthetic))]  # fmt: skip
    sets = read_sets(
        EvaluateConfig(real=names[0], synthetic=[names[1]], out=tmp_path / "out", device="cpu")
    )
    said.clear()
    warn_of_shapes(sets[0], sets[1:])
    assert len(said) == warned
    assert all(line.startswith("syn: its images have other shapes than those") for line in said)


def test_the_gap_is_that_of_the_distributions():
    generator = np.random.default_rng(0)
    one = generator.normal(size=100)
    assert find_gap(one, one[::-1]) == 0
    assert find_gap(one, one + 0.3) == pytest.approx(0.3)
