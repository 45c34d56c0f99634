"""A base is found, or refused by what it lacks; its hashes tell it from others."""

import json
import shutil

import pytest

from medart_cli.errors import MissingModelError
from medart_cli.models import hub
from medart_cli.models.bases import (
    find_base,
    find_unhashed,
    hash_base,
    hash_weights,
)
from tests.models.test_pixart import edit
from tests.small import damage


def test_weights_have_one_hash_wherever_they_lie(small_base, tmp_path):
    copy = shutil.copytree(small_base / "text_encoder", tmp_path / "copy")
    assert hash_weights(copy) == hash_weights(small_base / "text_encoder")
    blobs = tmp_path / "blobs"  # as the hub's cache: links to files named by their hash
    blobs.mkdir()
    for path in hub.find_weights(copy):
        from medart_cli.data.manifest import hash_file

        target = path.replace(blobs / hash_file(path))
        path.symlink_to(target)
    assert hash_weights(copy) == hash_weights(small_base / "text_encoder")


@pytest.mark.parametrize("name", ["PixArt-alpha/PixArt-XL-2-512x512", "./nowhere", "a b/c"])
def test_a_base_that_is_not_there_says_where_to_put_it(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingModelError) as caught:
        find_base(name, offline=True)
    assert name in str(caught.value)
    assert caught.value.exit_code == 4


def test_the_hashes_of_a_base_follow_all_that_drawing_depends_on(small_base, tmp_path):
    whole = hash_base(small_base)
    changes = {
        "vae config": lambda it: edit(it / "vae/config.json", scaling_factor=0.5),
        "transformer config": lambda it: edit(
            it / "transformer/config.json", interpolation_scale=2
        ),
        "text_encoder config": lambda it: edit(it / "text_encoder/config.json", d_kv=4),
        "scheduler": lambda it: edit(it / "scheduler/scheduler_config.json", beta_end=0.03),
        "tokenizer": lambda it: (it / "tokenizer/spiece.model").write_bytes(b"other"),
        "vae": lambda it: damage(it / "vae", "unexpected"),
    }
    for name, change in changes.items():
        base = shutil.copytree(small_base, tmp_path / name)
        change(base)
        changed = hash_base(base)
        assert {part for part in whole if changed[part] != whole[part]} == {name}


def test_the_hashes_of_a_base_pass_over_layout_and_notes_of_the_libraries(small_base, tmp_path):
    base = shutil.copytree(small_base, tmp_path / "base")
    place = base / "transformer/config.json"
    facts = json.loads(place.read_text()) | {"_diffusers_version": "9", "torch_dtype": "float16"}
    place.write_text(json.dumps(dict(reversed(facts.items())), indent=7))
    (base / "tokenizer/README.md").write_text("hello")
    assert hash_base(base) == hash_base(small_base)
    known = {path: "0" * 64 for path in find_unhashed(base)}
    assert hash_base(base, known)["vae"] != hash_base(small_base)["vae"]
