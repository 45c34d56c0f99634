import numpy as np
import pytest
import torch
from PIL import Image

from medart_cli.data import tensors as latents
from medart_cli.data.tensors import image_to_tensor, open_cache, tensor_to_image
from medart_cli.errors import ImageError


def test_an_entry_comes_back_and_is_made_only_once(tmp_path):
    cache = open_cache(tmp_path, "latents", "vae 64")
    made = []

    def make():
        made.append(1)
        return {"mean": torch.arange(3.0)}

    for _ in range(2):
        assert torch.equal(cache.get(make, "hash", "False")["mean"], torch.arange(3.0))
    assert len(made) == 1


def test_other_weights_settings_or_content_never_hit(tmp_path):
    open_cache(tmp_path, "latents", "vae 64").keep({"mean": torch.ones(1)}, "hash")
    assert open_cache(tmp_path, "latents", "vae 64").has("hash")
    assert not open_cache(tmp_path, "latents", "vae 128").has("hash")
    assert not open_cache(tmp_path, "text", "vae 64").has("hash")
    assert not open_cache(tmp_path, "latents", "vae 64").has("other")


def test_an_entry_of_another_release_or_under_another_name_is_not_taken(tmp_path, monkeypatch):
    cache = open_cache(tmp_path, "latents", "vae")
    cache.keep({"mean": torch.ones(1)}, "one")
    cache.keep({"mean": torch.zeros(1)}, "two")
    one, two = cache._path(("one",)), cache._path(("two",))
    two.replace(one)
    assert cache.find("one") is None
    monkeypatch.setattr(latents, "name_versions", lambda: "diffusers of another release")
    assert not cache.has("one")


def test_a_torn_entry_is_made_anew(tmp_path):
    cache = open_cache(tmp_path, "latents", "vae")
    cache.keep({"mean": torch.ones(9)}, "hash")
    path = next(tmp_path.rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-9])
    assert cache.find("hash") is None
    assert torch.equal(cache.get(lambda: {"mean": torch.zeros(9)}, "hash")["mean"], torch.zeros(9))


def test_without_a_folder_nothing_is_kept():
    cache = open_cache(None, "latents", "vae")
    cache.keep({"mean": torch.ones(1)}, "hash")
    assert cache.find("hash") is None


def test_image_to_tensor_and_back_is_exact_for_every_value():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([ramp, ramp[::-1], ramp.T], axis=2)
    tensor = image_to_tensor(Image.fromarray(pixels))
    assert (tensor.shape, tensor.dtype) == ((3, 16, 16), torch.float32)
    assert (tensor.min().item(), tensor.max().item()) == (-1.0, 1.0)
    assert tensor[0, 0, 5].item() == pytest.approx(5 / 127.5 - 1)
    for given in (tensor, tensor.double(), tensor.requires_grad_()):
        assert np.array_equal(np.array(tensor_to_image(given)), pixels)


def test_tensor_values_outside_are_clipped_and_nan_is_refused():
    tensor = torch.tensor([-7.0, 0.0, 7.0]).view(3, 1, 1)
    assert tensor_to_image(tensor).getpixel((0, 0)) == (0, 128, 255)
    with pytest.raises(ImageError, match="not finite"):
        tensor_to_image(torch.full((3, 2, 2), float("nan")))
