"""Where caches lie, and who may see them."""

import pytest
import torch

from medart_cli.data.cache import default_cache, make_cache
from medart_cli.data.tensors import open_cache
from medart_cli.errors import ConfigError


def test_others_cannot_read_the_cache(tmp_path):
    cache = open_cache(make_cache(tmp_path / "cache"), "latents", "vae")
    cache.keep({"mean": torch.ones(1)}, "hash")
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv("MEDART_CACHE")
    monkeypatch.setenv("HOME", "~")  # as it is resolved for a user id without a name
    with pytest.raises(ConfigError, match="this user has no home folder; set MEDART_CACHE"):
        default_cache()


def test_a_cache_that_cannot_be_made_is_refused_by_its_name(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDART_CACHE")
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    reason = f"{tmp_path}/home/.cache/medart: .* made .Not a directory.; set MEDART_CACHE"
    with pytest.raises(ConfigError, match=reason):
        make_cache(None)
    assert make_cache(tmp_path / "cache").is_dir()
