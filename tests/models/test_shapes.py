import pytest
import torch

from medart_cli.models.families import find_family
from medart_cli.models.shapes import count_numbers, known_shape, read_shape
from medart_cli.models.sizes import BASE_SIZES
from tests.small import build_base
from tests.small_klein import build_klein
from tests.small_prx import build_prx
from tests.small_sana import build_sana

# Millions of weights of each part, as docs/benchmarks.md has them.
PUBLISHED = {
    "pixart": (611, 4762, 84), "sana-600m": (592, 2614, 353), "sana-1600m": (1604, 2614, 353),
    "prx": (1173, 2614, 84), "klein": (3876, 4022, 84),
}  # fmt: skip


@pytest.mark.parametrize("name", BASE_SIZES)
def test_published_sizes_have_their_known_number_of_weights(name):
    shape = known_shape(BASE_SIZES[name])
    models = shape.build_transformer(), shape.build_text_encoder(), shape.build_vae()
    assert [round(count_numbers(it) / 1e6) for it in models] == pytest.approx(
        PUBLISHED[name], rel=0.01
    )
    assert all(it.is_meta for model in models for it in model.parameters())


@pytest.mark.parametrize("build", [build_base, build_sana, build_prx, build_klein])
def test_a_base_on_the_disk_has_the_shape_of_its_weights(build, tmp_path):
    folder = build(tmp_path)
    family, cpu = find_family(folder), torch.device("cpu")
    shape = read_shape(folder)
    loaded = (
        family.load_transformer(folder, torch.float32, cpu),
        family.load_text_encoder(folder, torch.float32, cpu),
        family.load_vae(folder, cpu),
    )
    built = shape.build_transformer(), shape.build_text_encoder(), shape.build_vae()
    for one, other in zip(loaded, built, strict=True):
        shapes = {name: it.shape for name, it in one.named_parameters()}
        assert shapes == {name: it.shape for name, it in other.named_parameters()}


def test_a_transformer_can_be_built_with_fewer_blocks():
    shape = known_shape(BASE_SIZES["klein"])
    assert shape.depths == (5, 20)
    small = shape.build_transformer((1, 2))
    assert (len(small.transformer_blocks), len(small.single_transformer_blocks)) == (1, 2)
    assert shape.embed_width == 7680
