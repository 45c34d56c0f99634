import pytest
import torch

from medart_cli.data import latents
from medart_cli.data.latents import default_cache, make_cache, open_cache
from medart_cli.errors import ConfigError


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
