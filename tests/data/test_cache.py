"""Where caches lie, who may see them, and what killed runs leave there."""

import os
import signal
import time

import pytest
import torch
from safetensors.torch import save_file

from medart_cli.data import tensors
from medart_cli.data.cache import DRAFTS_NAME, LEFT_SECONDS, default_cache, make_cache
from medart_cli.data.tensors import open_cache
from medart_cli.errors import ConfigError
from medart_cli.metrics import features


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


def test_what_killed_runs_left_half_written_goes_when_the_cache_is_opened_again(
    tmp_path, monkeypatch
):
    cache = make_cache(tmp_path / "cache")

    def be_killed(entry, draft, **facts):
        save_file(entry, draft, **facts)
        os.kill(os.getpid(), signal.SIGKILL)

    if os.fork() == 0:
        monkeypatch.setattr(tensors, "save_file", be_killed)
        open_cache(cache, "latents", "vae").keep({"mean": torch.ones(1)}, "hash")
    os.wait()
    (left,) = [path for path in cache.rglob("*") if path.is_file()]
    assert left.parent == cache / DRAFTS_NAME
    other = left.with_name(".of-another-run.part")
    other.touch()  # it is at work
    make_cache(cache)
    assert left.exists()  # as far as can be seen
    old = time.time() - LEFT_SECONDS - 1
    os.utime(left, (old, old))
    make_cache(cache)
    assert not left.exists() and other.exists()
    open_cache(cache, "latents", "vae").keep({"mean": torch.ones(1)}, "hash")
    assert open_cache(cache, "latents", "vae").has("hash")


def test_features_have_their_drafts_in_the_same_place():
    assert features._DRAFTS_NAME == DRAFTS_NAME
