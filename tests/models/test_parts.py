"""What all families share: padding, recomputing, saving a whole pipeline."""

import json

import pytest
import torch

from medart_cli.models.parts import (
    RESOLUTION,
    at_least_float,
    pad_embeds,
    read_native_size,
    save_pipeline,
)
from tests.small import build_base


def test_embeddings_are_padded_to_the_longest_or_to_a_length():
    rows = [torch.ones(2, 5), torch.ones(4, 5)]
    embeds, mask = pad_embeds(rows)
    assert embeds.shape == (2, 4, 5) and mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert not embeds[0, 2:].any()
    assert pad_embeds(rows, 7)[0].shape == (2, 7, 5)


def test_half_precision_is_lifted_and_double_stays():
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    found = [at_least_float(torch.zeros(1, dtype=kind)).dtype for kind in kinds]
    assert found == [torch.float32] * 3 + [torch.float64]


@pytest.mark.parametrize("resolution", [None, 256])
def test_a_saved_pipeline_has_what_was_saved_and_all_else_of_the_base(tmp_path, resolution):
    base = build_base(tmp_path / "base")
    (base / "vae" / "old.bin").write_bytes(b"a pickle")

    def save(folder):
        (folder / "transformer").mkdir(parents=True)
        (folder / "transformer" / "config.json").write_text('{"_class_name": "Mine"}')
        return {"transformer"}

    save_pipeline(base, tmp_path / "out", save, {RESOLUTION: resolution} if resolution else {})
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "Mine"]
    assert (tmp_path / "out" / "text_encoder" / "config.json").is_file()
    assert not (tmp_path / "out" / "vae" / "old.bin").exists()
    assert read_native_size(tmp_path / "out") == resolution
